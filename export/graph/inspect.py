"""What ONNX Runtime really computes: the graph after its own optimisation, and its speed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from enhance.device.enhancer import Enhancer
from enhance.measure.timing import hardware, hot, split_frames
from export.graph.quantize import products
from export.graph.step import operators

INT8_OPERATORS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)
"""Operators of ONNX Runtime that multiply with int8 weights."""


def optimised(graph: ModelProto) -> ModelProto:
    """The graph as ONNX Runtime runs it on this processor."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)


def inspect(graph: ModelProto, fp32: ModelProto) -> dict[str, Any]:
    """Which products are int8, from the graphs themselves.

    Parameters
    ----------
    graph
        The artefact.
    fp32
        The float graph that it came from; tells what there was to quantise.

    Returns
    -------
    dict
        `file` and `as_run` (operator counts), `int8_products` and `float_products` (names of the
        matrices in the file), `int8_weight_share` (part of all matrix elements that is stored as
        int8), `int8_operators_as_run` (how many heavy operators work on int8 after ONNX Runtime's
        optimisation).
    """
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    chosen, left = products(fp32)
    everything = [*chosen, *left]
    int8 = [p for p in everything if kinds.get(f"{p.name}.s8") == TensorProto.INT8]
    floating = [p for p in everything if kinds.get(p.name) == TensorProto.FLOAT]
    as_run = operators(optimised(graph))
    size = sum(p.inputs * p.outputs for p in everything)
    return {
        "file": operators(graph),
        "as_run": as_run,
        "int8_products": [p.name for p in int8],
        "float_products": [p.name for p in floating],
        "int8_weight_share": sum(p.inputs * p.outputs for p in int8) / size,
        "int8_operators_as_run": sum(as_run.get(name, 0) for name in INT8_OPERATORS),
    }


def compare_speed(
    fp32: Enhancer, other: Enhancer, wave: np.ndarray, *, rounds: int = 15, frames: int = 40
) -> dict[str, Any]:
    """CPU time of a frame, both models in turn, one thread, frames back to back.

    Parameters
    ----------
    fp32, other
        Models with the same hop.
    wave
        Audio (N,).
    rounds, frames
        Turns, and frames in each.

    Returns
    -------
    dict
        `ratio`, other to fp32: the median over the turns of the ratio of their medians, so that
        another process' load, which changes from turn to turn, falls out; `fp32_us`, `this_us`
        (medians, microseconds); `regime` and `threads`; what `enhance.measure.timing.hardware`
        gives.
    """
    pieces = split_frames(wave, fp32.hop_length, frames)
    streams = [fp32.new_stream(), other.new_stream()]
    medians: list[Sequence[float]] = []
    for _ in range(rounds):
        medians.append(
            [float(np.median(hot(s.process, pieces, warm_up=4).cpu_ns)) for s in streams]
        )
    first, second = np.array(medians).T
    return {
        "ratio": float(np.median(second / first)),
        "fp32_us": float(np.median(first)) / 1e3,
        "this_us": float(np.median(second)) / 1e3,
        "regime": "hot, interleaved",
        "threads": 1,
        **hardware(),
    }
