"""Two sound devices on a thread of their own, which may be left behind when they hang."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
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

    Parameters
    ----------
    sounds
        The module sounddevice.
    source, sink
        What its ``InputStream`` and ``OutputStream`` are asked for.
    work
        What is done once both run; it ends soon after `over` is true.

    Attributes
    ----------
    heard, played
        The streams, while ``work`` runs.
    blocks
        How many have been read.
    running
        Whether ``work`` has come as far as it calls a beginning: it sets it.
    over
        Whether ``work`` is to end.
    """

    heard: Any
    played: Any

    def __init__(
        self,
        sounds: Any,
        source: dict[str, Any],
        sink: dict[str, Any],
        work: Callable[[SoundThread], None],
    ) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._sounds, self._source, self._sink, self._work = sounds, source, sink, work
        self._done = threading.Event()
        self._failed: BaseException | None = None
        self._seen, self._deaf = 0, 0
        self.blocks = 0
        self.running = self.over = False

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
            self.heard = self._started(streams, self._sounds.InputStream, self._source)
            self.played = self._started(streams, self._sounds.OutputStream, self._sink)
            self._work(self)
        except BaseException as error:
            self._failed = error  # raised by `turn`
        finally:
            self._done.set()
            for stream in reversed(streams):
                stream.abort()  # to stop would be to wait until all is played
                stream.close()

    def _started(self, streams: list[Any], kind: Callable[..., Any], asked: dict[str, Any]) -> Any:
        streams.append(kind(**asked))
        streams[-1].start()
        return streams[-1]

    def read(self, count: int) -> tuple[np.ndarray, bool]:
        """A block, and whether something was lost before it."""
        found = self.heard.read(count)
        self.blocks += 1
        return found

    def turn(self) -> bool:
        """Wait a little; whether the work goes on.

        Raises
        ------
        EnhanceError
            If nothing was heard for `DEAF` seconds.
        BaseException
            What the work, or the opening of the devices, has raised.
        """
        if self._done.wait(EVERY):
            if self._failed is not None:
                raise self._failed
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

    Raises
    ------
    EnhanceError
        If there is no answer.
    BaseException
        What the question raises.
    """
    answers: list[T] = []
    failed: list[BaseException] = []

    def put() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=put, daemon=True)
    # sounddevice turns standard error off while PortAudio begins: a hanging one would leave it so.
    stderr = _second(2)
    thread.start()
    try:
        thread.join(_ASKED)
    finally:
        if thread.is_alive():
            if stderr is not None:
                os.dup2(stderr, 2)
            _abandon()
        if stderr is not None:
            os.close(stderr)
    if failed:
        raise failed[0]
    if not answers:
        raise EnhanceError(
            f"sound device: the sound system gave no answer for {_ASKED:.0f} s; start it again"
        )
    return answers[0]


def _second(number: int) -> int | None:
    """Another descriptor of the same; None where it is closed."""
    try:
        return os.dup(number)
    except OSError:
        return None


def _abandon() -> None:
    """Let the process end while a thread hangs inside PortAudio."""
    sounds: Any = sys.modules.get("sounddevice")
    # It would close what is open when the process ends, and wait for ever then.
    atexit.unregister(getattr(sounds, "_exit_handler", _abandon))
    # And its library would be unloaded while the thread is in it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(getattr(sounds, "_lib", None)))
