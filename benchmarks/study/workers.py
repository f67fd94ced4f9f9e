"""The processes that do the runs of a study: any number of them, here or elsewhere, on one folder.

Each takes the runs in order, claims the first that is not done and that nobody works on, and does
it from wherever it stopped.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.quality.clips import environment
from benchmarks.study.file import Study, Trial
from benchmarks.study.locks import take
from benchmarks.study.trial import (
    Conditions,
    Stopped,
    check_unchanged,
    is_done,
    read_record,
    run_trial,
    set_aside,
)
from enhance.errors import EnhanceError

LOCKS = "locks"
"""Folder of the claims."""


@dataclass(frozen=True)
class Work:
    """What a worker process is told."""

    study: Study
    folder: Path
    keys: tuple[str, ...]
    """Runs to be done."""
    conditions: Conditions
    force: bool
    session: str
    """Name of this command, for the record of failures."""

    @property
    def trials(self) -> list[Trial]:
        """Runs to be done."""
        return [trial for trial in self.study.trials if trial.key in self.keys]


def work(load: Work) -> None:
    """Do runs until none is left that nobody works on.

    Raises
    ------
    Stopped, KeyboardInterrupt
        If a signal came; what was begun is saved.
    EnhanceError
        If a place cannot be written, or another process began a run with other settings.
    """
    tried: set[str] = set()
    again = True
    while again:
        again = False
        for trial in load.trials:
            if trial.key in tried or _ended(trial, load):
                continue
            claim = take(load.folder / LOCKS / trial.key)
            if claim is None:
                continue
            again = True
            try:
                with claim:
                    if not _ended(trial, load):  # another process may just have finished it
                        _prepare(trial, load)
                        run_trial(trial, load.folder / trial.key, load.conditions, load.session)
                tried.add(trial.key)
            except (Stopped, KeyboardInterrupt):
                if not claim.lost:
                    raise
                # This process stood still for so long that another one took the run over.
                print(f"{trial.key}: was taken over by another process", file=sys.stderr)


def run_workers(load: Work, jobs: int) -> str:
    """`work` in several processes.

    Returns
    -------
    str
        Name of the signal that stopped them, empty if none did.

    Raises
    ------
    EnhanceError
        If one of them died; the others have done the rest.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = [
        context.Process(target=_worker, args=(load, stop), name=f"worker {number + 1}")
        for number in range(min(jobs, len(load.keys)))
    ]
    caught: list[str] = []

    def forward(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        stop.set()  # for those that are still starting
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, number)

    with _handler(signal.SIG_IGN), environment(OMP_NUM_THREADS=str(load.conditions.threads)):
        for worker in workers:  # they ignore Ctrl-C until they can answer it
            worker.start()
    with _handler(forward):
        for worker in workers:
            worker.join()
    if caught:
        return caught[0]
    wrong = [worker for worker in workers if worker.exitcode]
    if wrong:
        code = wrong[0].exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise EnhanceError(
            f"{len(wrong)} of {len(workers)} worker processes ended early ({how}); "
            "what is finished is kept: run the same command again"
        )
    return ""


def _worker(load: Work, stop: Event) -> None:
    # A session of its own: Ctrl-C reaches the parent only, which hands it on once.
    with contextlib.suppress(AttributeError, OSError):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if stop.is_set():
            raise KeyboardInterrupt
        work(load)
    except Stopped as stop:
        sys.exit(128 + int(signal.Signals[stop.signal]))
    except KeyboardInterrupt:
        sys.exit(130)
    except EnhanceError as error:
        print(f"enhance: {error}", file=sys.stderr)
        sys.exit(2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # training saves and stops; the rest goes on later


def run_here(load: Work) -> str:
    """`work` in this process; returns as `run_workers`."""
    try:
        work(load)
    except Stopped as stop:
        return stop.signal
    except KeyboardInterrupt:
        return "SIGINT"
    return ""


def _prepare(trial: Trial, load: Work) -> None:
    """Refuse, or put aside, what was trained with other settings."""
    place = load.folder / trial.key
    record = read_record(place)
    try:
        check_unchanged(trial, place, record)
    except EnhanceError:
        if not load.force or record is None:
            raise
        set_aside(place, record)


def _ended(trial: Trial, load: Work) -> bool:
    """Whether nothing is left to do for a run in this command."""
    place = load.folder / trial.key
    record = read_record(place)
    if (record or {}).get("failed", {}).get("session") == load.session:
        return True
    return is_finished(trial, load.folder, load.conditions.set_hash)


def is_finished(trial: Trial, folder: Path, set_hash: str) -> bool:
    """Whether a run is trained, with the settings of now, and evaluated."""
    record = read_record(folder / trial.key)
    if record is None or not is_done(record, set_hash):
        return False
    try:
        check_unchanged(trial, folder / trial.key, record)
    except EnhanceError:
        return False
    return True


@contextlib.contextmanager
def _handler(action: Any) -> Iterator[None]:
    """Hands SIGINT and SIGTERM to ``action``, where signals come to this thread at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, action) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
