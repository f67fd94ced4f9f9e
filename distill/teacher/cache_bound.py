"""The bound on a cache folder that several processes fill without a lock.

The folder has one subfolder for each kind of feature (one state of one teacher, say), and the
bound is on all of them together. Where it is reached, whole subfolders go, the longest unused
first: which clip comes next is random, so that of a subfolder in use nothing is better dropped
than kept.

A stamp, whose time is that of the last use, tells what is in use: it is touched when a process
opens the subfolder, and once a minute while it asks for features. A subfolder with a stamp of the
last hour is never removed. A process that slept for longer, or opened one in the moment of its
removal, loses no more than time: what it has mapped stays valid (a removed file lives on until it
is unmapped), what it asks for next is a miss, to be made and stored anew. Only what carries a name
and a stamp of this cache is ever removed, whatever else lies in the folder.

Each process counts the folder at its first write and after every 64th of the bound that it added
itself, and always before it removes or refuses anything. So P processes may together pass the
bound by P/64 of it, and one alone never does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
from pathlib import Path

log = logging.getLogger("enhance")

NAME = r"(?:state-\d+|mean-\d+-\d+)-[0-9a-f]{16}"
"""Names of the subfolders: `distill.teacher.features.Features` gives them."""
STAMP = ".used"
IN_USE_SECONDS = 3600.0
"""A subfolder used within this time is in use."""
_TOUCH_SECONDS = 60.0
_RETRY_SECONDS = 60.0  # a full folder is not counted again for each clip
_SHARE = 64


class Room:
    """What is left of the bound on a cache folder.

    Parameters
    ----------
    folder
        The cache folder; made when something is stored.
    limit_bytes
        Bound on all subfolders together.
    """

    def __init__(self, folder: Path | str, limit_bytes: float) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self._sizes: dict[str, int] | None = None
        self._added = 0
        self._touched: dict[str, float] = {}
        self._full_until = 0.0

    def open(self, name: str) -> None:
        """Use a subfolder: from now on this process does not remove it."""
        self._touched[name] = -_TOUCH_SECONDS
        self.touch(name)

    def touch(self, name: str, *, make: bool = False) -> None:
        """Note that a subfolder is in use, where the last note is a minute old.

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
        """Bytes that a subfolder holds, as last counted and with what was added since."""
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
                if re.fullmatch(rf"\.{NAME}\.[0-9a-f]+\.gone", path.name):
                    shutil.rmtree(path, ignore_errors=True)  # who removed it was killed at it
                elif re.fullmatch(NAME, path.name):
                    self._sizes[path.name] = _bytes(path)
        return self._sizes

    def _make_room(self, size: int) -> None:
        """Remove subfolders not in use, the longest unused first, until there is room."""
        sizes = self._counted()
        idle = []
        for name in sizes.keys() - self._touched.keys():
            with contextlib.suppress(OSError):  # without a stamp it is not ours to remove
                used = (self.folder / name / STAMP).stat().st_mtime
                if time.time() - used > IN_USE_SECONDS:
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
