"""Files for sherpa-onnx, run by sherpa-onnx itself against torch and our own runtime."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_export import TINY, make_model

from enhance.config import GcrnConfig
from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, load_model, save_model
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS
from export import sherpa
from export.certificate import Bounds
from export.graph.quantize import quantize
from export.graph.step import save
from export.metadata import describe
from export.sherpa import export_sherpa, sherpa_graph
from export.stream import Artefact

ROOT = Path(__file__).parents[2]
needs_sherpa = pytest.mark.skipif(
    importlib.util.find_spec("sherpa_onnx") is None, reason="NO SHERPA: pip install sherpa-onnx"
)


def checkpoint(folder: Path, framing: str = "32-16", **gcrn: object) -> Path:
    config = replace(TINY, stft=FRAMINGS[framing])
    if gcrn:
        config = replace(config, gcrn=GcrnConfig(channels=(4, 8, 8), hidden=16, **gcrn))
    save_model(folder, make_model(config), CheckpointInfo(config, {"licence": "CC0"}, {}))
    return folder


@pytest.fixture(scope="module")
def made(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    """fp32 and int8 of a network at 32-16."""
    place = tmp_path_factory.mktemp("sherpa")
    bounds = Bounds(snr_db=10)  # random weights
    return export_sherpa(
        checkpoint(place / "c"),
        place / "t.sherpa.onnx",
        int8=True,
        clips=pairs,
        bounds=bounds,
        quiet=True,
    )


def enhanced(model: WaveformModel, wave: np.ndarray) -> np.ndarray:
    """What torch makes of a wave."""
    with torch.no_grad():
        return model.enhance(torch.from_numpy(wave)[None])[0].numpy()


def denoised(path: Path, wave: np.ndarray) -> np.ndarray:
    """What sherpa-onnx makes of a wave."""
    import sherpa_onnx

    gtcrn = sherpa_onnx.OfflineSpeechDenoiserGtcrnModelConfig(model=str(path))
    model = sherpa_onnx.OfflineSpeechDenoiserModelConfig(gtcrn=gtcrn, num_threads=1)
    config = sherpa_onnx.OfflineSpeechDenoiserConfig(model=model)
    assert config.validate()
    out = sherpa_onnx.OfflineSpeechDenoiser(config)(wave, 16000)
    assert out.sample_rate == 16000
    return np.array(out.samples, np.float32)


def distance(expected: np.ndarray, out: np.ndarray, late: int) -> float:
    """dB of the energy of ``expected`` over that of the difference, away from both ends."""
    size = min(len(expected), len(out)) - 2 * late
    one = expected[late:][:size].astype(np.float64)
    other = out[late:][:size]
    return float(10 * np.log10(np.sum(one**2) / np.sum((one - other) ** 2)))


def noisy(seconds: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(int(16000 * seconds)) / 16000
    voice = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 15))
    wave = 0.1 * voice * np.clip(np.sin(2 * np.pi * 1.7 * time), 0, 1)
    wave += 0.02 * rng.standard_normal(len(time))
    # sherpa-onnx mirrors a signal at its beginning, where a stream of ours has heard silence.
    return np.concatenate([np.zeros(1600), wave]).astype(np.float32)


def assert_sherpa_runs_what_we_run(path: Path, model: WaveformModel) -> None:
    wave = noisy()
    late = model.config.stft.hop_length
    found = distance(enhanced(model, wave), denoised(path, wave), late)
    assert found > 100, found


@needs_sherpa
def test_sherpa_runs_what_we_run(made: list[Artefact]) -> None:
    model = make_model(replace(TINY, stft=FRAMINGS["32-16"]))
    assert_sherpa_runs_what_we_run(made[0].path, model)


@needs_sherpa
@pytest.mark.parametrize(
    ("framing", "gcrn"),
    [
        ("25-12.5", {"cell": "gru"}),
        ("20-10", {"kernel_frames": 2, "level_frames": 50}),
    ],
)
def test_sherpa_runs_other_networks(tmp_path: Path, framing: str, gcrn: dict) -> None:
    model, info = load_model(checkpoint(tmp_path / "c", framing, **gcrn))
    path = save(sherpa_graph(model, describe(model, info)), tmp_path / "t.onnx")
    assert_sherpa_runs_what_we_run(path, model)


@needs_sherpa
@pytest.mark.parametrize("name", ["default", "small"])
def test_shipped_models_in_sherpa(tmp_path: Path, name: str) -> None:
    """fp32 at least 100 dB from torch, int8 at least 40 dB from it: no further than our int8."""
    model, info = load_model(ROOT / "checkpoints" / name)
    graph = sherpa_graph(model, describe(model, info))
    wave = noisy()
    late = model.config.stft.hop_length
    expected = enhanced(model, wave)
    ours = Enhancer.from_pretrained(name)(wave, 16000)
    certificate = find_model(name).with_suffix(".certificate.json")
    share = json.loads(certificate.read_text()).get("float_share", 0.01)
    assert distance(expected, denoised(save(graph, tmp_path / "s.onnx"), wave), late) > 100
    small = denoised(save(quantize(graph, "int8", share), tmp_path / "s8.onnx"), wave)
    assert distance(ours, small, late) > 40
    assert distance(expected, small, late) > distance(expected, ours, late) - 1


def test_files_say_what_they_are(made: list[Artefact], tmp_path: Path) -> None:
    assert [a.path.name for a in made] == ["t.sherpa.onnx", "t.sherpa.int8.onnx"]
    for artefact, mode in zip(made, ("none", "int8"), strict=True):
        graph = onnx.load(artefact.path)
        told = {p.key: p.value for p in graph.metadata_props}
        assert (told["model_type"], told["window_type"]) == ("gtcrn", "hann_sqrt")
        assert (told["n_fft"], told["hop_length"], told["licence"]) == ("512", "256", "CC0")
        sizes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.graph.input]
        assert sizes[0] == [1, 257, 1, 2]
        caches = ("conv_cache", "tra_cache", "inter_cache")
        assert sizes[1:] == [[int(told[f"{name}_shape"])] for name in caches]
        names = [o.name for o in graph.graph.output]
        assert names == ["enh", *(f"{name}_out" for name in caches)]
        record = json.loads(artefact.certificate_path.read_text())
        assert record["quantization"] == mode
        assert record["equality"]["snr_db"]["worst"] >= record["bounds"]["snr_db"]
        assert record["bounds"]["snr_db"] == (100 if mode == "none" else 10)
    with pytest.raises(EnhanceError, match="exists already"):
        export_sherpa(checkpoint(tmp_path / "c"), made[0].path, quiet=True)


def test_other_framings_and_bad_files_are_refused(
    made: list[Artefact], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tracer's work taken from the fixture."""
    monkeypatch.setattr(sherpa, "sherpa_graph", lambda *_: onnx.load(made[0].path))
    place = checkpoint(tmp_path / "c", "25-20")
    with pytest.raises(EnhanceError, match=r"framing 400/320: cannot .* overlap by half"):
        export_sherpa(place, tmp_path / "t.onnx", quiet=True)
    half = checkpoint(tmp_path / "d")
    with pytest.raises(EnhanceError, match=r"t\.int8\.onnx: refused, it is .* dB from torch"):
        export_sherpa(
            half,
            tmp_path / "t.onnx",
            int8=True,
            clips=pairs,
            bounds=Bounds(snr_db=90),
            quiet=True,
        )
    assert (tmp_path / "t.onnx").exists() and not (tmp_path / "t.int8.onnx").exists()
