"""Masked prediction of units: the pre-training loss of HuBERT and WavLM.

Sources: span masking as in wav2vec 2.0 (Baevski et al. 2020, section 3.1 and 4.2: a share
p = 0.065 of the frames is drawn without replacement as span starts, each span is 10 frames);
the loss is that of HuBERT (Hsu et al. 2021, section II-B and equation 3): softmax over cosine
similarities between the projected state and one embedding per unit, divided by a temperature of
0.1, cross-entropy over the masked frames, and, where wanted, over the visible ones too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def span_mask(
    frames: int, rng: np.random.Generator, probability: float = 0.065, length: int = 10
) -> np.ndarray:
    """Draw which of the T ``frames`` of one clip are masked: (T,) bool, True where so.

    A share of ``probability`` of the frames starts a span of ``length`` frames: the expected count
    is met by random rounding, and there is at least one span. Spans may overlap. A clip of fewer
    than ``2 * length`` frames gets spans of half its length, so that something stays visible.
    """
    mask = np.zeros(frames, bool)
    if frames == 0:
        return mask
    span = min(length, max(1, frames // 2))
    places = frames - span + 1
    starts = min(places, max(1, int(probability * frames + rng.random())))
    for start in rng.choice(places, starts, replace=False):
        mask[start : start + span] = True
    return mask


TEMPERATURE = 0.1
"""Divisor of the cosine similarities."""


@dataclass(frozen=True)
class Prediction:
    """What `MaskedUnitLoss` found in one batch."""

    masked_loss: Tensor
    """Mean cross-entropy over the masked frames, nats."""
    visible_loss: Tensor | None
    """Mean cross-entropy over the frames that are not masked, if they were asked for."""
    correct: int
    """Masked frames whose most likely unit is the right one."""
    masked: int
    """Number of masked frames."""


class MaskedUnitLoss(nn.Module):
    """Predict which of K ``units`` each masked frame is from the model's last state of ``width`` D;
    ``size`` is the width of the projection and of the unit embeddings.
    """

    def __init__(self, width: int, units: int, size: int = 96) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.embeddings = nn.Parameter(torch.empty(units, size).uniform_(-1.0, 1.0))

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all units.

        Shape: (..., D) to (..., K).
        """
        cosine = F.normalize(self.project(states), dim=-1) @ F.normalize(self.embeddings, dim=-1).T
        return cosine / TEMPERATURE

    def forward(
        self, states: Tensor, units: Tensor, mask: Tensor, *, visible: bool = False
    ) -> Prediction:
        """Losses, and hits over the masked frames.

        Shape: states (B, T, D), units (B, T) int64, mask (B, T) bool.
        """
        logits = self.logits(states[mask].float())  # (M, K)
        targets = units[mask]  # (M,)
        correct = int((logits.argmax(dim=-1) == targets).sum())
        other = None
        if visible:
            other = F.cross_entropy(self.logits(states[~mask].float()), units[~mask])
        return Prediction(F.cross_entropy(logits, targets), other, correct, len(targets))


def nearest_visible(mask: np.ndarray) -> np.ndarray:
    """Number of the nearest frame that is not masked, the earlier one of two.

    Shape: (T,) bool to (T,); -1 where everything is masked.
    """
    visible = np.flatnonzero(~mask)
    if len(visible) == 0:
        return np.full(len(mask), -1)
    distance = np.abs(np.arange(len(mask))[:, None] - visible)  # (T, V)
    return visible[distance.argmin(axis=1)]
