"""Features of many clips, made before anyone asks for them: by processes or a cluster.

What is made lies in the cache of `distill.teacher.features`, where training and analysis find it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from distill.backbones.find import load
from distill.teacher.features import Features
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import is_file
from enhance.parallel import Workers


@dataclass(frozen=True)
class Wanted:
    """Which features; a worker opens the teacher by it."""

    teacher: str
    """As `distill.backbones.find.load` takes it."""
    layers: str
    """As `distill.teacher.layers.Layers.parse` takes them."""
    cache: Path
    """Folder of the cache, the same for all workers."""
    cache_gb: float = 20.0
    """Bound on that folder, in 10^9 bytes."""


@dataclass
class Extracted:
    """What `extract` did."""

    made: int = 0
    """Clips whose features are new."""
    found: int = 0
    """Clips whose features were there."""


def extract(clips: Sequence[Clip], wanted: Wanted, workers: Workers) -> Extracted:
    """Fill the cache with the features of clips of any sample rate; the teacher hears its own.

    May be stopped at any time: what is stored stays, and is found by the next call. An
    `EnhanceError` if the teacher or a clip cannot be read, or the cache is full or no folder.
    """
    if is_file(wanted.cache):
        raise EnhanceError(f"{wanted.cache}: is a file; name a folder with --cache")
    _features(wanted)  # a wrong name is told before the long work
    result, heard, begin = Extracted(), 0.0, time.perf_counter()

    def speed() -> str:
        return f"{heard / (time.perf_counter() - begin):.0f} audio-s/s"

    for _, seconds in workers.each(partial(_hear, wanted), clips, "teacher listens", speed=speed):
        result.made += seconds > 0
        result.found += seconds == 0
        heard += seconds
    return result


@lru_cache(maxsize=2)
def _features(wanted: Wanted) -> Features:
    return Features(load(wanted.teacher), wanted.layers, wanted.cache, wanted.cache_gb * 1e9)


def _hear(wanted: Wanted, clip: Clip) -> float:
    """Seconds that the teacher heard; 0 where the cache had the features."""
    features = _features(wanted)
    rate = features.teacher.sample_rate
    wave = ClipStore([clip], rate, cache_mb=0, quiet=True).whole(0)  # rounded as in training
    key = features.key(wave)
    if features.cache.holds(key):
        return 0.0
    features.make(key, wave)
    if features.cache.refused:
        raise EnhanceError(
            f"{wanted.cache}: the cache is full at {wanted.cache_gb:g} GB; what was made stays: "
            "raise --cache-gb, or name another folder with --cache"
        )
    return len(wave) / rate
