"""The differentiable DNSMOS against the network that `evaluate` asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enhance.config import LossConfig
from enhance.errors import EnhanceError
from enhance.measure.opinions import SEGMENT, dnsmos
from enhance.training.losses.enhancement import enhancement_loss
from enhance.training.losses.opinion import opinion

pytest.importorskip("speechmos")
RATE = 16000


def buzz(samples: int, noise: float) -> torch.Tensor:
    """A voiced sound in syllables (1, samples), and noise."""
    t = np.arange(samples) / RATE
    harmonics = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    hiss = np.random.default_rng(0).standard_normal(samples)
    wave = 0.1 * harmonics * np.clip(np.sin(9 * t), 0, 1) + noise * hiss
    return torch.tensor(wave, dtype=torch.float32)[None]


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.1])
def test_it_is_the_network_that_measures(noise: float) -> None:
    wave = buzz(SEGMENT, noise)
    measured = dnsmos(wave[0].numpy())
    expected = [measured[f"dnsmos_{name}"] for name in ("sig", "bak", "ovrl")]
    assert opinion(wave, floor=0)[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert opinion(wave, floor=0, half=True)[0].tolist() == pytest.approx(expected, abs=0.03)


def test_its_slope_is_that_of_its_values() -> None:
    wave = buzz(2 * RATE, 0.02)
    wave.requires_grad_()
    (slope,) = torch.autograd.grad(opinion(wave)[0, 2], wave)
    step = 1e-4 * slope / slope.norm()
    with torch.no_grad():
        up, down = (opinion(wave + sign * step)[0, 2].item() for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(1e-4 * slope.norm().item(), rel=0.05)


def test_silence_teaches_nothing_infinite() -> None:
    wave = torch.zeros(2, 8000, requires_grad=True)
    (slope,) = torch.autograd.grad(opinion(wave).sum(), wave)
    assert slope.isfinite().all()


def test_as_a_loss_it_hears_a_quarter_of_the_batch_at_the_level_of_all() -> None:
    spec = torch.randn(5, 2, 3, 4)
    estimate = torch.cat([buzz(8000, noise) for noise in (0.1, 0.05, 0.02, 0.01, 0.0)])
    target = 0.3 * estimate
    config = LossConfig(complex=0, magnitude=0, si_sdr=0, dnsmos=0.2, level_invariant=True)
    losses = enhancement_loss(config, spec, spec, estimate, target)
    assert list(losses) == ["dnsmos"]
    gain = 0.05 / target[:2].square().mean(1, keepdim=True).sqrt()
    expected = -0.2 * opinion(gain * estimate[:2])[:, 2].mean()
    torch.testing.assert_close(losses["dnsmos"], expected)


def test_it_knows_its_sample_rate() -> None:
    with pytest.raises(EnhanceError, match=r"loss\.dnsmos at 8000 Hz"):
        opinion(torch.zeros(1, 8000), 8000)
