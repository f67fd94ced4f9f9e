"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A copy of a model whose parameters follow those of the model slowly.

    After step n, from 1: ``average += (1 - d) * (weight - average)`` with
    ``d = min(decay, n / (n + 9))``. The ramp makes the start of a run fade at the pace of the run:
    a fixed decay of 0.999 would still hold a third of the random start after 1000 steps. Buffers
    (the running statistics of batch norms are averages already) are copied.

    Attributes
    ----------
    model
        The average, in evaluation mode and without gradients.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Follow ``model`` after its step number ``step``, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
