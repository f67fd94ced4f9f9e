"""One row per clip and model: measured over all cores, kept on disk, taken up again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.candidates import SAMPLE_RATE, Candidate, Enhance, load
from enhance.audio import read as audio
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, MetricRefusal, measure

Row = dict[str, Any]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For `environment`: one thread in BLAS and OpenMP."""


@dataclass(frozen=True)
class Pair:
    """A clean file and its noisy version."""

    name: str
    """Name of the pair."""
    clean: str
    """Path of the clean file."""
    noisy: str
    """Path of the noisy file."""
    labels: dict[str, str]
    """Labels of the manifest."""
    clean_sha256: str
    """Hash of the clean file's bytes."""
    noisy_sha256: str
    """Hash of the noisy file's bytes."""

    @property
    def sha256(self) -> str:
        """Both hashes."""
        return f"{self.clean_sha256}+{self.noisy_sha256}"


@dataclass(frozen=True)
class Task:
    """One clip for one model."""

    pair: Pair
    """The clip."""
    candidate: int
    """Index of the model."""

    def measure(self, candidate: Candidate, enhance: Enhance) -> Row:
        """The task's row; other questions than the pair's quality override this."""
        return measure_pair(self.pair, candidate, enhance)


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    """``10 log10(sum(s^2) / sum((noisy - s)^2))`` over the whole clip; NaN if either is silent."""
    speech = float(np.sum(np.square(clean, dtype=np.float64)))
    noise = float(np.sum(np.square(np.subtract(noisy, clean, dtype=np.float64))))
    return 10 * float(np.log10(speech / noise)) if speech > 0 and noise > 0 else float("nan")


def read_pair(clean_path: str | Path, noisy_path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Both files at their own rate, (N,) each.

    Raises
    ------
    EnhanceError
        If a file cannot be read, or rates or lengths differ.
    """
    rates = [audio.info(path).sample_rate for path in (clean_path, noisy_path)]
    clean, noisy = audio.read(clean_path), audio.read(noisy_path)
    if rates[0] != rates[1] or clean.shape != noisy.shape:
        raise EnhanceError(
            f"{noisy_path}: {noisy.size} samples at {rates[1]} Hz, its clean file has "
            f"{clean.size} at {rates[0]} Hz (a pair must be equally long, sample by sample)"
        )
    return clean, noisy, rates[0]


def measure_pair(pair: Pair, candidate: Candidate, enhance: Enhance) -> Row:
    """Enhance one clip and measure it: a row of ``clips.jsonl`` without gains."""
    clean, noisy, rate = read_pair(pair.clean, pair.noisy)
    if rate != SAMPLE_RATE:
        clean = audio.resample(clean, rate, SAMPLE_RATE)
        noisy = audio.resample(noisy, rate, SAMPLE_RATE)
    estimate = np.asarray(enhance(noisy), dtype=np.float32)
    if estimate.shape != noisy.shape:
        raise EnhanceError(
            f"{candidate.name}: gave {estimate.shape} for {noisy.shape} on clip {pair.name} "
            "(an offline model returns as many samples as it gets)"
        )
    results = measure(clean, estimate, SAMPLE_RATE)
    return {
        "clip": pair.name,
        "model": candidate.name,
        "model_hash": candidate.sha256,
        "clip_hash": pair.sha256,
        "metrics": {k: v for k, v in results.items() if not isinstance(v, MetricRefusal)},
        "refusals": [v.row() for v in results.values() if isinstance(v, MetricRefusal)],
        "labels": dict(pair.labels),
    }


def run(
    tasks: Sequence[Task], candidates: Sequence[Candidate], jobs: int
) -> Generator[Row, None, None]:
    """Rows of the tasks, as they are done.

    Parameters
    ----------
    tasks
        What to measure.
    candidates
        The models that tasks point to.
    jobs
        Worker processes; 1 works in this process. Each uses one thread.

    Raises
    ------
    EnhanceError
        From a worker; or if one died.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with _one_torch_thread(any(c.kind == "checkpoint" for c in candidates)):
            loaded: dict[int, Enhance] = {}
            for task in tasks:
                yield _measure(task, candidates, loaded)
        return
    yield from _run_pool(tasks, candidates, min(jobs, len(tasks)))


def _run_pool(tasks: Sequence[Task], candidates: Sequence[Candidate], jobs: int) -> Iterator[Row]:
    # Spawned, not forked: torch and ONNX Runtime do not survive a fork with threads.
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start_worker, initargs=(list(candidates),)
    )
    waiting = iter(tasks)
    running: dict[Future[Row], Task] = {}
    taken: list[Task] = []
    try:
        with _workers_ignore_interrupt(), environment(**ONE_THREAD):
            for task in _take(waiting, 2 * jobs):
                running[pool.submit(_work, task)] = task
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                taken = [running.pop(future)]
                yield future.result()
                for following in _take(waiting, 1):
                    running[pool.submit(_work, following)] = following
    except BrokenProcessPool as error:
        names = sorted({task.pair.name for task in [*running.values(), *taken]})
        raise EnhanceError(
            f"evaluate: a worker process died (out of memory, or a crash inside a metric) near "
            f"clips {', '.join(names[:6])}; rows done so far are kept: run it again, with fewer "
            "--jobs if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take(items: Iterator[Task], count: int) -> Iterator[Task]:
    for _, item in zip(range(count), items, strict=False):
        yield item


_worker: tuple[list[Candidate], dict[int, Enhance]] = ([], {})


def _start_worker(candidates: list[Candidate]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if any(candidate.kind == "checkpoint" for candidate in candidates):
        import torch

        torch.set_num_threads(1)
    _worker = (candidates, {})


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody waits for these rows


def _work(task: Task) -> Row:
    return _measure(task, *_worker)


def _measure(task: Task, candidates: Sequence[Candidate], loaded: dict[int, Enhance]) -> Row:
    if task.candidate not in loaded:
        loaded[task.candidate] = load(candidates[task.candidate])
    return task.measure(candidates[task.candidate], loaded[task.candidate])


@contextlib.contextmanager
def _workers_ignore_interrupt() -> Iterator[None]:
    """Processes started inside inherit a Ctrl-C that does nothing, even while they start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables that processes started inside read at their start."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _one_torch_thread(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier evaluation; a last line that was cut off in writing is left out.

    Raises
    ------
    EnhanceError
        If another line is not JSON, or the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{path}: cannot be read ({error}); remove it") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no newline after it: the process was killed in writing
                break
            raise EnhanceError(f"{path}, line {number}: not JSON; remove the file") from error
        if isinstance(row, dict) and {"clip", "model_hash", "clip_hash", "set_hash"} <= row.keys():
            rows.append(row)
    return rows


def missing_metrics(row: Row) -> set[str]:
    """Metrics that a row neither measured nor refused."""
    return set(METRICS) - set(row["metrics"]) - {r["metric"] for r in row["refusals"]}
