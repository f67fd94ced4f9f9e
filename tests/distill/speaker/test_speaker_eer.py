"""Equal error rates by hand, against scikit-learn's ROC, and the bootstrap over speakers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from distill.speaker.eer import (
    chosen_pairs,
    equal_error_rate,
    min_detection_cost,
    of_trials,
    resampled,
    verify,
)
from enhance.errors import EnhanceError


def by_sklearn(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Where the straight-line ROC crosses false acceptance = false rejection, by bisection."""
    accept, hit, _ = roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
    place = np.arange(len(accept), dtype=float)
    low, high = 0.0, float(len(accept) - 1)
    for _ in range(200):
        middle = (low + high) / 2
        if np.interp(middle, place, accept) < 1 - np.interp(middle, place, hit):
            low = middle
        else:
            high = middle
    return float(np.interp(low, place, accept))


@pytest.mark.parametrize(
    ("scores", "same", "expected"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 0.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 1.0),
        # Thresholds 4 to 1: (FAR, FRR) = (0, 1/2), (1/2, 1/2), (1/2, 0), (1, 0)
        ([4, 3, 2, 1], [1, 0, 1, 0], 0.5),
        # (0, 2/3), (1/2, 2/3), (1/2, 1/3): FRR falls from 2/3 through 1/2 while FAR stays
        ([5, 4, 3, 2, 1], [1, 0, 1, 1, 0], 0.5),
        # (0, 3/4), (0, 1/2), (1/4, 1/2), (1/4, 1/4)
        ([8, 7, 6, 5, 4, 3, 2, 1], [1, 1, 0, 1, 0, 1, 0, 0], 0.25),
        # All equal: one step from (0, 1) to (1, 0)
        ([1, 1, 1, 1], [1, 0, 1, 0], 0.5),
        # (0, 1/2), then a tie of three to (2/3, 0): x = 1/2 - 3/4 x
        ([3, 2, 2, 2, 1], [1, 1, 0, 0, 0], 2 / 7),
    ],
)
def test_by_hand(scores: list[float], same: list[int], expected: float) -> None:
    rate, _ = equal_error_rate(np.array(scores, float), np.array(same, bool))
    assert rate == pytest.approx(expected)


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        n = int(rng.integers(6, 400))
        same = rng.random(n) < 0.3
        same[:2] = [True, False]
        scores = np.round(rng.normal(size=n) + 1.2 * same, int(rng.integers(1, 4)))  # with ties
        weights = rng.integers(1, 4, n).astype(float) if trial % 2 else None
        rate, threshold = equal_error_rate(scores, same, weights)
        assert rate == pytest.approx(by_sklearn(scores, same, weights), abs=1e-9)
        assert scores.min() <= threshold <= scores.max()


def test_weights_count_as_repetitions() -> None:
    rng = np.random.default_rng(1)
    scores, same = rng.normal(size=60), rng.random(60) < 0.4
    times = rng.integers(0, 4, 60)
    again = equal_error_rate(np.repeat(scores, times), np.repeat(same, times))
    assert equal_error_rate(scores, same, times) == pytest.approx(again)


def clouds(speakers: int, clips: int, spread: float) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(speakers, 8))
    names = [f"s{i}" for i in range(speakers) for _ in range(clips)]
    points = np.repeat(centres, clips, axis=0) + spread * rng.normal(size=(speakers * clips, 8))
    return points, names


def test_all_pairs_by_plain_loops() -> None:
    points, names = clouds(5, 4, 1.0)
    scores, same = [], []
    for i in range(20):
        for j in range(i):
            x, y = points[i], points[j]
            scores.append(x @ y / np.sqrt((x @ x) * (y @ y)))
            same.append(names[i] == names[j])
    found = verify(points, names, rounds=50)
    assert found.eer == pytest.approx(by_sklearn(np.array(scores), np.array(same)))
    assert (found.targets, found.nontargets) == (sum(same), len(same) - sum(same)) == (30, 160)
    assert (found.speakers, found.clips) == (5, 20)
    assert found.low <= found.eer <= found.high


