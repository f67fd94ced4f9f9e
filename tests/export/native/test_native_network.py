"""Every kind of network in plain C against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_export import TINY, make_model
from tiny_native import META, NETWORKS, noise, snr_db

from enhance.config import GcrnConfig, ModelConfig
from enhance.device.engine import OnnxEngine
from enhance.errors import EnhanceError
from enhance.native.build import find_compiler
from enhance.native.library import NativeEngine
from export.graph import quantize
from export.graph.step import save, step_graph
from export.native import weights as native
from export.native.weights import check_native, native_weights

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
STEP_META = {
    "producer": "enhance 0",
    "quantization": "none",
    "sample_rate": "16000",
    "hop_length": "320",
    "latency_samples": "80",
}


def engine_of(weights: bytes, folder: Path) -> NativeEngine:
    path = folder / "weights.bin"
    path.write_bytes(weights)
    return NativeEngine(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_c_is_the_torch_model(name: str, tmp_path: Path) -> None:
    config = NETWORKS[name]
    model, wave = make_model(config), noise(12, config)
    with torch.no_grad():
        expected, state = model(torch.from_numpy(wave)[None])
    engine = engine_of(native_weights(model, META), tmp_path)
    out, last = engine.run(wave, engine.zeros())
    assert snr_db(expected[0].numpy(), out) > 100  # float32 in another order: about 120
    found = engine.arrays(last)
    assert list(found) == list(state)
    for key, value in state.items():
        assert found[key].shape == value.shape
        np.testing.assert_allclose(found[key], value.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_change_little(name: str, tmp_path: Path) -> None:
    config = NETWORKS[name]
    model, wave = make_model(config), noise(12, config)
    exact = native_weights(model, META)
    rounded = native_weights(model, META, int8=True)
    assert len(rounded) < len(exact)
    outputs = []
    for weights in (exact, rounded):
        engine = engine_of(weights, tmp_path)
        outputs.append(engine.run(wave, engine.zeros())[0])
    # Random weights of mixed signs cancel, and what is rounded away counts more than when trained.
    assert 15 < snr_db(*outputs) < 110


def test_bytes_are_those_of_onnx_where_the_same_matrices_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "FLOAT_SHARE", quantize.FLOAT_SHARES[0])
    model, wave = make_model(), noise(40, TINY)
    graph = quantize.quantize(step_graph(model, STEP_META), "int8")
    other = OnnxEngine(save(graph, tmp_path / "a.onnx"), 1)
    engine = engine_of(native_weights(model, META, int8=True), tmp_path)
    ours, theirs = (e.run(wave, e.zeros())[0] for e in (engine, other))
    exact = engine_of(native_weights(model, META), tmp_path)
    error = snr_db(exact.run(wave, exact.zeros())[0], theirs)
    # Roundings flip where two sums differ by 1e-7, rarely: far less than rounding itself changes.
    assert snr_db(theirs, ours) > error + 6


def test_silence_stays_silence_and_what_is_no_number_counts_as_zero(tmp_path: Path) -> None:
    config = NETWORKS["no join, running level, two frames"]
    engine = engine_of(native_weights(make_model(config), META), tmp_path)
    hop = config.stft.hop_length
    out, state = engine.run(np.zeros(3 * hop, np.float32), engine.zeros())
    assert not out.any()
    bad = np.full(hop, np.nan, np.float32)
    bad[1::3], bad[2::3] = 1e-42, -0.0
    np.testing.assert_array_equal(engine.run(bad, state)[0], engine.run(0 * out[:hop], state)[0])
    huge = np.full(hop, np.inf, np.float32)
    assert np.isfinite(engine.run(huge, state)[0]).all()


def test_what_cannot_stream_or_has_no_room_is_refused() -> None:
    with pytest.raises(EnhanceError, match="extra_features 4"):
        native_weights(make_model(ModelConfig(gcrn=GcrnConfig((4, 8), extra_features=4))), {})
    with pytest.raises(EnhanceError, match="rnn_layers 9"):
        native_weights(make_model(ModelConfig(gcrn=GcrnConfig((4, 8), hidden=8, rnn_layers=9))), {})
    with pytest.raises(EnhanceError, match="groups 9"):
        check_native(GcrnConfig((4, 8), groups=9))
    check_native(GcrnConfig((4, 8), groups=9, bottleneck="dual_path"))  # which has none
