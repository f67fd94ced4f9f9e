"""A tiny model with random weights, and what exporting it gave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from enhance.config import GcrnConfig, ModelConfig
from enhance.network.waveform_model import WaveformModel
from export.stream import Artefact

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
