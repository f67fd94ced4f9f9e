"""Gated convolutions over frequency: the layers of encoder and decoders.

Activations are kept with channels last in memory: a kernel over frequency then reads neighbours
side by side, which on a CPU in bfloat16 is worth half of the time of a training step. What costs
there are not the products but the passes over memory around them, so that halves and skips, whose
channels would lie between each other, are laid apart once, and so are their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GatedConv(nn.Module):
    """Convolution over frequency, stride 2, with a sigmoid gate (GLU), batch norm and ELU.

    Its kernel sees so many ``frames``: this one and those before it.
    """

    def __init__(self, inputs: int, outputs: int, frames: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, (frames, 3), (1, 2))
        self.norm = nn.BatchNorm2d(outputs)

    @property
    def past(self) -> int:
        """Frames before the first that `forward` needs in front of it."""
        return self.conv.kernel_size[0] - 1

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, past + T, F) -> (B, C', T, (F - 3) // 2 + 1)"""
        return F.elu(self.norm(gated(self.conv(x))), inplace=True)


class GatedDeconv(nn.Module):
    """Transposed convolution over frequency, stride 2, with a sigmoid gate, batch norm and ELU.

    The last layer of a decoder has neither norm nor activation: its output is the spectrum or mask.
    """

    def __init__(self, inputs: int, outputs: int, bins: int, *, last: bool) -> None:
        super().__init__()
        # One more output position where halving had lost one: bins = 2 F + 1 or 2 F + 2.
        self.conv = nn.ConvTranspose2d(
            inputs, 2 * outputs, (1, 3), (1, 2), output_padding=(0, 1 - bins % 2)
        )
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.ELU(inplace=True)
        self.bins = bins

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Shape: (B, C, T, F), (B, C, T, F) -> (B, C', T, bins)"""
        both = in_pairs(beside(x, skip), self.conv.weight, cast(Tensor, self.conv.bias))
        return self.activation(self.norm(gated(both, self.bins)))


def gated(both: Tensor, bins: int | None = None) -> Tensor:
    """The first half of the channels under the sigmoid of the second, of so many bins.

    Shape: (B, 2 C, T, F) -> (B, C, T, bins), with None (B, C, T, F)
    """
    if both.requires_grad:
        return _Gated.apply(both, bins or both.shape[-1])  # type: ignore[no-untyped-call]
    value, gate = (both if bins is None else both[..., :bins]).chunk(2, 1)
    return value * gate.sigmoid()


def beside(x: Tensor, skip: Tensor) -> Tensor:
    """Channels of both. Shape: (B, C, T, F), (B, D, T, F) -> (B, C + D, T, F)"""
    if x.requires_grad or skip.requires_grad:
        return _Beside.apply(x, skip)  # type: ignore[no-untyped-call]
    return torch.cat([x, skip], 1)


def in_pairs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution, kernel 3 and stride 2, as an ordinary one that makes two outputs.

    Input f has a part in outputs 2f, 2f + 1 and 2f + 2, so outputs 2f and 2f + 1 are made of the
    inputs f - 1 and f. The same sums; oneDNN's transposed convolution takes several times as long.

    Shape: x (B, C, T, F), weight (C, C', 1, 3), bias (C',) -> (B, C', T, 2 F + 2)
    """
    first, second, third = weight.unbind(-1)  # (C, C', 1)
    even = torch.stack([third, first], -1)
    odd = torch.stack([torch.zeros_like(second), second], -1)
    pair = torch.cat([even, odd], 1).transpose(0, 1)  # (2 C', C, 1, 2)
    y = F.conv2d(x, pair, torch.cat([bias, bias]), padding=(0, 1))  # (B, 2 C', T, F + 1)
    # With channels last in memory this moves nothing.
    y = y.permute(0, 2, 3, 1).unflatten(3, (2, -1)).flatten(2, 3)  # (B, T, 2 F + 2, C')
    return y.permute(0, 3, 1, 2)


def _apart(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Groups of channels, each on its own in memory with its channels last.

    Row by row: `contiguous` takes three times as long where rows are of 16 channels.

    Shape: (B, C, T, F) -> list of (B, C_k, T, F)
    """
    rows = torch.ops.aten.split_with_sizes_copy(x.permute(0, 2, 3, 1), sizes, -1)
    return [part.contiguous().permute(0, 3, 1, 2) for part in rows]


def _together(parts: Sequence[Tensor], width: int) -> Tensor:
    """The reverse of `_apart`, and zeros behind the last position up to a width.

    `torch.cat` takes three times as long for rows of 16 channels.
    """
    b, _, t, f = parts[0].shape
    sizes = [part.shape[1] for part in parts]
    whole = parts[0].new_empty(b, t, width, sum(sizes)).permute(0, 3, 1, 2)
    whole[..., f:] = 0
    for place, part in zip(whole[..., :f].split(sizes, 1), parts, strict=True):
        place.copy_(part)
    return whole


class _Gated(torch.autograd.Function):
    """`gated` in training.

    What it adds to the plain formula: halves are laid apart by the quickest copies, and the
    gradient of the whole is made at once, with the bins that were cut off. The plain one pads a
    gradient that is wide already, and the convolution before it copies that again.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, bins: int) -> Tensor:
        value, gate = _apart(both[..., :bins], [both.shape[1] // 2] * 2)
        gate = gate.sigmoid()
        ctx.save_for_backward(value, gate)
        ctx.width = both.shape[-1]
        return value * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        value, gate = ctx.saved_tensors
        of_gate = torch.ops.aten.sigmoid_backward(gradient * value, gate)
        return _together([gradient * gate, of_gate], ctx.width), None


class _Beside(torch.autograd.Function):
    """`torch.cat` of channels whose gradients lie each on its own in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor) -> Tensor:
        ctx.sizes = [x.shape[1], skip.shape[1]]
        return _together([x, skip], x.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(_apart(gradient, ctx.sizes))
