"""Contrastive future prediction against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.ssl.losses.future import FuturePrediction
from enhance.errors import EnhanceError


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"infonce": True},
        {"negatives": 5},
        {"steps": 30},  # more than the clip has frames
    ],
)
def test_loss_and_hits_by_plain_loops(options: dict) -> None:
    items, frames, offset = 2, 9, 3
    torch.manual_seed(0)
    head = FuturePrediction(5, 4, offset, **{"steps": 4, "negatives": 3, **options})
    targets, context = noise(items, frames, 4), noise(items, frames, 5, seed=2)
    found = head(targets, context, seeded())

    drawn = head.draw(items, frames, seeded()).numpy()
    z = targets.numpy().astype(np.float64)
    flat = z.reshape(-1, 4)
    weight = head.project.weight.detach().numpy()[:, :, 0].astype(np.float64)  # (C of c, C, K)
    bias = head.project.bias.detach().numpy()
    losses, hits = [], np.zeros((items, min(head.steps, frames - offset)))
    counts = np.zeros_like(hits)
    for b in range(items):
        for k in range(hits.shape[1]):
            for t in range(frames):
                ahead = t + offset + k
                if ahead >= frames:
                    continue
                predicted = context.numpy()[b, t] @ weight[:, :, k] + bias
                true = predicted @ z[b, ahead]
                others = [predicted @ flat[i] for i in drawn[:, b, ahead]]
                if head.infonce:
                    losses.append(-true + math.log(sum(map(math.exp, [true, *others]))))
                else:
                    losses.append(
                        -math.log(1 / (1 + math.exp(-true)))
                        - sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in others)
                    )
                hits[b, k] += true > max(others)
                counts[b, k] += 1
    assert found.loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    np.testing.assert_array_equal(found.hits.numpy(), hits)
    np.testing.assert_array_equal(found.counts.numpy(), counts)
    assert (found.correct, found.total) == (hits.sum(), counts.sum())
    lottery = [1 / (1 + len(set(drawn[:, b, t + offset + k])))
               for b in range(items) for k in range(hits.shape[1])
               for t in range(frames - offset - k)]  # fmt: skip
    assert found.chance == pytest.approx(np.mean(lottery))
    assert 0 < found.correct < found.total


def test_predictions_are_a_transposed_convolution() -> None:
    head, context = FuturePrediction(5, 4, 3, steps=6), noise(2, 7, 5)
    expected = head.project(context.transpose(1, 2)[..., None])  # (B, C, T, K)
    torch.testing.assert_close(head.predictions(context), expected.permute(0, 2, 3, 1))


def test_negatives() -> None:
    head = FuturePrediction(2, 2, 1, negatives=300)
    items, frames = 3, 6
    drawn = head.draw(items, frames, seeded())
    here = torch.arange(items * frames).view(items, frames)
    assert torch.equal(drawn, head.draw(items, frames, seeded()))
    assert not torch.equal(drawn, head.draw(items, frames, seeded(8)))
    assert not (drawn == here).any()  # never the true frame
    assert torch.equal(drawn // frames, (here // frames).expand(300, -1, -1))
    # All others are drawn alike: 300 draws, 5 frames to choose from.
    for b in range(items):
        for t in range(frames):
            count = torch.bincount(drawn[:, b, t], minlength=items * frames)
            assert int((count > 0).sum()) == frames - 1
            mean = 300 / (frames - 1)
            assert (count[count > 0] - mean).abs().max() < 5 * math.sqrt(mean)


def test_ties_count_what_a_coin_would_score() -> None:
    head = FuturePrediction(16, 24, 1, steps=12)
    one = noise(24).expand(3, 70, 24)  # one codeword everywhere: rounding must not tell copies
    found = head(one, noise(3, 70, 16), seeded())
    assert found.correct / found.total == pytest.approx(found.chance) == pytest.approx(1 / 11)
    # Two codewords, always the second one next but one: known but for the copies of it.
    words = torch.eye(2)[torch.arange(60) // 2 % 2][None]  # 0 0 1 1 0 0 ...
    head = FuturePrediction(2, 2, 2, steps=1, negatives=4)
    with torch.no_grad():
        head.project.bias.zero_()
        head.project.weight[:, :, 0, 0] = torch.eye(2).flip(0)
    found = head(words, words, seeded())
    drawn = words.flatten(0, 1)[head.draw(1, 60, seeded())]  # (4, 1, 60, 2)
    copies = (drawn == words).all(-1).sum(0)[0, 2:]
    assert copies.max() > 1
    assert found.correct == pytest.approx(float((1 / (1 + copies)).sum()), rel=1e-6)


def test_chance_of_codewords_by_blind_rankings() -> None:
    """The mean over many random orders of the codewords, and a coin among copies."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(4, 30, p=[0.6, 0.2, 0.15, 0.05])
    words = noise(4, 6)[torch.from_numpy(kinds)][None]  # (1, T, C)
    head = FuturePrediction(6, 6, 1, steps=1, negatives=5)
    blind = head.scores(words, noise(1, 30, 6), seeded())[2][0].numpy()  # (T,)
    drawn = kinds[head.draw(1, 30, seeded()).numpy()[:, 0]]  # (5, T)
    total = np.zeros(30)
    for _ in range(4000):
        rank = rng.permutation(4)
        mine, others = rank[kinds], rank[drawn]
        total += (mine >= others.max(0)) / (1 + (others == mine).sum(0))
    assert np.abs(blind - total / 4000).max() < 4 * 0.5 / math.sqrt(4000)
    assert blind.max() - blind.min() > 0.1


