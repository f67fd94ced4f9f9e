"""How fast is it? Times per frame of several models in one run (``enhance bench``).

Models take turns frame block by frame block, so that a machine that speeds up, heats up or is
shared hits all of them alike: ratios from one run hold, milliseconds of two runs do not compare.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.figures.results import RESULTS, Row, merge_results
from benchmarks.figures.statistics import ratio_of_medians
from benchmarks.latency import cold_start
from benchmarks.latency.peer import Peer
from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model
from enhance.errors import EnhanceError, require
from enhance.files import check_writable, sha256
from enhance.measure.timing import (
    REGIMES,
    CacheDisturber,
    FrameTimes,
    cold,
    hardware,
    hot,
    paced,
    split_frames,
)
from enhance.native.library import SUFFIX, installed_library
from enhance.progress import progress_bar

BLOCK = 50
"""Frames of one model before the next has its turn."""

WARM_UP = 5
"""Hot: frames at the start of a turn that are not counted, while the caches fill."""

LOADED = 0.1
"""CPU time on other threads, relative to the measured one, from which on it is told."""


@dataclass
class Subject:
    """A model under measurement."""

    name: str
    enhancer: Enhancer | Peer
    """Opened on one thread."""
    frames: Iterator[np.ndarray]
    """Audio, hop by hop, without end."""
    times: dict[str, FrameTimes] = field(default_factory=dict)
    """By regime."""

    @property
    def hop_seconds(self) -> float:
        """Duration of one frame's new audio."""
        return self.enhancer.hop_length / self.enhancer.sample_rate

    def take(self, count: int) -> list[np.ndarray]:
        """The next frames of the audio."""
        return list(islice(self.frames, count))


@dataclass
class Bench:
    """What `bench` found."""

    folder: Path | None
    """Where the rows lie, if anywhere."""
    models: list[Row]
    """One row per model, in the order given."""
    hardware: Row
    """Machine and versions."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the user."""


def bench(
    models: Sequence[str | Path],
    seconds: float = 4.0,
    out: Path | str | None = None,
    *,
    peers: Sequence[str] = (),
    regimes: Sequence[str] = REGIMES,
    repeats: int = 3,
    quiet: bool = False,
) -> Bench:
    """Measure the latency of models on one thread; what ``enhance bench`` does.

    Parameters
    ----------
    models
        ONNX files, shipped names or hub ids, or weights for plain C; every ratio is to the first.
        An ONNX file's weights for plain C follow it where there are, and plain C is compiled.
    seconds
        Measuring time per model and regime: two models take about 7 times as long in all.
    out
        Folder for ``results.jsonl``; None writes nothing. The page of it is
        `benchmarks.pages.report.write_report`.
    peers
        Other systems, see `benchmarks.latency.peer`; their start in a fresh process is not timed.
    regimes
        Regimes out of `REGIMES`.
    repeats
        Fresh processes for the cold start, at least one.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If a model cannot be found or run, an option is out of range, or ``out`` cannot be written.
    """
    if not models:
        raise EnhanceError("bench: no model named; give ONNX files or shipped names")
    if not seconds > 0 or repeats < 1:
        raise EnhanceError("bench: seconds and repeats must be positive")
    unknown = [regime for regime in regimes if regime not in REGIMES]
    if unknown or not regimes:
        raise EnhanceError(f"bench: regimes {list(regimes)}; choose from {', '.join(REGIMES)}")
    if out is not None:
        require("bench", "matplotlib")
    subjects = _open(models, peers)
    if out is not None:
        check_writable(Path(out) / RESULTS)  # after what may be refused, before the long work
    machine = hardware()
    disturb = CacheDisturber()
    with progress_bar(quiet=quiet) as bar:
        total = len(subjects) * (len(regimes) + 1)
        job = bar.add_task("bench", total=total, speed="")
        starts = []
        for subject in subjects:
            foreign = isinstance(subject.enhancer, Peer)
            path = subject.enhancer.path
            starts.append(cold_start.NOTHING if foreign else cold_start.measure(path, repeats))
            bar.update(job, advance=1, speed="cold start")
        for regime in regimes:
            _rounds(subjects, regime, seconds, disturb)
            bar.update(job, advance=len(subjects), speed=regime)
    run = secrets.token_hex(6)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    settings = {"seconds": seconds, "block": BLOCK, "disturb_mb": disturb.megabytes, "threads": 1}
    rows = [
        _row(subject, subjects[0], start)
        | {"run": run, "time": now, "hardware": machine, "settings": settings}
        for subject, start in zip(subjects, starts, strict=True)
    ]
    for row in rows:
        row["relative"] = _relative(row, rows[0])
    lines = [f"{row['model']}: {line}" for row in rows for line in row["warnings"]]
    load = machine["load_average"]
    if load is not None and load > 0.5 * (machine["cores"] or 1):
        lines.append(
            f"the machine was busy (load {load:g} on {machine['cores']} cores): wall times, "
            "maxima and deadline misses are too high, CPU times and ratios less so"
        )
    folder = None if out is None else Path(out)
    if folder is not None:
        merge_results(folder, rows)
    return Bench(folder, rows, machine, lines)


