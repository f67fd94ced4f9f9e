"""Means and paired differences over clips and seeds.

One seed: Student's t over clips, for this seed. Two seeds: the same over each clip's mean of both
seeds; two runs say nothing of a third. From three seeds on the interval holds for new clips *and*
new seeds: clips and seeds are crossed random factors, d[clip, seed] = mean + clip + seed + rest.
The half width is the root of the sum of two squares, that of the t interval over clips (of each
clip's mean) and that of the t interval over seeds (of each seed's mean), each with its own degrees
of freedom (Howe 1974, J. Am. Stat. Assoc. 69, 789). The rest is counted in both, so that the
interval errs to the wide side: simulated with 3 and 5 seeds and 30 and 227 clips it covers in 94.8
to 99.7 % of the cases, where that of a single seed covers in 12 to 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.figures.statistics import Difference, Interval, mean_interval
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS

ENOUGH = 3
"""Seeds from which on an interval speaks of seeds not run."""

Row = dict[str, Any]
Scores = Mapping[str, Row]
"""Rows of ``clips.jsonl`` of one run, by clip."""


def crossed_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean of a table of clips and seeds, with its interval.

    Parameters
    ----------
    values
        One value per clip and seed (C, S).
    confidence
        Probability that the interval covers the mean.

    Raises
    ------
    EnhanceError
        If the table is empty or a value is not finite.
    """
    if values.ndim != 2 or not values.size:
        raise EnhanceError(f"crossed_interval: values of shape {values.shape}; needs (C, S)")
    over_clips = mean_interval(values.mean(1), "t", confidence)
    seeds = values.shape[1]
    if seeds < ENOUGH or over_clips.half_width is None:
        return over_clips
    over_seeds = mean_interval(values.mean(0), "t", confidence)
    assert over_seeds.half_width is not None
    half = math.hypot(over_clips.half_width, over_seeds.half_width)
    mean = over_clips.mean
    return Interval(mean, mean - half, mean + half, over_clips.n, "t over clips and seeds")


def mean_scores(runs: Sequence[Scores]) -> dict[str, Row]:
    """Mean and interval of each metric over the runs (seeds) of one name.

    Returns
    -------
    dict
        By metric: the interval's row, and ``refused``, the clips that not every run measured.
    """
    result = {}
    for metric in METRICS:
        names, values = _table(runs, metric)
        entry: Row = crossed_interval(values).row() if names else {"mean": None, "n": 0}
        result[metric] = {**entry, "refused": len({c for run in runs for c in run}) - len(names)}
    return result


def differences(base: Sequence[Scores], own: Sequence[Scores]) -> dict[str, Row | None]:
    """Paired difference ``own - base`` of each metric, clip by clip and seed by seed.

    Parameters
    ----------
    base, own
        Runs of the same seeds in the same order.

    Returns
    -------
    dict
        By metric: as `benchmarks.figures.statistics.Difference.row`; None where no clip was
        measured by all. ``wins`` counts clips whose mean over seeds is higher.
    """
    result: dict[str, Row | None] = {}
    for metric in METRICS:
        first, a = _table(base, metric)
        second, b = _table(own, metric)
        common = sorted(set(first) & set(second))
        if not common:
            result[metric] = None
            continue
        d = b[[second.index(c) for c in common]] - a[[first.index(c) for c in common]]
        wins = int(np.count_nonzero(d.mean(1) > 0))
        only_one = len(set(first) ^ set(second))
        result[metric] = Difference(crossed_interval(d), wins, only_one).row()
    return result


def by_group(runs: Sequence[Scores], label: str) -> dict[str, list[dict[str, Row]]]:
    """The runs cut to the clips of each value of a label; empty where there is one value only."""
    values = sorted({row["labels"].get(label, "") for run in runs for row in run.values()})
    if len(values) < 2:
        return {}
    return {
        value or "(none)": [
            {clip: row for clip, row in run.items() if row["labels"].get(label, "") == value}
            for run in runs
        ]
        for value in values
    }


def _table(runs: Sequence[Scores], metric: str) -> tuple[list[str], np.ndarray]:
    """Clips that every run measured, and their values (C, S)."""
    measured = [{c for c, row in run.items() if metric in row["metrics"]} for run in runs]
    names = sorted(set.intersection(*measured)) if measured else []
    return names, np.array([[run[c]["metrics"][metric] for run in runs] for c in names])
