"""Keys as they are pressed, and a line that is written over, on a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator

import numpy as np

from enhance.stopping import unwound_by_signals

_QUIETEST = -60.0  # dB at the left end of a meter


def level(block: np.ndarray) -> float:
    """dB of the root mean square; of nothing, and of silence, -120."""
    power = float(np.mean(np.square(block, dtype=np.float64))) if block.size else 0.0
    return 10 * float(np.log10(max(power, 1e-12)))


def meter(value: float, width: int = 16) -> str:
    """A bar of ``width`` characters for -60 to 0 dB."""
    filled = round(width * min(max(1 - value / _QUIETEST, 0), 1))
    return "[" + "#" * filled + " " * (width - filled) + "]"


@contextlib.contextmanager
@unwound_by_signals
def pressed() -> Iterator[Callable[[], str]]:
    """A function that gives the keys pressed since it was called last; never waits.

    The terminal is as before afterwards, also when a signal ends the process. Where standard input
    is no terminal there are no keys, nor in the background, where the system would stop the process
    for touching it.
    """
    try:
        import termios
        import tty

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        ours = _is_ours(number)
    except Exception:  # what termios raises is known only where there is one
        ours = False
    if not ours:
        yield lambda: ""
        return

    def keys() -> str:
        found = ""
        while _is_ours(number) and select.select([number], [], [], 0)[0]:
            read = os.read(number, 64)  # not by sys.stdin, which reads ahead
            if not read:
                break
            found += read.decode(errors="ignore")
        return found

    try:
        tty.setcbreak(number)
        yield keys
    finally:
        if _is_ours(number):
            termios.tcsetattr(number, termios.TCSADRAIN, before)


def _is_ours(terminal: int) -> bool:
    """Whether this process may touch a terminal: it is in the foreground there."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # a terminal that stops nobody
        return True


def overwrite(text: str) -> None:
    """Write a line over the last one, where standard error is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
