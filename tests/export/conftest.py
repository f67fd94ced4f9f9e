"""One tiny model, exported once in all versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_export import TINY, Exported, make_model, voice

from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.network.waveform_model import WaveformModel
from export.certificate import Bounds
from export.stream import export_model


@pytest.fixture(scope="session")
def model() -> WaveformModel:
    return make_model()


@pytest.fixture(scope="session")
def checkpoint(model: WaveformModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(folder, model, CheckpointInfo(TINY, {"mode": "base", "seed": 5}, {"step": 7}))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation set of three clips, 10.5 s together."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for i, pitch in enumerate((110, 170, 230)):
        clean = voice(3.5, pitch)
        noisy = clean + rng.normal(0, 0.02, len(clean)).astype(np.float32)
        for part, wave in (("clean", clean), ("noisy", noisy)):
            (folder / part).mkdir(exist_ok=True)
            soundfile.write(folder / part / f"{i}.flac", wave, 16000)
    return folder


@pytest.fixture(scope="session")
def exported(checkpoint: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    # Random weights have no quality to keep: the bounds on metrics are not what is tested here.
    bounds = Bounds(si_sdr_db=2.0, pesq=1.0, snr_db=20.0)
    return Exported(
        export_model(
            checkpoint, out, int8=True, int8_weights=True, clips=pairs, bounds=bounds, quiet=True
        )
    )
