"""Muon for the matrices of a network, AdamW for everything else, as one optimiser.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) replaces the
momentum of a matrix by the nearest orthogonal one, so that all directions of a layer learn at one
pace. torch's own takes plain matrices only; here kernels of convolutions are matrices too, and a
recurrent layer's gates, which torch stacks, are orthogonalised one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest slope at zero
_ITERATIONS = 5
_SMALLEST_SIDE = 8
"""Matrices with a side below this gain nothing from orthogonality: AdamW has them."""


class Muon(torch.optim.AdamW):
    """Muon and AdamW side by side.

    Parameters
    ----------
    module
        Its trained parameters are optimised.
    lr
        AdamW's rate.
    matrix_rate
        Muon's rate: the spectral norm of one step of a square matrix.
    weight_decay
        Decoupled decay of matrices and kernels, times the rate; vectors have none.
    momentum
        Muon's, with Nesterov's look ahead.
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
        blocks = {}
        for part in module.modules():
            gates = 4 if isinstance(part, nn.LSTM) else 3 if isinstance(part, nn.GRU) else 1
            for p in part.parameters(recurse=False):
                if p.requires_grad and _is_matrix(p):
                    blocks[p] = gates
        rest = [p for p in module.parameters() if p.requires_grad and p not in blocks]
        self.blocks = blocks
        self.momentum = momentum
        groups = [
            {"params": list(blocks), "weight_decay": 0.0, "scale": matrix_rate / lr},
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
            if "scale" not in group:
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                mean = self.state[p]["momentum"].mul_(self.momentum).add_(p.grad)
                ahead = p.grad.add(mean, alpha=self.momentum)
                update = orthogonal(ahead.flatten(1).unflatten(0, (self.blocks[p], -1)))
                p.mul_(1 - group["lr"] * self.matrix_decay)
                p.add_(update.view_as(p), alpha=-group["lr"])
                p.grad = None  # AdamW, which comes next, leaves the parameter alone
        super().step()
        return loss


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors.

    Five Newton-Schulz iterations bring singular values to about 0.7 to 1.2; bfloat16 is enough for
    that. Tall matrices are scaled by sqrt(rows / columns), which makes the root mean square of
    what a step adds to a layer's output independent of its shape.

    Shape: (K, M, N) -> (K, M, N)
    """
    a, b, c = _NEWTON_SCHULZ
    rows, columns = matrices.shape[-2:]
    x = matrices.transpose(1, 2) if rows > columns else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrices.dtype) * max(1.0, rows / columns) ** 0.5
    return x.transpose(1, 2).contiguous() if rows > columns else x


def _is_matrix(p: Tensor) -> bool:
    return p.ndim > 1 and min(p.shape[0], p[0].numel()) >= _SMALLEST_SIDE
