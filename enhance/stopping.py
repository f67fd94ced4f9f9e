"""SIGTERM and SIGHUP as exceptions, so that what is half made is removed first."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
T = TypeVar("T")

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(BaseException):
    """The process was told to end; like KeyboardInterrupt, it passes `except Exception`."""


def unwound_by_signals(
    generator: Callable[Parameters, Iterator[T]],
) -> Callable[Parameters, Iterator[T]]:
    """For a generator that becomes a context manager: its ``except`` hears SIGTERM and SIGHUP too.

    They unwind it, and the process then ends by that signal. Only where they would end it anyway:
    a handler of the user's, or an ignored signal (nohup), is left alone, and so is everything
    outside the main thread, where Python sets no handlers.
    """

    @functools.wraps(generator)
    def unwound(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Iterator[T]:
        with _signals_raise():
            yield from generator(*args, **kwargs)

    return unwound


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    owner = os.getpid()
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker, which has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not caught:
            caught.append(number)
            raise Stopped

    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if caught:
            os.kill(owner, caught[0])
