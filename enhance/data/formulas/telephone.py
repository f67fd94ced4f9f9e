"""What a telephone line says: key tones, call progress, fax and modem calls."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import Rng, gate, oscillate, steps

_KEYS = [(low, high) for low in (697, 770, 852, 941) for high in (1209, 1336, 1477, 1633)]
_PROGRESS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((350, 440), ()),  # dial tones
    ((425,), ()),
    ((480, 620), (0.5, 0.5)),  # busy
    ((425,), (0.48, 0.48)),
    ((480, 620), (0.25, 0.25)),  # reorder
    ((425,), (0.24, 0.24)),
    ((440, 480), (2, 4)),  # ringing
    ((400, 450), (0.4, 0.2, 0.4, 2)),
    ((425,), (1, 4)),
    ((1100,), (0.5, 3)),  # fax
    ((2100,), (3, 0.1)),  # answer of a modem
    ((440,), (0.3, 1.7)),  # call waiting
    ((1400, 2060), (0.1, 0.1)),  # off the hook
)
"""Tones in Hz and their cadence (on, off, ...) in seconds, none where they last: ITU-T E.180 and
Q.35, and the North American plan."""


def dtmf(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Keys of a telephone, each two tones at once, at a dialler's pace or a finger's."""
    fast = rng.random() < 0.5
    at, spans, keys = -rng.uniform(0, 0.05), [], []
    on, off = (rng.uniform(0.05, 0.1), rng.uniform(0.05, 0.1)) if fast else (0.15, 0.25)
    while at < n / rate:
        length = on if fast else on * rng.uniform(0.6, 2)
        spans.append((at, length))
        keys.append((at, _KEYS[int(rng.integers(16))]))
        at += length + (off if fast else off * rng.uniform(0.5, 3))
    twist = 10 ** (rng.uniform(-4, 4) / 20)
    wave = oscillate(rng, steps(n, rate, [(at, key[0]) for at, key in keys]), n, rate, [1])
    high = oscillate(rng, steps(n, rate, [(at, key[1]) for at, key in keys]), n, rate, [1])
    wave += np.float32(twist) * high
    return wave * gate(n, rate, spans, 0.003)


def call_progress(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Dial tone, busy, ringing and the like; or the three rising tones before an announcement."""
    if rng.random() < 0.15:
        length, at, values = rng.choice([0.276, 0.38]), -rng.uniform(0, 0.3), []
        spans = []
        while at < n / rate:
            for hz in (913.8 if rng.random() < 0.3 else 985.2, 1428.5, 1776.7):
                spans.append((at, length))
                values.append((at, hz))
                at += length + 0.03
            at += rng.uniform(0.5, 1.5)
        return oscillate(rng, steps(n, rate, values), n, rate, [1]) * gate(n, rate, spans)
    tones, cadence = _PROGRESS[int(rng.integers(len(_PROGRESS)))]
    off_pitch = rng.uniform(0.97, 1.03)
    wave = np.zeros(n, np.float32)
    for hz in tones:
        wave += oscillate(rng, hz * off_pitch, n, rate, [1, rng.uniform(0, 0.1)])
    if not cadence:
        return wave
    at, spans, k = -rng.uniform(0, 0.8 * cadence[0]), [], 0
    while at < n / rate:
        spans.append((at, cadence[k % len(cadence)]))
        at += cadence[k % len(cadence)] + cadence[(k + 1) % len(cadence)]
        k += 2
    return wave * gate(n, rate, spans, 0.004)
