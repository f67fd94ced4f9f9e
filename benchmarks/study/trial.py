"""One run of a study in its folder: trained, then evaluated, and its record of both.

The folder is a run folder of `enhance.training.loop.fit` with two things more: ``trial.json``, the
record, and ``evaluation/``, what `benchmarks.quality.evaluate.evaluate` wrote, scores of every clip
included (``evaluation/clips.jsonl``, each row with the hash of the set).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import socket
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.quality.evaluate import evaluate
from benchmarks.study.file import Trial, changes_since, digest, hours_heard, told
from distill.modes.choose import load_model, make_objective
from enhance.config.settings import load_yaml, to_dict
from enhance.errors import EnhanceError
from enhance.files import atomic, read_json, unwritable, write_json
from enhance.measure.timing import processor_name
from enhance.network.checkpoint import WEIGHTS
from enhance.training.engine import state as trainer_state
from enhance.training.engine.processes import Hardware
from enhance.training.engine.record import HISTORY
from enhance.training.loop import fit
from enhance.training.run import run_folder

LOCKS = "locks"
"""Folder of the locks, beside the runs: a run's folder may be moved away."""
RECORD = "trial.json"
EVALUATION = "evaluation"
CLIPS = "clips.jsonl"
FORMAT = 1

STALE, FAILED, OPEN, DONE = "stale", "failed", "not finished", "done"
"""Where a run stands."""

Record = dict[str, Any]


class Stopped(Exception):
    """A signal, whose name it holds, stopped a run; it is saved, the same command goes on."""


@dataclass(frozen=True)
class Conditions:
    """How runs are trained and evaluated: what results depend on beside the study."""

    clips: str | None
    """Folder of the evaluation set; None for the built-in one."""
    snr: float | None
    """SNR that its pairs must have."""
    set_hash: str
    accelerator: str
    """As in Lightning Fabric."""
    threads: int
    """Torch threads where the configuration leaves the choice open; 0 for torch's own."""
    evaluation_jobs: int
    """Processes that measure clips; 0 for one per core."""
    noisy: str
    """Scores of the noisy input, taken over by each evaluation where the file is there."""


def lock(folder: Path, name: str) -> FileLock:
    """The lock of a part of a study (a run by its key), which no second process shall work on.

    It is the operating system's: it goes when its holder goes. Not taken yet: use it as a context
    manager, which does not wait and raises `filelock.Timeout` where another holds it. An
    `EnhanceError` if the study's folder cannot be written.
    """
    place = folder / LOCKS
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(place, error) from error
    return FileLock(place / f"{name}.lock", timeout=0)


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none.

    An `EnhanceError` if it is damaged or of another version.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise EnhanceError(f"{path}: written by another version; use another folder")
    absent = [key for key in ("config", "config_hash", "stints") if key not in value]
    if absent:
        raise EnhanceError(
            f"{path}: is damaged: it has no {' and no '.join(absent)}; bring the file back from a "
            "copy, or move its folder away to train the run anew"
        )
    return value


def state_of(trial: Trial, folder: Path, record: Record | None, set_hash: str) -> tuple[str, str]:
    """Where a run stands (`DONE` and the like), and why it has no figures on a set."""
    if record is None:
        lost = f"has no {RECORD}, though it was trained: bring it back, or run without --report"
        return OPEN, lost if (folder / WEIGHTS).is_file() else "has not begun"
    changed = changes_since(record["config"], trial)
    if changed:
        return STALE, f"was trained with other settings than the study has now ({told(changed)})"
    if record.get("failed"):
        return FAILED, record["failed"]["message"]
    if (record.get("evaluated") or {}).get("set_hash") == set_hash:
        return DONE, ""
    trained = "is trained, and not evaluated on this set"
    return OPEN, trained if record.get("trained") else "is not trained to its end"


def check_unchanged(trial: Trial, folder: Path, record: Record | None) -> None:
    """Refuse to go on with a run whose settings are others now: the `EnhanceError` names them."""
    changed = changes_since(record["config"], trial) if record else []
    if changed:
        raise EnhanceError(
            f"{folder}: was trained with other settings ({told(changed)}); put them back, give "
            "the run another name, or train it anew with --force"
        )


def set_aside(folder: Path, record: Record) -> None:
    """Move a run's folder to ``old/`` beside it, so that the run can be trained anew."""
    place = folder.parent / "old"
    target = first = place / f"{folder.name}-{record['config_hash']}"
    numbers = itertools.count(2)
    while target.exists():
        target = Path(f"{first}-{next(numbers)}")
    try:
        place.mkdir(exist_ok=True)
        folder.rename(target)
    except OSError as error:
        raise EnhanceError(f"{folder}: cannot be moved to {target} ({error.strerror})") from error


def is_done(trial: Trial, folder: Path, set_hash: str) -> bool:
    """Whether a run, in its own folder, is trained with the settings of now, and evaluated."""
    return state_of(trial, folder, read_record(folder), set_hash)[0] == DONE


