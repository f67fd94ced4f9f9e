"""A folder of arrays with a bound on its size, which several processes fill without a lock.

The folder has one subfolder (a `Shelf`) for each set of arrays that serve together, such as one
hidden state of one teacher; the bound is on all of them. Where it is reached, whole shelves go, the
longest unused first: which array is asked for next is random, so that of a shelf in use nothing is
better dropped than kept.

A stamp, whose time is that of the last use, tells what is in use: it is touched when a process
opens the shelf, and once a minute while it asks for arrays. A shelf with a young stamp is never
removed. A process that slept for longer, or opened one in the moment of its removal, loses no more
than time: what it has mapped stays valid (a removed file lives on until it is unmapped), what it
asks for next is a miss, to be made and stored anew. Only what carries a name and a stamp of this
cache is ever removed, whatever else lies in the folder.

Each process counts the folder at its first write and after every 64th of the bound that it added
itself, and always before it removes or refuses anything. So P processes may together pass the
bound by P/64 of it, and one alone never does.

An array is a .npy file, whole or absent (written beside, then renamed), and mapped into memory:
processes share its pages. Behind the array stands a checksum, looked at when a process first maps
the file: it finds a file with a hole, as a power failure leaves it, which has the right length.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enhance.files import atomic

log = logging.getLogger("enhance")

STAMP = ".used"
IN_USE_SECONDS = 3600.0
"""A shelf used within this time is in use; a temporary file so old was left by a killed process."""
_TOUCH_SECONDS = 60.0
_RETRY_SECONDS = 60.0  # a full folder is not counted again for each array
_SHARE = 64
_CHECKSUM = 4  # bytes at the end of a file, CRC-32 of the array
_HEADER = 128  # bytes before the array


class BoundedFolder:
    """What is left of the bound ``limit_bytes`` on a folder, made when something is stored.

    ``names`` is a regular expression of what shelves are called. For ``in_use_seconds`` see
    `IN_USE_SECONDS`; with 0 only what this process opened is in use.
    """

    def __init__(
        self,
        folder: Path | str,
        limit_bytes: float,
        names: str,
        in_use_seconds: float = IN_USE_SECONDS,
    ) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self.in_use_seconds = in_use_seconds
        self._names = names
        self._sizes: dict[str, int] | None = None
        self._added = 0
        self._touched: dict[str, float] = {}
        self._full_until = 0.0

    def open(self, name: str) -> None:
        """Use a shelf: from now on this process does not remove it."""
        self._touched[name] = -_TOUCH_SECONDS
        self.touch(name)

    def touch(self, name: str, *, make: bool = False) -> None:
        """Note that a shelf is in use, where the last note is a minute old.

        ``make`` makes it where it is not there.
        """
        stamp = self.folder / name / STAMP
        now = time.monotonic()
        gone = make and not stamp.exists()
        if not gone and now - self._touched[name] < _TOUCH_SECONDS:
            return
        with contextlib.suppress(OSError):  # not there, or in a folder that cannot be written
            if make:
                stamp.parent.mkdir(parents=True, exist_ok=True)
            if make or stamp.parent.is_dir():
                stamp.touch()
                self._touched[name] = now

    def size(self, name: str) -> int:
        """Bytes that a shelf holds, as last counted and with what was added since."""
        return self._counted().get(name, 0)

    def admits(self, size: int) -> bool:
        """Whether that many bytes may be stored, after removing what is not in use if need be.

        Nothing is removed in vain: where all of it would not be enough, all of it stays.
        """
        if size > self.limit_bytes or time.monotonic() < self._full_until:  # without counting
            return False
        if self._added > self.limit_bytes / _SHARE or self._total() + size > self.limit_bytes:
            self._sizes = None  # others may have stored or removed something
        if self._total() + size > self.limit_bytes:
            self._make_room(size)
        if self._total() + size > self.limit_bytes:
            self._full_until = time.monotonic() + _RETRY_SECONDS
            return False
        return True

    def add(self, name: str, size: int) -> None:
        """Note that ``size`` bytes were stored."""
        sizes = self._counted()
        sizes[name] = sizes.get(name, 0) + size
        self._added += size

    def _total(self) -> int:
        return sum(self._counted().values())

    def _counted(self) -> dict[str, int]:
        if self._sizes is None:
            self._added = 0
            self._sizes = {}
            for path in self.folder.iterdir() if self.folder.is_dir() else ():
                if re.fullmatch(rf"\.(?:{self._names})\.[0-9a-f]+\.gone", path.name):
                    shutil.rmtree(path, ignore_errors=True)  # who removed it was killed at it
                elif re.fullmatch(self._names, path.name):
                    self._sizes[path.name] = _bytes(path)
        return self._sizes

    def _make_room(self, size: int) -> None:
        """Remove shelves not in use, the longest unused first, until there is room."""
        sizes = self._counted()
        idle = []
        for name in sizes.keys() - self._touched.keys():
            with contextlib.suppress(OSError):  # without a stamp it is not ours to remove
                used = (self.folder / name / STAMP).stat().st_mtime
                if time.time() - used > self.in_use_seconds:
                    idle.append((used, name))
        excess = self._total() + size - self.limit_bytes
        if sum(sizes[name] for _, name in idle) < excess:
            return
        for used, name in sorted(idle):
            if self._total() + size <= self.limit_bytes:
                return
            gone = self.folder / f".{name}.{secrets.token_hex(4)}.gone"
            try:
                (self.folder / name).rename(gone)  # at once; then nobody finds half of it
            except OSError:
                continue  # another process was faster, or this system keeps open files in place
            log.info(
                "%s: removed to make room, %.2f GB unused for %.0f hours",
                self.folder / name, sizes.pop(name) / 1e9, (time.time() - used) / 3600,
            )  # fmt: skip
            shutil.rmtree(gone, ignore_errors=True)


class Shelf:
    """Arrays by key in the subfolder ``name`` of a bounded folder."""

    def __init__(self, bound: BoundedFolder, name: str) -> None:
        self.bound = bound
        self.name = name
        self.folder = bound.folder / name
        self._sound: set[str] = set()
        bound.open(name)

    def path(self, key: str) -> Path:
        """File of a key."""
        return self.folder / key[:2] / f"{key}.npy"

    def holds(self, key: str) -> bool:
        """Whether there is a file of the key, sound or not."""
        self.bound.touch(self.name)
        return self.path(key).is_file()

    def read(self, key: str) -> np.ndarray | None:
        """Read-only memory map; None where there is none, or with a warning a damaged one."""
        self.bound.touch(self.name)
        path = self.path(key)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if key not in self._sound:
                with path.open("rb") as file:
                    file.seek(found.offset + found.nbytes)
                    checksum = file.read()
                if zlib.crc32(found.data).to_bytes(_CHECKSUM, "little") != checksum:
                    raise ValueError("its checksum differs")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s: cannot be used (%s) and is made anew", path, error)
            if not isinstance(error, OSError):  # its room is needed for the new one
                with contextlib.suppress(OSError):
                    path.unlink()
            return None
        self._sound.add(key)
        return found

    def write(self, key: str, parts: Sequence[np.ndarray]) -> bool:
        """Store arrays of one type one behind another; False where there is no room.

        An `EnhanceError` if the disk takes no more.
        """
        first = parts[0]
        size = _HEADER + sum(part.nbytes for part in parts) + _CHECKSUM
        if not self.bound.admits(size):
            return False
        self.bound.touch(self.name, make=True)  # before the write: an idle shelf may be removed
        about = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (sum(map(len, parts)), *first.shape[1:]),
        }
        with atomic(self.path(key)) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, about)
            checksum = 0
            for part in parts:
                data = np.ascontiguousarray(part).data
                file.write(data)
                checksum = zlib.crc32(data, checksum)
            file.write(checksum.to_bytes(_CHECKSUM, "little"))
        self.bound.add(self.name, size)
        return True


def _bytes(folder: Path) -> int:
    """Bytes of all files below; removes temporary ones that a killed process left."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(OSError):  # another process may have removed it
                about = path.stat()
                left = name.startswith(".") and name.endswith(".part.npy")
                if left and time.time() - about.st_mtime > IN_USE_SECONDS:
                    path.unlink()
                    continue
                total += about.st_size
    return total
