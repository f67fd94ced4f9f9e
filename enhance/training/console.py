"""What a training run shows: a progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from enhance.progress import progress_bar, say

LINE_EVERY = 30.0
"""Seconds between lines where standard error is no terminal."""


class Console:
    """Context manager that shows the progress of training on standard error.

    Parameters
    ----------
    step
        Steps done before.
    quiet
        Show nothing.
    """

    def __init__(self, step: int, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = progress_bar(quiet=quiet)
        self._task = self._bar.add_task("training", total=None, completed=step, speed="")
        self._begin = self._last = time.monotonic()
        self._first = step

    def __enter__(self) -> Console:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._quiet:
            say(self._bar, text)

    def update(self, step: int, total: int | None, loss: float, speed: float) -> None:
        """Show where training is.

        Parameters
        ----------
        step
            Steps done.
        total
            Steps that the budget will allow, as far as is known now; None for no end.
        loss
            Of the last steps.
        speed
            Seconds of audio per second.
        """
        text = f"loss {loss:.4f}  {speed:.0f} audio-s/s"
        self._bar.update(self._task, completed=step, total=total, speed=text)
        now = time.monotonic()
        if self._bar.disable and now - self._last >= LINE_EVERY:
            self._last = now
            if total is None:
                self.say(f"step {step}  {text}")
                return
            left = (now - self._begin) / (step - self._first) * (total - step)
            self.say(f"step {step}/{total}  {text}  {left / 60:.1f} min left")
