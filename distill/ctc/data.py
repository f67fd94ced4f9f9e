"""The recordings of one fine-tuning run: decoded, with their texts, heard or only measured."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.backbones.frozen import fingerprint
from distill.ctc.config import CtcConfig
from distill.ctc.model import SAMPLE_RATE, least_frames
from distill.ctc.transcripts import Transcript, read_transcripts
from distill.ctc.vocabulary import Vocabulary, normalise
from distill.ssl.data.crops import endless
from enhance.audio import read as audio
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import split
from enhance.data.corpus.inventory import by_source
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

log = logging.getLogger("enhance")

_POOL = 256  # clips among which those of similar length are put together


@dataclass(frozen=True)
class CtcData:
    """Recordings, their normalised texts, and which of them train."""

    store: ClipStore
    """All recordings."""
    texts: list[str]
    """Text of each."""
    train: list[int]
    """Those that train."""
    held: list[int]
    """Those that only measure."""
    vocabulary: Vocabulary
    """Tokens of those that train."""
    strange: Counter[str]
    """Tokens of the others that are not among them."""

    @classmethod
    def open(
        cls,
        transcripts: Path,
        evaluation: Path | None,
        config: CtcConfig,
        frames: Callable[[int], int],
        quiet: bool = False,
    ) -> CtcData:
        """Read and decode; without a file for evaluation, a share is held back, by speaker.

        Both files are as `distill.ctc.transcripts.read_transcripts` takes them; ``frames`` gives
        the frames of a clip of so many samples. An `EnhanceError` if a file cannot be read, a
        recording stands on both sides, has a text without a token, is too long, or too short for
        its text.
        """
        rows = _prepare(read_transcripts(transcripts), transcripts, config.units)
        clips = [_clip(row, transcripts) for row in rows]
        if evaluation is None:
            kept, held_clips = split(clips, config.held_back, "speaker", config.seed)
        else:
            others = _prepare(read_transcripts(evaluation), evaluation, config.units)
            both = {row.path for row in rows} & {row.path for row in others}
            if both:
                raise EnhanceError(
                    f"{evaluation}: {len(both)} recordings are trained on as well (first: "
                    f"{min(both)}); leave them out of one of the two files"
                )
            kept, held_clips = clips, [_clip(row, evaluation) for row in others]
            rows = rows + others
        clips = kept + held_clips
        text_of = {row.path: row.text for row in rows}
        texts = [text_of[clip.path] for clip in clips]
        vocabulary = Vocabulary.of(texts[: len(kept)], config.units)
        strange = vocabulary.strange(texts[len(kept) :])
        if strange:
            told = ", ".join(f"{token} ({count})" for token, count in strange.most_common(10))
            log.warning(
                "%d tokens of the evaluation texts are never trained on and cannot be "
                "recognised: %s",
                strange.total(),
                told,
            )
        limit = config.longest_seconds
        if long := [clip for clip in clips if clip.duration > limit]:
            raise EnhanceError(
                f"{len(long)} recordings are longer than {limit:g} s, first {long[0].path}; cut "
                "them at pauses, each piece with its text"
            )
        store = ClipStore(clips, SAMPLE_RATE, name="recordings", quiet=quiet)
        train, held = list(range(len(kept))), list(range(len(kept), len(clips)))
        data = cls(store, texts, train, held, vocabulary, strange)
        data._check_short(frames)
        return data

    def _check_short(self, frames: Callable[[int], int]) -> None:
        lacking = []
        for i, text in enumerate(self.texts):
            have, need = frames(self.store.length(i)), least_frames(self.vocabulary.encode(text))
            if have < need:
                lacking.append((i, have, need))
        if lacking:
            i, have, need = lacking[0]
            raise EnhanceError(
                f"{len(lacking)} recordings are too short for their texts, first "
                f"{self.store.clips[i].path}: {have} frames, its text needs {need}; correct them "
                "or leave them out"
            )

    def digest(self) -> str:
        """What identifies the recordings: names, lengths and texts, in order."""
        held = set(self.held)
        rows = [
            [clip.path.name, self.store.length(i), self.texts[i], i in held]
            for i, clip in enumerate(self.store.clips)
        ]
        return fingerprint(rows, {})

    def describe(self) -> dict[str, Any]:
        """Files, hours, speakers and tokens of both sides."""
        found: dict[str, Any] = {}
        speakers: dict[str, set[str]] = {}
        for name, chosen in (("train", self.train), ("held_back", self.held)):
            clips = [self.store.clips[i] for i in chosen]
            found[name] = by_source(clips)
            found[f"{name}_tokens"] = sum(len(self.tokens(i)) for i in chosen)
            speakers[name] = {clip.speaker for clip in clips if clip.speaker}
        found["shared_speakers"] = sorted(speakers["train"] & speakers["held_back"])
        found["unknown_speakers"] = sum(not clip.speaker for clip in self.store.clips)
        return found

    def tokens(self, i: int) -> list[int]:
        """Numbers of the tokens of a recording's text."""
        return self.vocabulary.encode(self.texts[i])

    def batches(self, config: CtcConfig, step: int = 0) -> Iterator[list[int]]:
        """Batches of clips that train, without end, from any step on."""
        lengths = [self.store.length(i) for i in self.train]
        plan = partial(batch_up, lengths, config.batch_seconds * SAMPLE_RATE)
        for _, batch in endless(plan, [config.seed, 1], step):
            yield [self.train[j] for j in batch]


def batch_up(
    lengths: Sequence[int], limit: float, rng: np.random.Generator | None = None
) -> list[list[int]]:
    """Put clips of similar length together, every clip once.

    ``lengths`` are the samples of each clip, ``limit`` bounds those of a batch, padding included;
    one clip is always let in. ``rng`` draws the order; without it, clips are sorted by length.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    size = _POOL if rng is not None else len(lengths)
    batches: list[list[int]] = []
    for first in range(0, len(order), size):
        batch: list[int] = []
        for i in sorted(map(int, order[first : first + size]), key=lambda i: lengths[i]):
            if batch and (len(batch) + 1) * lengths[i] > limit:  # i is the longest so far
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    return batches if rng is None else [batches[j] for j in rng.permutation(len(batches))]


def _prepare(rows: list[Transcript], path: Path, units: str) -> list[Transcript]:
    """Rows with normalised texts."""
    found = [row._replace(text=normalise(row.text, units)) for row in rows]
    for number, (row, was) in enumerate(zip(found, rows, strict=True), 1):
        if not row.text:
            raise EnhanceError(
                f"{path}, entry {number}: nothing is left of the text {was.text!r} but "
                "punctuation; correct it or leave the entry out"
            )
    return found


def _clip(row: Transcript, file: Path) -> Clip:
    found = audio.info(row.path)
    return Clip(row.path, found.duration, found.sample_rate, "speech", file.stem, row.speaker)
