"""Trials of detection tasks, whose errors `distill.speaker.eer` counts.

A trial is a clip (bona fide or not) or a pair of clips (one speaker or not); intervals draw
speakers with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.speaker.eer import equal_error_rate, min_detection_cost, resampled, unit_length

COSTS = {
    "spoof": {"prior": 0.95, "miss": 1.0, "false_alarm": 10.0},
    "speaker": {"prior": 0.01, "miss": 1.0, "false_alarm": 1.0},
}
"""Of each task: ASVspoof 5's (track 1), where one trial of twenty is a spoof, which costs ten
times as much as a miss; NIST's."""


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

    def least_cost(self, task: str) -> float:
        """Least detection cost over all thresholds, 1 for the better of all and none (minDCF)."""
        return min_detection_cost(self.scores, self.wanted, **COSTS[task])

    def draws(self, rounds: int = 1000, seed: int = 0) -> np.ndarray:
        """EER under draws of speakers, (rounds,)."""
        ends = self.speakers[:, 0], self.speakers[:, -1]
        return resampled(self.scores, *ends, rounds=rounds, seed=seed, wanted=self.wanted)


def pairs(embeddings: np.ndarray, speakers: np.ndarray) -> tuple[Trials, np.ndarray]:
    """All pairs of clips, scored by the cosine of their embeddings, and the numbers of their clips.

    Shape: embeddings (n, E), number of each clip's speaker (n,) -> n (n - 1) / 2 trials, (that, 2)
    """
    unit = unit_length(embeddings)
    both = np.stack(np.triu_indices(len(unit), 1), 1)  # (pairs, 2)
    owners = speakers[both]
    scores = (unit @ unit.T)[both[:, 0], both[:, 1]]
    return Trials(scores, owners[:, 0] == owners[:, 1], owners), both
