"""Losses against formulas written a second time in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enhance.config import LossConfig
from enhance.losses import enhancement_loss, si_sdr


def si_sdr_numpy(estimate: np.ndarray, target: np.ndarray) -> float:
    e, t = estimate - estimate.mean(), target - target.mean()
    projection = np.dot(e, t) / np.dot(t, t) * t
    return float(10 * np.log10(np.sum(projection**2) / np.sum((e - projection) ** 2)))


@pytest.mark.parametrize("snr", [-20, 0, 20])
def test_si_sdr_is_the_published_formula(snr: float) -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal(8000) * 0.1
    estimate = 0.3 * target + rng.standard_normal(8000) * 0.03 * 10 ** (-snr / 20) + 0.05
    got = si_sdr(torch.tensor(estimate)[None], torch.tensor(target)[None])
    assert got.item() == pytest.approx(si_sdr_numpy(estimate, target), abs=0.01)


def test_si_sdr_is_finite_on_silence() -> None:
    zeros = torch.zeros(1, 800, requires_grad=True)
    value = si_sdr(zeros, torch.zeros(1, 800))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert zeros.grad is not None and torch.isfinite(zeros.grad).all()


def test_terms_are_the_written_formulas() -> None:
    rng = np.random.default_rng(1)
    e, t = (rng.standard_normal((2, 2, 5, 9)) for _ in range(2))
    we, wt = (rng.standard_normal((2, 700)) for _ in range(2))
    config = LossConfig(complex=0.7, magnitude=0.2, si_sdr=0.01, waveform=0.3)
    got = enhancement_loss(config, *(torch.tensor(x) for x in (e, t, we, wt)))
    ce, ct = ((x[:, 0] + 1j * x[:, 1]) for x in (e, t))
    ce, ct = (np.abs(x) ** 0.3 * np.exp(1j * np.angle(x)) for x in (ce, ct))
    expected = {
        "complex": 0.7 * np.mean(np.abs(ce - ct) ** 2),
        "magnitude": 0.2 * np.mean((np.abs(ce) - np.abs(ct)) ** 2),
        "si_sdr": -0.01 * np.mean([si_sdr_numpy(a, b) for a, b in zip(we, wt, strict=True)]),
        "waveform": 0.3 * np.abs(we - wt).mean() / np.abs(wt).mean(),
    }
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # The floor of 60 dB under the target moves the SI-SDR of unrelated noise (-32 dB) by 1e-3.
        assert got[name].item() == pytest.approx(value, rel=1e-3), name


def test_a_term_of_weight_zero_is_left_out() -> None:
    spec, wave = torch.randn(1, 2, 3, 4), torch.randn(1, 50)
    config = LossConfig(complex=0, magnitude=0, si_sdr=0.1)
    assert list(enhancement_loss(config, spec, spec, wave, wave)) == ["si_sdr"]
