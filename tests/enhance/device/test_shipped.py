"""The shipped models: what they make of a known signal, and that they are the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model, shipped_models

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_suffix(".json")
SPAN = slice(10000, 10200)
"""Samples that are kept: in a voiced part, after 30 hops of carried states."""


def signal() -> np.ndarray:
    """One second like a voice in noise, by formula: no generator that may change.

    Shape: -> (16000,) float32
    """
    n = np.arange(16000)
    time = n / 16000
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 15))
    noise = np.modf(np.sin(n * 12.9898) * 43758.5453)[0]  # rough, -1 to 1
    return (0.1 * voice * np.clip(np.sin(4 * np.pi * time), 0, 1) + 0.02 * noise).astype(np.float32)


@pytest.mark.parametrize("name", shipped_models())
def test_golden_waveform(name: str) -> None:
    """The tolerance is 3e-3 of the golden's RMS, 50 dB below it.

    The int8 products are exact on every processor; float sums differ in the last bit, which moves
    a value over the border between two int8 steps now and then. The error of all int8 rounding is
    40 dB below the output, of which such moves are a small part; another quantisation, framing or
    state lies above.
    """
    golden = json.loads(GOLDEN.read_text("utf-8"))[name]
    expected = np.array(golden["samples"])
    out = Enhancer.from_pretrained(name)(signal(), 16000)
    rms = float(np.sqrt(np.mean(np.square(expected))))
    assert rms > 0.01  # a silent golden would prove nothing
    error = out[SPAN] - expected
    assert float(np.sqrt(np.mean(np.square(error)))) < 3e-3 * rms
    np.testing.assert_allclose(float(np.sum(np.square(out, dtype=np.float64))), golden["energy"],
                               rtol=2e-3)  # fmt: skip
    changed = Enhancer.from_pretrained(name)(signal()[::-1].copy(), 16000)[SPAN]
    assert np.abs(changed - expected).max() > rms  # the tolerance tells signals apart


@pytest.fixture(scope="module", params=["default", "small"])
def both(request: pytest.FixtureRequest) -> tuple[ModelProto, ModelProto]:
    """The shipped file, and the checkpoint exported today."""
    torch = pytest.importorskip("torch")
    from enhance.network.checkpoint import load_model
    from enhance.parallel import torch_threads
    from export.graph.quantize import quantize
    from export.graph.step import step_graph
    from export.metadata import describe

    assert torch
    model, info = load_model(ROOT / "checkpoints" / request.param)
    shipped = find_model(request.param)
    share = json.loads(shipped.with_suffix(".certificate.json").read_text()).get(
        "float_share", 0.01
    )
    with torch_threads(1):
        made = quantize(step_graph(model, describe(model, info)), "int8", share)
    return onnx.load(shipped), made


def test_reexport_is_the_shipped_file(both: tuple[ModelProto, ModelProto]) -> None:
    """All bytes of the graph; the settings have gained fields, and a licence is asked for now."""
    graphs = [model.graph.SerializeToString(deterministic=True) for model in both]
    same = graphs[0] == graphs[1]  # pytest would look for the difference of megabytes for minutes
    assert same
    told, now = ({p.key: p.value for p in model.metadata_props} for model in both)
    assert told.keys() == now.keys()
    before, config = json.loads(told.pop("config")), json.loads(now.pop("config"))
    for part, values in before.items():
        assert values.items() <= config[part].items()
    assert {**told, "licence": now["licence"]} == now


def test_reexport_has_the_shipped_weights_and_graph(both: tuple[ModelProto, ModelProto]) -> None:
    shipped, made = both
    weights = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        for graph in both
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
    nodes = [
        [(n.op_type, list(n.input), list(n.output), sorted(map(str, n.attribute))) for n in g.node]
        for g in (shipped.graph, made.graph)
    ]
    same = nodes[0] == nodes[1]
    assert same


@pytest.mark.parametrize("name", ["default", "small"])
def test_weights_for_plain_c_are_the_checkpoints(name: str) -> None:
    """To the byte, under what the shipped file says of itself."""
    pytest.importorskip("torch")
    from enhance.native.library import read_metadata
    from enhance.network.checkpoint import load_model
    from export.native.weights import native_weights

    path = find_model(name).with_suffix(".bin")
    shipped = path.read_bytes()
    told, _ = read_metadata(shipped, path)
    model, _ = load_model(ROOT / "checkpoints" / name)
    same = native_weights(model, told, int8=True) == shipped
    assert same
