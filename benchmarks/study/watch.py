"""What a study shows while it runs: a bar over the steps of its runs, and a line for each end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from benchmarks.figures.tables import DIGITS, number
from benchmarks.study.file import Trial
from benchmarks.study.trial import Record, is_done, read_record, steps_done
from enhance.measure.metrics import METRICS, TITLES
from enhance.progress import progress_bar, say

EVERY = 1.0
"""Seconds between two looks at the folder."""

LINE_EVERY = 120.0
"""Seconds between lines where standard error is no terminal."""


@contextlib.contextmanager
def repeated(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Calls ``look`` every so many seconds, in a thread, while the context lasts."""
    end = threading.Event()

    def live() -> None:
        while not end.wait(seconds):
            look()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Watch(contextlib.ExitStack):
    """Counts the steps of runs that are trained elsewhere, from their histories.

    A run is done when it is evaluated on the set of ``set_hash``. ``at_each_look`` is called every
    `EVERY` seconds.
    """

    def __init__(self, trials: Sequence[Trial], folder: Path, set_hash: str, quiet: bool) -> None:
        super().__init__()
        self.at_each_look: Callable[[], None] = lambda: None
        self._trials, self._folder, self._quiet = list(trials), folder, quiet
        self._steps = {trial.key: trial.config.training.steps for trial in trials}
        self._ended = {t.key for t in trials if is_done(t, folder / t.key, set_hash)}
        self._bar = progress_bar(quiet=quiet)
        self._bar.speed_estimate_period = 3600.0  # runs take minutes to hours
        self._begin = self._last = time.monotonic()
        self._first = self._done()
        total = sum(self._steps.values())
        self._task = self._bar.add_task("steps", total=total, completed=self._first, speed="")

    def __enter__(self) -> Self:
        self.enter_context(self._bar)
        self.enter_context(repeated(self._look, EVERY))
        return super().__enter__()

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._quiet:
            say(self._bar, text)

    def ended(self, key: str, state: str, message: str) -> None:
        """Tell how the work on a run ended (`benchmarks.study.workers.Outcome`)."""
        if state == "held":
            self.say(f"{key}: left alone, another process works on it")
        if state in ("held", "stopped"):
            return
        new = key not in self._ended
        self._ended.add(key)
        if state == "failed":
            self.say(f"{key}: FAILED: {message}{self._count()}")
        elif new:
            record = read_record(self._folder / key)
            assert record is not None
            self.say(f"{key}: {_figures(record)}{self._count()}")

    def _look(self) -> None:
        self.at_each_look()
        done, passed = self._done(), time.monotonic() - self._begin
        speed = f"{(done - self._first) / passed:.1f} steps/s"
        self._bar.update(self._task, completed=done, speed=speed)
        if self._bar.disable and time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self.say(f"{done} of {sum(self._steps.values())} steps, {speed}{self._count()}")

    def _done(self) -> int:
        return sum(
            steps if key in self._ended else min(steps, steps_done(self._folder / key))
            for key, steps in self._steps.items()
        )

    def _count(self) -> str:
        done, left = self._done() - self._first, sum(self._steps.values()) - self._done()
        text = f"; {len(self._ended)} of {len(self._trials)} runs done"
        if done <= 0 or left <= 0:
            return text
        minutes = (time.monotonic() - self._begin) / done * left / 60
        return text + (
            f", {minutes / 60:.1f} h left" if minutes >= 90 else f", {minutes:.0f} min left"
        )


def _figures(record: Record) -> str:
    """Scores and cost of a run in a line."""
    means, trained = record["evaluated"]["means"], record["trained"]
    scores = ", ".join(
        f"{TITLES[m]} {number(means[m], DIGITS[m])}" + (" dB" if m == "si_sdr" else "")
        for m in METRICS
    )
    return f"{scores}; heard {trained['hours_heard']:.3g} h in {trained['seconds'] / 60:.1f} min"
