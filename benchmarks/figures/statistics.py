"""Means with 95 % intervals, and paired differences, clip by clip, clustered.

Two systems on the same clips differ far less than their separate intervals suggest, because a
hard clip is hard for both: the interval of a comparison is that of the clip-by-clip differences,
never the overlap of two intervals.

Clips that share a noise recording or a speaker are not independent: intervals are clustered
(`benchmarks.figures.clusters`). Without clusters they are Student's t over clips, which with three
clips of a small group stays honest where a percentile bootstrap is far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.figures.clusters import Clusters, clustered_error, clusters_of
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it."""

    mean: float
    low: float | None
    """Lower limit; None, as the upper one, where one value gives no interval."""
    high: float | None
    n: int
    """Number of values."""
    method: str
    """How the limits were found."""
    errors: tuple[tuple[float, float], ...] = ()
    """Standard error and degrees of freedom of each random part."""

    @property
    def p(self) -> float | None:
        """Smallest 1 - confidence whose interval leaves out zero; None without an interval."""
        if not self.errors:
            return None
        if len(self.errors) == 1 and self.errors[0][0] > 0:
            from scipy.stats import t

            error, freedom = self.errors[0]
            return float(2 * t.sf(abs(self.mean) / error, freedom))
        from scipy.optimize import brentq

        def excess(logarithm: float) -> float:
            return _half_width(self.errors, math.exp(logarithm)) - abs(self.mean)

        least, most = -30.0, -1e-12
        if excess(least) <= 0:
            return math.exp(least) if self.mean else 1.0
        return math.exp(brentq(excess, least, most)) if excess(most) < 0 else 1.0

    def row(self) -> dict[str, Any]:
        """The interval as plain data."""
        return {name: getattr(self, name) for name in ("mean", "low", "high", "n", "method")}


def combined(mean: float, n: int, method: str, errors: Sequence[tuple[float, float]]) -> Interval:
    """95 % interval of a mean with independent random parts.

    The half width is the root of the sum of the squares of the parts' t intervals, each with its
    own degrees of freedom (Howe 1974, J. Am. Stat. Assoc. 69, 789); ``errors`` are the standard
    error and the degrees of freedom of each part.
    """
    half = _half_width(errors, 0.05)
    return Interval(mean, mean - half, mean + half, n, method, tuple(errors))


def _half_width(errors: Sequence[tuple[float, float]], outside: float) -> float:
    from scipy.stats import t

    return math.hypot(*(float(t.isf(outside / 2, freedom)) * error for error, freedom in errors))


