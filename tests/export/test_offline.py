"""Offline export: a file for whole recordings, the teacher inside, equal to torch at any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from tiny_export import voice
from torch import nn

from benchmarks.quality.candidates import load as load_candidate
from benchmarks.quality.candidates import resolve
from distill.backbones.find import load
from distill.modes.choose import find_companion, load_model
from distill.modes.concat import TeacherFeatures
from enhance.config import GcrnConfig, ModelConfig
from enhance.device.clean import run_path
from enhance.device.enhancer import Enhancer
from enhance.device.offline import OfflineEnhancer
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import torch_threads
from enhance.stft import FRAMINGS
from export.certificate import Bounds
from export.graph.step import save
from export.graph.whole import whole_graph
from export.offline import export_offline
from export.stream import export_model


def make_teacher(folder: Path, kind: str, norm: str, normalize: bool) -> Path:
    """A random transformers model of two layers and the real convolutions."""
    from distill.backbones import import_transformers

    transformers = import_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "conv_dim": (8,) * 7, "feat_extract_norm": norm,
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        }  # fmt: skip
        config = getattr(transformers, f"{kind}Config")(**settings)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    prepare = {"do_normalize": normalize, "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder


def concat_model(place: Path, framing: str, **gcrn: Any) -> WaveformModel:
    """Random weights that matter: batch norms, layer weights and features far from their start."""
    network = GcrnConfig(channels=(4, 8, 8), hidden=16, extra_features=5, **gcrn)
    config = ModelConfig(FRAMINGS[framing], network)
    features = TeacherFeatures(load(place), "weighted", 5, config.stft)
    torch.manual_seed(4)
    model = WaveformModel(config, features)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        features.sum.scores.copy_(torch.tensor([0.5, -1.0, 0.7]))
        features.projection.weight *= 3
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concat")
    model = concat_model(make_teacher(folder / "teacher", "WavLM", "layer", True), "25-20",
                         cell="lstm", decoders=1)  # fmt: skip
    training = {"mode": "concat", "teacher": str(folder / "teacher"), "cache": "/somewhere"}
    save_model(folder / "run", model, CheckpointInfo(model.config, training, {"step": 7}))
    return folder / "run"


@pytest.fixture(scope="module")
def exported(checkpoint: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("offline") / "m.onnx"
    export_offline(checkpoint, out, find_companion, clips=pairs, quiet=True)
    return out


def test_equal_to_torch_at_any_length(checkpoint: Path, exported: Path) -> None:
    model, _ = load_model(checkpoint)
    enhancer = OfflineEnhancer(exported)
    for samples in (enhancer.least_samples, 1279, 1280, 1281, 16000, 23457):
        wave = voice(2.0, 140)[:samples] + 0.01 * np.random.default_rng(samples).standard_normal(
            samples
        ).astype(np.float32)
        with torch.no_grad():
            expected = model.enhance(torch.from_numpy(wave)[None])[0].numpy()
            silent = model.enhance_beside(
                torch.from_numpy(wave)[None], torch.zeros(1, model.frames(samples), 5)
            )[0].numpy()
        np.testing.assert_allclose(enhancer(wave), expected, atol=2e-6)
        assert np.abs(silent - expected).max() > 1e-4  # what the teacher says does count


def test_certificate_and_metadata(exported: Path, checkpoint: Path) -> None:
    record = json.loads(exported.with_suffix(".certificate.json").read_text("utf-8"))
    samples = record["measured_on"]["samples"]
    assert len(set(samples)) >= 4 and min(samples) == record["least_samples"]
    assert 0 < record["equality"]["onnx_fp32"]["max_abs_error"] < 1e-5
    assert record["equal_up_to_samples"] == 480000
    assert record["bytes"] == exported.stat().st_size
    metadata = OfflineEnhancer(exported).metadata
    assert metadata["model_type"] == "gcrn-offline"
    assert json.loads(metadata["companion"])["layers"] == "weighted"
    assert str(checkpoint.parent).encode() not in exported.read_bytes()  # no path of this machine
    assert b"/somewhere" not in exported.read_bytes()


def test_it_is_evaluated_like_any_model_and_no_stream(exported: Path, checkpoint: Path) -> None:
    wave = voice(1.0, 120)
    with torch.no_grad():
        expected = load_model(checkpoint)[0].enhance(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(load_candidate(resolve(exported))(wave), expected, atol=2e-6)
    with pytest.raises(EnhanceError, match="not a streaming enhancer"):
        Enhancer(exported)
    enhancer = OfflineEnhancer(exported)
    for bad, told in (
        (wave[:100], "at least"), (wave[None], "one channel"), (wave[:, None], "one channel"),
        (np.full(16000, np.nan), "NaN"), (wave * 32768, "far beyond full scale.*divide it"),
        (np.zeros(16000, np.int16), "give floats"),
    ):  # fmt: skip
        with pytest.raises(EnhanceError, match=f"^wave.*{told}"):
            enhancer(bad)
        if told != "at least":
            with pytest.raises(EnhanceError, match=f"^chunk.*{told}"):
                enhancer.process(bad)
    assert len(enhancer.flush()) == 0  # nothing of them was kept


def test_enhance_run_takes_it(exported: Path, tmp_path: Path) -> None:
    """Any rate, channels and length; strength; a file that is too short is filled up."""
    stereo = np.stack([voice(1.3, 120), voice(1.3, 170)], axis=1)
    soundfile.write(tmp_path / "in.wav", stereo, 16000, "FLOAT")
    run_path(tmp_path / "in.wav", tmp_path / "out.wav", model=exported, quiet=True)
    enhancer, (found, rate) = OfflineEnhancer(exported), soundfile.read(tmp_path / "out.wav")
    assert rate == 16000
    expected = np.stack([enhancer(stereo[:, c]) for c in range(2)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = tmp_path / "half.wav"
    run_path(tmp_path / "in.wav", again, model=exported, strength=0.5, quiet=True)
    np.testing.assert_allclose(soundfile.read(again)[0], (expected + stereo) / 2, atol=1e-6)
    for samples, rate in ((1, 16000), (300, 16000), (44100, 44100)):
        soundfile.write(tmp_path / "b.wav", voice(3.0, 140)[:samples], rate)
        run_path(tmp_path / "b.wav", tmp_path / "c.wav", model=exported, force=True, quiet=True)
        assert soundfile.info(tmp_path / "c.wav").frames == samples


def test_long_recordings_go_through_in_windows(exported: Path) -> None:
    wave = np.tile(voice(2.0, 140), 7)[: 13 * 16000 + 77]
    enhancer = OfflineEnhancer(exported)
    assert enhancer.longest_samples == 480000
    whole = enhancer(wave)
    enhancer.longest_samples = 10 * 16000
    parts = enhancer(wave)
    assert parts.shape == whole.shape
    # Windows of 10 s at 0, 2 and 3 s, of which 4 s at each cut are context
    for start, begin, end in ((0, 0, 96000), (32000, 96000, 128000), (48077, 128000, len(wave))):
        window = enhancer(wave[start : start + 160000])
        np.testing.assert_array_equal(parts[begin:end], window[begin - start : end - start])


def test_a_stream_of_it_is_refused(checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match=r"look ahead.*--offline.*distill and pretrain stream"):
        export_model(checkpoint, tmp_path / "m.onnx", clips=pairs, quiet=True)
    assert not list(tmp_path.iterdir())


def test_refusals(checkpoint: Path, exported: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="exists already"):
        export_offline(checkpoint, exported, find_companion, clips=pairs)
    with pytest.raises(EnhanceError, match=r"must end in \.onnx"):
        export_offline(checkpoint, tmp_path / "m.bin", find_companion, clips=pairs)
    with pytest.raises(EnhanceError, match=r"distill\.modes\.choose\.load_model"):
        export_offline(checkpoint, tmp_path / "m.onnx", clips=pairs)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written(
    checkpoint: Path, exported: Path, pairs: Path, tmp_path: Path, monkeypatch
) -> None:
    """With the exporter's work taken from the fixture, and a bound that nothing can keep."""
    import onnx

    import export.offline

    threads = []

    def graph(*_: Any) -> onnx.ModelProto:
        threads.append(torch.get_num_threads())
        return onnx.load(exported)

    monkeypatch.setattr(export.offline, "whole_graph", graph)
    with torch_threads(2), pytest.raises(EnhanceError, match="refused, it differs from torch by"):
        export_offline(checkpoint, tmp_path / "m.onnx", find_companion, clips=pairs,
                       bounds=Bounds(stream_error=0.0), quiet=True)  # fmt: skip
    assert threads == [1]
    assert not list(tmp_path.iterdir())


