"""Many training runs under one budget, compared in pairs (``enhance compare``).

A study file (its form: `benchmarks.study.file`) is run, resumed and finished by one and the same
command::

    enhance compare STUDY.yaml -o runs/trials --set DEV --base data.corpus=CORPUS

Each run is trained (as by ``enhance train``), its kept weights are evaluated on the set, and at
the end all networks are timed in one bench. The folder holds a run folder for each name and seed,
``results.jsonl``, ``RESULTS.md`` and ``differences.png``. Any number of processes, on one machine
or several that share the folder, may run the command at once: each run has a lock. With
``--cluster ADDRESS`` the runs go to the workers of a Dask scheduler. What ``--set``, ``--snr`` and
``--base`` said is kept in the folder, so that a later command need not repeat it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from benchmarks.figures.plots import difference_plot
from benchmarks.figures.results import RESULTS, Row
from benchmarks.figures.tables import show
from benchmarks.quality.candidates import NOISY
from benchmarks.quality.evaluate import evaluate, open_pairs
from benchmarks.study.file import Study, Trial, read_study
from benchmarks.study.networks import time_networks
from benchmarks.study.report import PAGE, left_out, page, shown_rows, tables
from benchmarks.study.results import study_rows
from benchmarks.study.trial import (
    CLIPS,
    Conditions,
    check_unchanged,
    is_done,
    lock,
    read_record,
)
from benchmarks.study.workers import run_study
from enhance.data.corpus.clips import load_clips
from enhance.errors import EnhanceError
from enhance.files import read_json, write_json, write_jsonl, write_text
from enhance.measure.timing import cores

MEMORY = "study.json"
PLOT = "differences.png"
SECONDS = 2.0
"""Measuring time per network and regime."""


@dataclass
class Comparison:
    """What `compare` did."""

    folder: Path
    """Of the study."""
    rows: list[Row]
    """Rows of ``results.jsonl``, see `benchmarks.study.results`."""
    stopped: str = ""
    """Name of the signal that ended it; empty if it ended by itself."""


def compare(
    study_file: Path | str,
    out: Path | str | None = None,
    *,
    clips: Path | str | None = None,
    snr: float | Literal["any"] | None = None,
    base: Sequence[str] = (),
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: str = "",
    accelerator: str = "cpu",
    force: bool = False,
    report: bool = False,
    table: Path | str | None = None,
    seconds: float = SECONDS,
    quiet: bool = False,
) -> Comparison:
    """Train, evaluate and compare the runs of a study; what ``enhance compare`` does.

    Parameters
    ----------
    study_file
        YAML, see `benchmarks.study.file`.
    out
        Folder of the study; None for ``runs/`` and the study's name.
    clips
        Evaluation set. None: the one that the folder was used with, else the built-in one.
    snr
        SNR in dB that its pairs must have; "any" for each its own. None: as before in this folder,
        else -5.
    base
        ``"a.b=c"``: settings over the study's `base`. None given: those of before.
    only
        Names of runs (or NAME-sSEED) to do; the tables show all that are finished.
    jobs
        Worker processes; with several, each takes its part of the cores.
    cluster
        Address of a Dask scheduler whose workers do the runs instead (`enhance.parallel.run`).
    accelerator
        As in Lightning Fabric; each run takes one device.
    force
        Train runs anew whose settings have changed; their folders are moved to ``old/``.
    report
        Train, evaluate and time nothing: write the tables from what there is.
    table
        Write the report to this file too.
    seconds
        Measuring time per network and regime.
    quiet
        No progress bar and no lines.

    Raises
    ------
    EnhanceError
        If the study, the data or the set is at fault, a finished run has other settings now, or
        runs failed (the tables are written all the same).
    """
    if report and (clips is not None or snr is not None or base):
        raise EnhanceError("--report: --set, --snr and --base are those of the folder")
    study_file = Path(study_file)
    folder = Path(out) if out is not None else Path("runs") / study_file.stem
    memory = _remember(folder, clips, snr, base, report)
    study = read_study(study_file, memory["base"])
    chosen = study.select(only)
    if report and "set_hash" not in memory:
        raise EnhanceError(f"{folder}: nothing was evaluated there yet; run it without --report")
    stopped, failures = "", []
    if not report:
        for trial in chosen:
            if not force:
                check_unchanged(trial, folder / trial.key, read_record(folder / trial.key))
        _check_data(chosen)
        memory["set_hash"] = _measure_noisy(memory, folder, cluster, quiet)
        write_json(folder / MEMORY, memory)
        conditions = Conditions(
            clips=memory["set"],
            snr=memory["snr"],
            set_hash=memory["set_hash"],
            accelerator=accelerator,
            threads=max(1, cores() // jobs) if jobs > 1 else 0,
            evaluation_jobs=1 if cluster or jobs > 1 else cores(),
            noisy=str(folder / NOISY / CLIPS),
        )
        outcomes, stopped = run_study(
            chosen, folder, conditions, force=force, jobs=jobs, cluster=cluster, quiet=quiet
        )
        failures = [(o.key, o.message) for o in outcomes if o.state == "failed"]
        if not stopped and all(o.state != "held" for o in outcomes):
            done = [t for t in study.trials if is_done(t, folder / t.key, conditions.set_hash)]
            if done:
                time_networks(folder, done, seconds, quiet=quiet)
    rows = _write(study, folder, memory, table)
    if failures:
        key, message = failures[0]
        raise EnhanceError(
            f"{len(failures)} of {len(chosen)} runs failed, first {key}: {message} "
            "(the others are in the tables; the same command tries again)"
        )
    return Comparison(folder, rows, stopped)


def show_comparison(found: Comparison) -> None:
    """Print what `compare` found, and what the tables lack."""
    show(tables(found.rows))
    for line in left_out(found.rows):
        print(line)
    print(f"report: {found.folder / PAGE}")


def _remember(
    folder: Path,
    clips: Path | str | None,
    snr: float | Literal["any"] | None,
    base: Sequence[str],
    report: bool,
) -> Row:
    """What the folder was used with, and over it what is asked for now."""
    path = folder / MEMORY
    memory: Row = {"set": None, "snr": -5.0, "base": []}
    if report or path.exists():
        memory |= read_json(path, "there is no study; run it without --report")
    if clips is not None:
        memory["set"] = str(clips)
    if snr is not None:
        memory["snr"] = None if snr == "any" else snr
    if base:
        memory["base"] = list(base)
    return memory


def _check_data(trials: Sequence[Trial]) -> None:
    """Refuse missing training data before anything is trained."""
    configs = [trial.config.data for trial in trials]
    for index, data in enumerate(configs):
        if data not in configs[:index]:
            load_clips(data, quiet=True)


def _measure_noisy(memory: Row, folder: Path, cluster: str, quiet: bool) -> str:
    """Score the set's noisy files, which every evaluation needs. Returns the set's hash."""
    if not (folder / MEMORY).exists():  # a set that is refused leaves nothing behind
        open_pairs(memory["set"], memory["snr"], quiet=True)
    mine = lock(folder, NOISY)
    try:
        mine.acquire()
    except Timeout:
        if not quiet:
            print(f"{folder}: waits for another process that measures the set", file=sys.stderr)
        mine.acquire(timeout=-1)
    try:
        what, place = (memory["set"], memory["snr"]), folder / NOISY
        return evaluate(NOISY, *what, place, cores(), cluster=cluster, quiet=quiet).set_hash
    finally:
        mine.release()


def _write(study: Study, folder: Path, memory: Row, table: Path | str | None) -> list[Row]:
    """Write the results and the report, until they hold what the folder holds."""
    name = "built-in (synthetic)" if memory["set"] is None else Path(memory["set"]).resolve().name
    level = memory["snr"]
    title = f"{name}, each pair at its own SNR" if level is None else f"{name} at {level:g} dB"
    rows = study_rows(study, folder, title, memory["set_hash"])
    for _ in range(5):
        write_jsonl(folder / RESULTS, rows)
        write_text(folder / PAGE, page(rows))
        before, rows = rows, study_rows(study, folder, title, memory["set_hash"])
        if rows == before:  # else another process finished a run meanwhile
            break
        time.sleep(0.2)
    difference_plot(shown_rows(rows), folder / PLOT)
    if table is not None:
        write_text(table, page(rows))
    return rows
