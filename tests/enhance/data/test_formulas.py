"""Noise from formulas: each kind sounds as its name says, by simple measures."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
from scipy import signal

from enhance.data.formulas import FAMILIES, KINDS, draw_kind, make

RATE = 16000
SEEDS = range(12)
TONAL = ("alarm", "siren", "horn", "ring_tone", "hospital", "dtmf", "call_progress", "hum")
NOISY = ("coloured", "modulated", "static")
PAUSING = ("alarm", "ring_tone", "hospital", "dtmf", "packets", "bird", "bark", "cry")
STEADY = ("siren", "hum", "engine", "fan", "coloured", "band")
SHARP = ("clicks", "impacts", "keys")


@cache
def waves(kind: str) -> np.ndarray:
    return np.stack([make(kind, seed, 3 * RATE) for seed in SEEDS])


@cache
def spectra(kind: str) -> np.ndarray:
    """Power in frames of 64 ms: (seeds, frequencies, frames)."""
    _, _, z = signal.stft(waves(kind), RATE, nperseg=1024, noverlap=512)
    return np.abs(z) ** 2


def peakiness(kind: str) -> float:
    """Share of the energy in the 2 % strongest bins of loud frames, median over seeds."""
    shares = []
    for power in spectra(kind):
        frames = power.sum(0)
        loud = power[:, frames > 0.2 * frames.max()]
        top = np.sort(loud, 0)[-10:].sum(0) / loud.sum(0)
        shares.append(np.median(top))
    return float(np.median(shares))


def pause_share(kind: str) -> float:
    """Share of 64 ms frames 25 dB below the loudest, mean over seeds."""
    frames = spectra(kind).sum(1)
    return float((frames < frames.max(1, keepdims=True) * 10**-2.5).mean())


def crest(kind: str) -> float:
    """Peak over rms, median over seeds."""
    x = waves(kind)
    return float(np.median(np.abs(x).max(1) / np.sqrt((x**2).mean(1))))


@pytest.mark.parametrize("seed", [957, 1282])
def test_an_object_whose_modes_all_lie_above_the_band_is_heard(seed: int) -> None:
    assert np.std(make("impacts", seed, 4000, 8000)) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_a_pure_function_of_its_seed(kind: str) -> None:
    first = make(kind, 3, 20000)
    np.testing.assert_array_equal(first, make(kind, 3, 20000))
    others = [make(kind, 4, 20000), make(kind, 3, 20000, held_out=True)]
    for other in others:
        assert np.abs(first - other).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("samples", "rate"), [(400, 16000), (48000, 16000), (24000, 8000)])
def test_waves_have_one_level_and_are_finite(kind: str, samples: int, rate: int) -> None:
    for seed in range(6):
        wave = make(kind, seed, samples, rate)
        assert wave.shape == (samples,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert np.sqrt(np.mean(np.square(wave, dtype=np.float64))) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_seeds_sound_alike(kind: str) -> None:
    levels = 10 * np.log10(spectra(kind).mean(-1) + 1e-12)
    distances = [np.abs(levels[i] - levels[j]).mean() for i in SEEDS for j in SEEDS if i < j]
    # Twelve draws of one steady white noise differ by about 0.8 dB here.
    assert np.median(distances) > 1.5


def test_tonal_kinds_are_tonal_and_noises_are_not() -> None:
    found = {kind: peakiness(kind) for kind in (*TONAL, *NOISY)}
    assert min(found[kind] for kind in TONAL) > 0.7, found
    assert max(found[kind] for kind in NOISY) < 0.5, found


def test_what_beeps_pauses_and_what_runs_does_not() -> None:
    found = {kind: pause_share(kind) for kind in (*PAUSING, *STEADY)}
    assert min(found[kind] for kind in PAUSING) > 0.08, found
    assert max(found[kind] for kind in STEADY) < 0.05, found


def test_strokes_are_sharp() -> None:
    found = {kind: crest(kind) for kind in (*SHARP, "coloured", "hum", "siren")}
    assert min(found[kind] for kind in SHARP) > 7, found
    assert max(found[kind] for kind in ("coloured", "hum", "siren")) < 6, found


@pytest.mark.parametrize("kind", FAMILIES["strokes"])
def test_strokes_are_not_deafening(kind: str) -> None:
    """At a given SNR a mixture must not be turned down much for the sake of a click."""
    x = waves(kind)
    assert (np.abs(x).max(1) / np.sqrt((x**2).mean(1))).max() < 25


def test_mains_hum_stands_at_multiples_of_50_or_60_hz() -> None:
    for wave in waves("hum"):
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2  # bins of 1/3 Hz
        shares = []
        for mains in (50, 60):
            near = np.zeros(len(power), bool)
            for k in range(1, 100):
                centre = round(3 * k * mains)
                near[centre - 3 - k // 2 : centre + 4 + k // 2] = True
            shares.append(power[: len(near)][near].sum() / power.sum())
        assert max(shares) > 0.8


def test_dtmf_is_pairs_of_its_eight_tones() -> None:
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
    for power in spectra("dtmf"):
        frames = power.sum(0)
        loudest = power[:, frames > 0.5 * frames.max()]
        hz = np.arange(513) * RATE / 1024
        near = np.min(np.abs(hz[:, None] - np.array([*rows, *columns])), 1) < 40
        assert loudest[near].sum() > 0.95 * loudest.sum()


def test_partials_of_a_sweep_do_not_fold() -> None:
    from enhance.data.formulas.parts import oscillate

    rng = np.random.default_rng(0)
    curve = np.linspace(200, 3000, 32000)
    wave = oscillate(rng, curve, 32000, RATE, 1 / np.arange(1, 41))
    f, t, z = signal.stft(wave, RATE, nperseg=1024)
    z, t = z[:, 2:-2], t[2:-2]  # the edges click
    power, hz = np.abs(z) ** 2, np.interp(t * RATE, np.arange(32000), curve)
    # Two harmonics end below 7520 Hz at the curve's top: nothing may stand elsewhere.
    away = np.min(np.abs(f[:, None, None] - np.arange(1, 3) * hz[:, None]), -1) > 150
    assert power[away].sum() < 1e-5 * power.sum()


def test_families_are_drawn_alike() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_kind(rng) for _ in range(3000)]
    for family in FAMILIES.values():
        # A sixth each: standard deviation sqrt(3000 * 5 / 36) = 20.
        assert abs(sum(kind in family for kind in drawn) - 500) < 90
    assert set(drawn) == set(KINDS)


def test_held_out_streams_share_nothing_with_training() -> None:
    """Streams differ in the spawn key, so that equal seeds meet nowhere."""
    training = {hashlib.sha256(make("dtmf", s, 4000).tobytes()).digest() for s in range(100)}
    held = {
        hashlib.sha256(make("dtmf", s, 4000, held_out=True).tobytes()).digest() for s in range(100)
    }
    assert len(training | held) == 200
