"""How probes answer: what a model hears of the clips, and a linear probe on each fold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.heard import Pool
from benchmarks.analysis.parts.linear import fit
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.tasks import Data
from distill.speaker.eer import unit_length
from enhance.errors import EnhanceError

SUMS = ("weighted, raw", "weighted, normalised")


@dataclass(frozen=True)
class Answer:
    """Of one probe, over all folds of one seed."""

    values: np.ndarray
    """Of each clip: accuracy or absolute error of its units; of verification, of each trial: the
    score."""
    shares: np.ndarray
    """Of each state in the sum, mean over the folds."""
    states: list[int]
    """Their numbers."""
    trials: tuple[np.ndarray, np.ndarray] | None = None
    """Clips of each trial."""
    explained: float | None = None
    """Share of the variance, of a regression."""


def hear(
    data: Data, backbone: str, pool: Pool, work: Work
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States of all units, raw and layer-normalised: for each state (M, D)."""
    items = [
        (clip.path, data.times[i] if data.times else None) for i, clip in enumerate(data.clips)
    ]
    parts = work.every(partial(states_of, backbone, work.cache, pool), items,
                       f"listening: {backbone}")  # fmt: skip
    raw, normal = ([np.concatenate(state) for state in zip(*side, strict=True)]
                   for side in zip(*parts, strict=True))  # fmt: skip
    return raw, normal


def states_of(
    backbone: str, cache: Path, pool: Pool, item: tuple[Path, np.ndarray | None]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Units of one clip: the frames nearest to given times, or one vector.

    Raw, and of states whose frames have zero mean and unit variance over their features; for each
    state (n, D). An `EnhanceError` names a clip that is too short for a frame, or cannot be read.
    """
    (path, times), grid = item, heard.features(backbone, cache).grid
    states = heard.states_of(backbone, cache, heard.wave_of(path))
    if not len(states[0]):
        raise EnhanceError(f"{path}: too short for a frame of {backbone}; leave it out")
    normal = [(s - s.mean(1, keepdims=True)) / (s.std(1, keepdims=True) + 1e-6) for s in states]
    if times is None:
        raw, normal = ([heard.pooled(s, pool)[None] for s in side] for side in (states, normal))
        return raw, normal
    chosen = heard.nearest(grid, times, len(states[0]))
    return [s[chosen] for s in states], [s[chosen] for s in normal]


def choices(
    raw: list[np.ndarray], normal: list[np.ndarray]
) -> dict[str, tuple[list[int], np.ndarray]]:
    """What is probed: every state, and the sums; the numbers of its states, and they (K, M, D).

    States of another width than the last cannot be summed with it, and are not.
    """
    found = {f"state {k}": ([k], state[None]) for k, state in enumerate(raw)}
    alike = [k for k, state in enumerate(raw) if state.shape[1] == raw[-1].shape[1]]
    if len(alike) > 1:
        for name, side in zip(SUMS, (raw, normal), strict=True):
            found[name] = (alike, np.stack([side[k] for k in alike]))
    return found


def answer(data: Data, numbers: list[int], states: np.ndarray, folds: int, seed: int) -> Answer:
    """Fit on each fold's training clips (`Data.splits`), ask its test clips.

    ``numbers`` and ``states`` are as of `choices`.
    """
    scores, shares, trials = [], [], []
    values = np.zeros(len(data.labels))
    for train, test in data.splits(folds, seed):
        learns, asks = np.isin(data.owner, train), np.isin(data.owner, test)
        labels, count = data.labels[learns], len(data.classes)
        if data.task.metric == "EER":  # the classes are the speakers that train
            known, labels = np.unique(labels, return_inverse=True)
            count = len(known)
        probe = fit(states[:, learns], labels, count, seed)
        shares.append(probe.shares)
        if data.task.metric == "EER":
            units = np.zeros((len(data.clips), count))
            units[test] = unit_length(probe.embed(states[:, asks]))
            first, second = data.pairs(test, seed)
            scores.append(np.einsum("ne,ne->n", units[first], units[second]))
            trials.append((first, second))
        else:
            said = probe(states[:, asks])
            values[asks] = said.argmax(1) if data.classes else said
    if trials:
        a, b = (np.concatenate(side) for side in zip(*trials, strict=True))
        return Answer(np.concatenate(scores), np.mean(shares, 0), numbers, (a, b))
    return Answer(
        by_clip(data, values),
        np.mean(shares, 0),
        numbers,
        explained=None if data.classes else _explained(data.labels, values),
    )


def guess(data: Data, folds: int, seed: int) -> Answer:
    """What needs no model: the most frequent class, or the mean, of the training units."""
    values = np.zeros(len(data.labels))
    for train, test in data.splits(folds, seed):
        known = data.labels[np.isin(data.owner, train)]
        one = np.bincount(known).argmax() if data.classes else known.mean()
        values[np.isin(data.owner, test)] = one
    return Answer(by_clip(data, values), np.ones(0), [])


def by_clip(data: Data, said: np.ndarray) -> np.ndarray:
    """Accuracy, or mean absolute error, of each clip: (M,) to (n,)."""
    each = said == data.labels if data.classes else np.abs(said - data.labels)
    counts = np.bincount(data.owner, minlength=len(data.clips))
    result: np.ndarray = np.bincount(data.owner, each, len(data.clips)) / counts
    return result


def _explained(labels: np.ndarray, guess: np.ndarray) -> float:
    return float(1 - np.square(guess - labels).sum() / np.square(labels - labels.mean()).sum())