def test_the_bootstrap_draws_speakers() -> None:
    """Each round equals the EER of a set in which a drawn speaker's clips stand several times."""
    points, names = clouds(4, 3, 1.2)
    found = verify(points, names, rounds=40, seed=5)
    rng, rates = np.random.default_rng(5), []
    while len(rates) < 40:
        drawn = rng.integers(4, size=4)
        scores, same = [], []
        for first in range(4):
            for second in range(first + 1):
                s, t = drawn[first], drawn[second]
                if first == second:
                    pairs = [(3 * s + i, 3 * s + j) for i in range(3) for j in range(i)]
                elif s != t:  # copies of one speaker are no pair of two
                    pairs = [(3 * s + i, 3 * t + j) for i in range(3) for j in range(3)]
                else:
                    continue
                for i, j in pairs:
                    x, y = points[i], points[j]
                    scores.append(x @ y / np.sqrt((x @ x) * (y @ y)))
                    same.append(first == second)
        if not all(same):
            rates.append(by_sklearn(np.array(scores), np.array(same)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(rates, [0.025, 0.975])))


def test_draws_are_those_of_weighted_trials_to_the_last_bit() -> None:
    """Of ties, and of trials of one clip; a speaker drawn a times counts a times, two a b times."""
    rng = np.random.default_rng(4)
    first, second = np.sort(rng.integers(9, size=(2, 800)), axis=0)
    scores = np.round(rng.normal(size=800) + (first == second), 1)
    pairs, single = ((first, second), first == second), ((first, first), rng.random(800) < 0.4)
    for ends, wanted in (pairs, single):
        drawn, expected = np.random.default_rng(6), []
        while len(expected) < 30:
            times = np.bincount(drawn.integers(9, size=9), minlength=9)
            a, b = (times[end] for end in ends)
            weights = np.where(ends[0] == ends[1], a, a * b)
            expected.append(equal_error_rate(scores, wanted, weights)[0])
        found = resampled(scores, *ends, rounds=30, seed=6, wanted=wanted)
        assert found.tolist() == expected
    with pytest.raises(EnhanceError, match="pairs of one speaker and pairs of two"):
        resampled(scores, first, first, rounds=1, seed=0)  # none of two: no draw would do


def test_the_interval_is_honest_about_few_speakers() -> None:
    """More clips of the same speakers hardly narrow it, more speakers do."""
    width = {}
    for speakers, clips in ((6, 4), (6, 16), (60, 4)):
        found = verify(*clouds(speakers, clips, 1.0), rounds=200)
        width[speakers, clips] = found.high - found.low
    assert width[60, 4] < 0.5 * width[6, 4] and width[6, 16] > 0.4 * width[6, 4]


def test_noise_is_chance_and_clouds_are_not() -> None:
    rng = np.random.default_rng(3)
    noise = verify(rng.normal(size=(80, 16)), [f"s{i // 8}" for i in range(80)], rounds=200)
    assert noise.low < 0.5 < noise.high
    assert verify(*clouds(10, 8, 0.05), rounds=20).eer == 0.0


def test_refusals() -> None:
    points = np.eye(4)
    with pytest.raises(EnhanceError, match="pairs of one speaker and pairs of two"):
        verify(points, ["a", "a", "a", "a"])
    with pytest.raises(EnhanceError, match="pairs of one speaker and pairs of two"):
        verify(points, ["a", "b", "c", "d"])
    with pytest.raises(EnhanceError, match="not finite"):
        equal_error_rate(np.array([1.0, np.nan]), np.array([True, False]))
    points[2] = 0
    with pytest.raises(EnhanceError, match="zero or not finite"):
        verify(points, ["a", "a", "b", "b"])


