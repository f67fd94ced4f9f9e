"""The differentiable PESQ against the reference implementation of PESQ."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from enhance.data.synthetic.noise import babble, coloured, wind
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError
from enhance.measure.metrics import pesq_wb
from enhance.training.losses.perceptual import pesq_disturbance

N = 48000
Pairs = tuple[np.ndarray, np.ndarray]
"""Estimates and targets (B, N), float32."""


def hann() -> torch.Tensor:
    return torch.hann_window(512).sqrt()


def spectrum(wave: np.ndarray) -> torch.Tensor:
    return torch.stft(torch.from_numpy(wave), 512, 256, window=hann(), return_complex=True)


def waveform(spec: torch.Tensor, length: int) -> torch.Tensor:
    return torch.istft(spec, 512, 256, window=hann(), length=length)


def versions(clean: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """The mixture, the mixture at four higher SNRs, and three masks; float32 (N,)."""
    mixture = spectrum(clean + noise)
    speech, rest = (spectrum(x).abs().square() for x in (clean, noise))
    ideal = speech / (speech + rest + 1e-10)
    blurred = torch.nn.functional.avg_pool2d(ideal[None], (9, 5), 1, (4, 2))[0]
    masks = (ideal.sqrt(), blurred.sqrt(), ideal.clamp_min(0.2))
    return [clean + noise * 10 ** (-db / 20) for db in (0, 5, 10, 20, 30)] + [
        waveform(mixture * mask, len(clean)).numpy() for mask in masks
    ]


@cache
def drawn(seed: int) -> Pairs:
    """A mixture at -5 dB and its clean voice, (N,) each. Not to be changed."""
    rng = np.random.default_rng(seed)
    clean = utterance(Voice.draw(rng), N / 16000, rng)
    noise = (coloured, babble, wind)[seed % 3](N, rng).astype(np.float32)
    noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * np.float32(10 ** (5 / 20))
    return clean + noise, clean


def synthetic(voices: int) -> Pairs:
    """Mixtures at -5 dB and their clean voices, copies."""
    estimates, targets = zip(*map(drawn, range(voices)), strict=True)
    return np.stack(estimates), np.stack(targets)


def scores(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Ours and the reference's, each (B,)."""
    estimate, target = (torch.from_numpy(x) for x in pairs)
    disturbance = pesq_disturbance(estimate, target, limit_slope=0)
    ours = (0.999 + 4 / (1 + torch.exp(-1.3669 * (4.5 - disturbance) + 3.8224))).numpy()  # P.862.2
    return ours, np.array([pesq_wb(t, e) for e, t in zip(*pairs, strict=True)])


def test_follows_pesq_on_synthetic_voices() -> None:
    mixtures, targets = synthetic(6)
    pairs = [
        (estimate, clean)
        for mixture, clean in zip(mixtures, targets, strict=True)
        for estimate in versions(clean, mixture - clean)
    ]
    ours, reference = scores((np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])))
    assert np.ptp(reference) > 2
    assert np.corrcoef(ours, reference)[0, 1] > 0.99
    assert abs(np.mean(ours - reference)) < 0.1


def test_follows_pesq_on_real_audio(corpus: Path) -> None:
    pairs = []
    for name in range(0, 224, 28):
        clean, noisy = (
            soundfile.read(corpus / "dev" / kind / f"{name:03d}.flac", dtype="float32")[0]
            for kind in ("clean", "noisy")
        )
        pairs += [(estimate, clean) for estimate in versions(clean, noisy - clean)]
    ours, reference = scores((np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])))
    assert np.corrcoef(ours, reference)[0, 1] > 0.995
    low = reference < 1.8
    assert np.corrcoef(ours[low], reference[low])[0, 1] > 0.98
    assert np.abs(ours - reference).max() < 0.3


def test_a_perfect_estimate_of_any_level_loses_nothing() -> None:
    target = torch.from_numpy(synthetic(2)[1])
    for gain in (1.0, 0.25, 3.0):
        # 1e-3 stands under each frame's disturbance, and 0.1 % of the target's power under level.
        assert pesq_disturbance(gain * target, target).max() < 1e-3


