"""Who works on what: lock files that several processes, on one machine or many, agree by.

A claim is a file made atomically that names its holder; the holder touches it now and then. A
claim is dead when its process is gone (told at once on the same machine) or when it was not
touched for `STALE` seconds. Ages are taken between two times of the folder's own file system, so
that the clocks of the machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from enhance.errors import EnhanceError

BEAT = 10.0
"""Seconds between two heartbeats."""

STALE = 120.0
"""Seconds without a heartbeat after which a claim counts as dead."""

Holder = dict[str, Any]


class Claim(contextlib.AbstractContextManager["Claim"]):
    """A lock that this process holds; leaving the context gives it back. Made by `take`.

    Attributes
    ----------
    lost
        Whether another process took it over, because this one stood still for too long (a
        suspended laptop). The main thread is interrupted then, as by Ctrl-C.
    """

    def __init__(self, path: Path, holder: Holder, beat: float) -> None:
        self.path = path
        self.lost = False
        self._holder = holder
        self._beat = beat
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        with _turn(self.path) as mine:
            if mine and (read(self.path) or {}).get("token") == self._holder["token"]:
                self.path.unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._end.wait(self._beat):
            try:
                found = json.loads(self.path.read_text("utf-8"))
                if found["token"] == self._holder["token"]:
                    os.utime(self.path)
                    continue
            except FileNotFoundError:
                pass
            except (OSError, ValueError):  # a file system that is away comes back
                continue
            self.lost = True
            os.kill(os.getpid(), signal.SIGINT)
            return


def take(path: Path, *, beat: float = BEAT, stale: float = STALE) -> Claim | None:
    """Claim a lock file, also from a dead holder.

    Parameters
    ----------
    path
        The lock file; its folder is made.
    beat, stale
        As `BEAT` and `STALE`.

    Returns
    -------
    Claim or None
        None where a living process holds it.

    Raises
    ------
    EnhanceError
        If the folder cannot be written.
    """
    holder = _me()
    text = json.dumps(holder) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _create(path, text)
        except FileExistsError:
            if held(path, stale=stale):
                return None
            with _turn(path, stale) as mine:
                # Another process may have taken it over, or given it back, in the meantime.
                if not mine or held(path, stale=stale):
                    return None
                new = path.with_name(f".{path.name}.{holder['token']}")
                _create(new, text)
                new.replace(path)
    except OSError as error:
        raise EnhanceError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    return Claim(path, holder, beat)


def read(path: Path) -> Holder | None:
    """Holder of a claim (host, pid, since when); None where there is no claim or no whole one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def held(path: Path, *, stale: float = STALE) -> bool:
    """Whether a living process holds a lock file."""
    age = _age(path)
    if age is None:
        return False
    holder = read(path)
    if holder and holder.get("space") == _space() and not _runs(holder):
        return False
    return age <= stale


def _me() -> Holder:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "space": _space(),
        "token": secrets.token_hex(8),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _space() -> str:
    """Where a process number means something: the machine, and the container on it."""
    try:
        container = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        container = ""
    return f"{socket.gethostname()}/{container}"


def _runs(holder: Holder) -> bool:
    try:
        process = psutil.Process(holder["pid"])
        same = abs(process.create_time() - holder["started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _age(path: Path) -> float | None:
    """Seconds since the last heartbeat, by the file system's clock; None without a file."""
    clock = path.with_name(".clock")
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None


def _create(path: Path, text: str) -> None:
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


@contextlib.contextmanager
def _turn(path: Path, stale: float = STALE) -> Iterator[bool]:
    """The right to replace or remove a lock that exists; False where another process keeps it."""
    place = path.with_name(f".{path.name}.turn")
    mine = False
    for _ in range(20):
        try:
            _create(place, "")
            mine = True
            break
        except FileExistsError:
            # It is held for moments only: an old one was left by a kill.
            if (_age(place) or 0) > stale:
                place.unlink(missing_ok=True)
            time.sleep(0.05)
    try:
        yield mine
    finally:
        if mine:
            place.unlink(missing_ok=True)
