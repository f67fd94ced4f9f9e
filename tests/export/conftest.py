"""One tiny model, exported once in all versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from torch import nn

from enhance.checkpoint import CheckpointInfo, save_model
from enhance.config import GcrnConfig, ModelConfig
from enhance.spectral import WaveformModel
from export.certificate import Bounds
from export.command import Artefact, export_model

TINY = ModelConfig(gcrn=GcrnConfig(channels=(4, 8, 8), hidden=16))


def make_model(config: ModelConfig = TINY) -> WaveformModel:
    """Random weights and random statistics, so that folding a batch norm wrongly shows."""
    torch.manual_seed(3)
    model = WaveformModel(config)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return model.eval()


def voice(seconds: float, pitch: float) -> np.ndarray:
    """Harmonics in syllables, float32."""
    t = np.arange(round(16000 * seconds)) / 16000
    wave = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, 20))
    return (0.1 * wave * np.clip(np.sin(2 * np.pi * 2.3 * t), 0.02, None)).astype(np.float32)


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


@dataclass
class Exported:
    """What `export_model` gave."""

    artefacts: list[Artefact]

    @property
    def paths(self) -> list[Path]:
        return [artefact.path for artefact in self.artefacts]

    @property
    def graphs(self) -> list[onnx.ModelProto]:
        return [onnx.load(path) for path in self.paths]


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
