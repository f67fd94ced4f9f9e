"""Learning rate and weight average against their equations, computed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from enhance.config import TrainingConfig
from enhance.errors import EnhanceError
from enhance.training.optim.ema import Ema
from enhance.training.optim.schedule import is_stable, learning_rate, progress, since


def test_rate_of_a_run() -> None:
    c = TrainingConfig(steps=1000, warmup_steps=100, learning_rate=0.01, final_rate=0.04)
    rates = np.array([learning_rate(c, s, progress(c, s, 1e9)) for s in range(1001)])
    steps = np.arange(1001)
    # Cosine as the real part of a rotation, warm-up as a clipped ramp.
    cosine = np.real(np.exp(1j * np.pi * steps / 1000))
    expected = 0.01 * np.clip((steps + 1) / 100, None, 1) * (0.52 + 0.48 * cosine)
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates[0] == pytest.approx(0.01 / 100)
    assert 0.0095 < rates.max() < 0.01
    assert rates[1000] == pytest.approx(0.04 * 0.01)
    assert (np.diff(rates[:95]) > 0).all()
    assert (np.diff(rates[105:]) < 0).all()


def test_no_warmup_starts_at_the_peak() -> None:
    c = TrainingConfig(steps=10, warmup_steps=0, learning_rate=0.5)
    assert learning_rate(c, 0, 0.0) == 0.5


def test_warm_up_stable_decay() -> None:
    c = TrainingConfig(
        steps=1000,
        schedule="wsd",
        decay_share=0.25,
        warmup_steps=100,
        learning_rate=0.01,
        final_rate=0.04,
    )
    rates = np.array([learning_rate(c, s, progress(c, s, 0.0)) for s in range(1001)])
    np.testing.assert_allclose(rates[:100], 1e-4 * np.arange(1, 101))
    np.testing.assert_allclose(rates[100:751], 0.01)
    assert rates[812] == pytest.approx(0.01 * (0.04 + 0.96 * (1 - (62 / 250) ** 0.5)))
    assert (np.diff(rates[750:]) < 0).all()
    assert rates[1000] == pytest.approx(0.04 * 0.01)


def test_a_run_without_an_end_stays_at_its_peak() -> None:
    c = TrainingConfig(steps=0, schedule="wsd", warmup_steps=10, learning_rate=0.5)
    used = progress(c, 10**7, 1e9)
    assert used == 0
    assert learning_rate(c, 10**7, used) == 0.5
    with pytest.raises(EnhanceError, match=r"steps 0: a cosine has an end"):
        TrainingConfig(steps=0)
    assert TrainingConfig(steps=0, minutes=3).steps == 0


def test_the_stable_part_knows_no_budget() -> None:
    c = TrainingConfig(steps=100, schedule="wsd", decay_share=0.2)
    assert [is_stable(c, used) for used in (0.0, 0.8, 0.81, 1.0)] == [True, True, False, False]
    assert not is_stable(TrainingConfig(), 0.1)


def test_the_budget_of_a_branch_counts_from_there() -> None:
    c = TrainingConfig(steps=100, minutes=10, schedule="wsd", decay_share=1.0, warmup_steps=50)
    branch = {"step": 4000, "seconds": 900.0}
    assert progress(c, *since(branch, 4000, 900.0)) == 0
    used = progress(c, *since(branch, 4025, 903.0))
    assert used == pytest.approx(0.25)
    expected = c.learning_rate * (0.02 + 0.98 * 0.5)  # nothing but a decay, and no warm-up
    assert learning_rate(c, 4025, used) == pytest.approx(expected)
    assert progress(c, *since(branch, 4010, 1350.0)) == pytest.approx(0.75)
    assert since(None, 7, 8.0) == (7, 8.0)


@pytest.mark.parametrize(
    ("minutes", "step", "seconds", "expected"),
    [
        (0.0, 50, 1e6, 0.5),  # no limit: the clock does not count
        (10.0, 50, 150.0, 0.5),  # steps are nearer the end
        (10.0, 50, 450.0, 0.75),  # the clock is
        (10.0, 50, 700.0, 1.0),
    ],
)
def test_progress(minutes: float, step: int, seconds: float, expected: float) -> None:
    c = TrainingConfig(steps=100, minutes=minutes)
    assert progress(c, step, seconds) == pytest.approx(expected, rel=1e-12)


def test_average_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    decay = 0.8
    ema = Ema(model, decay)
    history = [model[0].weight.detach().clone()]
    for step in range(1, 60):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(5, 3).double())
        ema.update(model, step)
        history.append(model[0].weight.detach().clone())
    # Unrolled: weight k counts (1 - d_k) times all later decays; the start counts their product.
    decays = [min(decay, n / (n + 9)) for n in range(1, 60)]
    weights = [np.prod(decays)] + [(1 - decays[k - 1]) * np.prod(decays[k:]) for k in range(1, 60)]
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    expected = sum(w * h for w, h in zip(weights, history, strict=True))
    torch.testing.assert_close(ema.model[0].weight, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert model[0].weight.requires_grad


def test_the_averages_batch_norms_know_its_own_activations() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2)]
    model = nn.Sequential(*layers).double()
    ema = Ema(model, 0.9)
    for step in range(1, 30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p))
        model(torch.randn(8, 3).double())
        ema.update(model, step)
    parts = [3 + torch.randn(50, 3).double() for _ in range(4)]
    ema.settle(model, lambda average, x: average(x), iter(parts))
    inner = [ema.model[0](x) for x in parts]
    first, second = ema.model[1], ema.model[3]
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean(0) for x in inner]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([x.var(0) for x in inner]).mean(0))
    # What lies deeper is heard behind each batch's own statistics, as in training.
    normed = [(x - x.mean(0)) / (x.var(0, unbiased=False) + first.eps).sqrt() for x in inner]
    outer = [ema.model[2](x * first.weight + first.bias).mean(0) for x in normed]
    torch.testing.assert_close(second.running_mean, torch.stack(outer).mean(0))
    assert not any(m.training for m in ema.model.modules())
    assert (first.momentum, second.momentum) == (0.1, 0.1)
    assert not torch.allclose(first.running_mean, model[1].running_mean, atol=0.1)
    ema.update(model, 30)
    assert torch.equal(first.running_mean, model[1].running_mean)
    model[1].eval()  # frozen
    ema.settle(model, lambda average, x: average(x), iter(parts))
    assert torch.equal(first.running_mean, model[1].running_mean)
    assert not torch.equal(second.running_mean, model[3].running_mean)
