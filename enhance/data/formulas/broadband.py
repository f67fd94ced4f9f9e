"""Coloured noise of any slope, bands of noise, and noise whose level moves."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import Rng, log_uniform, log_uniforms, oscillate, shaped, slow


def coloured(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Steady noise: its spectrum falls by 12 or rises by up to 6 dB per octave, above a corner."""
    slope, corner = rng.uniform(-12, 6) / 6.02, log_uniform(rng, 20, 300)
    return shaped(rng, n, rate, lambda hz: np.exp(slope * np.log(np.maximum(hz, corner) / 1000)))


def band(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Steady noise in one to three bands, a third of an octave to two octaves wide, over less."""
    count = int(rng.integers(1, 4))
    centres = log_uniforms(rng, (120, 0.42 * rate), count)
    widths, strengths = rng.uniform(0.17, 1, count), rng.uniform(0.3, 1, count)
    floor = log_uniform(rng, 0.002, 0.1)

    def gain(hz: np.ndarray) -> np.ndarray:
        octave = np.log2(hz)
        total = np.full(len(hz), floor, np.float32)
        for centre, width, strength in zip(centres, widths, strengths, strict=True):
            away = (octave - np.float32(np.log2(centre))) / np.float32(width)
            away *= away
            total += np.float32(strength) / (1 + away * away)
        return total

    return shaped(rng, n, rate, gain)


def modulated(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Noise in gusts, waves or pulses: a random or a periodic course of level."""
    wave = coloured(rng, n, rate) if rng.random() < 0.6 else band(rng, n, rate)
    kind = rng.integers(4)
    if kind == 0:
        return wave * np.exp(np.float32(rng.uniform(0.5, 1.3)) * slow(rng, n, rate, 0.8))
    if kind == 1:
        course = slow(rng, n, rate, log_uniform(rng, 1, 20))
        return wave * np.maximum(course + np.float32(rng.uniform(0, 0.8)), np.float32(0.02))
    speed = log_uniform(rng, 0.5, 60)
    if kind == 2:
        turn = oscillate(rng, speed, n, rate, [1])
        return wave * (1 + np.float32(rng.uniform(0.4, 0.7)) * turn)
    # Steam, a pump, a saw: strokes with a steep rise.
    turn = oscillate(rng, min(speed, 12), n, rate, 1 / np.arange(1, 13))
    return wave * np.maximum(turn + np.float32(rng.uniform(0.2, 1)), np.float32(0.03))
