"""The differentiable ESTOI against the one that `evaluate` measures with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from enhance.config import LossConfig
from enhance.data.synthetic.noise import babble
from enhance.data.synthetic.voice import Voice, utterance
from enhance.measure.metrics import measure
from enhance.training.losses.enhancement import enhancement_loss
from enhance.training.losses.intelligibility import estoi

RATE = 16000


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Speech with pauses, and babble of the same power, float32 (N,)."""
    rng = np.random.default_rng(3)
    clean = utterance(Voice.draw(rng), 3.0, rng)
    clean = np.concatenate([np.zeros(RATE // 2), clean, np.zeros(RATE // 3)]).astype(np.float32)
    noise = babble(clean.size, rng).astype(np.float32)
    return clean, noise * (clean.std() / noise.std())


def score(estimate: np.ndarray, clean: np.ndarray, rate: int = RATE) -> float:
    return estoi(torch.from_numpy(estimate)[None], torch.from_numpy(clean)[None], rate).item()


@pytest.mark.parametrize("gain", [2.0, 0.7, 0.2, 0.05])
def test_it_is_the_measure(pair: tuple[np.ndarray, np.ndarray], gain: float) -> None:
    clean, noise = pair
    estimate = clean + gain * noise
    measured = measure(clean, estimate, RATE, ["estoi"])["estoi"]
    assert score(estimate, clean) == pytest.approx(measured, abs=0.01)
    assert score(0.01 * estimate, 0.01 * clean) == pytest.approx(score(estimate, clean), abs=1e-3)


def test_it_is_the_measure_on_real_audio(corpus: Path) -> None:
    for name in range(0, 224, 56):
        clean, noisy = (
            soundfile.read(corpus / "dev" / kind / f"{name:03d}.flac", dtype="float32")[0]
            for kind in ("clean", "noisy")
        )
        measured = measure(clean, noisy, RATE, ["estoi"])["estoi"]
        assert score(noisy, clean) == pytest.approx(measured, abs=5e-3)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_signal_at_any_rate_is_its_own(rate: int) -> None:
    wave = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    assert score(wave, wave, rate) == pytest.approx(1, abs=1e-4)


def test_its_slope_is_that_of_its_values(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noise = (torch.from_numpy(x)[None] for x in pair)
    wave = (clean + 0.7 * noise).requires_grad_()
    (slope,) = torch.autograd.grad(estoi(wave, clean, RATE)[0], wave)
    step = 1e-3 * slope / slope.norm()
    with torch.no_grad():
        up, down = (estoi(wave + sign * step, clean, RATE)[0].item() for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(1e-3 * slope.norm().item(), rel=0.05)


def test_clips_without_speech_teach_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Silence, and what is shorter than a stretch, beside a clip that counts."""
    clean = torch.from_numpy(pair[0])
    short = clean.clone()
    short[RATE:] = 0  # half a second of speech began at the first half
    short[: RATE - 3000] = 0
    targets = torch.stack([clean, 0 * clean, short])
    waves = (targets + 0.1 * torch.from_numpy(pair[1])).requires_grad_()
    found = estoi(waves, targets, RATE)
    (slope,) = torch.autograd.grad(found.sum(), waves)
    assert found[0] < 0.99 and found[1:].tolist() == [1, 1]
    assert slope[0].abs().max() > 0 and not slope[1:].any()
    silent = torch.zeros_like(targets).requires_grad_()
    (slope,) = torch.autograd.grad(estoi(silent, targets, RATE).sum(), silent)
    assert slope.isfinite().all()
    assert estoi(waves[:, :100], targets[:, :100], RATE).tolist() == [1, 1, 1]


def test_as_a_loss_it_is_what_lacks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noise = (torch.from_numpy(x)[None] for x in pair)
    spec = torch.randn(1, 2, 3, 4)
    config = LossConfig(complex=0, magnitude=0, si_sdr=0, estoi=0.5)
    losses = enhancement_loss(config, spec, spec, clean + noise, clean, RATE)
    assert list(losses) == ["estoi"]
    expected = 0.5 * (1 - estoi(clean + noise, clean, RATE).item())
    assert losses["estoi"].item() == pytest.approx(expected)
