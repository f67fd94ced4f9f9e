"""Files for sherpa-onnx, run by sherpa-onnx itself against our own runtime."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_export import TINY, make_model

from enhance.config import GcrnConfig
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.stft import FRAMINGS
from export.certificate import Bounds
from export.graph.quantize import quantize
from export.graph.step import save, step_graph
from export.metadata import describe
from export.sherpa import export_sherpa, sherpa_graph

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


@needs_sherpa
@pytest.mark.parametrize(
    ("framing", "gcrn"),
    [
        ("32-16", {}),
        ("25-12.5", {"cell": "gru"}),
        ("20-10", {"kernel_frames": 2, "level_frames": 50}),
    ],
)
def test_sherpa_runs_what_we_run(tmp_path: Path, pairs: Path, framing: str, gcrn: dict) -> None:
    bounds = Bounds(snr_db=10)  # random weights
    place = checkpoint(tmp_path / "c", framing, **gcrn)
    made = export_sherpa(place, tmp_path / "t.onnx", clips=pairs, bounds=bounds, quiet=True)
    from enhance.network.checkpoint import load_model

    model, info = load_model(place)
    ours = Enhancer(save(step_graph(model, describe(model, info)), tmp_path / "ours.onnx"))
    wave = noisy()
    found = distance(ours(wave, 16000), denoised(made[0].path, wave), FRAMINGS[framing].hop_length)
    assert found > 100, found


@needs_sherpa
@pytest.mark.parametrize("name", ["default", "small"])
def test_shipped_models_in_sherpa(tmp_path: Path, name: str) -> None:
    """fp32 at least 100 dB from our fp32, int8 at least 40 dB from it: no further than our int8."""
    from enhance.network.checkpoint import load_model

    model, info = load_model(ROOT / "checkpoints" / name)
    metadata = describe(model, info)
    fp32 = step_graph(model, metadata)
    graph = sherpa_graph(model, metadata)
    wave = noisy()
    late = model.config.stft.hop_length
    expected = Enhancer(save(fp32, tmp_path / "fp32.onnx"))(wave, 16000)
    ours = Enhancer.from_pretrained(name)(wave, 16000)
    assert distance(expected, denoised(save(graph, tmp_path / "s.onnx"), wave), late) > 100
    small = denoised(save(quantize(graph, "int8"), tmp_path / "s8.onnx"), wave)
    assert distance(ours, small, late) > 40
    assert distance(expected, small, late) > distance(expected, ours, late) - 1


def test_files_say_what_they_are(tmp_path: Path, pairs: Path) -> None:
    place = checkpoint(tmp_path / "c")
    made = export_sherpa(
        place,
        tmp_path / "t.sherpa.onnx",
        int8=True,
        clips=pairs,
        bounds=Bounds(snr_db=10),
        quiet=True,
    )
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
        export_sherpa(place, tmp_path / "t.sherpa.onnx", quiet=True)


def test_other_framings_and_bad_files_are_refused(tmp_path: Path, pairs: Path) -> None:
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
