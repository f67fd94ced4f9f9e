"""Dual path: a recurrence over time that all frequencies share, then mixing over frequency.

After Luo, Chen and Yoshioka, "Dual-path RNN", ICASSP 2020, in the form that Le et al., "DPCRN",
Interspeech 2021, gave it for enhancement: between encoder and decoder, every frequency position
runs through one recurrence over time, then the positions of a frame are mixed; both are residual.
Its weights serve all positions, so that there are few of them and each sees much data; causal,
since only the first recurrence runs over time.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.config import GcrnConfig

_HEAD = 16  # channels of one head of attention

KINDS: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
"""Recurrent layers by `GcrnConfig.cell`."""
STATES = {"lstm": ("h", "c"), "gru": ("h",)}
"""Names of the states of a layer, without its own name."""
GATES = {"lstm": 4, "gru": 3}
"""How many a unit has."""


class DualPath(nn.Module):
    """One block, over F frequency positions.

    ``cell`` and ``hidden`` are those of the recurrence over time, ``mixing`` is what mixes the
    positions of a frame.
    """

    def __init__(self, config: GcrnConfig, positions: int) -> None:
        super().__init__()
        channels = config.channels[-1]
        self.cell, self.hidden = config.cell, config.hidden
        self.state_names = STATES[config.cell]
        # Time first, as the library's own kernels have it.
        self.time = KINDS[config.cell](channels, config.hidden)
        self.time_out = nn.Linear(config.hidden, channels)
        self.time_norm = nn.BatchNorm2d(channels)
        # What mixes the positions of one frame, (N, F, C) -> (N, F, C).
        self.mix: nn.Module
        if config.mixing == "recurrent":
            self.mix = RecurrentMixer(config.cell, channels)
        else:
            kind = AttentionMixer if config.mixing == "attention" else DenseMixer
            self.mix = kind(channels, positions)
        self.mix_out = nn.Linear(channels, channels)
        self.mix_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run T frames.

        Shape: x (B, T, F, C), every state (B, F, H) -> (B, T, F, C), states (B, F, H)
        """
        b, t, f, c = x.shape
        first = tuple(s.flatten(0, 1)[None] for s in state)  # (1, B F, H)
        rows = x.transpose(0, 1).reshape(t, b * f, c)
        y, last = self.time(rows, first if self.cell == "lstm" else first[0])
        y = self.time_out(y).view(t, b, f, c).transpose(0, 1)  # (B, T, F, C)
        x = x + normed(self.time_norm, y)
        y = self.mix_out(self.mix(x.reshape(b * t, f, c))).view(b, t, f, c)
        x = x + normed(self.mix_norm, y)
        states = last if self.cell == "lstm" else (last,)
        return x, tuple(s[0].unflatten(0, (b, f)) for s in states)


def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm over the last dimension: as channels that lie last in memory, which is quick.

    But only if values and gradients do lie so: where another dimension was moved, as time before
    the recurrence, torch's kernel takes ten times as long as the copy that puts it back.

    Shape: (B, T, F, C) -> (B, T, F, C)
    """
    if not x.requires_grad:
        return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    x = _Laid.apply(x).permute(0, 3, 1, 2)  # type: ignore[no-untyped-call]
    return _Laid.apply(norm(x).permute(0, 2, 3, 1))  # type: ignore[no-untyped-call]


class _Laid(torch.autograd.Function):
    """Values, and gradients, that lie in memory as their dimensions follow one another."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous()


class RecurrentMixer(nn.Module):
    """A recurrence up and another down the frequencies of a frame, half of the channels each."""

    def __init__(self, cell: Literal["lstm", "gru"], channels: int) -> None:
        super().__init__()
        self.rnn = KINDS[cell](channels, channels // 2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, F, C) -> (N, F, C)"""
        return self.rnn(x.transpose(0, 1).contiguous())[0].transpose(0, 1)


class AttentionMixer(nn.Module):
    """Self-attention among the positions of a frame, each with a learned place.

    Written out: torch's fused one has no usable backward pass in bfloat16 on a CPU.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.place = nn.Parameter(0.02 * torch.randn(positions, channels))
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, F, C) -> (N, F, C)"""
        parts = self.qkv(x + self.place).unflatten(-1, (3, self.heads, -1))  # (N, F, 3, h, C / h)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, h, F, C / h)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class DenseMixer(nn.Module):
    """A dense layer over positions, then one over channels."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.positions = nn.Linear(positions, positions)
        self.channels = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, F, C) -> (N, F, C)"""
        y = F.elu(self.positions(x.transpose(1, 2))).transpose(1, 2)
        return F.elu(self.channels(y))
