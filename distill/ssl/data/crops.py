"""What self-supervised pre-training hears: files, and crops on the frame grid, some disturbed.

A crop starts on a multiple of 320 samples, so that frame t of the crop is frame start/320 + t of
the file and units made once for whole files stay valid. Crops of one batch are equally long: no
padding, no attention mask. Everything is a pure function of (seed, iteration, epoch, batch).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from enhance.config import DataConfig
from enhance.config.checked import Field, PositiveFloat, Rising, Share, checked
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, split
from enhance.data.corpus.inventory import of_parts
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.rooms import Response
from enhance.errors import EnhanceError

T = TypeVar("T")

SAMPLE_RATE = 16000
FIELD = 400
STRIDE = 320
MIN_FRAMES = 25
"""Shorter files (half a second) are left out."""


def frame_count(samples: int) -> int:
    """Frames of 400 samples every 320 that fit wholly into ``samples``: 0 if none does."""
    return 0 if samples < FIELD else (samples - FIELD) // STRIDE + 1


@dataclass(frozen=True)
class Crop:
    """Frames ``[start, start + frames)`` of a file."""

    clip: int
    """Number of the file in its store."""
    start: int
    """First frame."""
    frames: int
    """Number of frames."""

    def read(self, store: ClipStore) -> np.ndarray:
        """The samples these frames cover, float32 (n,)."""
        return store.read(self.clip, self.start * STRIDE, (self.frames - 1) * STRIDE + FIELD)


def plan(
    store: ClipStore,
    clips: Sequence[int],
    batch_frames: int,
    crop_frames: int,
    rng: np.random.Generator,
) -> list[list[Crop]]:
    """Cut one epoch of the chosen ``clips`` of a store into batches of equally long crops.

    Every file is heard once, a file of n times the crop's length n times. Files of similar
    length are put together, so that little is cut away. ``batch_frames`` and ``crop_frames`` are
    upper bounds (one crop is always let in).
    """
    counts = {i: frame_count(store.length(i)) for i in clips}
    items = [i for i in clips for _ in range(max(1, round(counts[i] / crop_frames)))]
    items = [i for i in items if counts[i] >= MIN_FRAMES]
    order = [items[j] for j in rng.permutation(len(items))]
    batches: list[list[Crop]] = []
    for first in range(0, len(order), 256):  # sorted within a random pool, not overall
        pool = sorted(order[first : first + 256], key=lambda i: counts[i])
        while pool:
            frames = min(counts[pool[0]], crop_frames)
            size = max(1, batch_frames // frames)
            chosen, pool = pool[:size], pool[size:]
            starts = [int(rng.integers(counts[i] - frames + 1)) for i in chosen]
            batches.append([Crop(i, s, frames) for i, s in zip(chosen, starts, strict=True)])
    return [batches[j] for j in rng.permutation(len(batches))]


def epochs(
    store: ClipStore,
    clips: Sequence[int],
    batch_frames: int,
    crop_frames: int,
    seed: Sequence[int],
    first_step: int = 0,
) -> Iterator[tuple[int, list[Crop]]]:
    """Endless batches from any step: pairs of (epoch, crops)."""
    return endless(partial(plan, store, clips, batch_frames, crop_frames), seed, first_step)


def endless(
    batches: Callable[[np.random.Generator], list[T]], seed: Sequence[int], first_step: int = 0
) -> Iterator[tuple[int, T]]:
    """Pairs of (epoch, batch) from any step; ``batches`` draws those of an epoch."""
    step = 0
    for epoch in itertools.count():
        drawn = batches(np.random.default_rng(np.random.SeedSequence([*seed, epoch])))
        for batch in drawn[max(0, first_step - step) :]:
            yield epoch, batch
        step += len(drawn)


@checked
class Disturbance:
    """How often and how much the input is mixed; targets stay those of the clean crop.

    WavLM (Chen et al. 2022, section III-B) mixes a share of the utterances with noise or with
    another utterance that covers at most half of the first. Reverberation is drawn apart from
    that, before it: noise and other speech lie over the crop as the room returns it.
    """

    noise_probability: Share = 0.25
    """Share of crops with noise over their whole length."""
    noise_snr: Annotated[tuple[float, float], Rising] = (-5.0, 20.0)
    """Range of the signal-to-noise ratio over the crop, dB, uniform."""
    speech_probability: Share = 0.15
    """Share of crops overlapped by another crop of the batch."""
    speech_ratio: Annotated[tuple[float, float], Rising] = (-5.0, 5.0)
    """Range of the energy ratio of the crop to the one laid over it, dB, uniform."""
    speech_overlap: Annotated[tuple[Share, Share], Rising] = (0.0, 0.5)
    """Range of the share of the crop that the other speech covers, uniform, one sample or more."""
    reverberation_probability: Share = 0.0
    """Share of crops heard through a simulated room; the direct path keeps its place in time."""
    reverberation_rooms: Annotated[int, Field(ge=2)] = 64
    """Number of simulated rooms; one in eight is kept for held-back files."""
    reverberation_rt60: Annotated[tuple[PositiveFloat, float], Rising] = (0.15, 0.6)
    """Range of the rooms' reverberation time, seconds."""

    def __post_init__(self) -> None:
        shares = (self.noise_probability, self.speech_probability)
        if sum(shares) > 1:
            raise ValueError(
                f"noise_probability and speech_probability {shares}: more than 1 together"
            )


