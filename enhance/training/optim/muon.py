"""Muon for the matrices of a network, AdamW for everything else, as one optimiser.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) replaces the
momentum of a matrix by the nearest orthogonal one, so that all directions of a layer learn at one
pace. torch's own takes plain matrices only; here kernels of convolutions are matrices too, from
inputs to outputs also where they are transposed. What torch stacks, the gates of a recurrent layer
and the two halves of a gated one, is orthogonalised one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from enhance.network.gated import GatedConv, GatedDeconv
from enhance.training.engine.processes import has_bfloat16

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest slope at zero
_ITERATIONS = 5
_SMALLEST_SIDE = 8
"""Matrices with a side below this gain nothing from orthogonality: AdamW has them."""


class Muon(torch.optim.AdamW):
    """Muon and AdamW side by side, for the trained parameters of a module.

    ``lr`` is AdamW's rate, ``matrix_rate`` Muon's: the spectral norm of one step of a square
    matrix. ``weight_decay`` is decoupled, of matrices and kernels, times the rate; vectors have
    none. ``momentum`` is Muon's, with Nesterov's look ahead.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        matrix_rate: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        self.layouts: dict[nn.Parameter, Layout] = {}
        gated = {m.conv for m in module.modules() if isinstance(m, (GatedConv, GatedDeconv))}
        for part in module.modules():
            layout = _layout(part, 2 if part in gated else 1)
            for p in part.parameters(recurse=False):
                if p.requires_grad and p.ndim > 1 and layout.pays(p):
                    self.layouts[p] = layout
        rest = [p for p in module.parameters() if p.requires_grad and p not in self.layouts]
        self.momentum = momentum
        groups = [
            {"params": list(self.layouts), "weight_decay": 0.0, "scale": matrix_rate / lr},
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.matrix_decay = weight_decay
        super().__init__([g for g in groups if g["params"]], lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of both; gradients of Muon's parameters are used up."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            if "scale" in group:
                self._step([p for p in group["params"] if p.grad is not None], group["lr"])
            else:
                for p in group["params"]:  # of a state written when it was Muon's
                    self.state[p].pop("momentum", None)
        super().step()
        return loss

    def _step(self, parameters: list[nn.Parameter], rate: float) -> None:
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p in parameters:
            assert p.grad is not None
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            gradient = cast(Tensor, p.grad)
            mean = self.state[p]["momentum"].mul_(self.momentum).add_(gradient)
            matrices = self.layouts[p].matrices(gradient.add(mean, alpha=self.momentum))
            alike[matrices.shape[1:]].append((p, matrices))
        for some in alike.values():  # few large products take less time than many small ones
            updates = orthogonal(torch.cat([matrices for _, matrices in some]))
            parts = updates.split([len(matrices) for _, matrices in some])
            for (p, _), part in zip(some, parts, strict=True):
                p.mul_(1 - rate * self.matrix_decay)
                p.add_(self.layouts[p].kernel(part, p), alpha=-rate)
                p.grad = None  # AdamW, which comes next, leaves the parameter alone


@dataclass(frozen=True)
class Layout:
    """How a parameter is a stack of matrices from inputs to outputs."""

    blocks: int
    """Matrices, one below the other."""
    transposed: bool
    """Whether inputs come first, as in the kernel of a transposed convolution."""

    def matrices(self, p: Tensor) -> Tensor:
        """Shape: (O, I, ...), transposed (I, O, ...) -> (K, O / K, I ...)"""
        outputs = p.transpose(0, 1) if self.transposed else p
        return outputs.flatten(1).unflatten(0, (self.blocks, -1))

    def kernel(self, matrices: Tensor, like: Tensor) -> Tensor:
        """What `matrices` made of a parameter of this shape, back in it."""
        shape = like.transpose(0, 1).shape if self.transposed else like.shape
        outputs = matrices.reshape(shape)
        return outputs.transpose(0, 1) if self.transposed else outputs

    def pays(self, p: Tensor) -> bool:
        """Whether no side of the matrices is too short."""
        return min(self.matrices(p).shape[1:]) >= _SMALLEST_SIDE


def _layout(part: nn.Module, halves: int) -> Layout:
    if isinstance(part, (nn.LSTM, nn.GRU)):
        return Layout(4 if isinstance(part, nn.LSTM) else 3, False)
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return Layout(halves, isinstance(part, kinds))


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors.

    Five Newton-Schulz iterations bring singular values to about 0.7 to 1.2; bfloat16 is enough for
    that, where it is the faster one. Tall matrices are scaled by sqrt(rows / columns), which makes
    the root mean square of what a step adds to a layer's output independent of its shape.

    Shape: (K, M, N) -> (K, M, N)
    """
    a, b, c = _NEWTON_SCHULZ
    rows, columns = matrices.shape[-2:]
    x = matrices.transpose(1, 2) if rows > columns else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if has_bfloat16(x.device.type):
        x = x.bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrices.dtype) * max(1.0, rows / columns) ** 0.5
    return x.transpose(1, 2) if rows > columns else x
