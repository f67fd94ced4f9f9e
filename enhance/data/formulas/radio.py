"""Radio: crackle and fading hiss, whistles of a receiver, packets and data."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import Rng, gate, log_uniform, oscillate, shaped, slow, steps, unit


def static(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Hiss in a channel's band that fades, drops out or is keyed, with crackle."""
    low, high = log_uniform(rng, 60, 500), rng.uniform(2200, 0.45 * rate)

    def channel(hz: np.ndarray) -> np.ndarray:
        below, above = np.float32(low) / hz, hz / np.float32(high)
        return 1 / ((1 + below**4) * (1 + above**8))

    wave = shaped(rng, n, rate, channel)
    kind = rng.integers(3)
    if kind == 0:
        wave *= np.exp(np.float32(0.8) * slow(rng, n, rate, rng.uniform(0.5, 4)))
    elif kind == 1:  # words of a radio: hiss while the key is down, a tail when it goes up
        spans, at = [], -rng.uniform(0, 0.5)
        while at < n / rate:
            length = log_uniform(rng, 0.1, 1.5)
            spans.append((at, length))
            at += length + log_uniform(rng, 0.08, 0.8)
        wave *= gate(n, rate, spans, 0.003)
    count = rng.poisson(log_uniform(rng, 2, 2000) * n / rate)
    places = rng.integers(n, size=count)
    crackle = np.zeros(n + 3, np.float32)
    size = rng.standard_cauchy(count).clip(-20, 20) * log_uniform(rng, 0.1, 1.5)
    for lag, share in enumerate((1, -0.8, 0.5, -0.2)):
        np.add.at(crackle, places + lag, share * size)
    return wave + crackle[:n]


def whistle(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Heterodynes: tones that drift through the band and fade, over hiss; and feedback's howl."""
    wave = np.zeros(n, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre, spread = log_uniform(rng, 250, 4500), log_uniform(rng, 0.003, 0.5)
        curve = centre * np.exp(np.float32(spread) * slow(rng, n, rate, log_uniform(rng, 0.2, 3)))
        curve = np.clip(curve, 40, 0.44 * rate)
        tone = oscillate(rng, curve, n, rate, [1, rng.uniform(0, 0.15)])
        wave += tone * np.exp(np.float32(0.7) * slow(rng, n, rate, 2))
    corner = log_uniform(rng, 500, 5000)
    hiss = shaped(rng, n, rate, lambda hz: 1 / (1 + (hz / np.float32(corner)) ** 2))
    return unit(wave) + np.float32(log_uniform(rng, 0.03, 0.7)) * hiss


def packets(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Data made audible: keyed tones in bursts, Morse code, or the buzz of a mobile telephone."""
    kind = rng.integers(3)
    if kind == 0:
        symbol = log_uniform(rng, 0.003, 0.06)
        tones = log_uniform(rng, 400, 1800) * np.sort(rng.uniform(1, 2.2, int(rng.integers(2, 9))))
        count = int(n / rate / symbol) + 1
        picked = tones[rng.integers(len(tones), size=count)]
        curve = np.repeat(picked, max(1, round(symbol * rate)) + 1)[:n].astype(np.float32)
        wave = oscillate(rng, np.resize(curve, n), n, rate, [1, 0.05])
        spans, at = [], -rng.uniform(0, 0.2)
        while at < n / rate:
            length = log_uniform(rng, 0.1, 2)
            spans.append((at, length))
            at += length + log_uniform(rng, 0.05, 0.7)
        return wave * gate(n, rate, spans, 0.002)
    if kind == 1:
        dot, at, spans = 1.2 / rng.uniform(10, 30), 0.0, []  # words a minute: the word PARIS
        while at < n / rate:
            length = dot * (3 if rng.random() < 0.45 else 1)
            spans.append((at, length))
            at += length + dot * float(rng.choice([1, 1, 1, 3, 7], p=[0.3, 0.2, 0.2, 0.22, 0.08]))
        wave = oscillate(rng, log_uniform(rng, 350, 1200), n, rate, [1, 0.1, 0.05])
        return wave * gate(n, rate, spans, 0.005)
    # One time slot of GSM in eight, 217 a second; in bursts.
    k = np.arange(1, 37)
    buzz = np.sin(np.pi * k / 8) / k * k ** rng.uniform(0, 0.8)
    wave = oscillate(rng, 216.7, n, rate, buzz)
    at, values = -rng.uniform(0, 0.1), []
    while at < n / rate:
        length, level = log_uniform(rng, 0.06, 0.8), rng.uniform(0.3, 1)
        values += [(at, level), (at + length, 0.0)]
        at += length + log_uniform(rng, 0.02, 0.4)
    return wave * steps(n, rate, values)
