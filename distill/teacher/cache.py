"""Disk cache of features: one memory-mapped half-precision .npy per clip.

Half precision rounds a value by at most 2**-11 of itself. What is lost below its smallest steps
(3e-8) is nothing beside the 1e-5 that layer norm adds to a variance. Where a value passes its
range (65504), as outlier features of large transformers may in single channels, the clip is
stored in single precision: clipping would change every feature of a frame through its layer norm,
and refusing would leave such a teacher without a cache. The file says which of the two it is.

One file per clip, because a file is whole or absent (written beside, then renamed): Ctrl-C and
several processes at once need no lock, and what is there counts in the next run. Behind the array
stands a checksum, looked at when a process first maps the file: it finds a file with a hole, as a
power failure leaves it, which has the right length.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np

from distill.teacher.cache_bound import Room
from enhance.errors import EnhanceError
from enhance.files import atomic

log = logging.getLogger("enhance")

_CHECKSUM = 4  # bytes at the end of a file, CRC-32 of the array
_HEADER = 128  # bytes before the array


class FeatureCache:
    """Arrays by name in a subfolder of a cache folder.

    Parameters
    ----------
    room
        The cache folder and its bound. Once it is full of what is in use, nothing more is stored.
    name
        Of the subfolder.
    """

    def __init__(self, room: Room, name: str) -> None:
        self.room = room
        self.name = name
        self.folder = room.folder / name
        self.hits = 0
        self.misses = 0
        self.refused = 0
        self._sound: set[str] = set()
        room.open(name)

    def path(self, key: str) -> Path:
        """File of a key (hexadecimal)."""
        return self.folder / key[:2] / f"{key}.npy"

    def holds(self, key: str) -> bool:
        """Whether the key is there, without counting a hit or a miss."""
        self.room.touch(self.name)
        return self.path(key).is_file()

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Read-only memory map (T', D), or None; counts a hit or a miss.

        A file that is damaged or of another shape is a miss, to be written anew.
        """
        self.room.touch(self.name)
        found = self._read(key)
        if found is None or found.shape != shape:
            self.misses += 1
            return None
        self.hits += 1
        return found

    def put(self, key: str, values: np.ndarray) -> np.ndarray:
        """Store (T', D) and return it as it will be read back.

        Where there is no room, or the disk takes no more, it is not stored: ``refused`` counts it.

        Raises
        ------
        EnhanceError
            If values are not finite: they would poison every later run.
        """
        if not np.isfinite(values).all():
            raise EnhanceError(
                f"{self.folder}: a feature is not finite, so it was not stored; "
                "the teacher gave NaN or infinity: check its weights and the clip"
            )
        with np.errstate(over="ignore"):
            kept = np.array(values, np.float16, order="C")
        if not np.isfinite(kept).all():
            kept = np.array(values, np.float32, order="C")
        kept.flags.writeable = False  # as what is mapped
        size = _HEADER + kept.nbytes + _CHECKSUM
        if not self.room.admits(size):
            self.refused += 1
            return kept
        self.room.touch(self.name, make=True)  # before the write: an idle folder may be removed
        try:
            with atomic(self.path(key)) as temporary, temporary.open("wb") as file:
                np.save(file, kept, allow_pickle=False)
                file.write(zlib.crc32(kept.data).to_bytes(_CHECKSUM, "little"))
        except EnhanceError as error:
            if not self.refused:
                log.warning("%s; its features are made anew whenever they are needed", error)
            self.refused += 1
            return kept
        self.room.add(self.name, size)
        return kept

    @property
    def size_bytes(self) -> int:
        """Bytes in this subfolder."""
        return self.room.size(self.name)

    def _read(self, key: str) -> np.ndarray | None:
        try:
            found = np.load(self.path(key), mmap_mode="r", allow_pickle=False)
            if found.dtype not in (np.float16, np.float32):
                return None
            if key not in self._sound:
                with self.path(key).open("rb") as file:
                    file.seek(found.offset + found.nbytes)
                    checksum = file.read()
                if zlib.crc32(found.data).to_bytes(_CHECKSUM, "little") != checksum:
                    return None
                self._sound.add(key)
        except (OSError, ValueError, EOFError):
            return None
        return found