def _open(models: Sequence[str | Path], peers: Sequence[str] = ()) -> list[Subject]:
    """Models, each with its weights for plain C behind it, where both can be used, then peers.

    They are fed with four seconds of noise: their time hardly depends on it.
    """
    paths: list[Path] = []
    for path in map(find_model, models):
        paths.append(path)
        weights = path.with_suffix(SUFFIX)
        if path.suffix != SUFFIX and weights.is_file() and installed_library() is not None:
            paths.append(weights)
    opened: list[Enhancer | Peer] = [
        Enhancer(path, num_threads=1, engine="native" if path.suffix == SUFFIX else "onnx")
        for path in paths
    ]
    subjects: list[Subject] = []
    for enhancer in [*opened, *map(Peer, peers)]:
        noise = np.random.default_rng(0).standard_normal(4 * enhancer.sample_rate)
        wave = (0.05 * noise).astype(np.float32)
        count = len(wave) // enhancer.hop_length
        name = enhancer.path.name if enhancer.path.suffix == SUFFIX else enhancer.path.stem
        same = sum(other.name.partition("#")[0] == name for other in subjects)
        name = f"{name}#{same + 1}" if same else name
        frames = cycle(split_frames(wave, enhancer.hop_length, count))
        subjects.append(Subject(name, enhancer, frames))
    return subjects


def _rounds(
    subjects: Sequence[Subject], regime: str, seconds: float, disturb: CacheDisturber
) -> None:
    """Let the subjects have turns until their time is used; who begins moves on each round.

    Whole rounds: every subject gets the same number of frames.
    """
    for subject in subjects:
        subject.times[regime] = FrameTimes()
    end = time.perf_counter() + seconds * len(subjects)
    start = 0
    while not len(subjects[0].times[regime]) or time.perf_counter() < end:
        for subject in [*subjects[start:], *subjects[:start]]:
            subject.times[regime].extend(_turn(subject, regime, disturb))
        start = (start + 1) % len(subjects)


def _turn(subject: Subject, regime: str, disturb: CacheDisturber) -> FrameTimes:
    process = subject.enhancer.process
    if regime == "hot":
        return hot(process, subject.take(WARM_UP + BLOCK), WARM_UP)
    if regime == "cold":
        return cold(process, subject.take(1), disturb)
    return paced(process, subject.take(BLOCK), subject.hop_seconds)


def _row(subject: Subject, first: Subject, start: Row) -> Row:
    enhancer, rate = subject.enhancer, subject.enhancer.sample_rate
    metadata = enhancer.metadata
    ratio = {}
    warnings = []
    regimes = {}
    for regime, times in subject.times.items():
        regimes[regime] = times.summary(subject.hop_seconds)
        # Per second of audio, so that models of different hops compare.
        own = np.array(times.cpu_ns) / subject.hop_seconds
        others = np.array(first.times[regime].cpu_ns) / first.hop_seconds
        ratio[regime] = ratio_of_medians(others, own).row()
        share = regimes[regime]["other_threads_share"]
        if share > LOADED:
            warnings.append(
                f"{regime}: {share:.0%} more CPU time ran on other threads and is not counted"
            )
        missed, count = regimes[regime]["deadline_misses"], len(times)
        if missed:
            warnings.append(f"{regime}: {missed} of {count} frames took longer than their hop")
    algorithmic = _number(metadata, "algorithmic_latency_samples")
    return {
        "kind": "latency",
        "model": subject.name,
        "path": str(enhancer.path),
        "model_hash": sha256(enhancer.path),
        "first": first.name,
        "hop_ms": 1000 * subject.hop_seconds,
        "latency_samples": enhancer.latency_samples,
        "algorithmic_latency_ms": None if algorithmic is None else 1000 * algorithmic / rate,
        "parameters": _number(metadata, "parameters"),
        "macs_per_second": _number(metadata, "macs_per_second"),
        "quantization": metadata.get("quantization", "-"),
        "file_bytes": enhancer.path.stat().st_size,
        "cold_start": start,
        "regimes": regimes,
        "ratio": ratio,
        "warnings": warnings,
    }


def _relative(row: Row, first: Row) -> dict[str, float | None]:
    """Figures of a model over those of the first; None where one does not tell."""
    pairs = {
        "start": (row["cold_start"]["total_ms"], first["cold_start"]["total_ms"]),
        "resident": (row["cold_start"]["resident_mb"], first["cold_start"]["resident_mb"]),
        "file": (row["file_bytes"], first["file_bytes"]),
        "parameters": (row["parameters"], first["parameters"]),
    }
    return {key: own / other if own and other else None for key, (own, other) in pairs.items()}


def _number(metadata: dict[str, str], key: str) -> int | None:
    try:
        return int(float(metadata[key]))
    except (KeyError, ValueError, OverflowError):
        return None
