"""Which of a teacher's hidden states are used, and how several of them become one.

A teacher of L blocks has L + 1 hidden states: 0 before the first block, L behind the last. They
differ strongly in scale, so that in a plain sum the loudest one speaks alone: every state is
first brought to zero mean and unit variance over its features, frame by frame (a layer norm
without weights; no statistic over time enters). Then

* a TARGET (modes distill and pretrain) is the fixed uniform mean of the chosen states, normalised
  again: a learned weighting would drift to the layer that is easiest to predict;
* an INPUT (mode concat) is their sum under learned weights, a softmax that starts uniform, as in
  SUPERB (Yang et al., 2021, section 2): there the loss says which layers serve.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.errors import EnhanceError

FORMS = "last, weighted (all), single:k, range:i-k, first_k:k or last_k:k"
"""The texts that `Layers.parse` reads."""


@dataclass(frozen=True)
class Layers:
    """A choice of hidden states."""

    text: str
    """As configured, see `parse`."""
    indices: tuple[int, ...]
    """Hidden states 0..L, in rising order."""

    @classmethod
    def parse(cls, text: str, num_layers: int) -> Layers:
        """Read a choice among the L + 1 states of a teacher of L = ``num_layers`` blocks.

        ``last`` (state L), ``single:k`` (state k), ``range:i-k`` (states i to k), ``first_k:k``
        (the k lowest, 0 to k - 1), ``last_k:k`` (the k highest, L - k + 1 to L) or ``weighted``
        (all L + 1); an `EnhanceError` if it is none of them or k is out of range.
        """
        forms = r"last|weighted|range:(\d+)-(\d+)|(?:single|first_k|last_k):(\d+)"
        match = re.fullmatch(forms, text)
        if match is None:
            raise EnhanceError(f"layers {text!r}: unknown; take {FORMS}")
        low, high, k = (int(number or 0) for number in match.groups())
        top = num_layers
        first, last = {
            "last": (top, top),
            "weighted": (0, top),
            "range": (low, high),
            "single": (k, k),
            "first_k": (0, k - 1),
            "last_k": (top + 1 - k, top),
        }[text.partition(":")[0]]
        if not 0 <= first <= last <= top:
            raise EnhanceError(
                f"layers {text!r}: this teacher has {top} layers; take states from 0 (before the "
                f"first) to {top}, or 1 to {top + 1} of them"
            )
        return cls(text, tuple(range(first, last + 1)))

    def width(self, widths: Sequence[int], teacher: str) -> int:
        """Features D of the chosen states, of the ``widths`` of all L + 1 (`Teacher.widths`).

        An `EnhanceError` if the chosen states differ in width: nothing says which features belong
        together.
        """
        found = [widths[i] for i in self.indices]
        if len(set(found)) > 1:
            raise EnhanceError(
                f"layers {self.text}: the states of {teacher} differ in width "
                f"({', '.join(map(str, found))}); take last or single:k"
            )
        return found[0]

    def normalized(self, hidden: Tensor, width: int | None = None) -> Tensor:
        """The K chosen states, layer-normalised over their features; ``width`` is their true one
        where the teacher pads narrower ones with zeros.

        Shape: (L + 1, B, T', D) -> float32 (K, B, T', D)
        """
        chosen = hidden[list(self.indices), ..., :width].float()
        return F.layer_norm(chosen, chosen.shape[-1:])

    def select(self, hidden: Tensor, width: int | None = None) -> Tensor:
        """The target of each frame: the uniform mean of the normalised states, normalised again; of
        one state, that state.

        The L1 distance to it then has a known scale: 0.80 = E|x| of a unit Gaussian for a
        constant zero guess.

        Shape: (L + 1, B, T', D) -> (B, T', D)
        """
        states = self.normalized(hidden, width)
        return states[0] if len(states) == 1 else F.layer_norm(states.mean(0), states.shape[-1:])


class LayerSum(nn.Module):
    """Learned weighted sum of K normalised states: softmax over K scores, uniform at the start.

    The sum is not normalised again: the linear layer behind it learns what scale it needs.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count))

    @property
    def weights(self) -> Tensor:
        """The share of each state (K,); they sum to one."""
        return self.scores.softmax(0)

    def forward(self, states: Tensor) -> Tensor:
        """Shape: (K, B, T', D) -> (B, T', D)"""
        return torch.einsum("k,kbtd->btd", self.weights, states)
