"""Noise from formulas, without end: `KINDS` by name, each a pure function of its generator.

A kind takes (generator, samples, sample rate) and returns float32 (samples,) at any level; `make`
turns kind and seed into a wave of one level that is never silent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from enhance.data.formulas import broadband, creatures, machines, radio, strokes, tones

Kind = Callable[[np.random.Generator, int, int], np.ndarray]

_OF_FAMILIES: dict[str, tuple[Kind, ...]] = {
    "tones": (
        tones.alarm, tones.siren, tones.sweep, tones.horn, tones.ring_tone, tones.bell,
        tones.chime, tones.hospital, tones.dtmf, tones.call_progress,
    ),
    "machines": (machines.hum, machines.engine, machines.fan, machines.motor),
    "broadband": (broadband.coloured, broadband.band, broadband.modulated),
    "strokes": (strokes.clicks, strokes.impacts, strokes.rattle, strokes.keys),
    "radio": (radio.static, radio.whistle, radio.packets),
    "creatures": (creatures.bird, creatures.insect, creatures.bark, creatures.cry),
}  # fmt: skip
FAMILIES: dict[str, dict[str, Kind]] = {
    family: {kind.__name__: kind for kind in kinds} for family, kinds in _OF_FAMILIES.items()
}
"""Kinds by family; a mixer draws a family first, so that no family grows by being split."""

KINDS: dict[str, Kind] = {name: kind for some in FAMILIES.values() for name, kind in some.items()}
"""All kinds by name."""

_LEVEL = 0.1
_TRIES = 9
_SHORTEST = 2.0  # seconds: what beeps or knocks is heard within


def draw_kind(rng: np.random.Generator) -> str:
    """A kind by chance: a family, then one of it."""
    family = list(FAMILIES.values())[int(rng.integers(len(FAMILIES)))]
    return list(family)[int(rng.integers(len(family)))]


def make(
    kind: str, seed: int, samples: int, sample_rate: int = 16000, *, held_out: bool = False
) -> np.ndarray:
    """A piece of noise of a kind of `KINDS`: float32 (samples,), rms 0.1.

    Another seed, not negative, is another alarm, engine, room of keys. ``held_out`` takes streams
    that training never draws, whatever its seeds: for measuring.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(held_out),)))
    for _ in range(_TRIES):  # at 8 kHz all resonances of an object may lie above the band
        wave = KINDS[kind](rng, max(samples, round(_SHORTEST * sample_rate)), sample_rate)
        if wave.any():
            break
    part = wave[:samples]
    if len(wave) > samples:
        # A short piece must not fall into a pause.
        loudest = int(np.abs(wave).argmax())
        start = min(max(loudest - samples // 4, 0), len(wave) - samples)
        if np.square(part).mean() < 0.1 * np.square(wave).mean():
            part = wave[start : start + samples]
    rms = np.sqrt(np.mean(np.square(part, dtype=np.float64)))
    return (part * (_LEVEL / rms)).astype(np.float32)
