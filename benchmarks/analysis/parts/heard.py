"""Which clips an analysis hears, and what backbones make of them, in whatever process asks."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.analysis.parts.work import Work
from distill.backbones import find
from distill.teacher.contract import check_rate
from distill.teacher.features import Features
from distill.teacher.frames import FrameGrid, resample
from enhance.audio import read as audio
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

Pool = Literal["mean", "stats"]
SAMPLE_RATE = 16000
MOST_SECONDS = 20
"""Longer files are heard up to here, so that memory is bounded by this and not by a file."""


def draw(clips: Sequence[Clip], work: Work, place: Path) -> list[Clip]:
    """Some of the clips of a place, evenly over speakers (sources, where nobody is named).

    The limit of ``work`` says how many (0 for all, in random order), its seed is that of the order.
    An `EnhanceError` refuses fewer than two.
    """
    order = np.random.default_rng(np.random.SeedSequence([work.seed, 0])).permutation(len(clips))
    who = [clip.speaker or f"? {clip.source}" for clip in clips]
    found = [clips[i] for i in in_turns(order.tolist(), who)[: work.limit or None]]
    if len(found) < 2:
        raise EnhanceError(
            f"{place}: {len(found)} clip(s) of speech that are long enough; an analysis needs two "
            "or more"
        )
    return found


def in_turns(order: Sequence[int], names: Sequence[Hashable]) -> list[int]:
    """Numbers in an order, but the first of each name before the second of any, and so on."""
    own = defaultdict(list)
    for i in order:
        own[names[i]].append(i)
    turn = {i: k for numbers in own.values() for k, i in enumerate(numbers)}
    return sorted(order, key=turn.__getitem__)


def wave_of(path: Path | str) -> np.ndarray:
    """The samples of a file at 16 kHz, `MOST_SECONDS` at most, float32 (N,)."""
    found = audio.info(path)
    most = MOST_SECONDS * found.sample_rate
    return audio.read(path, SAMPLE_RATE, frames=most if found.frames > most else -1)


def check(backbones: Sequence[str], cache: Path) -> None:
    """Refuse, by an `EnhanceError`, backbones before anything is measured.

    There must be one or more, each once, that can be had and hear the right rate.
    """
    if not backbones or len(set(backbones)) < len(backbones):
        raise EnhanceError("--backbone: name one or more, each once")
    for name in backbones:
        check_rate(features(name, cache).teacher, SAMPLE_RATE)


@lru_cache(maxsize=32)
def features(name: str, cache: Path) -> Features:
    """A backbone with all its hidden states, loaded once in each process."""
    return Features(find.load(name), "weighted", cache)


def states_of(name: str, cache: Path, wave: np.ndarray) -> list[np.ndarray]:
    """Hidden states of a clip, raw: (N,) to float32 (T', D) each."""
    return [state.astype(np.float32) for state in features(name, cache).states(wave)]


def pooled(state: np.ndarray, pool: Pool) -> np.ndarray:
    """Mean over frames, or mean and standard deviation: (T, D) to float32 (D,) or (2 D,)."""
    frames = np.asarray(state, np.float32)
    mean: np.ndarray = frames.mean(0)
    return mean if pool == "mean" else np.concatenate([mean, frames.std(0)])


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of some values, evenly from the first to the last: (n,) to (m,)."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]


def nearest(grid: FrameGrid, seconds: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the frames, of ``count``, whose centres are nearest to times: (T,) to (T,)."""
    frames = (seconds * SAMPLE_RATE - grid.offset - grid.field / 2) / grid.stride
    return np.clip(np.round(frames).astype(int), 0, count - 1)


def coarsest(backbones: Sequence[str], cache: Path) -> str:
    """The backbone with the longest stride, the first of several."""
    return max(backbones, key=lambda name: features(name, cache).grid.stride)


def aligned(backbones: Sequence[str], cache: Path, wave: np.ndarray) -> list[np.ndarray]:
    """Hidden states of several backbones on the grid of the `coarsest`, one after the other.

    Frames that one of them lacks (at the ends of the clip) are left out of all.

    Shape: (N,) to float32 (T, D) each
    """
    target = features(coarsest(backbones, cache), cache)
    frames = target.teacher.frames(len(wave))
    states: list[np.ndarray] = []
    whole = np.ones(frames, bool)
    for name in backbones:
        own = states_of(name, cache, wave)
        grid: FrameGrid = features(name, cache).grid
        if grid != target.grid or len(own[0]) != frames:
            valid = torch.ones(1, len(own[0]), dtype=torch.bool)
            joint = torch.from_numpy(np.concatenate(own, axis=1))[None]
            moved, covered = resample(joint, valid, grid, target.grid, frames)
            own = np.split(moved[0].numpy(), np.cumsum([x.shape[1] for x in own])[:-1], axis=1)
            whole &= covered[0].numpy()
        states += own
    return [state[whole] for state in states]


def labels(backbones: Sequence[str]) -> dict[str, str]:
    """What tables call each backbone: a path's last part, where that tells it from all others."""
    short = [find.label(name) for name in backbones]
    return {
        name: text if short.count(text) == 1 else name
        for name, text in zip(backbones, short, strict=True)
    }


def families(backbones: Sequence[str], cache: Path) -> dict[str, str]:
    """Kind of each backbone by its label, see `find.family`."""
    return {
        text: find.family(name, features(name, cache).teacher)
        for name, text in labels(backbones).items()
    }


def state_names(backbones: Sequence[str], cache: Path) -> list[tuple[str, int]]:
    """Backbone and number of each state, in the order of `aligned`."""
    return [
        (name, layer)
        for name in backbones
        for layer in range(features(name, cache).teacher.num_layers + 1)
    ]


def world() -> Any:
    """The module pyworld, without what the reading of its version warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        import pyworld
    return pyworld