def disturb(
    clean: np.ndarray,
    noise: ClipStore | None,
    noises: Sequence[int],
    config: Disturbance,
    rng: np.random.Generator,
    rooms: Sequence[Response] = (),
) -> np.ndarray:
    """Put some crops of a batch into rooms, lay noise or other speech over some.

    Without recordings in ``noise`` that ``noises`` chooses, only speech is overlapped; without
    ``rooms`` (impulse responses), there is no reverberation.

    Shape: float32 (B, N) to (B, N), the crop at its level plus the disturbance
    """
    clean = _in_rooms(clean, rooms, config.reverberation_probability, rng)
    mixed = clean.copy()
    size, length = clean.shape
    for b in range(size):
        chance = rng.random()
        if noise is not None and len(noises) and chance < config.noise_probability:
            other = _noise(noise, noises, length, rng)
            target, span = 0, length
            ratio = rng.uniform(*config.noise_snr)
        elif size > 1 and 0 <= chance - config.noise_probability < config.speech_probability:
            neighbour = clean[(b + 1 + rng.integers(size - 1)) % size]
            least, most = (int(share * length) for share in config.speech_overlap)
            span = int(rng.integers(max(1, least), max(1, most) + 1))
            source, target = rng.integers(0, length - span + 1, 2)
            other = np.zeros(length, np.float32)
            other[target : target + span] = neighbour[source : source + span]
            ratio = rng.uniform(*config.speech_ratio)
        else:
            continue
        # Mean powers: of the whole crop against what is laid over it, where it is laid
        power = float(np.mean(clean[b] ** 2))
        disturbing = float(np.mean(other[target : target + span] ** 2))
        if power > 0 and disturbing > 0:
            mixed[b] += other * np.float32(np.sqrt(power / disturbing / 10 ** (ratio / 10)))
    return mixed


def _in_rooms(
    clean: np.ndarray, rooms: Sequence[Response], probability: float, rng: np.random.Generator
) -> np.ndarray:
    """Crops, some of them as they arrive in a room, the direct path neither delayed nor scaled.

    Nothing is drawn where there is no room.
    """
    if not rooms or probability == 0:
        return clean
    from scipy.signal import fftconvolve

    arriving = clean.copy()
    for b, dry in enumerate(clean):
        if rng.random() < probability:
            room = rooms[int(rng.integers(len(rooms)))]
            arriving[b] = fftconvolve(dry, room.wave)[room.direct : room.direct + len(dry)]
    return arriving


def _noise(
    noise: ClipStore, noises: Sequence[int], length: int, rng: np.random.Generator
) -> np.ndarray:
    i = noises[int(rng.integers(len(noises)))]
    have = noise.length(i)
    if have >= length:
        return noise.read(i, int(rng.integers(have - length + 1)), length)
    start = int(rng.integers(have))  # a short recording is repeated
    return np.resize(np.roll(noise.whole(i), -start), length)


def normalize(waves: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance of each row, as ``do_normalize`` of transformers does it.

    Shape: (..., N) to (..., N) float32.
    """
    mean = waves.mean(axis=-1, keepdims=True)
    scale = np.sqrt(waves.var(axis=-1, keepdims=True) + 1e-7)
    return ((waves - mean) / scale).astype(np.float32)


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

        An `EnhanceError` if there is no speech long enough, or a file cannot be read.
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

    def waves(self, crops: Sequence[Crop]) -> np.ndarray:
        """Samples of crops of one length: float32 (B, N)."""
        return np.stack([crop.read(self.speech) for crop in crops])

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
