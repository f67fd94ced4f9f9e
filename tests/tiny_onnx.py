"""A streaming ONNX file small enough to compute by hand: a delay, then a one-pole filter.

``y[n] = pole * y[n - 1] + gain * x[n - overlap]``, with its two states in the graph as the
contract of the artefact asks. `by_hand` computes the same in float64, sample by sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLE_RATE, HOP, OVERLAP = 16000, 8, 3


def metadata(hop: int = HOP, overlap: int = OVERLAP) -> dict[str, str]:
    return {
        "model_type": "one-pole",
        "sample_rate": str(SAMPLE_RATE),
        "hop_length": str(hop),
        "window_length": str(hop + overlap),
        "latency_samples": str(overlap),
        "algorithmic_latency_samples": str(hop + overlap),
    }


def build(
    path: Path,
    *,
    pole: float = 0.0,
    gain: float = 1.0,
    hop: int = HOP,
    overlap: int = OVERLAP,
    props: dict[str, str] | None = None,
    state: str = "pole.y",
) -> Path:
    """Write the graph; ``props`` replaces the metadata, ``state`` renames a state's input."""
    n = np.arange(hop)
    powers = np.ones((1, 1))  # without a pole the filter is one factor: long hops stay cheap
    if pole:
        powers = np.where(n >= n[:, None], pole ** np.maximum(n - n[:, None], 0.0), 0)
    constants = {
        "filter": (gain * powers).astype(np.float32),  # (hop, hop): sample m to sample n
        "carry": (float(pole) ** (n + 1.0)).astype(np.float32)[None],  # (1, hop)
        "zero": np.array([0]),
        "hop": np.array([hop]),
        "last": np.array([hop - 1]),
        "end": np.array([hop + overlap]),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Concat", ["analysis.tail", "audio"], ["joined"], axis=1),
        helper.make_node("Slice", ["joined", "zero", "hop", "axis"], ["delayed"]),
        helper.make_node("Slice", ["joined", "hop", "end", "axis"], ["analysis.tail.out"]),
        helper.make_node("MatMul" if pole else "Mul", ["delayed", "filter"], ["fresh"]),
        helper.make_node("Mul", [state, "carry"], ["memory"]),
        helper.make_node("Add", ["fresh", "memory"], ["enhanced"]),
        helper.make_node("Slice", ["enhanced", "last", "hop", "axis"], ["pole.y.out"]),
    ]

    def value(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])

    graph = helper.make_graph(
        nodes,
        "one-pole",
        [value("audio", hop), value("analysis.tail", overlap), value(state, 1)],
        [value("enhanced", hop), value("analysis.tail.out", overlap), value("pole.y.out", 1)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata(hop, overlap) if props is None else props)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def by_hand(
    wave: np.ndarray, *, pole: float = 0.0, gain: float = 1.0, overlap: int = OVERLAP
) -> np.ndarray:
    """The streamed output, ``len(wave) + overlap`` samples, in float64."""
    late = np.concatenate([np.zeros(overlap), wave.astype(np.float64)])
    out, last = np.empty(len(late)), 0.0
    for n, sample in enumerate(late):
        last = pole * last + gain * sample
        out[n] = last
    return out
