"""Errors of detection: EER, with an interval that respects who spoke, and minDCF.

A trial is a pair of clips, scored by the cosine of their embeddings (one speaker or not), or a clip
(bona fide or not). At a threshold, the false acceptance rate is the share of trials to be rejected
that score at least as much, the false rejection rate the share of those to be accepted that score
less. The EER is where the two are equal, on straight lines between the points of the ROC. Trials of
one speaker are not independent, so the interval draws SPEAKERS with replacement: a pair of speakers
drawn a and b times counts a b times, a trial within a speaker drawn a times counts a times.

The detection cost is P C_miss FRR + (1 - P) C_fa FAR with a prior P of what is to be accepted
(NIST's speaker recognition evaluations), divided by what the better of accepting all and rejecting
all costs; minDCF is its least over all thresholds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enhance.errors import EnhanceError

PRIOR = 0.01
"""Prior probability that a trial is of one speaker, in the detection cost."""
COSTS = {
    "spoof": {"prior": 0.95, "miss": 1.0, "false_alarm": 10.0},
    "speaker": {"prior": PRIOR, "miss": 1.0, "false_alarm": 1.0},
}
"""Of each task: ASVspoof 5's (track 1), where one trial of twenty is a spoof, which costs ten
times as much as a miss; NIST's."""
MOST_PAIRS = 500_000
"""So many pairs of clips are scored, where there are more; up to half of them of one speaker."""


@dataclass(frozen=True)
class Verification:
    """Result on pairs of a set of clips."""

    eer: float
    """Equal error rate, 0 to 1; 0.5 is guessing."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of it."""
    threshold: float
    """Score at which the two error rates are equal."""
    min_dcf: float
    """Least detection cost at a prior of `PRIOR`; 1 is guessing."""
    targets: int
    """Pairs of one speaker."""
    nontargets: int
    """Pairs of two speakers."""
    speakers: int
    """Number of speakers."""
    clips: int
    """Number of clips."""


def equal_error_rate(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """EER of trials, and the score at which it is reached.

    ``scores`` (n,) are higher for what is to be accepted, ``same``, bool (n,), tells what is, as
    where both clips are one speaker's; ``weights`` (n,), how often each trial counts, None for
    once. An `EnhanceError` if a score is not finite, or trials of one of the two kinds are missing.
    """
    if not np.isfinite(scores).all():
        raise EnhanceError("a verification score is not finite; check the model and the clips")
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    return _equal_error_rate(scores[order], same[order], weights[order])


def min_detection_cost(
    scores: np.ndarray,
    same: np.ndarray,
    prior: float = PRIOR,
    miss: float = 1.0,
    false_alarm: float = 1.0,
) -> float:
    """Least normalised detection cost (minDCF) of trials as in `equal_error_rate`, at a probability
    ``prior`` of one speaker and the costs of one ``miss`` and one ``false_alarm``.
    """
    order = np.argsort(-scores, kind="stable")
    false_accept, false_reject, _ = _roc(scores[order], same[order], np.ones(len(scores)))
    missed, alarm = prior * miss, (1 - prior) * false_alarm
    cost = missed * false_reject + alarm * false_accept
    return float(cost.min() / min(missed, alarm))


_AT_ONCE = 20_000  # pairs, whose vectors take far more room than their scores
_ONE_KIND = "no equal error rate: it needs pairs of one speaker and pairs of two speakers"


def _ends(scores: np.ndarray) -> np.ndarray:
    """The last of each run of ties, of scores in falling order."""
    return np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)