def test_the_detection_cost_by_hand() -> None:
    # Thresholds 5 to 1: (FAR, FRR) = (0, 2/3), (1/2, 2/3), (1/2, 1/3), (1/2, 0), (1, 0)
    scores, same = np.array([5.0, 4, 3, 2, 1]), np.array([1, 0, 1, 1, 0], bool)
    # Prior 1/2: (FAR + FRR) / 2 is least at (1/2, 0); guessing costs 1/2.
    assert min_detection_cost(scores, same, 0.5) == pytest.approx(0.25 / 0.5)
    # Prior .01: a false acceptance costs 99 times as much; best is (0, 2/3).
    assert min_detection_cost(scores, same, 0.01) == pytest.approx(2 / 3)
    # Prior .9: accepting (1/2, 0) costs .05, all of it .1.
    assert min_detection_cost(scores, same, 0.9) == pytest.approx(0.5)
    # All alike: either all or none is accepted.
    assert min_detection_cost(np.ones(5), same) == 1.0


def test_given_trials_are_drawn_as_all_pairs_are() -> None:
    points, names = clouds(5, 4, 1.0)
    owner = np.repeat(np.arange(5), 4)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    first, second = np.triu_indices(20, 1)
    scores = (unit @ unit.T)[first, second]
    found = of_trials(scores, owner[first], owner[second], 20, rounds=40, seed=1)
    assert found == verify(points, names, rounds=40, seed=1)
    # Names that are not counted from 0 draw the same.
    again = resampled(scores, 7 + 3 * owner[first], 7 + 3 * owner[second], rounds=40, seed=1)
    assert np.quantile(again, [0.025, 0.975]) == pytest.approx((found.low, found.high))


def test_of_very_many_pairs_some_are_drawn_evenly_of_each_kind() -> None:
    speakers = np.random.default_rng(4).permutation(np.repeat([0, 1, 2], [30, 60, 110]))
    every = chosen_pairs(speakers, 0, 20_000)
    assert len(every) == 200 * 199 // 2
    drawn = [chosen_pairs(speakers, seed, 4000) for seed in range(40)]
    np.testing.assert_array_equal(drawn[3], chosen_pairs(speakers, 3, 4000))
    wanted = {tuple(pair) for pair in every.tolist()}
    for pairs in drawn:  # different clips, each pair once
        assert len(pairs) <= 4000 and len(pairs) == len({tuple(p) for p in pairs.tolist()})
        assert {tuple(p) for p in pairs.tolist()} <= wanted
    # Pairs within the speakers are 435, 1770 and 5995, of two 1800, 3300 and 6600: drawn alike.
    table = np.zeros((3, 3))
    for a, b in speakers[np.concatenate(drawn)]:
        table[min(a, b), max(a, b)] += 1 / 40
    within, across = np.diag(table), table[np.triu_indices(3, 1)]
    np.testing.assert_allclose(within / within.sum(), np.array([435, 1770, 5995]) / 8200, atol=0.01)
    np.testing.assert_allclose(across / across.sum(), np.array([18, 33, 66]) / 117, atol=0.01)
    assert 0.3 < within.sum() / table.sum() < 0.7


def test_a_pair_of_a_speaker_with_few_clips_is_drawn_as_often_as_any() -> None:
    sizes = np.repeat([1, 2, 20], [50, 300, 60])
    speakers = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.zeros(21)
    for seed in range(40):
        a, b = speakers[chosen_pairs(speakers, seed, 8000)].T
        counts += np.bincount(sizes[a[a == b]], minlength=21)
    # 300 pairs of speakers with two clips, 60 times 190 of those with twenty; each drawn once, so
    # that the share of the few is a little more
    assert counts[2] / counts[20] == pytest.approx(300 / (60 * 190), rel=0.15)
    assert not counts[1]


def test_error_rates_on_drawn_pairs_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    speakers = np.repeat(np.arange(40), 15)
    embeddings = rng.standard_normal((40, 8))[speakers] + 1.2 * rng.standard_normal((600, 8))
    names = [str(speaker) for speaker in speakers]
    every = verify(embeddings, names, rounds=1)
    monkeypatch.setattr("distill.speaker.eer.MOST_PAIRS", 20_000)
    some = verify(embeddings, names, rounds=1)
    assert some.targets + some.nontargets <= 20_000 < every.targets + every.nontargets
    assert some.eer == pytest.approx(every.eer, abs=0.01)
