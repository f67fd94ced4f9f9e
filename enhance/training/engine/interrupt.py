"""Ctrl-C and SIGTERM as a wish to stop, granted when the work is at a good place."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

_OPEN: set[Interrupt] = set()


def ask(name: str) -> None:
    """Ask all work of this process to stop, from any thread, as a signal of this name would."""
    for interrupt in list(_OPEN):
        interrupt.caught = interrupt.caught or name


class Interrupt(contextlib.AbstractContextManager["Interrupt"]):
    """Collects SIGINT and SIGTERM while the context lasts.

    A second SIGINT interrupts at once, as usual. Outside the main thread, where Python delivers no
    signals, only `ask` is heard. ``caught`` is the signal's name (`"SIGINT"`), empty before one.
    """

    def __init__(self) -> None:
        self.caught = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        _OPEN.add(self)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        _OPEN.discard(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number).name
