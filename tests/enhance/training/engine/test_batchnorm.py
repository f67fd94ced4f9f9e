"""Batch norms of all processes together: those of one process are torch's own.

That two processes are one is asked of a whole training, in ``test_training.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from enhance.training.engine.batchnorm import share_batch_norms


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def ran(norm: nn.Module, x: Tensor, toward: Tensor) -> list[Tensor]:
    """Output, gradients, and running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(x)
    y.backward(toward)
    assert isinstance(x.grad, Tensor)
    assert y.dtype == x.grad.dtype == x.dtype
    gradients = [p.grad for p in norm.parameters() if isinstance(p.grad, Tensor)]
    assert len(gradients) == 2
    return [y.detach(), x.grad, *gradients, *norm.buffers()]


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float32, 1e-4, 1e-4), (torch.bfloat16, 2e-2, 2e-2)]
)
@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.usefixtures("alone")
def test_of_one_process_it_is_torchs(
    dtype: torch.dtype, rtol: float, atol: float, last: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (3, 5, 40, 7)
    offset = torch.tensor([0.0, 1.0, -3.0, 30.0, 0.1])[:, None, None]
    x = (torch.randn(shape, generator=generator) * 2 + offset).to(dtype, memory_format=layout)
    toward = torch.randn(shape, generator=generator).to(dtype, memory_format=layout)
    theirs, ours = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    with torch.no_grad():
        for norm in (theirs, ours):
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0, 0.0]))
            norm.bias.copy_(torch.arange(5.0))
    share_batch_norms(ours)
    for _ in range(2):  # running statistics, too
        for got, want in zip(ran(ours, x, toward), ran(theirs, x, toward), strict=True):
            torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
            assert got.stride() == want.stride()


@pytest.mark.usefixtures("alone")
def test_the_gradient_is_that_of_the_statistics_too() -> None:
    norm = nn.BatchNorm2d(2).double()
    share_batch_norms(norm)
    x = torch.randn(2, 2, 3, 2, generator=torch.Generator().manual_seed(1)).double()
    norm.momentum = 0.0  # the same function each time
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))
