"""Things that turn: mains hum, engines, fans, motors under load."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import Rng, log_uniform, oscillate, shaped, slow, unit


def hum(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Mains hum and buzz: steady harmonics of 50 or 60 Hz, the even ones stronger."""
    k = np.arange(1, 121)
    partials = k ** -rng.uniform(0.4, 1.8) * np.exp(0.9 * rng.standard_normal(120))
    partials[::2] *= 10 ** (-rng.uniform(0, 25) / 20)
    wave = oscillate(
        rng, float(rng.choice([50, 60])) * rng.uniform(0.999, 1.001), n, rate, partials
    )
    return wave + np.float32(log_uniform(rng, 0.01, 0.3)) * _air(rng, n, rate)


def engine(rng: Rng, n: int, rate: int) -> np.ndarray:
    """A piston engine: half orders of its speed, rough, revving or idling, breathing noise."""
    base = log_uniform(rng, 12, 90)  # turns of the crankshaft in a second, over two
    drive = np.cumsum(slow(rng, n, rate, 0.5)) / rate * rng.uniform(0, 0.8)
    curve = base * np.exp(drive + 0.01 * slow(rng, n, rate, 6))
    curve = np.clip(curve, 6, 300).astype(np.float32)
    k = np.arange(1, 151)
    cylinders = int(rng.choice([2, 3, 4, 6, 8]))
    partials = k ** -rng.uniform(0.6, 1.6) * np.exp(0.6 * rng.standard_normal(150))
    partials *= np.where(k % cylinders == 0, 1, 10 ** (-rng.uniform(6, 26) / 20))
    low, wide = log_uniform(rng, 80, 900), rng.uniform(0.6, 1.5)
    partials *= 0.1 + np.exp(-0.5 * (np.log2(k * base / low) / wide) ** 2)
    wave = oscillate(rng, curve, n, rate, partials)
    wave *= 1 + np.float32(rng.uniform(0, 0.25)) * slow(rng, n, rate, 12)
    # What is breathed out comes in the same strokes.
    breath = 1 + np.float32(rng.uniform(0, 0.6)) * np.clip(wave, -1.5, 3)
    breath *= _air(rng, n, rate)
    return wave + np.float32(log_uniform(rng, 0.03, 0.6)) * unit(breath)


def fan(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Air that blades move, with their tone and its harmonics, in a slight flutter."""
    blade = log_uniform(rng, 40, 900)
    curve = blade * (1 + np.float32(rng.uniform(0, 0.03)) * slow(rng, n, rate, 0.5))
    partials = np.exp(rng.standard_normal(12)) / np.arange(1, 13) ** rng.uniform(0.5, 2)
    air = _air(rng, n, rate)
    air *= 1 + np.float32(rng.uniform(0, 0.15)) * slow(rng, n, rate, log_uniform(rng, 1, 30))
    return air + np.float32(log_uniform(rng, 0.05, 1)) * oscillate(rng, curve, n, rate, partials)


def motor(rng: Rng, n: int, rate: int) -> np.ndarray:
    """A small electric motor with gears: drill, blender, hoover, servo; load bends its pitch, and
    it may be switched on within."""
    base = log_uniform(rng, 90, 700)
    pull = np.exp(np.float32(rng.uniform(0, 0.15)) * slow(rng, n, rate, rng.uniform(0.3, 3)))
    level = np.ones(n, np.float32)
    if rng.random() < 0.4:
        t = np.arange(n, dtype=np.float32) / rate - np.float32(rng.uniform(0, 0.4 * n / rate))
        level = 1 - np.exp(-np.maximum(t, 0) / np.float32(rng.uniform(0.05, 0.5)))
    curve = base * pull * (0.15 + 0.85 * level)
    k = np.arange(1, 41)
    partials = np.exp(0.9 * rng.standard_normal(40)) / k ** rng.uniform(0.2, 1.3)
    partials *= 0.2 + 1 / (1 + ((k - 3) * base / 1500) ** 2)  # the housing
    wave = oscillate(rng, curve, n, rate, partials)
    gear = float(rng.uniform(2.2, 9.7))
    if base * gear * float(pull.max()) < 0.45 * rate:
        teeth = oscillate(rng, curve * np.float32(gear), n, rate, [1, 0.4])
        wave += np.float32(rng.uniform(0, 0.7)) * teeth
    return (unit(wave) + np.float32(log_uniform(rng, 0.05, 1.5)) * _air(rng, n, rate)) * level


def _air(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Broad noise that falls above a corner."""
    corner, slope = log_uniform(rng, 150, 4000), rng.uniform(0.5, 1.8)
    return shaped(rng, n, rate, lambda hz: 1 / (1 + np.exp(slope * np.log(hz / corner))))
