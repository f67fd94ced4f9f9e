"""Distances against numpy and scipy, their scales, and mode distill with each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import distance as scipy_distance

from distill.modes.imitation import distance

KINDS = ("l1", "cosine", "correlation")


def frames(seed: int, mean: float = 0.0) -> torch.Tensor:
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(seed))
    return x * torch.linspace(0.1, 5, 7)[:, None] + mean


@pytest.mark.parametrize("kind", KINDS)
def test_frame_by_frame(kind: str) -> None:
    a, b = frames(0, 0.4), frames(1, -0.2)
    got = distance(kind, a, b).numpy()
    assert got.shape == (3, 7)
    for i in range(3):
        for t in range(7):
            x, y = a[i, t].double().numpy(), b[i, t].double().numpy()
            expected = {
                "l1": np.mean(np.abs(x - y)),
                "cosine": scipy_distance.cosine(x, y),
                "correlation": 1 - np.corrcoef(x, y)[0, 1],
            }[kind]
            assert got[i, t] == pytest.approx(expected, abs=1e-5)


def test_what_is_free() -> None:
    a, b = frames(0), frames(1)
    torch.testing.assert_close(distance("cosine", 3 * a, b), distance("cosine", a, b))
    torch.testing.assert_close(
        distance("correlation", 3 * a + 1, b), distance("correlation", a, b), atol=1e-5, rtol=1e-5
    )
    assert (distance("cosine", a + 1, b) - distance("cosine", a, b)).abs().max() > 0.1
    assert (distance("l1", 3 * a, b) - distance("l1", a, b)).abs().min() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_ends_of_the_scale(kind: str) -> None:
    """Zero for the target, the documented value for a zero guess, a gradient that is finite."""
    target = torch.nn.functional.layer_norm(
        torch.randn(4, 50, 256, generator=torch.Generator().manual_seed(3)), (256,)
    )
    assert distance(kind, target, target).abs().max() < 1e-6
    guess = torch.zeros_like(target, requires_grad=True)
    found = distance(kind, guess, target).mean()
    assert found.item() == pytest.approx(0.80 if kind == "l1" else 1.0, abs=0.01)
    found.backward()
    assert guess.grad is not None and guess.grad.isfinite().all()
    if kind != "l1":
        assert distance(kind, -target, target).mean().item() == pytest.approx(2.0)
