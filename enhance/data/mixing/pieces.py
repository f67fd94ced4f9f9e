"""Stretches of clips and of formulas put at their places, and levels against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from enhance.config.mixing import MixingConfig
from enhance.data import formulas
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import Weights, clip_of, draw_clip
from enhance.data.mixing.recipe import Formula, Piece

_SHORTEST = 0.25  # seconds: less room than this at a segment's end is left silent


def assemble(
    store: ClipStore, pieces: Sequence[Piece | Formula], length: int, fade: int = 0
) -> np.ndarray:
    """Pieces at their places, silence elsewhere: float32 (length,).

    ``fade`` samples of linear fade soften edges inside the segment.
    """
    if len(pieces) == 1 and pieces[0].length == length:
        return _wave(store, pieces[0])
    wave = np.zeros(length, np.float32)
    for piece in pieces:
        part = _wave(store, piece)
        end = piece.segment_start + piece.length
        ramp = np.linspace(0, 1, min(fade, piece.length), dtype=np.float32)
        if piece.segment_start > 0 and len(ramp):
            part[: len(ramp)] *= ramp
        if end < length and len(ramp):
            part[-len(ramp) :] *= ramp[::-1]
        wave[piece.segment_start : end] = part
    return wave


def speech_pieces(
    store: ClipStore,
    i: int,
    companions: Sequence[int],
    config: MixingConfig,
    alignment: int,
    n: int,
    rng: np.random.Generator,
) -> tuple[Piece, ...]:
    """``n`` samples of clip ``i``, and of others of its speaker where it is too short.

    ``companions`` are the clips of its speaker, ``alignment`` is that of `Mixer`.
    """
    a, length = alignment, store.length(i)
    if length >= n:
        return (Piece(i, int(rng.integers((length - n) // a + 1)) * a, 0, n),)
    if rng.random() < config.silence_probability:
        return (Piece(i, 0, int(rng.integers((n - length) // a + 1)) * a, length),)
    pieces, position = [], 0
    start = int(rng.integers(length // 4 // a + 1)) * a
    while position == 0 or n - position >= _SHORTEST * store.sample_rate:
        take = min(store.length(i) - start, n - position)
        pieces.append(Piece(i, start, position, take))
        gap = rng.uniform(*config.join_gap_seconds) * store.sample_rate
        position = -(-(position + take + max(1, int(gap))) // a) * a
        i, start = companions[int(rng.integers(len(companions)))], 0
    return tuple(pieces)


def noise_pieces(
    store: ClipStore, weights: Weights, switch_probability: float, n: int, rng: np.random.Generator
) -> tuple[Piece, ...]:
    """``n`` samples of clips of one source, or of two in turn; see `source_weights`."""
    source, i = draw_clip(weights, rng)
    turn = n
    if rng.random() < switch_probability:
        turn = int(rng.uniform(0.25, 0.75) * n)
    pieces: list[Piece] = []
    position = 0
    while position < n:
        length = store.length(i)
        take = min(length, (turn if position < turn else n) - position)
        start = int(rng.integers(length - take + 1))
        pieces.append(Piece(i, start, position, take))
        position += take
        if position == turn:
            source, i = draw_clip(weights, rng)
        else:
            i = clip_of(weights, source, rng)
    return tuple(pieces)


def audible_crop(
    store: ClipStore,
    first: int,
    n: int,
    floor: float,
    step: int,
    rng: np.random.Generator,
    *,
    fill: bool,
    voice: bool,
) -> tuple[Piece, ...]:
    """A crop drawn from all that are audible, of the first clip that has one; none without.

    The clips are tried from ``first`` on, those of its source and speaker before others, which
    ``voice`` leaves out. The crop has ``n`` samples and an energy of at least ``floor``, and begins
    at a multiple of ``step``. ``fill`` repeats a shorter clip; otherwise silence follows it.
    """
    key = (store.clips[first].source, store.clips[first].speaker)
    order = rng.permutation(len(store))
    same = [i for i in order if (store.clips[i].source, store.clips[i].speaker) == key]
    for i in map(int, (first, *same, *(() if voice else order))):
        length = store.length(i)
        take = min(n, length)
        sums = np.zeros(length + 1)
        np.square(store.whole(i), out=sums[1:], dtype=np.float64)
        np.cumsum(sums, out=sums)
        least = floor * take / n if fill else floor
        audible = np.flatnonzero(sums[take::step] - sums[: length - take + 1 : step] >= least)
        if len(audible):
            start, end = step * int(audible[rng.integers(len(audible))]), n if fill else take
            return tuple(
                Piece(i, start, place, min(take, end - place)) for place in range(0, end, take)
            )
    return ()


def draw_formulas(
    rng: np.random.Generator, n: int, switch_probability: float
) -> tuple[Formula, ...]:
    """Noise from a formula that fills ``n`` samples, or from two in turn."""
    switch, turn = rng.random() < switch_probability, int(rng.uniform(0.25, 0.75) * n)
    ends = (0, turn, n) if switch else (0, n)
    return tuple(
        Formula(formulas.draw_kind(rng), int(rng.integers(2**53)), start, end - start)
        for start, end in pairwise(ends)
    )


def name(store: ClipStore, piece: Piece | Formula) -> str:
    """Path of the clip, or ``formula:KIND``."""
    if isinstance(piece, Formula):
        return f"formula:{piece.kind}"
    return str(store.clips[piece.clip].path)


def energy(wave: np.ndarray) -> float:
    """Sum of squares."""
    # Pairwise summation: exact to 1e-7, and the same however many threads a BLAS would take.
    return float(np.square(wave).sum())


def at_level(added: np.ndarray, wave: np.ndarray, db: float) -> np.ndarray:
    """``added`` at a level against that of ``wave``; silence stays silent."""
    return added * np.float32(10 ** (db / 20) * (energy(wave) / (energy(added) or 1.0)) ** 0.5)


def beside(noise: np.ndarray, voices: np.ndarray, db: float) -> np.ndarray:
    """Noise and voices, the voices at ``db`` (at most 0) against both together."""
    share = 10 ** (db / 10)
    total = at_level(voices, noise, 0) * np.float32(share**0.5)
    total += noise * np.float32((1 - share) ** 0.5)
    return total


def _wave(store: ClipStore, piece: Piece | Formula) -> np.ndarray:
    if isinstance(piece, Formula):
        return formulas.make(
            piece.kind, piece.seed, piece.length, store.sample_rate, held_out=piece.held_out
        )
    return store.read(piece.clip, piece.clip_start, piece.length)