def test_random_targets_give_chance_and_told_ones_do_not() -> None:
    torch.manual_seed(0)
    head = FuturePrediction(8, 8, 3, steps=2)
    blind = head(noise(20, 100, 8), noise(20, 100, 8, seed=2), seeded())
    rate, spread = blind.correct / blind.total, math.sqrt(blind.chance / blind.total)
    assert 0.09 < blind.chance < 0.1  # negatives are drawn with replacement
    assert abs(rate - blind.chance) < 4 * spread
    targets = noise(20, 100, 8)
    context = torch.cat([targets[:, 3:], torch.zeros(20, 3, 8)], dim=1)  # c_t is z_{t + 3}
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.bias.zero_()
        head.project.weight[:, :, 0, 0] = torch.eye(8)
    told = head(targets, context, seeded())
    assert float(told.hits[:, 0].sum() / told.counts[:, 0].sum()) > 0.8
    assert float(told.hits[:, 1].sum() / told.counts[:, 1].sum()) == pytest.approx(1 / 11)  # ties


def test_gradient_reaches_everything() -> None:
    head = FuturePrediction(5, 4, 2)
    targets, context = noise(2, 30, 4).requires_grad_(), noise(2, 30, 5).requires_grad_()
    head(targets, context, seeded()).loss.backward()
    for part in (targets, context, head.project.weight, head.project.bias):
        assert part.grad.isfinite().all()
        assert part.grad.abs().sum() > 0
    # Against a logistic loss by torch, on the same scores.
    scores, copies, _ = head.scores(targets, context, seeded())
    assert not copies.any()
    labels = torch.zeros_like(scores)
    labels[..., 0] = 1
    each = F.binary_cross_entropy_with_logits(scores, labels, reduction="none").sum(-1)  # (B, T, K)
    told = torch.stack([torch.arange(30) >= 2 + k for k in range(12)], dim=1)  # (T, K)
    expected = each[:, told].mean()
    torch.testing.assert_close(head(targets, context, seeded()).loss, expected)


def test_refusals() -> None:
    with pytest.raises(EnhanceError, match="too short"):
        FuturePrediction(2, 2, 3)(noise(1, 3, 2), noise(1, 3, 2))
    with pytest.raises(EnhanceError, match="one frame"):
        FuturePrediction(2, 2, 0)(noise(1, 1, 2), noise(1, 1, 2))
    for bad in ({"steps": 0}, {"negatives": 0}, {"negatives": -1}):
        with pytest.raises(EnhanceError, match="negative"):
            FuturePrediction(2, 2, 1, **bad)
