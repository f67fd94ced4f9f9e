"""Who can be heard in the babble behind a target: never the target's own speaker."""

from __future__ import annotations

import math

import numpy as np

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import source_weights


class Voices:
    """The clips of a store by voice, and which voices might be one person.

    A speaker is a voice, wherever the clips come from. Clips of a source whose speakers are
    unknown form one uncertain voice: it might be any known speaker of that source, and may lend
    several clips to one babble. Voices that share a recording might be one person, too. A voice is
    drawn as often as its clips are as targets, see `source_weights`.
    """

    def __init__(self, store: ClipStore, balance: float) -> None:
        sources, ends, chances = source_weights(store, balance)
        weights = np.empty(len(store))
        for ids, end, chance in zip(sources, ends, np.diff(chances, prepend=0.0), strict=True):
            weights[ids] = np.diff(end, prepend=0) * (chance / end[-1])
        members: dict[tuple[str, str], list[int]] = {}
        for i, clip in enumerate(store.clips):
            # Known by name, or by source alone.
            key = ("speaker", clip.speaker) if clip.speaker else ("source", clip.source)
            members.setdefault(key, []).append(i)
        self._members = [np.array(ids) for ids in members.values()]
        self._ends = [np.cumsum([store.length(i) for i in ids]) for ids in self._members]
        self._chances = np.array([weights[ids].sum() for ids in self._members])
        self._certain = np.array([kind == "speaker" for kind, _ in members])
        self._of = np.empty(len(store), np.intp)
        for voice, ids in enumerate(self._members):
            self._of[ids] = voice
        self._shut = self._same_person(store, members)
        self._most = [self._count(shut) for shut in self._shut]

    def most(self, target: int) -> float:
        """Voices there are for the babble behind clip ``target``; infinite with an uncertain
        one."""
        return self._most[self._of[target]]

    def draw(self, target: int, count: int, rng: np.random.Generator) -> list[int]:
        """One clip of each of ``count`` voices, at most `most`, none of which might be the
        speaker of clip ``target``. No known speaker comes twice."""
        chances = self._chances.copy()
        chances[self._shut[self._of[target]]] = 0
        found = []
        for _ in range(count):
            ends = np.cumsum(chances)
            voice = int(np.searchsorted(ends, rng.random() * ends[-1], "right"))
            at = np.searchsorted(self._ends[voice], rng.integers(self._ends[voice][-1]), "right")
            found.append(int(self._members[voice][at]))
            if self._certain[voice]:
                chances[voice] = 0
        return found

    def _same_person(
        self, store: ClipStore, members: dict[tuple[str, str], list[int]]
    ) -> list[np.ndarray]:
        shut: list[set[int]] = [{voice} for voice in range(len(members))]
        uncertain = {
            source: voice for voice, (kind, source) in enumerate(members) if kind == "source"
        }
        heard: dict[str, set[int]] = {}
        for i, clip in enumerate(store.clips):
            voice = int(self._of[i])
            other = uncertain.get(clip.source, voice)
            shut[voice].add(other)
            shut[other].add(voice)
            for recording in clip.recordings:
                heard.setdefault(recording, set()).add(voice)
        for together in heard.values():
            for voice in together:
                shut[voice] |= together
        return [np.array(sorted(voices)) for voices in shut]

    def _count(self, shut: np.ndarray) -> float:
        left = np.ones(len(self._members), bool)
        left[shut] = False
        return math.inf if (left & ~self._certain).any() else float(left.sum())
