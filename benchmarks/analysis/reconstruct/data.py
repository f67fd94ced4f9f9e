"""Clips that decoders learn from: pairs of what is heard and what is to be reconstructed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.spectrum import HOP, SAMPLE_RATE, WINDOW, level
from distill.ssl.data.crops import Disturbance, SslData, disturb
from enhance.config import DataConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, split
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

HELD_SECONDS = 300.0
"""Of held-back speech that is measured on, at most."""


@dataclass(frozen=True)
class DecoderData(SslData):
    """Speech in memory, which clips may be learnt from, and noise where features are noisy."""

    config: DecoderConfig
    """Seed, hours, noise."""
    levels: list[float]
    """Root mean square of each clip."""

    @classmethod
    def choose(cls, corpus: Path, config: DecoderConfig, quiet: bool = False) -> DecoderData:
        """Choose and decode clips.

        An `EnhanceError` refuses too little speech, and noisy features where there is no noise.
        """
        clips, noises = load_clips(DataConfig(corpus=str(corpus)), quiet=quiet)
        # Frames within the crop see no end of the clip: two frames more on either side.
        shortest = ((config.crop_frames - 1 + 4) * HOP + WINDOW) / SAMPLE_RATE
        usable = [c for c in clips if c.duration >= shortest]
        if len(usable) < 2:
            raise EnhanceError(
                f"{corpus}: {len(usable)} clips of speech of {shortest:.1f} s or more; a decoder "
                "needs two or more, one of them to measure on"
            )
        kept, held = split(usable, config.held_back, "speaker", config.seed)
        train = _draw(kept, 3600 * config.hours, [config.seed, 1])
        held = _draw(held, HELD_SECONDS, [config.seed, 2])
        if config.noisy and not noises:
            raise EnhanceError(f"{corpus}: no noise there, which --input noisy mixes in")
        chosen: list[Clip] = noises if config.noisy else []
        parts = split(chosen, config.held_back, "path", config.seed) if chosen else ([], [])
        place = {c.path: i for i, c in enumerate(chosen)}
        heard, unheard = ([place[c.path] for c in part] for part in parts)
        speech = ClipStore([*train, *held], SAMPLE_RATE, name="speech", quiet=quiet)
        return cls(
            speech=speech,
            train=list(range(len(train))),
            held=list(range(len(train), len(train) + len(held))),
            noise=ClipStore(chosen, SAMPLE_RATE, name="noise", quiet=quiet) if chosen else None,
            train_noise=heard,
            held_noise=unheard,
            config=config,
            levels=[level(speech.whole(i)) for i in range(len(speech))],
        )

    def clean(self, clip: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Samples of clean speech, the whole clip at level 1; float32."""
        length = self.speech.length(clip) if length is None else length
        wave = self.speech.read(clip, start, length)
        return wave / np.float32(max(self.levels[clip], 1e-9))

    def heard(self, clip: int) -> np.ndarray:
        """What features are made of: the clip, or its mixture; float32 (N,).

        The mixture of a clip is the same every time, so that its features can be kept.
        """
        clean, config = self.speech.whole(clip), self.config
        if self.noise is None:
            return clean
        noises = self.held_noise if clip >= len(self.train) else self.train_noise
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, 3, clip]))
        always = Disturbance(noise_probability=1, noise_snr=config.snr, speech_probability=0)
        return disturb(clean[None], self.noise, noises, always, rng)[0]

    def digest(self) -> str:
        """What identifies the clips: names and lengths, in order."""
        stores = [store for store in (self.speech, self.noise) if store is not None]
        rows = [[c.path.name, s.length(i)] for s in stores for i, c in enumerate(s.clips)]
        rows.append(["train", len(self.train)])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _draw(clips: list[Clip], seconds: float, seed: list[int]) -> list[Clip]:
    """Clips in random order until there is enough; all of them for 0."""
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(clips))
    shuffled = [clips[i] for i in order]
    ends = np.cumsum([clip.duration for clip in shuffled])
    return shuffled[: np.searchsorted(ends, seconds) + 1] if seconds else shuffled
