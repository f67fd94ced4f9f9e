"""Means with 95 % intervals, and paired differences, clip by clip.

Two systems on the same clips differ far less than their separate intervals suggest, because a
hard clip is hard for both: the interval of a comparison is that of the clip-by-clip differences,
never the overlap of two intervals.

The default interval is Student's t over clips: with hundreds of clips it is that of the bootstrap,
and with three clips of a small group it stays honest where the percentile bootstrap (Efron and
Tibshirani 1993, chapter 13; ``method="bootstrap"``) is far too narrow. Both take clips as
independent; several clips of one speaker are not, so that the interval for new speakers is wider.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from enhance.errors import EnhanceError

Method = Literal["bootstrap", "t"]

RESAMPLES = 5000
"""Bootstrap resamples: the limits then move by under 2 % of the width from seed to seed."""

_CHUNK = 2_000_000
"""Resampled values held at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it."""

    mean: float
    """Mean of the values."""
    low: float | None
    """Lower limit; None where one value gives no interval."""
    high: float | None
    """Upper limit."""
    n: int
    """Number of values."""
    method: str
    """How the limits were found."""

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2

    def row(self) -> dict[str, Any]:
        """The interval as plain data."""
        return asdict(self)


def mean_interval(
    values: Sequence[float] | np.ndarray,
    method: Method = "t",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of one value per clip, with its interval.

    Parameters
    ----------
    values
        One value per clip (n,).
    method
        ``"t"``: Student's t. ``"bootstrap"``: percentile bootstrap over clips.
    confidence
        Probability that the interval covers the mean.
    seed
        Seed of the bootstrap.
    resamples
        Number of bootstrap resamples.

    Raises
    ------
    EnhanceError
        If there are no values, one is not finite, or the method is unknown.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise EnhanceError(f"mean_interval: values of shape {array.shape}; needs (n,) with n >= 1")
    if not np.isfinite(array).all():
        raise EnhanceError("mean_interval: a value is not finite; count it as refused instead")
    mean = float(array.mean())
    if method not in ("bootstrap", "t"):
        raise EnhanceError(f"interval method {method!r} is unknown; choose bootstrap or t")
    if array.size == 1:
        return Interval(mean, None, None, 1, method)
    tail = (1 - confidence) / 2
    if method == "t":
        from scipy.stats import t

        width = float(t.ppf(1 - tail, array.size - 1)) * array.std(ddof=1) / math.sqrt(array.size)
        return Interval(mean, mean - float(width), mean + float(width), array.size, "t")
    means = bootstrap_means(array, seed, resamples)
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(mean, float(low), float(high), int(array.size), "bootstrap")


def bootstrap_means(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Means (resamples,) of values (n,) drawn with replacement."""
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // values.size)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        chosen = generator.integers(0, values.size, size=(stop - start, values.size))
        means[start:stop] = values[chosen].mean(axis=1)
    return means


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
            "wins": self.wins,
            "only_one": self.only_one,
            "verdict": self.verdict,
        }


def paired_difference(
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    method: Method = "t",
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference | None:
    """Mean of ``b - a`` over the clips of both, with its interval.

    Parameters
    ----------
    a, b
        Value of each clip, by clip name; clips that were refused are absent.
    method, confidence, seed
        As in `mean_interval`.

    Returns
    -------
    Difference or None
        None where the two have no clip in common.
    """
    common: list[Hashable] = sorted(set(a) & set(b))
    if not common:
        return None
    differences = np.array([b[clip] - a[clip] for clip in common])
    return Difference(
        interval=mean_interval(differences, method, confidence, seed),
        wins=int(np.count_nonzero(differences > 0)),
        only_one=len(set(a) ^ set(b)),
    )


def ratio_of_medians(
    a: np.ndarray, b: np.ndarray, blocks: int = 40, seed: int = 0, resamples: int = 1000
) -> Interval:
    """``median(b) / median(a)`` of two interleaved time series, with a block bootstrap interval.

    Frame times drift with the machine, so that neighbours are alike: whole blocks of neighbours
    are drawn, the same ones for both series (Kuensch 1989).

    Parameters
    ----------
    a, b
        Times in the order they were taken, interleaved; lengths may differ.
    blocks
        Number of blocks the run is cut into (fewer where a series is shorter).
    seed, resamples
        Of the bootstrap.

    Raises
    ------
    EnhanceError
        If a series is empty or the median of ``a`` is zero.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not a.size or not b.size or np.median(a) <= 0:
        raise EnhanceError("ratio_of_medians: needs times above zero on both sides")
    ratio = float(np.median(b) / np.median(a))
    count = min(blocks, a.size, b.size)
    if count < 4:
        return Interval(ratio, None, None, count, "block bootstrap")
    parts_a, parts_b = np.array_split(a, count), np.array_split(b, count)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for index in range(resamples):
        chosen = generator.integers(0, count, count)
        below = np.median(np.concatenate([parts_a[i] for i in chosen]))
        above = np.median(np.concatenate([parts_b[i] for i in chosen]))
        ratios[index] = above / below
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(ratio, float(low), float(high), count, "block bootstrap")