def _roc(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False acceptance, false rejection and threshold, of scores in falling order."""
    accepted = np.cumsum(weights * same)
    wrong = np.cumsum(weights * ~same)
    if not (len(scores) and accepted[-1] > 0 and wrong[-1] > 0):
        raise EnhanceError(_ONE_KIND)
    last = _ends(scores)
    false_accept = np.append(0.0, wrong[last] / wrong[-1])
    false_reject = np.append(1.0, 1 - accepted[last] / accepted[-1])
    return false_accept, false_reject, np.append(scores[0], scores[last])


def _equal_error_rate(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """EER and its threshold, of scores in falling order."""
    false_accept, false_reject, thresholds = _roc(scores, same, weights)
    gap = false_accept - false_reject  # from -1 to 1, never falling
    k = int(np.argmax(gap >= 0))
    part = -gap[k - 1] / (gap[k] - gap[k - 1])
    rate = false_accept[k - 1] + part * (false_accept[k] - false_accept[k - 1])
    threshold = thresholds[k - 1] + part * (thresholds[k] - thresholds[k - 1])
    return float(rate), float(threshold)


def verify(
    embeddings: np.ndarray, speakers: Sequence[str], *, rounds: int = 1000, seed: int = 0
) -> Verification:
    """EER on `pairs` of clips (n, E), scored by cosine; ``speakers`` names that of each clip.

    ``rounds`` samples of speakers are drawn from ``seed`` for the interval; one that draws a single
    speaker only has no pairs of two and is drawn again. An `EnhanceError` if there are fewer than
    two speakers, or none with two clips.
    """
    trials, _ = pairs(embeddings, np.unique(np.asarray(speakers), return_inverse=True)[1])
    ends = trials.speakers[:, 0], trials.speakers[:, 1]
    return of_trials(trials.scores, *ends, len(embeddings), rounds=rounds, seed=seed)


def unit_length(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (n, E) in double precision, each divided by its length.

    An `EnhanceError` if one is zero or not finite.
    """
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        raise EnhanceError("an embedding is zero or not finite; check the model and the clips")
    return embeddings.astype(np.float64) / length


def of_trials(
    scores: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    clips: int,
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> Verification:
    """Result on given trials, drawn from so many ``clips``; the rest, and refusals, as in `verify`.

    Shape: scores, number of the speaker of each trial's first and second clip (n,)
    """
    same = first == second
    rate, threshold = equal_error_rate(scores, same)
    found = resampled(scores, first, second, rounds=rounds, seed=seed)
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (rate, rate)
    return Verification(
        eer=rate,
        low=float(low),
        high=float(high),
        threshold=threshold,
        min_dcf=min_detection_cost(scores, same),
        targets=int(same.sum()),
        nontargets=int((~same).sum()),
        speakers=len(np.union1d(first, second)),
        clips=clips,
    )


def resampled(
    scores: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    rounds: int,
    seed: int,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """EER of each of ``rounds`` draws of speakers with replacement, (rounds,).

    Equal speakers of the trials and seed give equal draws, whatever the scores: two systems on
    the same trials can be compared draw by draw. Where a trial is something else than whether two
    speakers are one, ``wanted`` (n,) tells which are to be accepted. An `EnhanceError` if trials of
    one of the two kinds are missing.
    """
    owners, pairs = np.unique(np.stack([first, second]), return_inverse=True)
    count = len(owners)
    order = np.argsort(-scores, kind="stable")
    a, b = pairs.reshape(2, -1)[:, order]
    same = a == b if wanted is None else wanted[order]
    if same.all() or not same.any():
        raise EnhanceError(_ONE_KIND)
    b = np.where(a == b, count, b)  # a trial within a speaker: times a one that is never drawn
    ends = _ends(scores[order])
    # Of each kind its speakers, and how many of it each threshold accepts
    kinds = [(a[kind], b[kind], np.append(0, np.cumsum(kind)[ends])) for kind in (same, ~same)]
    rng = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < rounds:
        times = np.bincount(rng.integers(count, size=count), minlength=count + 1)
        times[count] = 1
        sums = [np.append(0, np.cumsum(times[a] * times[b])) for a, b, _ in kinds]
        if sums[0][-1] and sums[1][-1]:
            found.append(_crossing(sums, [accepted for *_, accepted in kinds]))
    return np.array(found)


def _crossing(sums: Sequence[np.ndarray], accepted: Sequence[np.ndarray]) -> float:
    """EER as by `_equal_error_rate`, of running sums of weights of trials to be accepted and to be
    rejected, and of how many of each every threshold accepts. The gap between the rates never
    falls, so that few thresholds need to be looked at.
    """

    def rates(k: int) -> tuple[float, float]:
        hit, wrong = (of[taken[k]] / of[-1] for of, taken in zip(sums, accepted, strict=True))
        return wrong, 1 - hit

    def gap(k: int) -> float:
        return rates(k)[0] - rates(k)[1]

    k = bisect.bisect_left(range(len(accepted[0])), True, key=lambda k: bool(gap(k) >= 0))
    low, high = gap(k - 1), gap(k)
    begin, end = rates(k - 1)[0], rates(k)[0]
    return float(begin + -low / (high - low) * (end - begin))


@dataclass(frozen=True)
class Trials:
    """Scores of trials of any task."""

    scores: np.ndarray
    """(n,), higher for what is to be accepted."""
    wanted: np.ndarray
    """Bool (n,): whether it is to be accepted."""
    speakers: np.ndarray
    """Number of the speaker of each clip of a trial, (n, 1) or (n, 2)."""

    @property
    def both(self) -> bool:
        """Whether there are trials of both kinds."""
        return bool(self.wanted.any() and not self.wanted.all())

    def part(self, chosen: np.ndarray) -> Trials:
        """Only some trials, bool (n,)."""
        return Trials(self.scores[chosen], self.wanted[chosen], self.speakers[chosen])

    def eer(self) -> float:
        """Equal error rate, 0 to 1."""
        return equal_error_rate(self.scores, self.wanted)[0]

    def least_cost(self, task: str) -> float:
        """Least detection cost over all thresholds, 1 for the better of all and none (minDCF)."""
        return min_detection_cost(self.scores, self.wanted, **COSTS[task])

    def draws(self, rounds: int = 1000, seed: int = 0) -> np.ndarray:
        """EER under draws of speakers, (rounds,)."""
        ends = self.speakers[:, 0], self.speakers[:, -1]
        return resampled(self.scores, *ends, rounds=rounds, seed=seed, wanted=self.wanted)


def chosen_pairs(speakers: np.ndarray, seed: int, most: int) -> np.ndarray:
    """Numbers of two clips each, (pairs, 2), the first the lower: all pairs, or up to ``most``.

    Drawn by ``seed`` where there are more, up to half of them among those of one speaker, the rest
    among those of two: the rates of errors are of each kind alone, so that no estimate is moved.
    ``speakers`` (n,) is the number of each clip's speaker, from 0 on.
    """
    count = len(speakers)
    if math.comb(count, 2) <= most:
        return np.stack(np.triu_indices(count, 1), 1)
    rng = np.random.default_rng(seed)
    sizes = np.bincount(speakers)
    # Times the chance of the second, one in so many clips of a speaker, every pair's is the same
    chance = np.where(sizes > 1, sizes, 0)[speakers]
    drawn = rng.integers(count, size=(most // 2, 2))
    drawn = drawn[speakers[drawn[:, 0]] != speakers[drawn[:, 1]]]
    if chance.any():
        order, begins = np.argsort(speakers, kind="stable"), np.cumsum(sizes) - sizes
        first = rng.choice(count, most // 2, p=chance / chance.sum())
        owner = speakers[first]
        second = order[begins[owner] + rng.integers(sizes[owner])]
        drawn = np.concatenate([drawn, np.stack([first, second], 1)[first != second]])
    drawn.sort(axis=1)
    return np.stack(np.divmod(np.unique(drawn @ [count, 1]), count), 1)


def pairs(embeddings: np.ndarray, speakers: np.ndarray, seed: int = 0) -> tuple[Trials, np.ndarray]:
    """Pairs of clips (`chosen_pairs`), scored by the cosine of their embeddings, and their clips.

    Shape: embeddings (n, E), number of each clip's speaker (n,) -> trials, (trials, 2)
    """
    unit = unit_length(embeddings)
    both = chosen_pairs(speakers, seed, MOST_PAIRS)
    owners = speakers[both]
    parts = np.array_split(both, 1 + len(both) // _AT_ONCE)
    scores = np.concatenate([np.einsum("ne,ne->n", *unit[part.T]) for part in parts])
    return Trials(scores, owners[:, 0] == owners[:, 1], owners), both
