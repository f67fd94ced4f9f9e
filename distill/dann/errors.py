"""Error rates of detection, with draws of speakers: EER and the least detection cost.

A trial is a clip (bona fide or not) or a pair of clips (one speaker or not). Clips of a speaker
are alike, so speakers are drawn with replacement: a trial counts as often as its speaker was
drawn, a pair of two speakers as often as the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.speaker.eer import equal_error_rate
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class Cost:
    """Of decisions, as evaluations set it."""

    prior: float
    """Probability of what is to be rejected (spoof), or accepted (one speaker)."""
    miss: float
    """Cost of rejecting what is to be accepted, times its probability."""
    false_alarm: float
    """Cost of accepting what is to be rejected, times its probability."""


SPOOF_COST = Cost(prior=0.05, miss=1 * 0.95, false_alarm=10 * 0.05)
"""ASVspoof 5, track 1: a spoof costs ten times a miss, and is one trial of twenty."""
SPEAKER_COST = Cost(prior=0.01, miss=1 * 0.01, false_alarm=1 * 0.99)
"""NIST's: one speaker in a hundred trials, equal costs."""


@dataclass(frozen=True)
class Trials:
    """Scores of trials."""

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

    def least_cost(self, cost: Cost) -> float:
        """Least detection cost over all thresholds, 1 for the better of all and none (minDCF).

        Raises
        ------
        EnhanceError
            If trials of one kind are missing.
        """
        if not self.both:
            raise EnhanceError("no detection cost: it needs trials of both kinds")
        order = np.argsort(-self.scores, kind="stable")
        scores, wanted = self.scores[order], self.wanted[order]
        last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of ties
        missed = 1 - np.append(0.0, np.cumsum(wanted)[last] / wanted.sum())
        alarms = np.append(0.0, np.cumsum(~wanted)[last] / (~wanted).sum())
        found = cost.miss * missed + cost.false_alarm * alarms
        return float(found.min() / min(cost.miss, cost.false_alarm))

    def draws(self, rounds: int = 1000, seed: int = 0) -> np.ndarray:
        """EER under draws of speakers, (rounds,).

        Equal speakers and seeds give equal draws: two systems on the same trials are compared
        draw by draw. A draw without trials of both kinds is drawn again.
        """
        names, owners = np.unique(self.speakers, return_inverse=True)
        owners = owners.reshape(self.speakers.shape)
        alike = (owners == owners[:, :1]).all(1)
        rng = np.random.default_rng(seed)
        found: list[float] = []
        while len(found) < rounds:
            times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
            weights = np.where(alike, times[owners[:, 0]], times[owners].prod(1))
            if weights[self.wanted].any() and weights[~self.wanted].any():
                found.append(equal_error_rate(self.scores, self.wanted, weights)[0])
        return np.array(found)


def pairs(embeddings: np.ndarray, speakers: np.ndarray) -> tuple[Trials, np.ndarray]:
    """All pairs of clips, scored by the cosine of their embeddings.

    Parameters
    ----------
    embeddings
        (n, E).
    speakers
        Number of each clip's speaker, (n,).

    Returns
    -------
    trials
        n (n - 1) / 2 of them.
    clips
        Numbers of the two clips of each, (that, 2).
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    both = np.stack(np.triu_indices(len(unit), 1), 1)  # (pairs, 2)
    owners = speakers[both]
    scores = (unit @ unit.T)[both[:, 0], both[:, 1]]
    return Trials(scores, owners[:, 0] == owners[:, 1], owners), both
