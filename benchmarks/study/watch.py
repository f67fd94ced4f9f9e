"""What a study shows while it runs: a bar over its runs, and a line for each that ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.figures.tables import number
from benchmarks.study.file import Trial
from benchmarks.study.trial import Record, is_done, read_record, steps_done
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, TITLES
from enhance.progress import progress_bar, say

EVERY = 2.0
"""Seconds between two looks at the folder."""

LINE_EVERY = 120.0
"""Seconds between lines where standard error is no terminal."""

TOLD = 0.1
"""Runs done since the start from which on the time left is told: before, it is a guess."""

TRAINING = 0.97
"""Part of a run that is its training; the rest is its evaluation."""


class Watch(contextlib.AbstractContextManager["Watch"]):
    """Looks at a study's folder from a thread of its own, so that it sees what other processes
    and machines do, and shows it on standard error.

    Parameters
    ----------
    trials
        What is to be done.
    folder
        Of the study.
    set_hash
        Set on which a run must be evaluated to be done.
    session
        Name of this command's tries: failures of others are old ones.
    quiet
        Show nothing.
    """

    def __init__(
        self, trials: Sequence[Trial], folder: Path, set_hash: str, session: str, quiet: bool
    ) -> None:
        self._trials = list(trials)
        self._folder = folder
        self._set_hash = set_hash
        self._session = session
        self._quiet = quiet
        self._ended: set[str] = set()
        self._parts: dict[str, float] = {}
        self._bar = progress_bar(quiet=quiet)
        self._bar.speed_estimate_period = 3600.0  # runs take minutes to hours
        self._look(tell=False)
        self._begin = self._last = time.monotonic()
        self._first = sum(self._parts.values())
        self._task = self._bar.add_task("runs", total=len(self._trials), speed="")
        self._bar.update(self._task, completed=self._first)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Watch:
        self._bar.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._look(tell=True)
        self._bar.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._quiet:
            say(self._bar, text)

    def _live(self) -> None:
        while not self._end.wait(EVERY):
            self._look(tell=True)
            now = time.monotonic()
            if self._bar.disable and now - self._last >= LINE_EVERY:
                self._last = now
                done = f"{len(self._ended)} of {len(self._trials)} runs done"
                self.say(f"{done}; {self._active()}{self._left()}")

    def _look(self, *, tell: bool) -> None:
        for trial in self._trials:
            if trial.key in self._ended:
                continue
            record: Record | None = None
            with contextlib.suppress(EnhanceError):  # the one who works on it tells
                record = read_record(self._folder / trial.key)
            failed = (record or {}).get("failed") or {}
            if is_done(record, self._set_hash):
                self._parts[trial.key] = 1.0
                self._ended.add(trial.key)
                assert record is not None
                if tell:
                    self.say(f"{trial.key}: {_figures(record)}{self._count()}")
            elif failed.get("session") == self._session:
                self._parts[trial.key] = 1.0
                self._ended.add(trial.key)
                if tell:
                    self.say(f"{trial.key}: FAILED: {failed['message']}{self._count()}")
            else:
                steps = steps_done(self._folder / trial.key)
                self._parts[trial.key] = TRAINING * min(1.0, steps / trial.config.training.steps)
        if tell:
            done = sum(self._parts.values())
            self._bar.update(self._task, completed=done, speed=self._active())

    def _active(self) -> str:
        """Runs that are begun and not ended, with their part done."""
        begun = [
            f"{trial.key} {self._parts[trial.key]:.0%}"
            for trial in self._trials
            if trial.key not in self._ended and self._parts.get(trial.key)
        ]
        return ", ".join(begun[:3]) + (" ..." if len(begun) > 3 else "")

    def _count(self) -> str:
        return f"; {len(self._ended)} of {len(self._trials)} runs done{self._left()}"

    def _left(self) -> str:
        done = sum(self._parts.values())
        gained, passed = done - self._first, time.monotonic() - self._begin
        left = len(self._trials) - done
        if gained < TOLD or left <= 0:
            return ""
        minutes = passed / gained * left / 60
        return f", {minutes / 60:.1f} h left" if minutes >= 90 else f", {minutes:.0f} min left"


def _figures(record: Record) -> str:
    """Scores and cost of a run in a line."""
    means, trained = record["evaluated"]["means"], record["trained"]
    scores = ", ".join(
        f"{TITLES[m]} {number(means[m], 2 if m == 'si_sdr' else 3)}"
        + (" dB" if m == "si_sdr" else "")
        for m in METRICS
    )
    return f"{scores}; heard {trained['hours_heard']:.3g} h in {trained['seconds'] / 60:.1f} min"
