"""Intervals and paired differences against scipy and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.figures.statistics import (
    Difference,
    mean_interval,
    paired_difference,
    ratio_of_medians,
)
from enhance.errors import EnhanceError


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 1.5, count)  # skewed, as gains in dB are


def test_t_interval_is_that_of_scipy() -> None:
    x = values(23)
    interval = mean_interval(x)
    low, high = stats.t.interval(0.95, x.size - 1, loc=x.mean(), scale=stats.sem(x))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.mean == pytest.approx(x.mean(), abs=1e-12)
    assert interval.half_width == pytest.approx((high - low) / 2, abs=1e-12)
    assert interval.row() == {
        "mean": interval.mean, "low": interval.low, "high": interval.high, "n": 23, "method": "t",
    }  # fmt: skip


def test_bootstrap_interval_agrees_with_scipy() -> None:
    x = values(80)
    ours = mean_interval(x, method="bootstrap")
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    width = theirs.high - theirs.low
    # Limits of 5000 resamples scatter by about 2 % of the width from seed to seed.
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)
    assert mean_interval(x, method="bootstrap") == ours


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits = {"t": 0, "bootstrap": 0}
    for _ in range(400):
        x = rng.normal(2.0, 1.0, 60)
        for method in hits:
            found = mean_interval(x, method=method, resamples=400)
            hits[method] += found.low <= 2.0 <= found.high
    # Binomial: 400 trials at 0.95 have a standard deviation of 1.1 %.
    assert 0.91 < hits["t"] / 400 < 0.985
    assert 0.90 < hits["bootstrap"] / 400 < 0.985


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    single = mean_interval([3.0])
    assert (single.mean, single.low, single.high, single.half_width) == (3.0, None, None, None)
    for bad in ([], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(EnhanceError):
            mean_interval(bad)
    with pytest.raises(EnhanceError, match="unknown"):
        mean_interval([1.0, 2.0], method="guess")  # type: ignore[arg-type]


def test_paired_difference_is_the_paired_t_test() -> None:
    base = values(40)
    a = {f"c{i}": float(v) for i, v in enumerate(base)}
    b = {k: v + 0.1 + 0.05 * ((i % 5) - 2) for i, (k, v) in enumerate(a.items())}
    difference = paired_difference(a, b)
    assert isinstance(difference, Difference)
    expected = stats.ttest_rel(list(b.values()), list(a.values())).confidence_interval(0.95)
    found = difference.interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert difference.verdict == "higher"
    assert difference.wins == 32  # one in five differs by 0.1 - 0.1, which rounds either way
    # The unpaired intervals overlap widely: only pairing decides.
    assert mean_interval(base).high > mean_interval(list(b.values())).low


def test_paired_difference_counts_clips_of_one_side_only() -> None:
    a = {"x": 1.0, "y": 2.0, "only": 9.0}
    b = {"x": 2.0, "y": 1.0}
    difference = paired_difference(a, b)
    assert isinstance(difference, Difference)
    assert (difference.interval.n, difference.only_one, difference.wins) == (2, 1, 1)
    assert difference.verdict == "undecided"
    assert difference.row()["verdict"] == "undecided"
    assert paired_difference({"x": 1.0}, {"y": 1.0}) is None


def test_ratio_of_medians_survives_drift_that_both_share() -> None:
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.uniform(1, 3, 50), 20)  # a machine whose speed changes
    a = drift * rng.uniform(0.99, 1.01, drift.size)
    b = 0.5 * drift * rng.uniform(0.99, 1.01, drift.size)
    found = ratio_of_medians(a, b)
    assert found.mean == pytest.approx(0.5, rel=0.03)
    assert found.low <= 0.5 <= found.high
    assert found.high - found.low < 0.1  # unpaired blocks would give about 0.2
    same = ratio_of_medians(a, a)
    assert (same.mean, same.low, same.high) == (1.0, 1.0, 1.0)
    with pytest.raises(EnhanceError):
        ratio_of_medians(a, np.array([]))
