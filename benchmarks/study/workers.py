"""The runs of a study as independent pieces of work: here, in processes, or on a cluster.

Each is done from wherever it stopped, under its lock, so that a second command on the same folder
leaves it alone. A worker that dies leaves a run as it was saved; another worker goes on with it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from benchmarks.study.file import Trial
from benchmarks.study.trial import (
    DONE,
    LOCKS,
    STALE,
    Conditions,
    Stopped,
    check_unchanged,
    lock,
    read_record,
    run_trial,
    set_aside,
    state_of,
)
from benchmarks.study.watch import Watch, repeated
from enhance import parallel
from enhance.errors import EnhanceError
from enhance.training.engine.interrupt import Interrupt, ask

LOOK_SECONDS = 0.5
"""Time between two looks of a worker at the mark by which it is asked to stop."""


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