def test_other_networks_framings_and_norms(tmp_path: Path) -> None:
    """GRU, two decoders, two groups, frames that do not line up, group norm over time."""
    place = make_teacher(tmp_path / "teacher", "Hubert", "group", False)
    model = concat_model(place, "32-16", cell="gru", decoders=2, groups=2)
    path = save(whole_graph(model, {"producer": "enhance test"}), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(path)
    for samples in (801, 16000, 20011):
        wave = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
        with torch.no_grad():
            expected = model.enhance(wave).numpy()
        found = session.run(None, {"audio": wave.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_pretrain_model_streams(pairs: Path, tmp_path: Path) -> None:
    """Trained for a moment in mode pretrain, exported as any model."""

    import tiny_modes as tiny

    data = tiny.tiny.make_clips(tmp_path / "clips")
    place = make_teacher(tmp_path / "teacher", "WavLM", "layer", False)
    tiny.train(tiny.settings(data, "pretrain", place, steps=5), tmp_path / "run")
    (artefact,) = export_model(tmp_path / "run", tmp_path / "m.onnx", clips=pairs, quiet=True)
    assert artefact.certificate["equality"]["onnx_fp32"]["max_abs_error"] < 1e-5
    assert Enhancer(artefact.path).metadata["model_type"] == "gcrn"
