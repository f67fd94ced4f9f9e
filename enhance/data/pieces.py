"""Stretches of clips and of formulas put at their places, and levels against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from enhance.data import formulas
from enhance.data.clips import ClipStore
from enhance.data.recipe import Formula, Piece


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
    """``added`` at a level against that of ``wave``."""
    return added * np.float32(10 ** (db / 20) * (energy(wave) / energy(added)) ** 0.5)


def beside(noise: np.ndarray, voices: np.ndarray, db: float) -> np.ndarray:
    """Noise and voices, the voices at ``db`` (at most 0) against both together."""
    share = 10 ** (db / 10)
    total = at_level(voices, noise, 0) * np.float32(share**0.5)
    total += noise * np.float32((1 - share) ** 0.5)
    return total


def _wave(store: ClipStore, piece: Piece | Formula) -> np.ndarray:
    if isinstance(piece, Formula):
        return formulas.make(piece.kind, piece.seed, piece.length, store.sample_rate)
    return store.read(piece.clip, piece.clip_start, piece.length)
