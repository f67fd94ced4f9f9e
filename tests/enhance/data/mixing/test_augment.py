"""Augmentations against signals whose answer is known: tones, pulses, vowels."""

from __future__ import annotations

import numpy as np
import pytest
from audio_clips import RATE

from enhance.data.mixing import augment, filters

FORMANTS = np.array([600.0, 1500.0, 2600.0, 3500.0, 4500.0, 5500.0])
PITCH = 80.0


def tone(hz: float, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hz / RATE * np.arange(samples)).astype(np.float32)


def loudest_hz(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
    return float(spectrum.argmax() * RATE / (8 * len(wave)))


def vowel(formants: np.ndarray, seconds: float = 1.0) -> np.ndarray:
    """Harmonics of `PITCH` under resonances of 100 Hz: float32, formed in closed form."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = np.zeros(len(time))
    for hz in np.arange(1, int(7800 / PITCH)) * PITCH:
        wave += resonance(formants, hz) * np.cos(2 * np.pi * hz * time + 0.1 * hz)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def resonance(formants: np.ndarray, hz: float) -> float:
    place = 2j * np.pi * hz
    poles = -np.pi * 100 + 2j * np.pi * formants
    return float(np.prod(np.abs(poles) ** 2 / np.abs((place - poles) * (place - poles.conj()))))


def harmonics_db(wave: np.ndarray) -> np.ndarray:
    """Level of each harmonic of `PITCH` up to 5 kHz, mean 0."""
    time = np.arange(len(wave)) / RATE
    taper = np.hanning(len(wave))
    hz = np.arange(1, int(5000 / PITCH)) * PITCH
    level = 20 * np.log10(np.abs(np.exp(-2j * np.pi * hz[:, None] * time) @ (wave * taper)))
    return level - level.mean()


@pytest.mark.parametrize("factor", [0.7, 0.85, 0.9371, 1.1, 1.4])
def test_speed_moves_a_tone_by_its_factor(factor: float) -> None:
    n = 16000
    wave = augment.speed(tone(1000, augment.stretch(n, factor)), factor, n)
    assert wave.shape == (n,)
    assert wave.dtype == np.float32
    assert loudest_hz(wave) == pytest.approx(1000 * factor, abs=0.5)
    # Filled to the end, level kept.
    np.testing.assert_allclose(np.std(wave[-1600:]), np.sqrt(0.5), rtol=0.02)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_moves_a_pulse_by_its_factor(factor: float) -> None:
    wave = np.zeros(augment.stretch(8000, factor), np.float32)
    wave[round(5000 * factor)] = 1
    assert augment.speed(wave, factor, 8000).argmax() == 5000


def test_speed_folds_nothing_back() -> None:
    wave = augment.speed(tone(7000, augment.stretch(16000, 1.3)), 1.3, 16000)
    assert np.abs(wave[1000:-1000]).max() < 1e-4  # at 9100 Hz nothing can be


def test_speed_always_fills_the_segment() -> None:
    rng = np.random.default_rng(0)
    for factor in rng.uniform(0.5, 2, 40):
        for n in (1600, 16001):
            wave = np.zeros(augment.stretch(n, factor), np.float32)
            assert len(augment.speed(wave, factor, n)) == n
    assert augment.stretch(16000, 1.0) == 16000


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_formants_move_and_pitch_does_not(factor: float) -> None:
    before = vowel(FORMANTS)
    after = augment.shift_formants(before, factor, RATE)
    assert after.shape == before.shape
    assert after.dtype == np.float32
    wanted, kept = harmonics_db(vowel(factor * FORMANTS)), harmonics_db(before)
    found = harmonics_db(after)
    # The spectrum is the moved vowel's, not the old one's: within 4 dB where they differ by 8.
    assert np.std(kept - wanted) > 7
    assert np.std(found - wanted) < 0.5 * np.std(kept - wanted)
    # Each of the first formants peaks where it should, to one harmonic.
    for formant in FORMANTS[:4]:
        middle = factor * formant / PITCH
        near = np.arange(round(middle) - 4, round(middle) + 5)
        near = near[(near >= 1) & (near <= len(found))]
        assert abs(near[found[near - 1].argmax()] - middle) <= 1.25
    # Every harmonic stays at its place: between them there is 30 dB less.
    spectrum = np.abs(np.fft.rfft(after[:16000] * np.hanning(16000))) ** 2
    on = sum(spectrum[round(k * PITCH) + d] for k in range(2, 60) for d in range(-2, 3))
    off = sum(spectrum[round((k + 0.5) * PITCH) + d] for k in range(2, 60) for d in range(-2, 3))
    assert off < 1e-3 * on


def test_formants_at_one_are_left_alone() -> None:
    wave = np.random.default_rng(0).standard_normal(5001).astype(np.float32)
    np.testing.assert_allclose(augment.shift_formants(wave, 1.0, RATE), wave, atol=1e-5)
    np.testing.assert_allclose(augment.shift_formants(wave, 1.0, 8000), wave, atol=1e-5)
    assert not augment.shift_formants(np.zeros(5001, np.float32), 1.1, RATE).any()


def test_formants_keep_silence_and_timing() -> None:
    wave = np.zeros(32000, np.float32)
    wave[8000:16000] = vowel(FORMANTS, 0.5)
    after = augment.shift_formants(wave, 1.15, RATE)
    assert not after[: 8000 - 512].any()
    assert not after[16000 + 512 :].any()
    lags = np.correlate(after[7000:17000], wave[8000:16000], "valid") / len(wave)
    assert abs(int(lags.argmax()) - 1000) <= 1


def test_formants_lift_no_empty_band() -> None:
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(rng.standard_normal(32000))
    spectrum[10000:] *= 1e-3  # what a codec leaves above 5 kHz: 60 dB down
    before = np.fft.irfft(spectrum).astype(np.float32)
    after = augment.shift_formants(before, 1.15, RATE)
    power = [np.abs(np.fft.rfft(wave * np.hanning(32000))) ** 2 for wave in (before, after)]
    lifted = 10 * np.log10(power[1][10400:11300].mean() / power[0][10400:11300].mean())
    assert 10 < lifted < 20.5


def test_gain_passes_through_its_points() -> None:
    for n, points in ((16000, (0.0, -6.0, 6.0)), (16001, (3.0, -3.0)), (48000, (1, 2, -4, 0, 5))):
        wave = np.ones(n, np.float32)
        augment.vary_gain(wave, points)
        db = 20 * np.log10(wave)
        place = np.linspace(0, n - 1, len(points))
        np.testing.assert_allclose(db, np.interp(np.arange(n), place, points), atol=0.05)
        assert np.abs(np.diff(db)).max() < 0.01  # no steps
    assert augment.gain_points(3.0) == 5
    assert augment.gain_points(0.1) == 2


def test_clipping_cuts_at_a_fraction_of_the_peak() -> None:
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    wave[77] = -5.0  # the peak is below zero
    clipped = wave.copy()
    augment.clip(clipped, 0.3)
    assert np.abs(clipped).max() == pytest.approx(1.5)
    below = np.abs(wave) < 1.5
    np.testing.assert_array_equal(clipped[below], wave[below])
    assert (clipped[~below] == np.sign(wave[~below]) * np.abs(clipped).max()).all()


def test_equaliser_and_band_limit_follow_their_formulas() -> None:
    points = (3.0, -2.0, 6.0, 0.0, -6.0, 1.0)
    gain = filters.equaliser(16000, RATE, points)
    hz = np.arange(8001)
    db = np.interp(np.log(np.maximum(hz, 1)), np.log(filters.EQUALISER_HZ), points)
    np.testing.assert_allclose(20 * np.log10(gain), db, atol=1e-3)
    band = filters.band_limit(16000, RATE, 4000)
    np.testing.assert_array_equal(band[:4001], 1)
    np.testing.assert_allclose(band[4401:], 0, atol=1e-6)
    assert band[4200] == pytest.approx(0.5, abs=1e-3)
    assert band.dtype == gain.dtype == np.float32
