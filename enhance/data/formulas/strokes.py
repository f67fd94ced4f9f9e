"""Strokes: clicks, impacts, rattles, key taps; each object with resonances of its own."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import Rng, add, log_uniform, log_uniforms, plateau, struck


def clicks(rng: Rng, n: int, rate: int) -> np.ndarray:
    """A clock, a relay, a turn signal, dripping water: one or two short sounds, in time or not."""
    kinds = [_blow(rng, rate, 2, (1200, 7000), (0.003, 0.04), 0.6) for _ in range(2)]
    spacing = log_uniform(rng, 0.05, 1.0)
    steady = rng.random() < 0.6
    wave = np.zeros(n, np.float32)
    at, k = rng.uniform(0, min(spacing, 0.3)), 0
    while at < n / rate:
        add(wave, round(at * rate), kinds[k % 2], rng.uniform(0.7, 1.2) if steady else rng.random())
        at += spacing * (rng.uniform(0.98, 1.02) if steady else rng.exponential() + 0.05)
        k += 1
    return wave


def impacts(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Knocks, dishes, hammers, doors, steps: one object with up to six resonances, struck here
    and there."""
    wood = rng.random() < 0.5
    decay = (0.02, 0.2) if wood else (0.1, 1.2)
    range_hz = (100, 2500) if wood else (400, 7000)
    count = int(rng.integers(2, 7))
    modes = log_uniforms(rng, range_hz, count)
    fall, strength = log_uniforms(rng, decay, count), rng.exponential(1, count) + 0.1
    blows = []
    for _ in range(3):  # each from another side
        again = strength * rng.uniform(0.4, 1.6, count)
        blows.append(struck(rng, rate, modes * rng.uniform(0.99, 1.01, count), fall, again, 0.7))
        _crack(rng, rate, blows[-1], rng.uniform(0.1, 1) * float(np.abs(blows[-1]).max()))
    spacing = log_uniform(rng, 0.12, 1.0)
    steady = rng.random() < 0.3
    wave = np.zeros(n, np.float32)
    at = rng.uniform(0, 0.3)
    while at < n / rate:
        force = float(np.exp((0.15 if steady else 0.6) * rng.standard_normal()))
        add(wave, round(at * rate), blows[int(rng.integers(3))], force)
        at += spacing * (rng.uniform(0.95, 1.05) if steady else rng.exponential() + 0.03)
    return wave


def rattle(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Many small blows in bursts: keys on a ring, cutlery, coins, a cart, a loose sheet."""
    blows = [_blow(rng, rate, 4, (1000, 7300), (0.01, 0.15), 0.4) for _ in range(6)]
    wave = np.zeros(n, np.float32)
    at = 0.0
    while at < n / rate:
        burst, dense = log_uniform(rng, 0.1, 1.2), rng.uniform(15, 80)
        count = max(2, rng.poisson(burst * dense))
        times = at + np.sort(rng.random(count)) * burst
        force = np.exp(0.7 * rng.standard_normal(count)) * rng.uniform(0.3, 1)
        pick = rng.integers(len(blows), size=count)
        for k in range(count):
            add(wave, int(times[k] * rate), blows[pick[k]], force[k])
        at += burst + rng.exponential(0.25)
    return wave


def keys(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Typing: each key goes down with a click and a thump of the desk, and comes up fainter."""
    thump = struck(rng, rate, rng.uniform(90, 350, 2), rng.uniform(0.03, 0.1, 2), np.ones(2), 0.1)
    down = [_blow(rng, rate, 3, (1500, 6500), (0.006, 0.03), 0.9) for _ in range(5)]
    up = [_blow(rng, rate, 3, (2000, 7000), (0.004, 0.02), 0.7) for _ in range(3)]
    body, pace = rng.uniform(0, 0.7), log_uniform(rng, 0.08, 0.3)
    wave = np.zeros(n, np.float32)
    at = rng.uniform(0, 0.15)
    while at < n / rate:
        force = float(np.exp(0.35 * rng.standard_normal()))
        add(wave, round(at * rate), down[int(rng.integers(5))], force)
        add(wave, round((at + 0.002) * rate), thump, force * body)
        held = at + rng.uniform(0.05, 0.13)
        add(wave, round(held * rate), up[int(rng.integers(3))], force * rng.uniform(0.15, 0.6))
        at += pace * rng.uniform(0.5, 1.6)
        if rng.random() < 0.07:
            at += rng.exponential(0.4)
    return wave


def _blow(
    rng: Rng,
    rate: int,
    modes: int,
    hz: tuple[float, float],
    decay: tuple[float, float],
    crack: float,
) -> np.ndarray:
    """One short sound of an object, peak about 1."""
    wave = struck(
        rng,
        rate,
        log_uniforms(rng, hz, modes),
        log_uniforms(rng, decay, modes),
        rng.exponential(1, modes) + 0.1,
        0.3,
    )
    wave /= np.abs(wave).max() + np.float32(1e-9)
    _crack(rng, rate, wave, crack * rng.random())
    return wave


def _crack(rng: Rng, rate: int, wave: np.ndarray, strength: float) -> None:
    """The touch itself: a few milliseconds of noise at the start; in place."""
    length = min(len(wave), max(8, round(log_uniform(rng, 0.001, 0.012) * rate)))
    noise = rng.standard_normal(length, np.float32) * plateau(2 * length, rate, 1)[length:]
    wave[:length] += np.float32(strength) * noise
