"""Decoded clips in memory, 16 bits a sample; what does not fit is read from its file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile

from enhance.audio import read as audio
from enhance.audio.resampling import resampled_length
from enhance.audio.write import native
from enhance.data.corpus.decoded_cache import DecodedCache
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.parallel import cores
from enhance.progress import tracked

SEEKABLE_SUBTYPES = frozenset({
    "PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW",
})  # fmt: skip
"""Codings whose samples are the same wherever reading starts; Opus, Vorbis and MP3 are not."""
_SCALE = np.float32(1 / 32768)
# Files kept whole for repeated crops where every crop means decoding all of it: so many, and of
# so many bytes, an hour at 16 kHz being 115 MB; the last one always.
_RECENT, _RECENT_BYTES = 16, 100_000_000


class ClipStore:
    """Random access to the samples of many clips at one sample rate, mono.

    Samples are rounded to 16 bits (and clipped to full scale) wherever they come from, so that
    what is read does not depend on `cache_mb`. Clips are decoded in advance, those first whose
    files cannot be cut exactly (lossy or at another rate), until `cache_mb` is full; the others
    are read from their files at each call. Forked workers share the memory. With `cache_gb` the
    decoded clips also stay on disk (see `enhance.data.corpus.decoded_cache`): the next store of
    the same files maps them instead of decoding, and all processes share one copy.

    ``cache_mb`` bounds decoded audio in memory (10^6 bytes; an hour at 16 kHz takes 115), but for
    100 MB, or one file, of what was read last and cannot be cut; ``cache_gb`` that of all sets of
    clips on disk (10^9 bytes; 0 keeps none). ``name`` is a word for the progress bar. An
    `EnhanceError` if there is no clip, or one cannot be read.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int = 16000,
        cache_mb: float = 2000,
        *,
        cache_gb: float = 0,
        name: str = "clips",
        quiet: bool = False,
    ) -> None:
        if not clips:
            raise EnhanceError(f"{name}: there is no clip to read")
        self.clips = tuple(clips)
        self.sample_rate = sample_rate
        self.cache_mb = cache_mb
        self._waves: list[np.ndarray | None] = [None] * len(clips)
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._seekable: dict[int, bool] = {}
        self._preload(cache_gb, name, quiet)
        self._lengths = [
            self._declared(i) if wave is None else len(wave) for i, wave in enumerate(self._waves)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict[str, object]:
        # A spawned worker reads from the files instead of receiving gigabytes through a pipe.
        state = self.__dict__.copy()
        state["_waves"] = [None] * len(self.clips)
        state["_recent"] = OrderedDict()
        return state

    @property
    def cached(self) -> int:
        """Number of clips held in memory."""
        return sum(wave is not None for wave in self._waves)

    def length(self, i: int) -> int:
        """Samples of clip i at the store's rate."""
        return self._lengths[i]

    def whole(self, i: int) -> np.ndarray:
        """All of clip i, float32 (n,)."""
        return self.read(i, 0, self._lengths[i])

    def read(self, i: int, start: int, length: int) -> np.ndarray:
        """Samples ``[start, start + length)`` of clip i, float32 (length,).

        An `EnhanceError` if they are not all inside it, or the file has changed or gone.
        """
        if start < 0 or length < 0 or start + length > self._lengths[i]:
            raise EnhanceError(
                f"{self.clips[i].path}: samples {start} to {start + length} asked for, "
                f"there are {self._lengths[i]}"
            )
        wave = self._waves[i]
        if wave is not None:
            samples = wave[start : start + length]
        elif self._cuts_exactly(i):
            samples = _quantise(audio.read(self.clips[i].path, start=start, frames=length))
        else:
            samples = self._recently(i)[start : start + length]
        return np.multiply(samples, _SCALE, dtype=np.float32)

    def _recently(self, i: int) -> np.ndarray:
        if i not in self._recent:
            self._recent[i] = self._decode(i)
            while len(self._recent) > 1 and (
                len(self._recent) > _RECENT
                or sum(wave.nbytes for wave in self._recent.values()) > _RECENT_BYTES
            ):
                self._recent.popitem(last=False)
        self._recent.move_to_end(i)
        wave = self._recent[i]
        if len(wave) != self._lengths[i]:
            raise EnhanceError(
                f"{self.clips[i].path}: has {len(wave)} samples, its header said "
                f"{self._lengths[i]}; leave it unchanged while it is read"
            )
        return wave

    def _decode(self, i: int) -> np.ndarray:
        path, rate = self.clips[i].path, self.sample_rate
        found = audio.info(path)
        if (found.subtype, found.channels, found.sample_rate) == ("PCM_16", 1, rate):
            samples, _ = soundfile.read(native(path), dtype="int16")
            if len(samples) == found.frames and len(samples):
                return samples
        # Anything unusual, a truncated file too, goes through the one place that names it.
        return _quantise(audio.read(path, rate))

    def _declared(self, i: int) -> int:
        # A manifest's duration may be rounded: what it adds is not there, what it lacks unheard.
        found = audio.info(self.clips[i].path)
        return resampled_length(found.frames, found.sample_rate, self.sample_rate)

    def _cuts_exactly(self, i: int) -> bool:
        if i not in self._seekable:
            found = audio.info(self.clips[i].path)
            self._seekable[i] = (
                found.sample_rate == self.sample_rate and found.subtype in SEEKABLE_SUBTYPES
            )
        return self._seekable[i]

    def _preload(self, cache_gb: float, name: str, quiet: bool) -> None:
        def costs(i: int) -> bool:
            clip = self.clips[i]
            plain = clip.path.suffix.lower() in {".wav", ".flac", ".aif", ".aiff", ".au", ".caf"}
            return not plain or clip.sample_rate not in (0, self.sample_rate)

        room, chosen = self.cache_mb * 1e6, []
        for i in sorted(range(len(self.clips)), key=lambda i: (not costs(i), i)):
            size = 2 * self.sample_rate * self.clips[i].duration
            if size <= room:
                room -= size
                chosen.append(i)
        if cache_gb and chosen:
            cache = DecodedCache([self.clips[i] for i in chosen], self.sample_rate, cache_gb)
            waves = cache.load() or cache.save(self._decode_all(chosen, name, quiet))
        else:
            waves = self._decode_all(chosen, name, quiet)
        for i, wave in zip(chosen, waves, strict=True):
            self._waves[i] = wave

    def _decode_all(self, chosen: Sequence[int], name: str, quiet: bool) -> list[np.ndarray]:
        minutes = sum(self.clips[i].duration for i in chosen) / 60
        what = f"decoding {name}, {minutes:.0f} min of audio"
        # libsndfile decodes outside Python's lock, so that threads help.
        pool = ThreadPoolExecutor(min(4, cores()))
        try:
            return list(tracked(pool.map(self._decode, chosen), what, len(chosen), quiet=quiet))
        finally:
            pool.shutdown(cancel_futures=True)


def _quantise(wave: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)
