"""Voices like those of animals and small children: birds, insects, barks, cries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from enhance.data.formulas.parts import (
    Rng,
    add,
    filtered,
    gate,
    knot_times,
    lines,
    log_uniform,
    oscillate,
    plateau,
    slow,
    unit,
)  # fmt: skip


def bird(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Song: phrases of one whistled syllable over and over, gliding, trilled or steady."""
    wave = np.zeros(n, np.float32)
    base = log_uniform(rng, 1600, 5500)
    at = rng.uniform(0, 0.3)
    while at < n / rate:
        length, pause = log_uniform(rng, 0.03, 0.3), log_uniform(rng, 0.02, 0.2)
        count = max(16, round(length * rate))
        s = np.linspace(0, 1, count, dtype=np.float32)
        hz = base * rng.uniform(0.75, 1.35) * (1 + np.float32(rng.uniform(-0.4, 0.4)) * s)
        hz *= 1 + np.float32(rng.uniform(0, 0.2)) * np.sin(
            np.float32(2 * np.pi * log_uniform(rng, 1, 60) * length) * s
        )
        np.clip(hz, 500, 0.46 * rate, out=hz)
        syllable = oscillate(rng, hz, count, rate, [1, rng.uniform(0, 0.2)])
        syllable *= _arch(s) ** np.float32(rng.uniform(0.4, 1.2))
        for _ in range(int(rng.integers(1, 8))):
            add(wave, round(at * rate), syllable, rng.uniform(0.7, 1.1))
            at += length + pause
        at += rng.exponential(0.4)
    return wave


def insect(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Crickets and cicadas: a high tone or band in pulses, in chirps; or a fly's wings."""
    if rng.random() < 0.3:
        curve = log_uniform(rng, 110, 600) * np.exp(np.float32(0.06) * slow(rng, n, rate, 3))
        wings = oscillate(rng, curve, n, rate, 1 / np.arange(1, 20) ** rng.uniform(0.5, 1.2))
        return wings * np.exp(np.float32(0.9) * slow(rng, n, rate, 1))
    hz, pulse = rng.uniform(2500, 0.44 * rate), log_uniform(rng, 15, 120)
    flutter = hz * (1 + np.float32(log_uniform(rng, 0.001, 0.04)) * slow(rng, n, rate, 300))
    wave = oscillate(rng, np.clip(flutter, 1000, 0.46 * rate), n, rate, [1])
    beat = oscillate(rng, pulse, n, rate, [1])
    wave *= np.clip(beat + np.float32(rng.uniform(-0.6, 0.8)), 0, None)
    if rng.random() < 0.6:
        on, off = log_uniform(rng, 0.08, 0.6), log_uniform(rng, 0.08, 0.7)
        starts = np.arange(-rng.uniform(0, on), n / rate, on + off)
        wave *= gate(n, rate, [(float(start), on) for start in starts], 0.02)
    return wave


def bark(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Barks, quacks, croaks and grunts: short, rough, with a falling pitch, in series."""
    pitch, throat = log_uniform(rng, 70, 500), log_uniform(rng, 450, 2000)
    length = log_uniform(rng, 0.06, 0.35)
    rough, breath = rng.uniform(0, 0.5), rng.uniform(0.1, 1)
    calls = []
    for _ in range(2):
        count = max(64, round(length * rng.uniform(0.8, 1.2) * rate))
        s = np.linspace(0, 1, count, dtype=np.float32)
        hz = pitch * (0.9 + 0.5 * np.sin(np.float32(np.pi) * np.sqrt(s)))
        hz *= (
            1
            + np.float32(0.5 * rough)
            * np.repeat(rng.standard_normal(count // 40 + 1).astype(np.float32) * 0.3, 40)[:count]
        )
        call = oscillate(rng, np.clip(hz, 30, 2000), count, rate, 1 / np.arange(1, 40) ** 0.7)
        call += np.float32(breath) * rng.standard_normal(count, np.float32)
        (call,) = filtered(call, rate, _throat(throat, rng.uniform(0.3, 0.8)))
        call *= np.minimum(12 * s, 1) * (1 - s) ** np.float32(rng.uniform(0.5, 1.2))
        calls.append(unit(call))
    wave = np.zeros(n, np.float32)
    at = rng.uniform(0, 0.3)
    while at < n / rate:
        for _ in range(int(rng.integers(1, 5))):
            add(wave, round(at * rate), calls[int(rng.integers(2))], rng.uniform(0.6, 1.1))
            at += length * 1.3 + log_uniform(rng, 0.03, 0.35)
        at += rng.exponential(0.4)
    return wave


def cry(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Long calls with overtones and resonances: infants, cats, sheep, gulls, howls."""
    base, throat = log_uniform(rng, 220, 900), log_uniform(rng, 700, 2200)
    arch, shake = rng.uniform(0.05, 0.6), rng.uniform(0, 0.03) + 0.05 * (rng.random() < 0.2)
    at = -rng.uniform(0, 0.3)
    curve = np.full(n, base, np.float32)
    level = np.zeros(n, np.float32)
    while at < n / rate:
        length = log_uniform(rng, 0.25, 1.3)
        count, first = round(length * rate), round(at * rate)
        s = np.linspace(0, 1, count, dtype=np.float32)
        hz = 1 + np.float32(arch) * _arch(s) ** np.float32(rng.uniform(0.5, 2))
        hz *= 1 - np.float32(rng.uniform(0, 0.2)) * s
        low, high = max(first, 0), min(first + count, n)
        if low < high:
            curve[low:high] *= hz[low - first : high - first]
            level[low:high] = (plateau(count, rate, 0.25 * length) * rng.uniform(0.6, 1))[
                low - first : high - first
            ]
        at += length + log_uniform(rng, 0.08, 0.7)
    vibrato = np.sin(2 * np.pi * rng.uniform(4, 12) * knot_times(n, rate))
    curve *= lines(1 + 1.4 * shake * vibrato, n) + np.float32(0.012) * slow(rng, n, rate, 15)
    wave = oscillate(rng, curve, n, rate, 1 / np.arange(1, 25) ** rng.uniform(0.2, 0.9))
    wave += np.float32(rng.uniform(0.02, 0.3)) * rng.standard_normal(n, np.float32)
    # The mouth opens and closes: two resonances in turn.
    opened = _throat(throat * rng.uniform(1.1, 1.8), 0.25)
    narrow, wide = filtered(wave, rate, _throat(throat, 0.25), opened)
    share = np.clip(level * level, 0, 1)
    return (narrow + share * (wide - narrow)) * level


def _arch(s: np.ndarray) -> np.ndarray:
    """Half a sine wave over ``s`` from 0 to 1."""
    return np.maximum(np.sin(np.float32(np.pi) * s), 0)


def _throat(hz: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Resonances of a throat, `width` of its first one's frequency wide."""

    def gain(f: np.ndarray) -> np.ndarray:
        total = np.full(len(f), 0.04, np.float32)
        for ratio, strength in ((1, 1), (2.3, 0.5), (3.6, 0.25)):
            away = (f - np.float32(hz * ratio)) / np.float32(width * hz)
            total += np.float32(strength) / (1 + away * away)
        return total / (1 + (f / np.float32(5000)) ** 2)

    return gain
