"""What an artefact says about itself: text entries in the ONNX file, all from the config."""

from __future__ import annotations

import json

import enhance
from enhance.config.settings import to_dict
from enhance.network.checkpoint import CheckpointInfo
from enhance.network.waveform_model import WaveformModel, macs_per_second
from export.graph.recurrence import OPSET

UNKNOWN = "unknown"
"""Licence of exported weights where neither the exporter nor the training record names one."""


def describe(model: WaveformModel, info: CheckpointInfo, licence: str = "") -> dict[str, str]:
    """Metadata of the fp32 artefact of a model; ``licence`` goes before the training record's.

    The framing is in samples; `training` (record and score of the weights) and `config` (the
    `ModelConfig`) are JSON.
    """
    stft = model.config.stft
    numbers = {
        "sample_rate": stft.sample_rate,
        "hop_length": stft.hop_length,
        "window_length": stft.window_length,
        "fft_size": stft.fft_size,
        "latency_samples": stft.latency_samples,
        "algorithmic_latency_samples": stft.algorithmic_latency_samples,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs_per_second": macs_per_second(model.config),
        "opset": OPSET,
    }
    return {
        "model_type": "gcrn",
        "producer": f"enhance {enhance.__version__}",
        "quantization": "none",
        "licence": licence or str(info.training.get("licence", UNKNOWN)),
        **{key: str(value) for key, value in numbers.items()},
        "training": _json({**info.training, "score": info.score}),
        "config": _json(to_dict(model.config)),
    }


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
