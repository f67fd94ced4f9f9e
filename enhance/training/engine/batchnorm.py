"""Batch norm over the batches of all processes.

With one process's share of a batch a batch norm would see other statistics than with the whole
batch, and the gradient would depend on the number of processes. Torch's `SyncBatchNorm` mends
that on GPUs only; this one needs nothing but an all-reduce, which every backend has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Sum over processes; every process's loss depends on it, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


class _Shared(nn.modules.batchnorm._BatchNorm):
    """A batch norm whose statistics in training are those of all processes together.

    Every process must bring the same number of values.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, ...) -> (B, C, ...)"""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        world = torch.distributed.get_world_size()
        other = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1] + [1] * (x.ndim - 2)
        x32 = x.float()  # sums over thousands of values need more than bfloat16
        mean = _Sum.apply(x32.mean(other)) / world  # (C,)
        centred = x32 - mean.view(shape)
        var = _Sum.apply(centred.square().mean(other)) / world  # (C,), biased
        with torch.no_grad():
            count = world * x.numel() / x.shape[1]
            rate = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(var * count / (count - 1), rate)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class SharedBatchNorm1d(_Shared, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SharedBatchNorm2d(_Shared, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


_KINDS: dict[type, type] = {nn.BatchNorm1d: SharedBatchNorm1d, nn.BatchNorm2d: SharedBatchNorm2d}


def share_batch_norms(module: nn.Module) -> None:
    """Let every batch norm inside ``module`` share its statistics, in place.

    The parameters, their names and their values stay.
    """
    for child in module.modules():
        child.__class__ = _KINDS.get(type(child), type(child))
