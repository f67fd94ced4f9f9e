"""Batch norm over the batches of all processes.

With one process's share of a batch a batch norm would see other statistics than with the whole
batch, and the gradient would depend on the number of processes. Torch's `SyncBatchNorm` mends
that on GPUs only; this one needs nothing but an all-reduce, which every backend has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Normalise(torch.autograd.Function):
    """Torch's own kernels with the statistics, and their part of the gradient, of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The buffers, which stay as they are, say that the statistics are wanted in float32.
        unused, unread = weight.new_zeros(2, len(weight))
        own = torch.stack(torch.batch_norm_update_stats(x, unused, unread, 0.0))  # (2, C)
        everyone = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, own)
        means, spreads = torch.stack(everyone, 1)
        mean = means.mean(0)
        # Squares about the mean of all: those about zero would cancel where it is large.
        var = (spreads + (means - mean).square()).mean(0)  # biased
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        y, *_ = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor, *_: None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var = ctx.saved_tensors
        # As if the statistics were constants; every process's loss depends on them, through all x.
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        of_all = torch.stack([of_weight, of_bias])
        torch.distributed.all_reduce(of_all)
        world = torch.distributed.get_world_size()
        along, level = of_all / (world * x.numel() // x.shape[1])
        scale = (var + ctx.eps).rsqrt()
        slope = weight * scale.square() * along
        constant = weight * scale * level - slope * mean
        shape = [-1] + [1] * (x.ndim - 2)
        slope, constant = (v.to(x.dtype).view(shape) for v in (slope, constant))
        return direct.sub_(constant).addcmul_(x, slope, value=-1), of_weight, of_bias, None


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
        y, mean, var = _Normalise.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = torch.distributed.get_world_size() * x.numel() / x.shape[1]
            rate = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(var * count / (count - 1), rate)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return y


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
