"""Signals that people are meant to hear: alarms, sirens, sweeps, horns, chimes, ring tones, and
what a telephone line says: key tones, call progress, fax and modem calls."""

from __future__ import annotations

import numpy as np

from enhance.data.formulas.parts import (
    Rng,
    add,
    gate,
    knot_times,
    lines,
    log_uniform,
    oscillate,
    slow,
    steps,
    struck,
    timbre,
)  # fmt: skip

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
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10), tuple(range(12)))


def alarm(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Beeps in groups, with silence between: one pitch or two in turn, one tone or a chord."""
    on, off = log_uniform(rng, 0.03, 0.6), log_uniform(rng, 0.03, 0.8)
    group = int(rng.integers(2, 6)) if rng.random() < 0.5 else 0
    pause = log_uniform(rng, 0.2, 1.2)
    hz = log_uniform(rng, 350, 4500)
    other = hz * float(rng.choice([0.8, 1.2, 1.25, 1.333, 1.5])) if rng.random() < 0.3 else hz
    spans: list[tuple[float, float]] = []
    pitches: list[tuple[float, float]] = []
    at = -rng.uniform(0, on + off)
    while at < n / rate:
        k = len(spans)
        spans.append((at, on))
        pitches.append((at, other if k % 2 else hz))
        at += on + off + (pause if group and k % group == group - 1 else 0)
    curve = steps(n, rate, pitches)
    tones = timbre(rng)
    wave = oscillate(rng, curve, n, rate, tones)
    if rng.random() < 0.35:
        ratio = float(rng.choice([1.01, 1.26, 1.5, 2.0]))
        wave += np.float32(rng.uniform(0.3, 1)) * oscillate(rng, curve * ratio, n, rate, tones)
    wave *= gate(n, rate, spans, log_uniform(rng, 0.001, 0.015))
    return wave


def siren(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Wail, yelp, phaser or motor siren: a pitch that rises and falls in a period."""
    low = log_uniform(rng, 300, 1100)
    high = low * rng.uniform(1.3, 3)
    period = log_uniform(rng, 0.08, 6)
    turn = knot_times(n, rate) / period + rng.random()
    turn -= np.floor(turn)
    kind = rng.integers(4)
    if kind == 0:
        rise = 0.5 - 0.5 * np.cos(2 * np.pi * turn)
    elif kind == 1:
        rise = turn
    elif kind == 2:
        rise = 1 - turn
    else:  # a motor that is switched on and off: it comes near its speed, and slows down
        share, pull = rng.uniform(0.3, 0.7), rng.uniform(2, 5)
        up = (1 - np.exp(-pull * turn / share)) / (1 - np.exp(-pull))
        rise = np.where(turn < share, up, np.exp(-pull * (turn - share) / (1 - share)))
    curve = lines(low * (high / low) ** rise, n)
    tones = timbre(rng)
    wave = oscillate(rng, curve, n, rate, tones)
    if rng.random() < 0.25:
        ratio = float(rng.choice([1.2, 1.25, 1.5]))
        wave += np.float32(0.7) * oscillate(rng, curve * ratio, n, rate, tones)
    if rng.random() < 0.2:
        on, off, at, spans = rng.uniform(0.5, 2), rng.uniform(0.2, 1), -rng.uniform(0, 0.5), []
        while at < n / rate:
            spans.append((at, on))
            at += on + off
        wave *= gate(n, rate, spans, 0.02)
    return wave


def sweep(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Chirps, up or down, straight in frequency or in pitch, with pauses between."""
    length, pause = log_uniform(rng, 0.05, 3), log_uniform(rng, 0.02, 0.8)
    ends = sorted([log_uniform(rng, 100, 0.45 * rate), log_uniform(rng, 100, 0.45 * rate)])
    ends[1] = max(ends[1], 1.3 * ends[0])
    ends = ends if rng.random() < 0.6 else ends[::-1]
    at = (knot_times(n, rate) + rng.uniform(0, length)) % (length + pause)
    place = np.minimum(at / length, 1)
    if rng.random() < 0.5:
        hz = ends[0] + (ends[1] - ends[0]) * place
    else:
        hz = ends[0] * (ends[1] / ends[0]) ** place
    wave = oscillate(rng, lines(hz, n), n, rate, timbre(rng))
    edge = min(0.25 * length, log_uniform(rng, 0.003, 0.1))
    wave *= lines(np.clip(np.minimum(at, length - at) / edge, 0, 1), n)
    return wave


def horn(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Two tones in turn as of an ambulance, or a chord as of a car, train or ship."""
    low = log_uniform(rng, 110, 600)
    partials = np.exp(0.5 * rng.standard_normal(30)) / np.arange(1, 31) ** rng.uniform(0.4, 1.2)
    if rng.random() < 0.45:
        on = log_uniform(rng, 0.25, 1.2)
        high = low * float(rng.choice([1.2, 1.26, 1.333, 1.5]))
        at = -rng.uniform(0, on)
        pitches: list[tuple[float, float]] = []
        while at < n / rate:
            pitches.append((at, high if len(pitches) % 2 else low))
            at += on
        curve = steps(n, rate, pitches)
        spans = [(at, on) for at, _ in pitches]
        return oscillate(rng, curve, n, rate, partials) * gate(n, rate, spans, 0.015)
    bend = 1 + np.float32(0.004) * slow(rng, n, rate, 2)
    wave = np.zeros(n, np.float32)
    ratios = rng.choice([1.19, 1.26, 1.333, 1.5, 1.68, 2.0], int(rng.integers(1, 3)), False)
    for ratio in (1.0, *ratios):
        wave += oscillate(rng, low * float(ratio) * bend, n, rate, partials)
    spans, at = [], -rng.uniform(0, 0.3)
    while at < n / rate:
        on = log_uniform(rng, 0.12, 2.5)
        spans.append((at, on))
        at += on + log_uniform(rng, 0.1, 1)
    return wave * gate(n, rate, spans, 0.03)


def ring_tone(rng: Rng, n: int, rate: int) -> np.ndarray:
    """A short tune of a small loudspeaker, over and over, with pauses; or a trill."""
    base, beat = log_uniform(rng, 300, 1500), log_uniform(rng, 0.06, 0.3)
    pause = rng.uniform(0.2, 1.2)
    if rng.random() < 0.35:
        a, b, count = base, base * rng.uniform(1.1, 1.6), int(rng.integers(6, 30))
        beat = log_uniform(rng, 0.03, 0.08)
        tune = [(a if k % 2 else b, beat) for k in range(count)]
        share = 1.0
    else:
        scale = _SCALES[int(rng.integers(4))]
        degrees = rng.integers(0, 2 * len(scale), int(rng.integers(3, 10)))
        tune = [
            (base * 2 ** (scale[d % len(scale)] / 12 + d // len(scale)) / 1.5,
             beat * float(rng.choice([1, 1, 1, 2])))
            for d in degrees
        ]  # fmt: skip
        share = rng.uniform(0.5, 1)
    notes, at = [], -rng.uniform(0, sum(length for _, length in tune))
    while at < n / rate:
        for hz, length in tune:
            notes.append((at, min(hz, 0.4 * rate), length))
            at += length
        at += pause
    curve = steps(n, rate, [(at, hz) for at, hz, _ in notes])
    wave = oscillate(rng, curve, n, rate, timbre(rng))
    return wave * gate(n, rate, [(at, share * length) for at, _, length in notes], 0.004)


def bell(rng: Rng, n: int, rate: int) -> np.ndarray:
    """An old telephone, a door bell or an alarm clock: gongs under a hammer, in a cadence."""
    blows = rng.uniform(10, 30)
    base = log_uniform(rng, 500, 2500)
    gongs = []
    for ratio in (1.0, rng.uniform(1.05, 1.35)):
        modes = base * ratio * np.array([1, 2.0, 2.76, 4.1, 5.4]) * rng.uniform(0.98, 1.02, 5)
        decay = rng.uniform(0.3, 1.2) / np.arange(1, 6) ** 0.5
        strength = rng.exponential(1, 5) / np.arange(1, 6) ** 0.3
        gongs.append(struck(rng, rate, modes, decay, strength + 0.1, 0.8))
    on, off = rng.choice([(1, 2), (0.4, 0.2), (2, 4), (0.8, 0.8), (4, 0.5)])
    wave = np.zeros(n, np.float32)
    at = begin = -rng.uniform(0, 0.7 * on)
    k = 0
    while at < n / rate:
        add(wave, round(at * rate), gongs[k % 2], rng.uniform(0.8, 1.2))
        k += 1
        at += 1 / blows * rng.uniform(0.97, 1.03)
        if at - begin > on:
            at += off
            begin = at
    return wave


def chime(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Struck notes that ring on: ding-dong, music box, xylophone, announcement gong."""
    scale = _SCALES[int(rng.integers(4))]
    base, beat = log_uniform(rng, 200, 1400), log_uniform(rng, 0.1, 0.7)
    ratios = np.array([[1, 2, 3, 4.2], [1, 2.76, 5.4, 8.9], [1, 3.0, 6.2, 9.9]][rng.integers(3)])
    strength = np.array([1, *rng.uniform(0, 0.6, 3)])
    fall = log_uniform(rng, 0.15, 1.5) / np.arange(1, 5) ** 0.7
    wave = np.zeros(n, np.float32)
    bank: dict[int, np.ndarray] = {}
    at = -rng.uniform(0, 0.3)
    while at < n / rate:
        degree = int(rng.integers(0, 8))
        if degree not in bank:
            hz = base * 2 ** (scale[degree % len(scale)] / 12 + degree // len(scale))
            bank[degree] = struck(rng, rate, hz * ratios, fall, strength, 1.5)
        add(wave, round(at * rate), bank[degree], rng.uniform(0.5, 1))
        at += beat * float(rng.choice([0.5, 1, 1, 1, 2]))
    return wave


def hospital(rng: Rng, n: int, rate: int) -> np.ndarray:
    """Bedside alarms in bursts of 3 or of 5 and 5 pulses as IEC 60601-1-8 asks, or a pulse
    monitor's beeps, whose pitch follows the oxygen."""
    if rng.random() < 0.35:
        beat, hz = 60 / rng.uniform(45, 150), log_uniform(rng, 350, 1100)
        at, spans, pitches = -rng.uniform(0, 0.5 * beat), [], []
        while at < n / rate:
            spans.append((at, 0.09))
            pitches.append((at, hz))
            at += beat * rng.uniform(0.97, 1.03)
            hz *= float(rng.choice([0.98, 1, 1, 1.02]))
        wave = oscillate(rng, steps(n, rate, pitches), n, rate, [1, rng.uniform(0, 0.6), 0.1])
        return wave * gate(n, rate, spans, 0.01)
    base = log_uniform(rng, 180, 700)
    notes = base * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12], 5) / 12)
    urgent = rng.random() < 0.6
    length = rng.uniform(0.08, 0.2) if urgent else rng.uniform(0.13, 0.25)
    space = length + (rng.uniform(0.05, 0.125) if urgent else rng.uniform(0.125, 0.25))
    # Five pulses with a gap after the third, and the same again; or three.
    burst = [0, 1, 2, 3.7, 4.7, 8, 9, 10, 11.7, 12.7] if urgent else [0, 1, 2]
    pause = rng.uniform(0.6, 2)
    at, spans, pitches = -rng.uniform(0, 1.5 * space), [], []
    while at < n / rate:
        for k, place in enumerate(burst):
            spans.append((at + place * space, length))
            pitches.append((at + place * space, float(notes[k % 5])))
        at += burst[-1] * space + length + pause
    partials = [1, *rng.uniform(0.15, 1.0, 4), *rng.uniform(0, 0.4, 4)]
    wave = oscillate(rng, steps(n, rate, pitches), n, rate, partials)
    return wave * gate(n, rate, spans, 0.2 * length)


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
