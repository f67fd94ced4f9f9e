"""The fixed validation set of training runs, and the figures on it."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from enhance.config import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.recipe import Mixture
from enhance.data.mixing.rooms import Response
from enhance.measure.metrics import MetricRefused, pesq_wb
from enhance.network.waveform_model import WaveformModel
from enhance.training.losses.enhancement import si_sdr

SEED = 20240607
"""Seed of the validation mixtures: one for all runs, so that runs compare whatever their seed."""


class Validation:
    """Mixtures of held-back speakers and noises, kept in memory.

    ``count`` of them, mixed as `MixingConfig.for_validation` says; ``responses`` are those of
    rooms, where the mixtures have some.
    """

    def __init__(
        self,
        speech: ClipStore,
        noise: ClipStore,
        mixing: MixingConfig,
        count: int,
        balance: float,
        responses: list[Response] | None = None,
    ) -> None:
        mixer = Mixer(speech, noise, mixing, SEED, balance, responses=responses)
        self.mixtures: list[Mixture] = [mixer(0, index) for index in range(count)]
        self.sample_rate = speech.sample_rate
        self.noisy_si_sdr = _mean(self._si_sdr([m.noisy for m in self.mixtures]))

    def measure(self, model: WaveformModel, batch_size: int) -> dict[str, Any]:
        """Mean SI-SDR of the output, its gain over the noisy input, both in dB, and PESQ-WB.

        PESQ is None away from 16 kHz; ``pesq_refused`` counts the clips that it refuses.
        ``model`` must be in evaluation mode.
        """
        device = next(model.parameters()).device
        estimates: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(self.mixtures), batch_size):
                noisy = np.stack([m.noisy for m in self.mixtures[start : start + batch_size]])
                estimates += list(model.enhance(torch.from_numpy(noisy).to(device)).cpu().numpy())
        score = _mean(self._si_sdr(estimates))
        result: dict[str, Any] = {"si_sdr": score, "si_sdr_gain": score - self.noisy_si_sdr}
        return {**result, **self._pesq(estimates)}

    def _si_sdr(self, estimates: list[np.ndarray]) -> list[float]:
        return [
            float(si_sdr(torch.from_numpy(e)[None].double(), torch.from_numpy(m.clean)[None]))
            for e, m in zip(estimates, self.mixtures, strict=True)
        ]

    def _pesq(self, estimates: list[np.ndarray]) -> dict[str, Any]:
        values: list[float] = []
        if self.sample_rate == 16000:
            for estimate, mixture in zip(estimates, self.mixtures, strict=True):
                with contextlib.suppress(MetricRefused):
                    values.append(pesq_wb(mixture.clean, estimate))
        return {
            "pesq_wb": _mean(values) if values else None,
            "pesq_refused": len(estimates) - len(values),
        }


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
