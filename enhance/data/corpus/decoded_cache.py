"""Decoded clips on disk, so that only the first start on a corpus decodes it.

One file holds one set of clips: their samples one after another (int16, as `ClipStore` has them),
then an index in JSON, then its length, a checksum of all this, and a mark. The file's name is a
hash of everything the samples depend on. It appears under its name whole, by renaming, and is
never written again: processes map it into memory and share its pages, and a mapped file that
another process removes or replaces stays valid where it is mapped. The checksum finds not only a
file that was cut, but one with a hole, as a power failure leaves it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import atomic, cache_folder

log = logging.getLogger("enhance")

DECODING = 1
"""Raised whenever `ClipStore` makes other samples of the same file."""
SUFFIX = ".pcm"
_MARK = b"enh-pcm1"
_TAIL = struct.Struct("<QI8s")  # length of the index in bytes, CRC-32, mark
_ABANDONED = 3600.0  # seconds after which a temporary file is taken for what a killed process left


class DecodedCache:
    """The file of one set of clips, to be loaded or made.

    Parameters
    ----------
    clips
        In the order of their samples, at least one.
    sample_rate
        Of the samples.
    limit_gb
        Bound on all such files together (10^9 bytes); the longest unused are removed for a new one.
    """

    def __init__(self, clips: Sequence[Clip], sample_rate: int, limit_gb: float) -> None:
        self._clips = tuple(clips)
        self._sample_rate = sample_rate
        self._limit = limit_gb * 1e9
        self._key = self._fingerprint()
        self.path = cache_folder("decoded", f"{self._key}{SUFFIX}")

    def load(self) -> list[np.ndarray] | None:
        """Samples of each clip, int16 (n,), read-only and mapped; None if there is no good file."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL.size))
                length, checksum, mark = _TAIL.unpack(file.read())
                if mark != _MARK or length > size - _TAIL.size:
                    raise ValueError("its end is missing")
                file.seek(size - _TAIL.size - length)
                text = file.read(length)
                index = json.loads(text)
                samples = sum(index["lengths"])
                if 2 * samples + length + _TAIL.size != size:
                    raise ValueError("samples are missing")
                mapped = np.memmap(file, np.int16, "r", shape=(samples,)).view(np.ndarray)
            if zlib.crc32(text, zlib.crc32(mapped.data)) != checksum:
                raise ValueError("its checksum differs")
            if index["key"] != self._key:
                raise ValueError("it holds other clips")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            log.warning("%s: cannot be used (%s), the clips are decoded anew", self.path, error)
            return None
        with contextlib.suppress(OSError):  # it serves in a folder that cannot be written, too
            os.utime(self.path)  # the time of its last use
        return np.split(mapped, np.cumsum(index["lengths"])[:-1])

    def save(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Keep the samples, int16 (n,) for each clip; give them back, mapped if all went well.

        Where they cannot be kept, a warning says why, and they come back as they were given.
        """
        size = sum(wave.nbytes for wave in waves)
        if size > self._limit:
            log.warning(
                "decoded audio is not kept on disk: it takes %.3g GB, data.cache_gb allows %.3g",
                size / 1e9,
                self._limit / 1e9,
            )
            return list(waves)
        if self._fingerprint() != self._key:
            log.warning("decoded audio is not kept on disk: its files have just changed")
            return list(waves)
        try:
            self._make_room(size)
            with atomic(self.path) as temporary, temporary.open("wb") as file:
                checksum = 0
                for wave in waves:
                    checksum = zlib.crc32(wave.data, checksum)
                    file.write(wave.data)
                lengths = [len(wave) for wave in waves]
                text = json.dumps({"key": self._key, "lengths": lengths}).encode()
                checksum = zlib.crc32(text, checksum)
                file.write(text + _TAIL.pack(len(text), checksum, _MARK))
        except (EnhanceError, OSError) as error:
            log.warning("decoded audio is not kept on disk, the next start decodes anew: %s", error)
            return list(waves)
        log.info("%s: %.3g GB of decoded audio kept for the next start", self.path, size / 1e9)
        return self.load() or list(waves)

    def _make_room(self, size: int) -> None:
        """Remove the longest unused files until ``size`` more bytes keep to the limit."""
        folder = self.path.parent
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            about = _stat(path)  # another process may have removed it
            if about and path.suffix == SUFFIX and path != self.path:
                found.append((about.st_mtime, about.st_size, path))
        total = sum(length for _, length, _ in found)
        for used, length, path in sorted(found):
            temporary = path.name.startswith(".")
            if temporary and time.time() - used < _ABANDONED:
                continue
            if temporary or total + size > self._limit:
                path.unlink(missing_ok=True)
                total -= length

    def _fingerprint(self) -> str:
        """Hash of what the samples depend on: the files, the rate and the decoders."""
        import soundfile
        import soxr

        rows: list[object] = [
            [DECODING, self._sample_rate, sys.byteorder, np.__version__],
            [soundfile.__version__, soundfile.__libsndfile_version__],
            [soxr.__version__, soxr.__libsoxr_version__],
        ]
        for clip in self._clips:
            about = _stat(clip.path)
            rows.append([str(clip.path), about and [about.st_size, about.st_mtime_ns]])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # who decodes it says what is wrong