def mean_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Clusters | None = None,
    counts: np.ndarray | None = None,
) -> Interval:
    """Mean of one value per clip, with its interval.

    Parameters
    ----------
    values
        One value per clip (n,).
    clusters
        By factor, the cluster of each clip (`clusters_of`), at most two factors; None for
        independent clips.
    counts
        How many clips, all of one cluster of each factor, each value is the mean of (n,); None
        for one each.

    Raises
    ------
    EnhanceError
        If there are no values, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise EnhanceError(f"mean_interval: values of shape {array.shape}; needs (n,) with n >= 1")
    if not np.isfinite(array).all():
        raise EnhanceError("mean_interval: a value is not finite; count it as refused instead")
    named = {name: list(labels) for name, labels in (clusters or {}).items()}
    named = {name: labels for name, labels in named.items() if len(set(labels)) > 1}
    method = f"t over {' and '.join(named)}" if named else "t"
    many = np.ones(array.size) if counts is None else counts
    mean, clips = float(np.average(array, weights=many)), int(many.sum())
    if array.size == 1:
        return Interval(mean, None, None, clips, method)
    error = clustered_error([array], [named], [many])
    return combined(mean, clips, method, [error])


class Cells:
    """Sums of the arrays of clips, by the clusters of each: memory does not grow with clips.

    The standard error of a mean needs the sum of the values of each cluster, not the values: clips
    of the same clusters may be added up beforehand. ``factors``: by factor, the cluster of each
    clip (`benchmarks.figures.clusters.coarse`).
    """

    def __init__(self, factors: dict[str, list[int]]) -> None:
        self.factors = factors
        self._sums: dict[tuple[int, ...], np.ndarray] = {}
        self._counts: dict[tuple[int, ...], int] = {}

    def add(self, clip: int, values: np.ndarray) -> None:
        """Add the array of clip number ``clip``; all have one shape."""
        key = tuple(own[clip] for own in self.factors.values())
        if key in self._sums:
            self._sums[key] += values
        else:
            self._sums[key] = np.array(values, np.float64)
        self._counts[key] = self._counts.get(key, 0) + 1

    def interval(self, take: Callable[[np.ndarray], float]) -> Interval:
        """Mean over clips of one figure of their arrays, a linear one, with its 95 % interval."""
        keys = sorted(self._sums)  # not the order in which workers were done
        counts = np.array([self._counts[key] for key in keys], np.float64)
        means = [take(self._sums[key] / self._counts[key]) for key in keys]
        clusters = {f: [key[i] for key in keys] for i, f in enumerate(self.factors)}
        return mean_interval(means, clusters, counts=counts)


def row_interval(rows: Sequence[Mapping[str, Any]], part: str, metric: str) -> dict[str, Any]:
    """Mean of one metric over clips, clustered by the ``labels`` of their rows, as plain data.

    ``part`` is where the metric stands in a row, such as ``"metrics"`` or ``"gains"``; clips that
    lack it are left out.
    """
    found = [row for row in rows if metric in row[part]]
    if not found:
        return {"mean": None, "n": 0}
    clusters = clusters_of([row["labels"] for row in found])
    return mean_interval([row[part][metric] for row in found], clusters).row()


def group_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: tuple[Clusters, Clusters] | None = None,
) -> Interval:
    """Mean of ``b`` less mean of ``a``, two groups of other clips, with its interval.

    A noise that both groups hold is one cluster, so that what it does to both cancels. A factor
    counts only where each group has two clusters of it (`mean_interval`). Without clusters it is
    Welch's interval. An `EnhanceError` if a group has fewer than two values, or one is not finite.
    """
    parts = [np.asarray(x, dtype=np.float64) for x in (a, b)]
    if min(x.size for x in parts) < 2 or not all(np.isfinite(x).all() for x in parts):
        raise EnhanceError("group_difference: needs two finite values or more in each group")
    both = clusters or ({}, {})
    shared = [
        name for name in both[0] if name in both[1] and all(len(set(own[name])) > 1 for own in both)
    ]
    named = [{name: list(own[name]) for name in shared} for own in both]
    method = f"t over {' and '.join(shared)}" if shared else "t of two groups"
    mean = float(parts[1].mean() - parts[0].mean())
    count = sum(x.size for x in parts)
    error = clustered_error([-parts[0], parts[1]], named)
    return combined(mean, count, method, [error])


def holm(p_values: Sequence[float | None], level: float = 0.05) -> list[bool]:
    """Which of many differences hold together (Holm 1979, Scand. J. Stat. 6, 65).

    The probability that any of them is false stays below ``level``, whatever their dependence.
    None counts as a difference that was looked at and shows nothing.
    """
    known = [1.0 if p is None else p for p in p_values]
    held = [False] * len(known)
    for rank, i in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        if known[i] > level / (len(known) - rank):
            break
        held[i] = True
    return held


@dataclass(frozen=True)
class Difference:
    """System ``b`` minus system ``a``, over the clips that both measured."""

    interval: Interval
    """Mean difference per clip and its interval."""
    wins: int
    """Clips on which ``b`` is higher."""
    only_one: int
    """Clips that only one of the two measured, left out of the difference."""

    @property
    def verdict(self) -> str:
        """``"higher"``, ``"lower"`` or ``"undecided"``: which side of zero the interval lies on."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None or low <= 0 <= high:
            return "undecided"
        return "higher" if low > 0 else "lower"

    def row(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {
            **self.interval.row(),
            "p": self.interval.p,
            "wins": self.wins,
            "only_one": self.only_one,
            "verdict": self.verdict,
        }


def paired_difference(
    a: Mapping[Any, Any],
    b: Mapping[Any, Any],
    labels: Mapping[Any, Mapping[str, str]] | None = None,
    interval: Callable[[np.ndarray, Clusters | None], Interval] = mean_interval,
) -> Difference | None:
    """Mean of ``b - a`` over the clips of both, with its interval; None where they share none.

    Values and labels (for `clusters_of`; None for independent clips) go by clip name; clips that
    were refused are absent. A value may be one for each seed (S,), with an ``interval`` of (C, S).
    """
    common: list[Hashable] = sorted(set(a) & set(b))
    if not common:
        return None
    differences = np.array([b[clip] - a[clip] for clip in common])
    clusters = clusters_of([labels[clip] for clip in common]) if labels else None
    return Difference(
        interval=interval(differences, clusters),
        wins=int(np.count_nonzero(differences.reshape(len(common), -1).mean(1) > 0)),
        only_one=len(set(a) ^ set(b)),
    )


def row_difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], part: str, metric: str
) -> dict[str, Any] | None:
    """`paired_difference` of one metric in rows as of `row_interval`, by their ``clip``."""
    first, second = (
        {row["clip"]: row[part][metric] for row in rows if metric in row[part]} for rows in (a, b)
    )
    found = paired_difference(first, second, {row["clip"]: row["labels"] for row in a})
    return found.row() if found else None


BLOCKS, RESAMPLES = 40, 1000
"""Of the block bootstrap; fewer blocks where a series is shorter."""


def ratio_of_medians(a: np.ndarray, b: np.ndarray) -> Interval:
    """``median(b) / median(a)`` of two interleaved time series, with a block bootstrap interval.

    Frame times drift with the machine, so that neighbours are alike: whole blocks of neighbours
    are drawn, the same ones for both series (Kuensch 1989). Times stand in the order they were
    taken; lengths may differ. An `EnhanceError` if a series is empty or the median of ``a`` is
    zero.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not a.size or not b.size or np.median(a) <= 0:
        raise EnhanceError("ratio_of_medians: needs times above zero on both sides")
    ratio = float(np.median(b) / np.median(a))
    count = min(BLOCKS, a.size, b.size)
    if count < 4:
        return Interval(ratio, None, None, count, "block bootstrap")
    parts_a, parts_b = np.array_split(a, count), np.array_split(b, count)
    generator = np.random.default_rng(0)
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = generator.integers(0, count, count)
        below = np.median(np.concatenate([parts_a[i] for i in chosen]))
        above = np.median(np.concatenate([parts_b[i] for i in chosen]))
        ratios[index] = above / below
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(ratio, float(low), float(high), count, "block bootstrap")
