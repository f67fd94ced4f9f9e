"""The files of one pre-training run: decoded, and split into heard and held back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.ssl.data.crops import MIN_FRAMES, Crop, frame_count, plan
from enhance.config import DataConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, split
from enhance.data.corpus.inventory import of_parts
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

BATCH_FRAMES, CROP_FRAMES = 1200, 250
"""Bounds on a held-back batch and crop: 24 s and 5 s."""


@dataclass(frozen=True)
class SslData:
    """Speech and noise in memory, and which files may be heard."""

    speech: ClipStore
    """All speech."""
    train: list[int]
    """Files of `speech` that train."""
    held: list[int]
    """Files of `speech` that only measure."""
    noise: ClipStore | None
    """All noise, if there is any."""
    train_noise: list[int]
    """Recordings of `noise` that train."""
    held_noise: list[int]
    """Recordings of `noise` that only measure."""

    @classmethod
    def open(cls, corpus: Path, held_back: float, seed: int, quiet: bool = False) -> SslData:
        """Decode a corpus and hold a part back, by speaker where the speaker is known.

        Raises
        ------
        EnhanceError
            If there is no speech long enough, or a file cannot be read.
        """
        clips, noises = load_clips(DataConfig(corpus=str(corpus)), quiet=quiet)
        clips = [c for c in clips if frame_count(int(c.duration * 16000)) >= MIN_FRAMES]
        if not clips:
            raise EnhanceError(f"{corpus}: no speech of half a second or more")
        speech = ClipStore(clips, name="speech", quiet=quiet)
        noise = ClipStore(noises, name="noise", quiet=quiet) if noises else None
        train, held = _split(clips, held_back, seed)
        train_noise, held_noise = _split(noises, held_back, seed) if noises else ([], [])
        return cls(speech, train, held, noise, train_noise, held_noise)

    def measured(self, seed: int) -> tuple[list[list[Crop]], np.random.Generator]:
        """Held-back crops in batches, the same at every call, and what else to draw from."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        return plan(self.speech, self.held, BATCH_FRAMES, CROP_FRAMES, rng), rng

    def describe(self) -> dict[str, Any]:
        """Hours, files and licences of each source, and what was held back."""

        def of(store: ClipStore | None, chosen: list[int]) -> list[Clip]:
            return [store.clips[i] for i in chosen] if store else []

        return of_parts(
            of(self.speech, self.train),
            of(self.speech, self.held),
            of(self.noise, self.train_noise),
            of(self.noise, self.held_noise),
        )


def _split(clips: list[Clip], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    kept, held = split(clips, fraction, "speaker", seed)
    place = {clip.path: i for i, clip in enumerate(clips)}
    return [place[c.path] for c in kept], [place[c.path] for c in held]
