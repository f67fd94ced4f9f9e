"""One row per clip and model: measured over all cores, kept on disk, taken up again."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.figures.results import Row
from benchmarks.quality.candidates import SAMPLE_RATE, Candidate, Enhance, load, output_of
from enhance.audio import read as audio
from enhance.audio.resampling import resample
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, WER, MetricRefusal, measure
from enhance.parallel import Workers, torch_threads


@dataclass(frozen=True)
class Pair:
    """Paths of a clean file and of its noisy version, and the labels of the manifest."""

    name: str
    clean: str
    noisy: str
    labels: dict[str, str]
    clean_sha256: str
    noisy_sha256: str

    @property
    def sha256(self) -> str:
        """Both hashes."""
        return f"{self.clean_sha256}+{self.noisy_sha256}"


@dataclass(frozen=True)
class Task:
    """One clip for one model."""

    pair: Pair
    candidate: int
    """Index of the model."""
    figures: tuple[str, ...] = field(default=METRICS, kw_only=True)
    """What is measured of the pair, out of `enhance.measure.metrics.ALL_METRICS`."""
    recognizer: str | None = field(default=None, kw_only=True)
    """Who counts word errors, as `benchmarks.recognizers.choose.load` takes it."""

    def measure(self, candidate: Candidate, enhance: Enhance) -> Row:
        """The task's row; other questions than the pair's quality override this."""
        return measure_pair(self.pair, candidate, enhance, self.figures, self.recognizer)


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    """``10 log10(sum(s^2) / sum((noisy - s)^2))`` over the whole clip; NaN if either is silent."""
    speech = float(np.sum(np.square(clean, dtype=np.float64)))
    noise = float(np.sum(np.square(np.subtract(noisy, clean, dtype=np.float64))))
    return 10 * float(np.log10(speech / noise)) if speech > 0 and noise > 0 else float("nan")


def read_pair(clean_path: str | Path, noisy_path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Both files at their own rate, (N,) each.

    An `EnhanceError` if a file cannot be read, or rates or lengths differ.
    """
    rates = [audio.info(path).sample_rate for path in (clean_path, noisy_path)]
    clean, noisy = audio.read(clean_path), audio.read(noisy_path)
    if rates[0] != rates[1] or clean.shape != noisy.shape:
        raise EnhanceError(
            f"{noisy_path}: {noisy.size} samples at {rates[1]} Hz, its clean file has "
            f"{clean.size} at {rates[0]} Hz (a pair must be equally long, sample by sample)"
        )
    return clean, noisy, rates[0]


def measure_pair(
    pair: Pair,
    candidate: Candidate,
    enhance: Enhance,
    metrics: Sequence[str] = METRICS,
    recognizer: str | None = None,
) -> Row:
    """Enhance one clip and measure it: a row of ``clips.jsonl`` without gains."""
    clean, noisy, rate = read_pair(pair.clean, pair.noisy)
    if rate != SAMPLE_RATE:
        clean = resample(clean, rate, SAMPLE_RATE)
        noisy = resample(noisy, rate, SAMPLE_RATE)
    if candidate.kind == "outputs":
        estimate = output_of(candidate, pair.name)
    else:
        estimate = np.asarray(enhance(noisy), dtype=np.float32)
    if estimate.shape != noisy.shape:
        raise EnhanceError(
            f"{candidate.name}: gave {estimate.shape} for {noisy.shape} on clip {pair.name} "
            "(an output has as many samples as the noisy clip, in time with it)"
        )
    words = None
    if recognizer and WER in metrics:
        from benchmarks.recognizers.words import word_errors  # which imports torch

        words = word_errors(recognizer)
    results = measure(clean, estimate, SAMPLE_RATE, metrics, words)
    return {
        "clip": pair.name,
        "model": candidate.name,
        "model_hash": candidate.sha256,
        "clip_hash": pair.sha256,
        **parted(results),
        "labels": dict(pair.labels),
    }


def parted(results: Mapping[str, float | MetricRefusal]) -> Row:
    """What `measure` found: values of metrics, and the refusals of the others."""
    return {
        "metrics": {k: v for k, v in results.items() if not isinstance(v, MetricRefusal)},
        "refusals": [v.row() for v in results.values() if isinstance(v, MetricRefusal)],
    }


def run(
    tasks: Sequence[Task], candidates: Sequence[Candidate], workers: Workers
) -> Generator[Row, None, None]:
    """Rows of the tasks, as they are done; each worker uses one thread."""
    torch = any(candidate.kind == "checkpoint" for candidate in candidates)
    work = [(task, candidates[task.candidate]) for task in tasks]
    done, start = itertools.count(1), time.perf_counter()

    def speed() -> str:
        return f"{next(done) / (time.perf_counter() - start):.1f} clips/s"

    found = workers.each(_measure, work, "measuring", speed=speed)
    with torch_threads(1) if torch else contextlib.nullcontext(), contextlib.closing(found) as rows:
        for _, row in rows:
            yield row


_loaded = lru_cache(maxsize=32)(load)


def _measure(work: tuple[Task, Candidate]) -> Row:
    task, candidate = work
    with torch_threads(1) if candidate.kind == "checkpoint" else contextlib.nullcontext():
        return task.measure(candidate, _loaded(candidate))


def missing_metrics(row: Row, metrics: Sequence[str]) -> tuple[str, ...]:
    """Metrics that a row neither measured nor refused."""
    known = {*row["metrics"], *(refusal["metric"] for refusal in row["refusals"])}
    return tuple(metric for metric in metrics if metric not in known)
