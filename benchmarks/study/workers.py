"""The runs of a study as independent pieces of work: here, in processes, or on a cluster.

Each is done from wherever it stopped, under its lock, so that a second command on the same folder
leaves it alone. A worker that dies leaves a run as it was saved; another worker goes on with it.
Meanwhile a bar shows the steps of all runs, and a line the end of each.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from filelock import Timeout

from benchmarks.figures.tables import DIGITS, number
from benchmarks.study.file import Trial
from benchmarks.study.trial import (
    DONE,
    LOCKS,
    STALE,
    Conditions,
    Record,
    Stopped,
    check_unchanged,
    is_done,
    lock,
    read_record,
    run_trial,
    set_aside,
    state_of,
    steps_done,
)
from enhance import parallel
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, TITLES
from enhance.progress import progress_bar, say
from enhance.training.engine.interrupt import Interrupt, ask

LOOK_SECONDS = 0.5
"""Time between two looks of a worker at the mark by which it is asked to stop."""

EVERY = 1.0
"""Seconds between two looks at the folder for what is shown."""

LINE_EVERY = 120.0
"""Seconds between lines where standard error is no terminal."""


@dataclass(frozen=True)
class Outcome:
    """How the work on a run ended."""

    key: str
    state: Literal["done", "failed", "held", "stopped"]
    """``"held"``: another process works on it."""
    message: str = ""
    """Why it failed, or the signal that stopped it."""


def run_study(
    trials: Sequence[Trial],
    folder: Path,
    conditions: Conditions,
    *,
    force: bool,
    jobs: int,
    cluster: str,
    quiet: bool,
) -> tuple[list[Outcome], str]:
    """Do runs until each has ended, or a signal comes; an `EnhanceError` as `enhance.parallel.run`.

    Returns the outcomes of the runs that were tried, in the order of their end, and the name of the
    signal that stopped them, empty if none did.
    """
    stop = folder / LOCKS / f"stop-{secrets.token_hex(6)}"
    one = partial(work, folder, conditions, force, stop)
    here = not cluster and (jobs <= 1 or len(trials) <= 1)
    threads = conditions.threads or 1
    found: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        stack.callback(stop.unlink, missing_ok=True)
        # Here the run itself catches signals; elsewhere the workers are told.
        interrupt = None if here else stack.enter_context(Interrupt())
        watch = stack.enter_context(Watch(trials, folder, conditions.set_hash, quiet))

        def hand_on() -> None:
            if interrupt and interrupt.caught and not stop.exists():
                stop.touch()
                watch.say("stopping: what trains is saved; Ctrl-C again ends at once")

        watch.at_each_look = hand_on
        settings: Any = {"jobs": jobs, "cluster": cluster, "threads": threads}
        done = parallel.run(one, trials, **settings, batch=1)
        try:
            with contextlib.closing(done):
                for _, outcome in done:
                    found.append(outcome)
                    watch.ended(outcome.key, outcome.state, outcome.message)
                    if here and outcome.state == "stopped":
                        return found, outcome.message
        except KeyboardInterrupt:
            return found, "SIGINT"
    # A worker may have had a signal of its own.
    stopped = [outcome.message for outcome in found if outcome.state == "stopped"]
    return found, (interrupt.caught if interrupt else "") or max(stopped, default="")


_ALONE = threading.Lock()
"""A process does one run at a time: training seeds the generators of the whole process. Dask gives
a process several at once where a worker has several threads."""


def work(folder: Path, conditions: Conditions, force: bool, stop: Path, trial: Trial) -> Outcome:
    """Do one run of a study's folder from wherever it stopped, or anew if its settings changed and
    ``force`` is set. ``stop`` is the mark that asks all workers of this command to stop.
    """
    place = folder / trial.key

    def look() -> None:
        if stop.exists():
            ask("SIGINT")

    with _ALONE, repeated(look, LOOK_SECONDS):
        try:
            if stop.exists():
                return Outcome(trial.key, "stopped")
            with lock(folder, trial.key):
                record = read_record(place)
                state, _ = state_of(trial, place, record, conditions.set_hash)
                if state == DONE:
                    return Outcome(trial.key, "done")
                if state == STALE and force and record:
                    set_aside(place, record)
                else:
                    check_unchanged(trial, place, record)
                message = run_trial(trial, place, conditions)
        except Timeout:
            return Outcome(trial.key, "held")
        except Stopped as stopped:
            return Outcome(trial.key, "stopped", str(stopped))
        except EnhanceError as error:
            message = str(error)
    return Outcome(trial.key, "failed" if message else "done", message)


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
        """Tell how the work on a run ended (`Outcome`)."""
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
