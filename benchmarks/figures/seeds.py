"""Means and paired differences over clips and seeds.

From three seeds on the interval holds for new clips *and* new seeds: clips and seeds are crossed
random factors, d[clip, seed] = mean + clip + seed + rest. The half width is the root of the sum of
two squares, that of the (clustered) t interval over clips (of each clip's mean) and that of the t
interval over seeds (of each seed's mean), see `benchmarks.figures.statistics.combined`. The rest is
counted in both, so that the interval errs to the wide side: simulated with 3 and 5 seeds and 30 and
227 clips it covers in 94.8 to 99.7 % of the cases, where that of a single seed covers in 12 to 95
%.

One or two seeds say nothing of a third: their intervals are over clips, for these seeds, and their
differences claim nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.figures.clusters import Clusters, clusters_of
from benchmarks.figures.results import Row
from benchmarks.figures.statistics import (
    Interval,
    combined,
    holm,
    mean_interval,
    paired_difference,
)
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS

ENOUGH = 3
"""Seeds from which on an interval speaks of seeds not run."""

Scores = Mapping[str, Row]
"""Rows of ``clips.jsonl`` of one run, by clip."""


def crossed_interval(values: np.ndarray, clusters: Clusters | None = None) -> Interval:
    """Mean of one value per clip and seed (C, S), with its interval.

    Clusters of the clips as in `benchmarks.figures.statistics.mean_interval`. An `EnhanceError` if
    the table is empty or a value is not finite.
    """
    if values.ndim != 2 or not values.size:
        raise EnhanceError(f"crossed_interval: values of shape {values.shape}; needs (C, S)")
    over_clips = mean_interval(values.mean(1), clusters)
    if values.shape[1] < ENOUGH or not over_clips.errors:
        return over_clips
    errors = over_clips.errors + mean_interval(values.mean(0)).errors
    method = "t over clips and seeds" if over_clips.method == "t" else f"{over_clips.method}, seeds"
    return combined(over_clips.mean, over_clips.n, method, errors)


def mean_scores(runs: Sequence[Scores]) -> dict[str, Row]:
    """Mean and interval of each metric over the runs (seeds) of one name.

    By metric: the interval's row, and ``refused``, the clips that not every run measured.
    """
    result = {}
    for metric in METRICS:
        table = _table(runs, metric)
        entry: Row = {"mean": None, "n": 0}
        if table:
            clusters = clusters_of([runs[0][clip]["labels"] for clip in table])
            entry = crossed_interval(np.array(list(table.values())), clusters).row()
        result[metric] = {**entry, "refused": len({c for run in runs for c in run}) - len(table)}
    return result


def differences(base: Sequence[Scores], own: Sequence[Scores]) -> dict[str, Row | None]:
    """Paired difference ``own - base`` of each metric, clip by clip and seed by seed.

    Of runs of the same seeds in the same order. By metric: as
    `benchmarks.figures.statistics.Difference.row`; None where no clip was measured by all. ``wins``
    counts clips whose mean over seeds is higher. With fewer than `ENOUGH` seeds ``verdict`` is
    ``"no claim"``.
    """
    result: dict[str, Row | None] = {}
    labels = {clip: row["labels"] for clip, row in own[0].items()}
    silent = {"verdict": "no claim", "p": None} if len(own) < ENOUGH else {}
    for metric in METRICS:
        a, b = (_table(runs, metric) for runs in (base, own))
        found = paired_difference(a, b, labels, crossed_interval)
        result[metric] = found.row() | silent if found else None
    return result


def grouped(
    runs: Sequence[Scores], labels: Sequence[str], figures: Callable[[Sequence[Scores]], Row]
) -> Row:
    """Clips and figures of each group, by label and value, for labels of several values."""
    return {
        label: {
            value: {"clips": len(cut[0]), "metrics": figures(cut)} for value, cut in groups.items()
        }
        for label in labels
        if (groups := by_group(runs, label))
    }


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


def claims(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Differences of a study that hold together: ``(name, metric)`` of each.

    All differences of runs with `ENOUGH` seeds are one family, corrected by Holm's method. Of one
    row for each name (`benchmarks.study.report.shown_rows`).
    """
    family = {
        (row["name"], metric): row["difference"][metric]
        for row in rows
        if row["difference"] and len(compared_seeds(row)) >= ENOUGH
        for metric in METRICS
    }
    held = holm([entry and entry.get("p") for entry in family.values()])
    return {key for key, one in zip(family, held, strict=True) if one}


def no_claim(row: Row) -> str:
    """``"one seed: no claim"`` where a row's difference has too few seeds; else nothing."""
    count = len(compared_seeds(row))
    return "" if count >= ENOUGH else f"{'one seed' if count == 1 else 'two seeds'}: no claim"


def compared_seeds(row: Mapping[str, Any]) -> Sequence[int]:
    """Seeds of a row's difference; its own where it has none."""
    seeds: Sequence[int] = row.get("difference_seeds") or row["seeds"]
    return seeds


def _table(runs: Sequence[Scores], metric: str) -> dict[str, np.ndarray]:
    """Values (S,) of each clip that every run measured, in the order of their names."""
    measured = [{c for c, row in run.items() if metric in row["metrics"]} for run in runs]
    names = sorted(set.intersection(*measured)) if measured else []
    return {c: np.array([run[c]["metrics"][metric] for run in runs]) for c in names}
