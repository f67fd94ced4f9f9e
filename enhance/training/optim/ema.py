"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A copy of a model whose parameters follow those of the model slowly.

    After step n, from 1: ``average += (1 - d) * (weight - average)`` with
    ``d = min(decay, n / (n + 9))``. The ramp makes the start of a run fade at the pace of the run:
    a fixed decay of 0.999 would still hold a third of the random start after 1000 steps. Buffers
    are copied; but the running statistics of batch norms are those of the model's weights, under
    which the average is a worse network than either: `settle` estimates its own. ``model`` is the
    average, in evaluation mode and without gradients.
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

    @torch.no_grad()
    def settle(
        self, model: M, hear: Callable[[M, Tensor], object], waves: Iterable[Tensor]
    ) -> None:
        """Give the average's batch norms the statistics of its own activations.

        As for stochastic weight averaging (Izmailov et al. 2018, section 3.2): plain means over all
        batches. The next `update` takes the model's again.

        ``hear(average, batch)`` lets the average hear a batch of training audio, (B, N). Where a
        batch norm of ``model`` is in evaluation mode, it is frozen, and so is the average's.
        """
        pairs = zip(self.model.modules(), model.modules(), strict=True)
        norms = [m for m, own in pairs if isinstance(m, _BatchNorm) and own.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in waves if norms else ():
            hear(self.model, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
