"""Span masks against a count by hand; the loss against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.ssl.losses.masked_units import MaskedUnitLoss, nearest_visible, span_mask
from distill.training.accuracy import interval


def expected_share(frames: int, probability: float, length: int) -> float:
    """Exact expectation: frame t stays visible if none of the starts that cover it is drawn.

    n of the P = T - M + 1 places are drawn without replacement, n being floor(pT) or one more.
    """
    places = frames - length + 1
    low = int(probability * frames)
    share = 0.0
    rest = probability * frames - low
    for n, weight in ((low, 1 - rest), (low + 1, rest)):
        for t in range(frames):
            covering = min(t, places - 1) - max(0, t - length + 1) + 1
            visible = 1.0
            for i in range(n):
                visible *= max(0, places - covering - i) / (places - i)
            share += weight * (1 - visible) / frames
    return share


@pytest.mark.parametrize("frames", [60, 199])
def test_share_of_masked_frames(frames: int) -> None:
    rng = np.random.default_rng(0)
    draws = np.array([span_mask(frames, rng).mean() for _ in range(3000)])
    expected = expected_share(frames, 0.065, 10)
    assert 0.45 < expected < 0.52  # about 49 % in the paper
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(len(draws))


def test_masks_consist_of_whole_spans() -> None:
    rng = np.random.default_rng(1)
    for frames in (20, 33, 200):
        for _ in range(50):
            mask = span_mask(frames, rng)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
            runs = edges[1::2] - edges[::2]
            assert len(mask) == frames
            assert runs.min() >= 10


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 9, 19])
def test_short_clips_keep_something_visible(frames: int) -> None:
    mask = span_mask(frames, np.random.default_rng(2))
    assert len(mask) == frames
    if frames > 1:
        assert mask.any()
        assert not mask.all()


def test_every_place_can_start_a_span() -> None:
    rng = np.random.default_rng(3)
    total = sum(span_mask(40, rng).astype(int) for _ in range(500))
    assert total.min() > 0


def test_cosine_loss_is_equation_3_of_hubert() -> None:
    torch.manual_seed(0)
    loss = MaskedUnitLoss(6, 5, size=4)
    states, units = torch.randn(2, 7, 6), torch.randint(5, (2, 7))
    mask = torch.rand(2, 7) < 0.5
    found = loss(states, units, mask)
    weight, bias = (p.detach().double().numpy() for p in loss.project.parameters())
    embeddings = loss.embeddings.detach().double().numpy()
    total, correct, count = 0.0, 0, 0
    for b in range(2):
        for t in range(7):
            if mask[b, t]:
                o = weight @ states[b, t].double().numpy() + bias
                similar = [o @ e / np.linalg.norm(o) / np.linalg.norm(e) / 0.1 for e in embeddings]
                y = int(units[b, t])
                total -= np.log(np.exp(similar[y]) / np.sum(np.exp(similar)))
                correct += int(np.argmax(similar) == y)
                count += 1
    assert found.masked == count > 0
    assert found.correct == correct
    assert found.masked_loss.item() == pytest.approx(total / count, abs=1e-5)


def test_visible_frames_do_not_count() -> None:
    torch.manual_seed(2)
    loss = MaskedUnitLoss(3, 4)
    states, units = torch.randn(1, 4, 3, requires_grad=True), torch.randint(4, (1, 4))
    mask = torch.tensor([[False, True, True, False]])
    loss(states, units, mask).masked_loss.backward()
    touched = states.grad.abs().sum(dim=-1)[0] > 0
    assert touched.tolist() == mask[0].tolist()


def test_nearest_visible_frame() -> None:
    units = np.array([5, 1, 2, 3, 4, 9])
    mask = np.array([False, True, True, True, True, False])
    assert units[nearest_visible(mask)].tolist() == [5, 5, 5, 9, 9, 9]
    assert nearest_visible(np.ones(6, bool)).tolist() == [-1] * 6


def test_interval_follows_the_clusters_not_the_frames() -> None:
    # 40 clips of 100 frames, each all right or all wrong: the standard error is that of 40 draws
    hits = np.repeat([0, 100], 20)
    found = interval(hits, np.full(40, 100))
    assert found["mean"] == 0.5
    expected = 1.96 * np.sqrt(0.25 / 40)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(expected, rel=0.1)


def test_interval_holds_with_few_clusters_and_of_one_shows_nothing() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([80, 100, 100, 120])
    covered = 0
    for _ in range(500):
        found = interval(counts * rng.normal(0.5, 0.1, 4), counts)
        covered += found["low"] <= 0.5 <= found["high"]
    assert covered / 500 > 0.92  # of a percentile bootstrap .77
    assert interval(np.array([30]), np.array([40])) == {"mean": 0.75, "low": -0.25, "high": 1.75}
