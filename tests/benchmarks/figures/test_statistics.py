"""Intervals and paired differences against scipy, and by simulation where clips are correlated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.figures.clusters import clustered_error, clustering, clusters_of
from benchmarks.figures.statistics import (
    Difference,
    combined,
    group_difference,
    holm,
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
    assert interval.row() == {
        "mean": interval.mean, "low": interval.low, "high": interval.high, "n": 23, "method": "t",
    }  # fmt: skip


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    single = mean_interval([3.0])
    assert (single.mean, single.low, single.high) == (3.0, None, None)
    for bad in ([], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(EnhanceError):
            mean_interval(bad)


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
    exact = stats.ttest_rel(list(b.values()), list(a.values())).pvalue
    assert difference.row()["p"] == pytest.approx(exact, rel=1e-6)
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


def uneven(rng: np.random.Generator, clips: int = 120) -> dict[str, list[str]]:
    """15 noises and 12 speakers, one of whom speaks in a quarter of the clips."""
    talk = rng.choice(12, clips, p=[0.25, *[0.75 / 11] * 11])
    return {
        "noise": [f"n{i % 15}" for i in range(clips)],
        "speaker": [f"s{i}" for i in talk],
    }


def correlated(rng: np.random.Generator, clusters: dict[str, list[str]]) -> np.ndarray:
    """Values of mean zero to which noise, speaker and clip add 0.5, 0.5 and 1."""
    total = rng.standard_normal(len(clusters["noise"]))
    for names in clusters.values():
        _, index = np.unique(names, return_inverse=True)
        total += 0.5 * rng.standard_normal(index.max() + 1)[index]
    return total


def test_clustered_intervals_cover_where_independent_ones_fail() -> None:
    rng = np.random.default_rng(1)
    hits = {"clustered": 0, "noise only": 0, "independent": 0}
    for _ in range(400):
        clusters = uneven(rng)
        values = correlated(rng, clusters)
        one = {"noise": clusters["noise"]}
        for name, own in (("clustered", clusters), ("noise only", one), ("independent", None)):
            found = mean_interval(values, own)
            hits[name] += found.low <= 0 <= found.high
    # 380 are expected; the standard deviation is 4, and few clusters err to the wide side.
    assert 368 <= hits["clustered"] <= 396
    assert hits["noise only"] < 350
    assert hits["independent"] < 280


def test_the_error_of_one_factor_of_equal_clusters_is_that_of_the_cluster_means() -> None:
    values = np.random.default_rng(0).standard_normal((6, 5))
    names = [f"n{i}" for i in range(6) for _ in range(5)]
    found = mean_interval(values.ravel(), {"noise": names})
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values.mean(1)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.method == "t over noise"
    alone = mean_interval(values.ravel(), {"noise": names, "speaker": ["x"] * 30})
    assert (alone.low, alone.high) == (found.low, found.high)  # one speaker says nothing of others


def test_two_factors_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    clusters = uneven(rng, 40)
    x = rng.standard_normal(40)
    cells = list(zip(clusters["noise"], clusters["speaker"], strict=True))
    parts = []
    for names in (clusters["noise"], clusters["speaker"], cells):
        total = 0.0
        for name in set(names):
            own = [i for i in range(40) if names[i] == name]
            total += (sum(x[i] - x.mean() for i in own) / 40) ** 2 / (1 - len(own) / 40)
        parts.append(total)
    error, freedom = clustered_error([x], [clusters])
    assert error == pytest.approx(
        np.sqrt(max(parts[0] + parts[1] - parts[2], parts[0], parts[1])), rel=1e-12
    )
    sizes = np.unique(clusters["speaker"], return_counts=True)[1]
    others = np.unique(clusters["noise"], return_counts=True)[1]
    expected = min(40**2 / np.sum(c**2) for c in (sizes, others)) - 1
    assert freedom == pytest.approx(expected, rel=1e-12)


def test_groups_of_other_speakers_in_the_same_noises() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        talk, sound = 0.7 * rng.standard_normal(16), 2 * rng.standard_normal(10)
        parts, named = [], []
        for first in (0, 8):
            speaker = first + np.arange(80) % 8
            noise = np.arange(80) // 8
            parts.append(talk[speaker] + sound[noise] + rng.standard_normal(80))
            named.append({"noise": [*map(str, noise)], "speaker": [*map(str, speaker)]})
        found = group_difference(*parts, (named[0], named[1]))
        hits += found.low <= 0 <= found.high
    assert 276 <= hits <= 299  # 285 are expected, the standard deviation is 3.8
    same = tuple({"noise": own["noise"]} for own in named)
    narrow = group_difference(*parts, (same[0], same[1]))
    wide = group_difference(*parts)
    assert narrow.high - narrow.low < wide.high - wide.low  # the noises cancel
    with pytest.raises(EnhanceError, match="two finite values"):
        group_difference([1.0], [1.0, 2.0])


def test_clusters_come_from_the_labels_of_a_set() -> None:
    rows = [
        {"noise_name": "dog", "speaker": "a", "source": "x"},
        {"noise_name": "dog", "speaker": "unknown", "source": "x"},
        {"noise_name": "rain", "speaker": "", "source": "x"},
        {"noise_name": "rain", "speaker": "?", "source": "y"},
    ]
    found = clusters_of(rows)
    assert found["noise"] == ["dog", "dog", "rain", "rain"]
    assert [*map(found["speaker"].index, found["speaker"])] == [0, 1, 1, 3]
    assert clustering(found) == "t over clips clustered by noise (2) and speaker (3)"
    assert clusters_of([{"speech_group": "x"}, {}]) == {}
    assert "as if independent" in clustering({})
    mixed = clusters_of([{"noise_files": "a.flac"}, {"noise_files": "b.flac"}])
    assert clustering(mixed) == "t over clips clustered by noise (2); no speaker is told apart"


def test_holm_holds_the_family_to_its_level() -> None:
    assert holm([0.01, 0.04, None, 0.002]) == [True, False, False, True]  # .05/4, .05/3, .05/2
    assert holm([]) == []
    rng = np.random.default_rng(4)
    false_stars = {"holm": 0, "one by one": 0}
    for _ in range(300):
        p_values = [mean_interval(rng.standard_normal(30)).p for _ in range(12)]
        false_stars["holm"] += any(holm(p_values))
        false_stars["one by one"] += min(p_values) < 0.05
    assert false_stars["holm"] < 28  # 15 are expected, the standard deviation is 3.8
    assert false_stars["one by one"] > 100  # 1 - 0.95^12 = 46 %


def test_p_is_the_level_at_which_the_interval_meets_zero() -> None:
    found = combined(0.3, 10, "t", [(0.1, 9.0), (0.05, 2.0)])
    parts = [error * stats.t.isf(found.p / 2, freedom) for error, freedom in found.errors]
    assert np.hypot(*parts) == pytest.approx(0.3, abs=1e-9)
    assert mean_interval([0.0, 0.0]).p == 1
    assert mean_interval([1.0, 1.0]).p < 1e-9
    assert mean_interval([1.0]).p is None