def test_level_of_the_pair_does_not_matter() -> None:
    estimate, target = (torch.from_numpy(x) for x in synthetic(2))
    loud = pesq_disturbance(estimate, target)
    quiet = pesq_disturbance(0.01 * estimate, 0.01 * target)
    torch.testing.assert_close(loud, quiet, rtol=1e-3, atol=0)


def gradient(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    estimate = estimate.clone().requires_grad_()
    value = pesq_disturbance(estimate, target)
    assert value.isfinite().all()
    return torch.autograd.grad(value.sum(), estimate)[0]


@pytest.mark.parametrize("samples", [1, 100, 511, 512, 4000, N])
@pytest.mark.parametrize("target_gain", [0.0, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("estimate_gain", [0.0, 1e-6, 1e-3, 1.0])
def test_gradients_are_finite(samples: int, target_gain: float, estimate_gain: float) -> None:
    estimate, target = (torch.from_numpy(x[:, -samples - 800 : -800]) for x in synthetic(2))
    for start in (estimate, target):  # the second: nothing is disturbed
        grad = gradient(estimate_gain * start, target_gain * target)
        assert grad.isfinite().all()
        # What a change of the estimate by a share of itself does stays within bounds.
        assert grad.norm() * (estimate_gain * start).norm() < 300


def test_half_silent_clips_have_finite_gradients() -> None:
    estimate, target = (torch.from_numpy(x) for x in synthetic(2))
    target[:, N // 3 :] = 0
    estimate[:, N // 3 :] = 0
    assert gradient(estimate, target).isfinite().all()


def test_a_target_without_speech_teaches_nothing() -> None:
    estimate, target = (torch.from_numpy(x) for x in synthetic(2))
    target[0] = 0
    value = pesq_disturbance(estimate, target)
    assert value[0] == 0 and value[1] > 1
    grad = gradient(estimate, target)
    assert not grad[0].any() and grad[1].any()


def test_clips_do_not_see_one_another() -> None:
    estimate, target = (torch.from_numpy(x) for x in synthetic(3))
    together = pesq_disturbance(estimate, target)
    alone = torch.cat(
        [pesq_disturbance(e[None], t[None]) for e, t in zip(estimate, target, strict=True)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_descent_on_a_mask_raises_real_pesq() -> None:
    mixtures, targets = synthetic(2)
    mixture, target = spectrum(mixtures), torch.from_numpy(targets)
    weights = torch.zeros(mixture.shape, requires_grad=True)
    optimiser = torch.optim.Adam([weights], 0.2)

    def estimate() -> torch.Tensor:
        return waveform(mixture * torch.sigmoid(weights), N)

    def real() -> np.ndarray:
        waves = estimate().detach().numpy()
        return np.array([pesq_wb(t, e) for e, t in zip(waves, targets, strict=True)])

    before = real()
    for _ in range(30):
        optimiser.zero_grad()
        pesq_disturbance(estimate(), target).mean().backward()
        optimiser.step()
    assert (real() > before + 0.3).all()


def test_frames_above_the_limit_still_teach() -> None:
    mixtures, target = (torch.from_numpy(x) for x in synthetic(2))
    loud = target + 3 * (mixtures - target)
    rise, norms = [], []
    for slope in (0.0, 0.1):
        wave = loud.clone().requires_grad_()
        value = pesq_disturbance(wave, target, limit_slope=slope)
        norms.append(torch.autograd.grad(value.sum(), wave)[0].norm().item())
        rise.append((value - pesq_disturbance(mixtures, target, limit_slope=slope)).sum().item())
        assert (value.max() < 45 * (0.1 + 0.0309)) == (slope == 0)
    assert norms[1] > 1.5 * norms[0]
    assert rise[1] > 1.5 * rise[0] > 0


def test_validation_first_does_not_stop_training() -> None:
    from enhance.training.losses import perceptual

    perceptual._tables.cache_clear()
    perceptual._filters.cache_clear()
    estimate, target = (torch.from_numpy(x) for x in synthetic(1))
    with torch.inference_mode():
        pesq_disturbance(estimate, target)
    assert gradient(estimate, target).any()


def test_another_sample_rate_is_refused() -> None:
    wave = torch.randn(1, 8000)
    with pytest.raises(EnhanceError, match="8000 Hz"):
        pesq_disturbance(wave, wave, 8000)
