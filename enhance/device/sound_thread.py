"""Two sound devices on a thread of their own, which may be left behind when they hang."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import numpy as np

from enhance.errors import EnhanceError

EVERY = 0.1  # seconds of a turn
DEAF = 5.0  # seconds without a block after which a device counts as gone
_LEAVE = 2.0  # seconds in which devices are closed, or left open
_ASKED = 20.0  # seconds in which a sound server answers: some look through many devices

T = TypeVar("T")


class SoundThread:
    """All that touches the devices: PortAudio's streams are for one thread.

    Each of its calls may wait for ever when a device or the sound server has gone away, those that
    close a stream too. Nobody else waits for them: `turn` gives up after `DEAF` seconds in which
    nothing was heard, and what cannot be closed in `_LEAVE` is left open.

    ``source`` and ``sink`` are what ``InputStream`` and ``OutputStream`` of sounddevice, the module
    ``sounds``, are asked for. ``work`` is done once both run; it ends soon after `over` is true.
    """

    heard: Any
    played: Any
    """The streams, while ``work`` runs."""

    def __init__(
        self,
        sounds: Any,
        source: dict[str, Any],
        sink: dict[str, Any],
        work: Callable[[SoundThread], None],
    ) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._asked = (sounds.InputStream, source), (sounds.OutputStream, sink)
        self._work = work
        self._end: Future[None] = Future()
        self._seen, self._deaf = 0, 0
        self.blocks = 0
        """How many have been read."""
        self.running = False
        """Whether ``work`` has come as far as it calls a beginning: it sets it."""
        self.over = False
        """Whether ``work`` is to end."""

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Start; end the work, and close the devices, afterwards."""
        self._thread.start()
        try:
            yield
        finally:
            self._leave()

    def _run(self) -> None:
        streams: list[Any] = []
        try:
            for kind, asked in self._asked:
                streams.append(kind(**asked))
                streams[-1].start()
            self.heard, self.played = streams
            self._work(self)
            self._end.set_result(None)
        except BaseException as error:
            self._end.set_exception(error)
        finally:
            for stream in reversed(streams):
                stream.abort()  # to stop would be to wait until all is played
                stream.close()

    def read(self, count: int) -> tuple[np.ndarray, bool]:
        """A block, and whether something was lost before it."""
        found = self.heard.read(count)
        self.blocks += 1
        return found

    def turn(self) -> bool:
        """Wait a little; whether the work goes on.

        An `EnhanceError` tells that nothing was heard for `DEAF` seconds; what the work, or the
        opening of the devices, has raised comes through.
        """
        if wait([self._end], EVERY).done:
            self._end.result()
            return False
        # By turns and not by a clock: a process that was stopped for a while has missed nothing.
        self._deaf = self._deaf + 1 if self.blocks == self._seen else 0
        self._seen = self.blocks
        if self._deaf * EVERY >= DEAF:
            raise EnhanceError(
                f"sound device: the input gave no sound for {DEAF:.0f} s; connect it, or start "
                "the sound server, and see enhance live --list"
            )
        return True

    def _leave(self) -> None:
        self.over = True
        try:
            self._thread.join(_LEAVE)
        finally:
            if self._thread.is_alive():
                _abandon()


def answered(ask: Callable[[], T]) -> T:
    """What a question to PortAudio gives, which may wait for ever for a server that hangs.

    An `EnhanceError` tells that there is no answer; what the question raises comes through.
    """
    answer: Future[T] = Future()

    def put() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    # sounddevice turns standard error off while PortAudio begins: a hanging one would leave it so.
    stderr = None
    with contextlib.suppress(OSError):  # it may be closed
        stderr = os.dup(2)
    threading.Thread(target=put, daemon=True).start()
    try:
        wait([answer], _ASKED)
    finally:
        if not answer.done():
            if stderr is not None:
                os.dup2(stderr, 2)
            _abandon()
        if stderr is not None:
            os.close(stderr)
    if not answer.done():
        raise EnhanceError(
            f"sound device: the sound system gave no answer for {_ASKED:.0f} s; start it again"
        )
    return answer.result()


def _abandon() -> None:
    """Let the process end while a thread hangs inside PortAudio."""
    sounds: Any = sys.modules.get("sounddevice")
    # It would close what is open when the process ends, and wait for ever then.
    atexit.unregister(getattr(sounds, "_exit_handler", _abandon))
    # And its library would be unloaded while the thread is in it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(getattr(sounds, "_lib", None)))
