"""What the formulas are made of: oscillators, gates, shaped noise, slow curves, struck modes.

All waves are float32. Randomness comes from the generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft

Rng = np.random.Generator
_TABLE = 4096  # samples of one period: straight lines between them are exact to -50 dB at k = 50
_REST = 32 - 12  # bits of a phase below the table's
_TOP = 0.47  # of the sample rate: no partial above
_STEP = 64  # samples over which a slow curve is a straight line


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Uniform in the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def log_uniforms(rng: Rng, bounds: tuple[float, float], count: int) -> np.ndarray:
    """``count`` numbers uniform in the logarithm: (count,)."""
    return np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]), count))


def oscillate(
    rng: Rng, hz: np.ndarray | float, n: int, rate: int, partials: Sequence[float] | np.ndarray
) -> np.ndarray:
    """A periodic sound without aliases: (n,), of random phases.

    The fundamental ``hz`` is a number or a curve (n,), ``rate`` samples a second. ``partials`` are
    strengths of the harmonics 1, 2, ...; those that would pass the band's end anywhere on the
    curve are left out. Rms 1 where nothing was left out but a vanishing rest.
    """
    partials = np.asarray(partials, np.float64)
    highest = float(np.max(hz))
    kept = partials[: max(1, min(len(partials), int(_TOP * rate / max(highest, 1.0))))]
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex64)
    angles = rng.uniform(0, 2 * np.pi, len(kept))
    spectrum[1 : len(kept) + 1] = kept * np.exp(1j * angles)
    table = fft.irfft(spectrum, _TABLE).astype(np.float32)
    table /= np.sqrt(np.mean(np.square(table))) + 1e-12
    table = np.append(table, table[0])
    # Phase in 2**32nds of a period, so that it wraps by itself.
    turn = np.float32(2**32 / rate)
    if isinstance(hz, np.ndarray):
        step = (hz * turn).astype(np.uint32)
    else:
        step = np.full(n, hz * turn, np.uint32)
    step[0] += np.uint32(rng.integers(2**31))
    phase = np.cumsum(step, dtype=np.uint32)
    left = (phase >> np.uint32(_REST)).astype(np.intp)
    wave = table[left]
    left += 1
    ahead = table[left]
    ahead -= wave
    phase &= np.uint32(2**_REST - 1)
    ahead *= phase.astype(np.float32)
    ahead *= np.float32(2.0**-_REST)
    wave += ahead
    return wave


def timbre(rng: Rng) -> np.ndarray:
    """Strengths of harmonics of a horn, buzzer or loudspeaker: pure, soft, square, or sharp."""
    k = np.arange(1, 41)
    kind = rng.integers(5)
    if kind == 0:
        return np.ones(1)
    if kind == 1:
        return np.array([1, rng.uniform(0.05, 0.8), rng.uniform(0, 0.5), rng.uniform(0, 0.2)])
    if kind == 2:
        return (k % 2) / k ** rng.uniform(1, 1.4)
    if kind == 3:
        return k ** -rng.uniform(0.3, 1.5)
    # A piezo disc or a small horn: some harmonics at its resonance stand out.
    peak = rng.uniform(1.5, 9)
    return 1 / k + np.exp(-0.5 * ((k - peak) / rng.uniform(0.5, 2)) ** 2)


def gate(
    n: int, rate: int, spans: Sequence[tuple[float, float]], edge: float = 0.004
) -> np.ndarray:
    """1 during spans (start, length in seconds) with rounded edges inside them, else 0: (n,)."""
    wave = np.zeros(n, np.float32)
    for start, length in spans:
        first, count = round(start * rate), max(2, round(length * rate))
        shape = plateau(count, rate, edge)
        low, high = max(first, 0), min(first + count, n)
        if low < high:
            wave[low:high] = shape[low - first : high - first]
    return wave


def plateau(count: int, rate: int, edge: float = 0.004) -> np.ndarray:
    """Ones with a half cosine of ``edge`` seconds at both ends: (count,)."""
    shape = np.ones(count, np.float32)
    ramp = min(count // 2, max(1, round(edge * rate)))
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp, dtype=np.float32) + 0.5) / ramp)
    shape[:ramp] = rise
    shape[count - ramp :] = rise[::-1]
    return shape


def steps(n: int, rate: int, values: Sequence[tuple[float, float]]) -> np.ndarray:
    """A curve that takes values from times on, ((start in seconds, value), ...): (n,)."""
    curve = np.full(n, values[0][1], np.float32)
    for start, value in values:
        curve[max(0, round(start * rate)) :] = value
    return curve


def slow(rng: Rng, n: int, rate: int, hz: float) -> np.ndarray:
    """A smooth random curve of unit variance that turns about ``hz`` times a second: (n,)."""
    points = -(-n // _STEP) + 1
    knots = rng.standard_normal(max(4, int(2 * hz * n / rate) + 3))
    at = np.linspace(0, len(knots) - 1.000001, points)
    left = at.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (at - left))
    return lines(knots[left] * (1 - blend) + knots[left + 1] * blend, n)


def lines(points: np.ndarray, n: int) -> np.ndarray:
    """Straight lines through points 64 samples apart: float32 (n,)."""
    points = points.astype(np.float32)
    ramp = np.linspace(0, 1, _STEP, endpoint=False, dtype=np.float32)
    return (points[:-1, None] + np.diff(points)[:, None] * ramp).reshape(-1)[:n]


def knot_times(n: int, rate: int) -> np.ndarray:
    """Times in seconds of the points of `lines`."""
    return np.arange(-(-n // _STEP) + 1) * (_STEP / rate)


def shaped(rng: Rng, n: int, rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise whose spectrum has the magnitude ``gain(hz)``, rms 1: (n,)."""
    size = fft.next_fast_len(n, True)
    bins = rng.standard_normal((size // 2 + 1, 2), np.float32)
    spectrum = bins.view(np.complex64)[:, 0]
    spectrum *= gain(frequencies(size, rate)).astype(np.float32, copy=False)
    spectrum[0] = 0
    return unit(fft.irfft(spectrum, size, overwrite_x=True)[:n])


def filtered(
    wave: np.ndarray, rate: int, *gains: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """A wave (n,) once for each gain: its spectrum multiplied by ``gain(hz)``, without delay."""
    n = len(wave)
    size = fft.next_fast_len(n + rate // 20, True)
    spectrum, hz = fft.rfft(wave, size), frequencies(size, rate)
    own = (spectrum * gain(hz).astype(np.float32, copy=False) for gain in gains)
    return [fft.irfft(part, size, overwrite_x=True)[:n] for part in own]


def frequencies(size: int, rate: int) -> np.ndarray:
    """Of the bins of a DFT in Hz, at least 1: float32 (size // 2 + 1,)."""
    hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(rate / size)
    hz[0] = 1
    return hz


def struck(
    rng: Rng, rate: int, hz: np.ndarray, decay: np.ndarray, strength: np.ndarray, longest: float
) -> np.ndarray:
    """Modes of random phases that ring and die away.

    Each has a frequency, seconds to fall by 60 dB, and an amplitude; those above the band are
    silent. The result (m,) lasts as long as the longest mode, at most ``longest`` seconds; its peak
    is at most the sum of the strengths.
    """
    seconds = min(longest, float(decay.max()))
    t = np.arange(max(8, round(seconds * rate)), dtype=np.float32) / np.float32(rate)
    wave = np.zeros(len(t), np.float32)
    for f, d, a in zip(hz, decay, strength, strict=True):
        if f < _TOP * rate:
            own = t[: max(8, round(min(seconds, d) * rate))]
            ring = np.sin(np.float32(2 * np.pi * f) * own + np.float32(rng.uniform(0, 2 * np.pi)))
            ring *= np.exp(np.float32(-6.9 / d) * own)
            wave[: len(own)] += np.float32(a) * ring
    rise = min(len(wave), max(1, rate // 4000))  # what is struck moves from rest
    wave[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    return wave


def add(wave: np.ndarray, start: int, part: np.ndarray, strength: float = 1.0) -> None:
    """Add what fits of ``part`` from sample ``start`` on (which may be negative); in place."""
    low, high = max(start, 0), min(start + len(part), len(wave))
    if low < high:
        wave[low:high] += np.float32(strength) * part[low - start : high - start]


def unit(wave: np.ndarray) -> np.ndarray:
    """The wave at rms 1; silence stays silent."""
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float32))))
    return (wave * np.float32(1 / rms) if rms > 0 else wave).astype(np.float32, copy=False)
