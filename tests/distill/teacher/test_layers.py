"""Which hidden states are used, and how they become one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.analysis.claims import ADVICE
from distill.teacher.layers import Layers, LayerSum
from enhance.errors import EnhanceError


def hidden(width: int = 24) -> torch.Tensor:
    """Three states of very different scale and mean."""
    x = torch.randn(3, 2, 5, width, generator=torch.Generator().manual_seed(0)).double()
    return x * torch.tensor([1.0, 100.0, 1e-2])[:, None, None, None] + 7


def normal(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("last", [2]),
        ("single:0", [0]),
        ("single:2", [2]),
        ("first_k:1", [0]),
        ("first_k:2", [0, 1]),
        ("first_k:3", [0, 1, 2]),
        ("last_k:1", [2]),
        ("last_k:2", [1, 2]),
        ("weighted", [0, 1, 2]),
    ],
)
def test_targets_by_hand(text: str, indices: list[int]) -> None:
    layers = Layers.parse(text, 2)
    assert list(layers.indices) == indices
    x = hidden()
    states = np.stack([normal(x.numpy()[i]) for i in indices])
    np.testing.assert_allclose(layers.normalized(x).numpy(), states, atol=1e-3)
    expected = states[0] if len(indices) == 1 else normal(states.mean(0))
    np.testing.assert_allclose(layers.select(x).numpy(), expected, atol=1e-3)
    # Per frame, no statistic over time: the other frames do not matter.
    torch.testing.assert_close(layers.select(x)[:, 2:3], layers.select(x[:, :, 2:3]))


@pytest.mark.parametrize(
    "text",
    ["single:3", "single:-1", "single:", "first", "weighted:2", "first_k:0", "first_k:4",
     "last_k:4", "last_k:0", "last_k", " last"],
)  # fmt: skip
def test_bad_choices_are_refused(text: str) -> None:
    with pytest.raises(EnhanceError, match="layers") as caught:
        Layers.parse(text, 2)
    assert "\n" not in str(caught.value)


def test_widths() -> None:
    """Narrow states, padded with zeros: the padding is no feature; mixed widths are refused."""
    widths = (16, 16, 24)
    assert Layers.parse("last", 2).width(widths, "t") == 24
    first = Layers.parse("first_k:2", 2)
    assert first.width(widths, "t") == 16
    x = hidden()
    x[:2, ..., 16:] = 0
    np.testing.assert_allclose(
        first.normalized(x, 16).numpy(), normal(x.numpy()[:2, ..., :16]), atol=1e-3
    )
    for text in ("weighted", "last_k:2"):
        with pytest.raises(EnhanceError, match=rf"layers {text}: the states of t differ in width"):
            Layers.parse(text, 2).width(widths, "t")


def test_learned_sum() -> None:
    """Uniform at the start; then a softmax, and its gradient by finite differences."""
    total = LayerSum(3)
    states = Layers.parse("weighted", 2).normalized(hidden())
    torch.testing.assert_close(total(states), states.mean(0))
    with torch.no_grad():
        total.scores.copy_(torch.tensor([0.3, -1.0, 2.0]))
    shares = np.exp([0.3, -1.0, 2.0]) / np.exp([0.3, -1.0, 2.0]).sum()
    expected = sum(w * s for w, s in zip(shares, states.numpy(), strict=True))
    np.testing.assert_allclose(total(states).detach().numpy(), expected, atol=1e-5)
    assert total.weights.sum().item() == pytest.approx(1)
    wanted = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    (total(states) * wanted).sum().backward()
    for i in range(3):
        ends = []
        for step in (1e-2, -1e-2):
            scores = np.array([0.3, -1.0, 2.0])
            scores[i] += step
            w = np.exp(scores) / np.exp(scores).sum()
            ends.append(float((np.einsum("k,kbtd->btd", w, states.numpy()) * wanted.numpy()).sum()))
        assert total.scores.grad[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-2)


def test_advice_can_be_followed() -> None:
    """Each row names its source and a choice that a Base model, or a Large one, has."""
    for row in ADVICE:
        assert row.source[:3] in {"000", "001", "003", "004"}
        Layers.parse(row.choice, 24 if "Large" in row.task else 12)