def run_trial(trial: Trial, folder: Path, conditions: Conditions) -> str:
    """Train and evaluate one run, in its own folder, from wherever it stopped.

    The caller holds its lock. Returns why it failed, empty if it did not: it stands in the record
    (`failed`) too, so that a run that diverges does not end the study.

    Raises
    ------
    Stopped
        If a signal stopped the training; it is saved.
    KeyboardInterrupt
        If Ctrl-C came elsewhere; finished clips are kept.
    EnhanceError
        If the record cannot be read or written, or was lost and the run is another.
    """
    record = read_record(folder)
    if record is None:
        _check_own(trial, folder)
    record = record or {
        "format": FORMAT,
        "name": trial.name,
        "seed": trial.seed,
        "config_hash": digest(trial.config),
        "config": to_dict(trial.config),
        "stints": [],
    }
    record.pop("failed", None)
    write_json(folder / RECORD, record)
    try:
        if not record.get("trained"):
            _train(trial, folder, conditions, record)
        if state_of(trial, folder, record, conditions.set_hash)[0] != DONE:
            record["evaluated"] = _evaluate(folder, conditions)
            write_json(folder / RECORD, record)
    except Stopped:
        raise
    except Exception as error:  # of a library too: the other runs of a night go on
        message = str(error)
        if not isinstance(error, EnhanceError):
            traceback.print_exc()
            message = f"{type(error).__name__}: {message}"
        record["failed"] = {"message": message}
        write_json(folder / RECORD, record)
        return message
    return ""


def _check_own(trial: Trial, folder: Path) -> None:
    """Refuse a folder whose record was lost and whose run had other settings.

    Training that has come to its end compares nothing any more.
    """
    path = folder / run_folder.CONFIG
    changed = changes_since(load_yaml(path), trial) if path.is_file() else []
    if changed:
        raise EnhanceError(
            f"{folder}: has no {RECORD}, and was trained with other settings ({told(changed)}); "
            "put them back, or move the folder away to train the run anew"
        )


def steps_done(folder: Path) -> int:
    """Steps of a run as far as its history tells, cheaply; 0 before the first line."""
    try:
        with (folder / HISTORY).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"])
    return 0


def _header(folder: Path) -> dict[str, Any]:
    """Header of the state for resuming; empty before the first checkpoint."""
    path = folder / trainer_state.FILE
    return trainer_state.read_header(path) if path.is_file() else {}


def _train(trial: Trial, folder: Path, conditions: Conditions, record: Record) -> None:
    config = trial.config
    if conditions.threads and not config.training.threads:
        config = replace(config, training=replace(config.training, threads=conditions.threads))
    if multiprocessing.current_process().daemon:
        # A Dask worker below a nanny may have no children. Mixtures are the same without.
        config = replace(config, data=replace(config.data, workers=0))
    steps = config.training.steps
    begin = _header(folder).get("step", 0)
    if begin < steps:
        present = (run_folder.CONFIG, trainer_state.FILE, WEIGHTS, HISTORY)
        cpu, wall = _cpu_seconds(), time.monotonic()
        summary = fit(
            config,
            make_objective(config, quiet=True),
            folder,
            resume=any((folder / name).exists() for name in present),
            hardware=Hardware(conditions.accelerator),
            quiet=True,
        )
        record["stints"].append({
            "steps": summary["step"] - begin,
            "cpu_seconds": round(_cpu_seconds() - cpu, 3),
            "wall_seconds": round(time.monotonic() - wall, 3),
            "host": socket.gethostname(),
        })  # fmt: skip
        write_json(folder / RECORD, record)
        if summary["stopped"] != "finished":
            raise Stopped(summary["stopped"])
    record["trained"] = _trained(trial, folder, record)
    write_json(folder / RECORD, record)


def _trained(trial: Trial, folder: Path, record: Record) -> dict[str, Any]:
    header = _header(folder)
    model, info = load_model(folder)
    # Of the stints that ended as they should: one that was killed left no figure, and its steps
    # count at the price of the others.
    counted = sum(stint["steps"] for stint in record["stints"])
    cpu = sum(stint["cpu_seconds"] for stint in record["stints"])
    return {
        "steps": header["step"],
        "hours_heard": hours_heard(trial.config.training, trial.config.mixing, header["step"]),
        "seconds": header["seconds"],
        "cpu_seconds": cpu * header["step"] / counted if counted else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "score": info.score,
        "training_files": header["data"],
        "processor": processor_name(),
    }


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended (workers that mix)."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _evaluate(folder: Path, conditions: Conditions) -> dict[str, Any]:
    place = folder / EVALUATION
    noisy = Path(conditions.noisy)
    if noisy.is_file() and not (place / CLIPS).exists():
        with atomic(place / CLIPS) as temporary:
            shutil.copyfile(noisy, temporary)
    asked = (conditions.clips, conditions.snr, place, conditions.evaluation_jobs)
    found = evaluate([str(folder)], *asked, quiet=True)
    _, own = found.models
    return {
        "set_hash": found.set_hash,
        "clips": own["clips"],
        "model_hash": own["model_hash"],
        "means": {name: entry["mean"] for name, entry in own["metrics"].items()},
        "warnings": found.warnings,
        "metric_versions": own["hardware"]["metric_versions"],
    }
