"""Losses against formulas written a second time in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enhance.config import LossConfig
from enhance.errors import EnhanceError
from enhance.training.losses.enhancement import (
    enhancement_loss,
    level_gain,
    multi_resolution_error,
    si_sdr,
)
from enhance.training.losses.perceptual import pesq_disturbance


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


def test_si_sdr_of_silence_is_0_db_and_teaches_nothing() -> None:
    zeros = torch.zeros(1, 800, requires_grad=True)
    value = si_sdr(zeros, torch.zeros(1, 800))
    value.sum().backward()
    assert value.item() == 0
    assert zeros.grad is not None and torch.equal(zeros.grad, torch.zeros(1, 800))


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


def magnitudes(wave: np.ndarray, size: int, power: float) -> np.ndarray:
    """Compressed magnitudes frame by frame, the first centred on sample 0."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    padded = np.concatenate([np.zeros(size // 2), wave, np.zeros(size // 2)])
    starts = range(0, len(padded) - size + 1, size // 2)
    frames = np.stack([padded[s : s + size] * window for s in starts])
    return np.abs(np.fft.rfft(frames)) ** power


def test_multi_resolution_is_the_mean_over_transforms() -> None:
    rng = np.random.default_rng(2)
    estimate, target = rng.standard_normal((2, 3, 1500)) * 0.1
    expected = np.mean(
        [
            np.mean(
                [
                    (magnitudes(e, size, 0.3) - magnitudes(t, size, 0.3)) ** 2
                    for e, t in zip(estimate, target, strict=True)
                ]
            )
            for size in (64, 256, 600)
        ]
    )
    got = multi_resolution_error(torch.tensor(estimate), torch.tensor(target), (64, 256, 600), 0.3)
    # The floor of 1e-8 under the energy moves bins near zero.
    assert got.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("samples", [1, 300, 4000])
def test_multi_resolution_is_smooth_at_silence(samples: int) -> None:
    for target in (torch.zeros(2, samples), 1e-6 * torch.randn(2, samples)):
        wave = torch.zeros(2, samples, requires_grad=True)
        multi_resolution_error(wave, target, (256, 512, 1024), 0.3).backward()
        # The power of a silent bin is smooth there: no direction is better than another.
        assert wave.grad is not None and torch.equal(wave.grad, torch.zeros(2, samples))


def test_waveform_terms_come_with_their_weight() -> None:
    spec = torch.randn(2, 2, 3, 4)
    estimate, target = 0.1 * torch.randn(2, 2, 8000)
    config = LossConfig(0.5, 0, 0, 0, 0, 0.7, (128,), 0.2)
    got = enhancement_loss(config, spec, spec, estimate, target)
    assert list(got) == ["multi_resolution", "pesq"]
    error = multi_resolution_error(estimate, target, (128,), 0.5)
    torch.testing.assert_close(got["multi_resolution"], 0.7 * error)
    torch.testing.assert_close(got["pesq"], 0.2 * pesq_disturbance(estimate, target).mean())


def test_the_default_loss_is_what_it_was() -> None:
    spec, wave = torch.randn(1, 2, 3, 4), torch.randn(1, 50)
    got = enhancement_loss(LossConfig(), spec, spec, wave, wave)
    assert list(got) == ["complex", "magnitude", "si_sdr"]


def test_pesq_knows_its_sample_rate() -> None:
    spec, wave = torch.randn(1, 2, 3, 4), torch.randn(1, 8000)
    with pytest.raises(EnhanceError, match=r"loss\.pesq at 8000 Hz"):
        enhancement_loss(LossConfig(pesq=0.1), spec, spec, wave, wave, 8000)


EVERY_TERM = LossConfig(waveform=0.3, multi_resolution=1.0, pesq=0.05, level_invariant=True)


def at_level(dbfs: float, config: LossConfig) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Losses of one estimate and target at a level, and what they say of a gainless network."""
    rng = np.random.default_rng(3)
    target = rng.standard_normal((2, 8000)) * [[1.0], [0.5]]
    target *= 10 ** (dbfs / 20) / np.sqrt(np.mean(target[0] ** 2))
    estimate = 0.7 * target + 0.2 * target.std() * rng.standard_normal((2, 8000))
    waves = [torch.tensor(x, dtype=torch.float32) for x in (estimate, target)]
    specs = [x.view(2, 2, 40, 100) for x in waves]
    level = 10 ** (dbfs / 20)
    inputs = [waves[0].requires_grad_(), specs[0].detach().requires_grad_()]
    losses = enhancement_loss(config, inputs[1], specs[1], inputs[0], waves[1])
    gradients = torch.autograd.grad(sum(losses.values()), inputs)
    return {name: loss.item() for name, loss in losses.items()}, [level * g for g in gradients]


@pytest.mark.parametrize("dbfs", [-15.0, -40.0, -52.0])
def test_levels_do_not_count_where_asked(dbfs: float) -> None:
    expected, teaches = at_level(-26.0, EVERY_TERM)
    got, found = at_level(dbfs, EVERY_TERM)
    assert got == pytest.approx(expected, rel=1e-3)
    for a, b in zip(found, teaches, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * b.abs().max().item())


def test_levels_count_otherwise() -> None:
    loud, quiet = (at_level(dbfs, LossConfig())[0] for dbfs in (-15.0, -52.0))
    assert quiet["magnitude"] < 0.3 * loud["magnitude"]
    assert quiet["si_sdr"] == pytest.approx(loud["si_sdr"], rel=1e-3)


def test_one_level_is_an_rms_of_a_twentieth() -> None:
    target = torch.randn(2, 8000) * torch.tensor([[0.3], [0.001]])
    rms = (target * level_gain(target)).square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 0.05))
    assert level_gain(torch.zeros(1, 80)).item() == pytest.approx(500)


@pytest.mark.parametrize("sizes", [(), (512, 1), (512, 255), (0,)])
def test_transform_lengths_are_checked(sizes: tuple[int, ...]) -> None:
    with pytest.raises(EnhanceError, match="multi_resolution_sizes"):
        LossConfig(multi_resolution_sizes=sizes)
