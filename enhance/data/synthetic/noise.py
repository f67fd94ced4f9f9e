"""Synthetic noises from formulas: coloured, impulsive, humming, babble and a few mixtures.

Every function takes a length in samples at 16 kHz and a generator, and returns float32 (n,) with
an rms of about 0.1. Everything is a function of the generator's seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from enhance.data.synthetic.voice import Voice, utterance

RATE = 16000


def coloured(n: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise whose spectrum falls by 0 to 9 dB per octave, with a random broad bump."""
    slope = rng.uniform(0, 9)
    centre = rng.uniform(200, 5000)

    def gain(hz: np.ndarray) -> np.ndarray:
        octave = np.log2(np.maximum(hz, 40) / 1000)
        bump = 8 * np.exp(-0.5 * ((octave - np.log2(centre / 1000)) / 0.7) ** 2)
        return 10 ** ((bump - slope * octave) / 20)

    return _level(_shaped(n, rng, gain))


def wind(n: int, rng: np.random.Generator) -> np.ndarray:
    """Low rumble in gusts, with a little hiss that follows them."""
    gusts = np.exp(1.2 * _slow(n, rng, 0.6))
    corner = rng.uniform(80, 300)
    low = _shaped(n, rng, lambda hz: 1 / (1 + (hz / corner) ** 2))
    hiss = _shaped(n, rng, lambda hz: 0.002 * (hz > 500))
    return _level(gusts * low + gusts**2 * hiss * rng.uniform(0.2, 2))


def impulsive(n: int, rng: np.random.Generator) -> np.ndarray:
    """Knocks, clatter or keystrokes: short ringing bursts at random times over a faint floor."""
    per_second = 2 ** rng.uniform(0.5, 4)
    count = 2 + rng.poisson(per_second * n / RATE)
    times = rng.integers(0, n, count)
    hz = rng.uniform(250, 5000) * 2 ** rng.normal(0, 0.4, count)
    decay = rng.uniform(0.004, 0.04) * 2 ** rng.normal(0, 0.5, count)
    strength = 10 ** rng.uniform(-1, 0, count)
    out = 0.01 * _level(_shaped(n, rng, lambda f: 1 / (1 + f / 300)))
    length = min(n, RATE // 4)
    t = np.arange(length) / RATE
    for k in range(count):
        modes = np.minimum(hz[k] * np.array([1, 1.58, 2.24]), 7600)[:, None]
        ring = np.sin(2 * np.pi * modes * t).sum(0) + 2 * rng.standard_normal(length) * (t < 0.004)
        end = min(n, times[k] + length)
        out[times[k] : end] += (strength[k] * ring * np.exp(-t / decay[k]))[: end - times[k]]
    return _level(out)


def hum(n: int, rng: np.random.Generator) -> np.ndarray:
    """Mains, fan or motor: harmonics of a low tone that may drift, with some broad noise."""
    mains = rng.random() < 0.5
    base = rng.choice([50.0, 60.0, 100.0, 120.0]) if mains else rng.uniform(40, 220)
    drift = 2 ** (0 if mains else rng.uniform(0.02, 0.3) * _slow(n, rng, 0.3))
    phase = 2 * np.pi * np.cumsum(base * drift * np.ones(n)) / RATE
    out = np.zeros(n)
    for k in range(1, 1 + min(30, int(7000 / (base * np.max(drift))))):
        strength = k ** -rng.uniform(0.5, 1.5) * 10 ** rng.normal(0, 0.2)
        out += strength * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    broad = _shaped(n, rng, lambda hz: 1 / (1 + hz / rng.uniform(200, 2000)))
    return _level(_level(out) + rng.uniform(0.05, 0.8) * _level(broad))


def babble(n: int, rng: np.random.Generator) -> np.ndarray:
    """Four to eight synthetic voices at once, near and far."""
    out = np.zeros(n, np.float32)
    for _ in range(int(rng.integers(4, 9))):
        wave = utterance(Voice.draw(rng), n / RATE, rng)
        out += np.roll(wave, int(rng.integers(n))) * np.float32(10 ** rng.uniform(-0.6, 0))
    return _level(out)


def crackle(n: int, rng: np.random.Generator) -> np.ndarray:
    """Rain or fire: very many tiny clicks, coloured, in a swell."""
    density = 10 ** rng.uniform(-2.5, -1)
    clicks = rng.standard_normal(n) * (rng.random(n) < density) * rng.exponential(1, n)
    centre = rng.uniform(1000, 5000)
    spectrum = np.fft.rfft(clicks)
    hz = np.fft.rfftfreq(n, 1 / RATE)
    clicks = np.fft.irfft(spectrum / (1 + ((hz - centre) / 2500) ** 2), n)
    return _level(clicks * np.exp(0.5 * _slow(n, rng, 0.5)))


def signals(n: int, rng: np.random.Generator) -> np.ndarray:
    """Sirens, beeps and chimes: tones that sweep or repeat, over faint noise."""
    rate, low = rng.uniform(0.3, 3), rng.uniform(300, 1500)
    t = np.arange(n) / RATE
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * rate * t)
    if rng.random() < 0.5:
        sweep = (sweep > 0.5).astype(float)
    phase = 2 * np.pi * np.cumsum(low * (1 + rng.uniform(0, 1) * sweep)) / RATE
    tone = np.sin(phase) + rng.uniform(0, 0.6) * np.sin(2 * phase)
    tone += rng.uniform(0, 0.3) * np.sin(3 * phase)
    gate = (np.sin(2 * np.pi * rng.uniform(0.3, 2) * t) > -0.4) if rng.random() < 0.5 else 1.0
    floor = _level(_shaped(n, rng, lambda hz: 1 / (1 + hz / 400)))
    return _level(_level(tone * gate) + rng.uniform(0.1, 1) * floor)


NOISES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    noise.__name__: noise for noise in (coloured, babble, impulsive, hum, wind, crackle, signals)
}
"""Noises by name."""


def _level(wave: np.ndarray) -> np.ndarray:
    rms = np.sqrt(np.mean(np.square(wave, dtype=np.float64)))
    return (wave * (0.1 / max(rms, 1e-9))).astype(np.float32)


def _shaped(
    n: int, rng: np.random.Generator, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(n))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(n, 1 / RATE)), n)


def _slow(n: int, rng: np.random.Generator, hz: float) -> np.ndarray:
    """A random walk-like curve of unit variance that turns about ``hz`` times a second."""
    knots = max(4, int(n / RATE * hz * 2) + 2)
    at = np.arange(n) * ((knots - 1) / n)
    values = rng.standard_normal(knots)
    left = at.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (at - left))
    return values[left] * (1 - blend) + values[np.minimum(left + 1, knots - 1)] * blend
