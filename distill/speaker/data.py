"""What speaker training hears: crops of clips, most of them with noise or in a room.

Noise, rooms and levels are those of `enhance.data.mixing.mixer`: a mixture is drawn as for
enhancement, and its speech replaced by the crop wanted here. A clip shorter than the crop is
repeated; other clips of its speaker are never joined to it, since DINO must not know them.
Everything is a pure function of (seed, step, item).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.backbones.frozen import fingerprint
from distill.speaker.config import SpeakerConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import place, split
from enhance.data.corpus.inventory import of_parts
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.pieces import assemble
from enhance.data.mixing.recipe import Piece
from enhance.data.mixing.rooms import bank
from enhance.errors import EnhanceError

log = logging.getLogger("enhance")

SAMPLE_RATE = 16000
SHORTEST = 0.5
"""Seconds; shorter clips are left out."""
_ATTEMPTS = 20  # crops drawn at random, before one is looked for where there is sound
_AUDIBLE = 1e-4  # a crop that peaks lower is digital silence


def name_of(clip: Clip) -> str:
    """Speaker of a clip, the source before it: two sources may use one name."""
    return f"{clip.source}/{clip.speaker}"


def speech_of(corpus: Path, source: str, labelled: bool, quiet: bool) -> tuple[list[Clip], ...]:
    """Speech long enough, of one source or all, and noise.

    An `EnhanceError` if no speech is left; the sources there are named.
    """
    clips = place(corpus, "", quiet)
    noises = [c for c in clips if c.kind == "noise"]
    clips = [c for c in clips if c.kind in ("speech", "")]
    found = [c for c in clips if not source or c.source == source]
    if not found:
        names = ", ".join(sorted({c.source for c in clips})) or "none"
        what = (
            f"--source {source}: no speech of it in {corpus}" if source else f"{corpus}: no speech"
        )
        raise EnhanceError(f"{what}; sources of speech there: {names}")
    found = [c for c in found if c.duration >= SHORTEST]
    if labelled:
        found = [c for c in found if c.speaker]
        if len({name_of(c) for c in found}) < 2:
            raise EnhanceError(
                f"{corpus}: needs clips of two speakers or more; name them in the manifest's "
                "column `speaker`"
            )
    if not found:
        raise EnhanceError(f"{corpus}: no speech of {SHORTEST:g} s or more")
    return found, noises


def in_turn(clips: int, size: int, step: int, seed: Sequence[int]) -> np.ndarray:
    """Numbers of the clips of a step: all once in an order of the epoch, then again in another."""
    place = np.arange(step * size, (step + 1) * size)
    epochs = set((place // clips).tolist())
    orders = {e: np.random.default_rng([*seed, e]).permutation(clips) for e in epochs}
    return np.array([orders[p // clips][p % clips] for p in place.tolist()])


@dataclass
class SpeakerData:
    """Speech and noise in memory, and the speakers kept apart."""

    train: ClipStore
    """Speech that trains."""
    held: ClipStore | None
    """Speech of other speakers, for validation; None where there is too little."""
    noise: ClipStore | None
    """Noise to mix in; None where the corpus has none."""
    owner: np.ndarray
    """Number of the speaker of each training clip, int64; zeros without labels."""
    speakers: int
    """Number of training speakers; 0 without labels."""

    @classmethod
    def open(cls, corpus: Path, config: SpeakerConfig, quiet: bool = False) -> SpeakerData:
        """Decode a corpus and hold some speakers back.

        An `EnhanceError` if there is too little speech, or too few speakers.
        """
        labelled = config.objective == "aam"
        clips, noises = speech_of(corpus, config.source, labelled, quiet)
        train, held = split(clips, config.held_back, "speaker", config.seed)
        held = [c for c in held if c.speaker]
        names = sorted({name_of(c) for c in train}) if labelled else []
        if labelled and len(names) < 2:
            raise EnhanceError(
                f"{corpus}: {len(names)} speakers left to train on after holding "
                f"{config.held_back:g} back; lower held_back or name more data"
            )
        place = {name: i for i, name in enumerate(names)}
        if not noises:
            log.warning(
                "%s: no noise there; crops are not mixed with any, nor put in rooms", corpus
            )
        held_names = {name_of(c) for c in held}
        enough = 1 < len(held_names) < len(held)
        if not enough:
            log.warning("%s: fewer than two labelled speakers held back; no validation", corpus)
        return cls(
            train=ClipStore(train, name="speech", quiet=quiet),
            held=ClipStore(held, name="held-back speech", quiet=quiet) if enough else None,
            noise=ClipStore(noises, name="noise", quiet=quiet) if noises else None,
            owner=np.array([place.get(name_of(c), 0) for c in train], np.int64),
            speakers=len(names),
        )

    def describe(self) -> dict[str, Any]:
        """Hours, files, speakers and licences of each source."""
        stores = (self.train, self.held, self.noise)
        return of_parts(*(store.clips if store else () for store in stores))

    def digest(self) -> str:
        """What identifies the recordings: names, speakers and lengths, in order."""
        stores = [store for store in (self.train, self.held, self.noise) if store]
        rows = [
            [c.path.name, name_of(c), s.length(i)] for s in stores for i, c in enumerate(s.clips)
        ]
        return fingerprint(rows, {})


class Crops:
    """Draws the batches of a run; ``lengths`` are the seconds of each view of a clip."""

    def __init__(self, data: SpeakerData, config: SpeakerConfig, lengths: Sequence[float]) -> None:
        self.data, self.config, self.lengths = data, config, tuple(lengths)
        self._mixers: dict[float, Mixer] = {}
        if data.noise is not None:
            responses = bank(config.mixing, "", config.seed, SAMPLE_RATE, quiet=True)
            for seconds in sorted(set(lengths)):
                mixing = replace(config.mixing, segment_seconds=seconds)
                self._mixers[seconds] = Mixer(
                    data.train, data.noise, mixing, config.seed, responses=responses
                )
        self._members = [np.flatnonzero(data.owner == s) for s in range(data.speakers)]

    def batch(self, step: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Views of the clips of one step, and their speakers.

        With labels a speaker is drawn first, then a clip of it: speakers count alike. Without,
        all clips are heard once before one is heard again.

        Shape: list of (B, N_v) float32, int64 (B,)
        """
        chosen = self._chosen(step)
        views = [
            np.stack([self._view(int(clip), step, b, v) for b, clip in enumerate(chosen)])
            for v in range(len(self.lengths))
        ]
        return views, self.data.owner[chosen]

    @property
    def seconds(self) -> float:
        """Audio of one step: all views of all clips."""
        return self.config.batch * sum(self.lengths)

    def _chosen(self, step: int) -> np.ndarray:
        size, seed = self.config.batch, self.config.seed
        if self._members:
            rng = np.random.default_rng(np.random.SeedSequence([seed, 1, step]))
            # Distinct speakers where there are enough
            count = len(self._members)
            drawn = rng.choice(count, size, replace=size > count)
            return np.array([rng.choice(self._members[s]) for s in drawn])
        return in_turn(len(self.data.train), size, step, [seed, 2])

    def _view(self, clip: int, step: int, item: int, view: int) -> np.ndarray:
        seconds, config = self.lengths[view], self.config
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, 3, step, item, view]))
        n = round(seconds * SAMPLE_RATE)
        for _ in range(_ATTEMPTS):
            pieces = self._pieces(clip, n, rng)
            wave = assemble(self.data.train, pieces, n)
            if np.abs(wave).max() > _AUDIBLE:
                break
        else:
            pieces = self._audible(clip, n, rng)
            wave = assemble(self.data.train, pieces, n)
        if seconds not in self._mixers or rng.random() < config.clean_probability:
            return wave
        mixer = self._mixers[seconds]
        recipe = mixer.draw(step, item * len(self.lengths) + view)
        return mixer.render(replace(recipe, speech=pieces)).noisy

    def _pieces(self, clip: int, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        """A stretch of the clip, or the clip over and over from a random place on."""
        have = self.data.train.length(clip)
        if have >= n:
            return (Piece(clip, int(rng.integers(have - n + 1)), 0, n),)
        pieces, position, start = [], 0, int(rng.integers(have))
        while position < n:
            length = min(have - start, n - position)
            pieces.append(Piece(clip, start, position, length))
            position, start = position + length, 0
        return tuple(pieces)

    def _audible(self, clip: int, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        """A stretch around a sound, for clips that are silent nearly everywhere."""
        store = self.data.train
        sounds = np.flatnonzero(np.abs(store.whole(clip)) > _AUDIBLE)
        if not len(sounds):
            raise EnhanceError(f"{store.clips[clip].path}: is silent; leave it out of the manifest")
        start = int(sounds[rng.integers(len(sounds))]) - int(rng.integers(n))
        return (Piece(clip, min(max(start, 0), store.length(clip) - n), 0, n),)
