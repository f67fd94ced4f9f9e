"""How good is it? PESQ, STOI, ESTOI and SI-SDR of models on one frozen set (``enhance evaluate``).

The noisy input is always measured too, and every gain is over it, clip by clip. Rows are kept in
the output folder as they are done: a run that was stopped goes on, and a second model on the same
set costs only its own clips.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.figures.results import merge_results
from benchmarks.figures.statistics import mean_interval, paired_difference
from benchmarks.pages.report import write_report
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import NOISY, Candidate, load, resolve_all
from benchmarks.quality.clips import Pair, Row, Task
from benchmarks.quality.heard import TestClip, check
from enhance.errors import EnhanceError, require
from enhance.files import sha256, write_jsonl
from enhance.measure.metrics import METRICS, versions
from enhance.measure.timing import cores, hardware
from enhance.progress import progress_bar

CLIPS = "clips.jsonl"

SNR_TOLERANCE_DB = 0.1
"""Largest deviation of a pair from the SNR that was asked for."""

GROUP_LABELS = ("speech_group", "speaker_in_train", "group")
"""Labels by which clips are reported apart where the set has them."""


@dataclass
class Evaluation:
    """What `evaluate` found."""

    folder: Path
    """Where rows, report and plot lie."""
    set_hash: str
    """Hash of the evaluation set."""
    models: list[Row]
    """One row per model, the noisy input first: the rows written to ``results.jsonl``."""
    comparisons: list[Row]
    """One row per pair of models."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the user."""
    reused: int = 0
    """Rows that an earlier run had measured."""


def evaluate(
    models: str | Path | Sequence[str | Path] = (),
    set: Path | str | None = None,
    snr: float | None = -5.0,
    out: Path | str = Path("report"),
    jobs: int = 0,
    *,
    cluster: str = "",
    groups: Sequence[str] | None = None,
    limit: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Measure models on a set of clean/noisy pairs; what ``enhance evaluate`` does.

    Parameters
    ----------
    models
        Checkpoint folders, ONNX files, shipped names or ``"noisy"``. None: the newest run.
    set
        Folder with ``clean/`` and ``noisy/`` of the same names. None: the built-in synthetic set.
    snr
        SNR in dB that every pair must have within `SNR_TOLERANCE_DB`; None checks nothing.
    out
        Folder for ``clips.jsonl``, ``results.jsonl``, ``report.md`` and the plot.
    jobs
        Worker processes; 0 for all cores.
    cluster
        Address of a Dask scheduler whose workers measure instead (`enhance.parallel.run`).
    groups
        Labels to report apart; None for those of `GROUP_LABELS` that the set has.
    limit
        Only the first clips of the set (a trial; the set's hash then names the limit); 0 for all.
    quiet
        No progress bar.

    Returns
    -------
    Evaluation
        Rows, comparisons and warnings.

    Raises
    ------
    EnhanceError
        If a model or the set cannot be read, a pair has another SNR, or ``out`` cannot be written.
    KeyboardInterrupt
        On Ctrl-C; finished clips are kept and used by the next run.
    """
    require("bench", "pesq", "pystoi", "scipy", "matplotlib")
    if isinstance(models, str | Path):
        models = [models]
    if not models:
        from enhance.network.checkpoint import newest_run

        models = [newest_run()]
    candidates = resolve_all(models, noisy=True)
    for candidate in candidates:
        load(candidate)  # a broken model is told before the long work
    folder = Path(out)
    name, set_hash, pairs = _open(set, snr, limit, quiet)
    labels = _group_labels(pairs, groups)
    rows, reused = _measure(candidates, pairs, set_hash, folder, jobs, cluster, quiet)
    table = {(row["model_hash"], row["clip"]): row for row in rows}
    warnings: list[str] = []
    summaries = []
    test_clips = [TestClip(p.name, (p.clean_sha256, p.noisy_sha256), p.labels) for p in pairs]
    common: Row = {
        "set": name,
        "set_hash": set_hash,
        "snr_db": snr,
        "clips": len(pairs),
        "interval": "95 %, Student's t over clips",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    shared = {**common, "hardware": {**hardware(), "metric_versions": versions()}}
    for candidate in candidates:
        own = [table[candidate.sha256, pair.name] for pair in pairs]
        heard = check(candidate, test_clips)
        row = _summary(candidate, own, labels) | shared | {"heard": heard.row()}
        if candidate.kind != "noisy":
            warnings += heard.lines(candidate.name, len(pairs))
        warnings += refusal_lines(candidate.name, row["refusals"], len(pairs))
        summaries.append(row)
    comparisons: list[Row] = []
    for a, b in combinations([c for c in candidates if c.kind != "noisy"], 2):
        first, second = ([table[c.sha256, pair.name] for pair in pairs] for c in (a, b))
        who = {"a": a.name, "b": b.name, "a_hash": a.sha256, "b_hash": b.sha256}
        metrics = compare(first, second)
        comparisons.append({"kind": "comparison", **who, **common, "metrics": metrics})
    merge_results(folder, summaries + comparisons)
    write_report(folder)
    return Evaluation(folder, set_hash, summaries, comparisons, warnings, reused)


def _summary(candidate: Candidate, rows: Sequence[Row], labels: Sequence[str]) -> Row:
    return {
        "kind": "quality",
        "model": candidate.name,
        "model_kind": candidate.kind,
        "model_hash": candidate.sha256,
        "path": candidate.path,
        "metrics": summarize(rows),
        "groups": _by_group(rows, labels),
        "refusals": [{"clip": row["clip"], **item} for row in rows for item in row["refusals"]],
    }


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean, interval and number refused of each metric, and of its gain over the noisy input."""
    result: dict[str, Any] = {}
    for metric in METRICS:
        values = [row["metrics"][metric] for row in rows if metric in row["metrics"]]
        gains = [row["gains"][metric] for row in rows if metric in row["gains"]]
        entry: Row = mean_interval(values).row() if values else {"mean": None, "n": 0}
        entry["refused"] = len(rows) - len(values)
        entry["gain"] = mean_interval(gains).row() if gains else {"mean": None, "n": 0}
        result[metric] = entry
    return result


def compare(a: Sequence[Row], b: Sequence[Row]) -> dict[str, Any]:
    """Paired difference ``b - a`` of each metric over the clips that both measured."""
    result = {}
    for metric in METRICS:
        first = {row["clip"]: row["metrics"][metric] for row in a if metric in row["metrics"]}
        second = {row["clip"]: row["metrics"][metric] for row in b if metric in row["metrics"]}
        difference = paired_difference(first, second)
        result[metric] = difference.row() if difference else None
    return result


def refusal_lines(model: str, refusals: Sequence[Row], clips: int) -> list[str]:
    """One line per metric that refused clips: how many, the first names, the first reason."""
    lines = []
    for metric in METRICS:
        found = [item for item in refusals if item["metric"] == metric]
        if found:
            names = ", ".join(item["clip"] for item in found[:5]) + (
                " ..." if len(found) > 5 else ""
            )
            lines.append(
                f"{model}: {metric} refused {len(found)} of {clips} clips, its mean is over the "
                f"rest: {names} ({found[0]['reason']})"
            )
    return lines


def check_snr(found: Sequence[tuple[str, float]], snr: float, where: str) -> None:
    """Check that every pair has the SNR that was asked for.

    Parameters
    ----------
    found
        (name, SNR in dB) of each pair; NaN where one file is silent or the two are the same.
    snr
        The SNR wanted.
    where
        Name of the set, for the message.

    Raises
    ------
    EnhanceError
        Naming the first pairs that deviate by more than `SNR_TOLERANCE_DB`, and their number.
    """
    wrong = [(name, value) for name, value in found if not abs(value - snr) <= SNR_TOLERANCE_DB]
    if wrong:
        some = ", ".join(f"{name} ({value:.2f} dB)" for name, value in wrong[:3])
        raise EnhanceError(
            f"{where}: {len(wrong)} of {len(found)} pairs are not at {snr:g} dB within "
            f"{SNR_TOLERANCE_DB:g} dB, first {some}; name the set's own SNR with --snr, "
            "or make a set with: enhance data mix"
        )


def _open(
    folder: Path | str | None, snr: float | None, limit: int, quiet: bool
) -> tuple[str, str, list[Pair]]:
    """Read, hash and check every pair of a set: its name, hash and pairs."""
    from enhance.data import evaluation_set

    if folder is None:
        found = evaluation_set.builtin_set(-5.0 if snr is None else snr, quiet=quiet)
    else:
        found = evaluation_set.open_set(Path(folder))
    chosen = list(found.pairs)[: limit or None]
    pairs: list[Pair] = []
    levels: list[tuple[str, float]] = []
    with progress_bar(quiet=quiet) as bar:
        job = bar.add_task("checking the set", total=len(chosen), speed="")
        for name, clean, noisy, labels in chosen:
            if snr is not None:
                levels.append((name, rows_of.snr_db(*rows_of.read_pair(clean, noisy)[:2])))
            text = {key: str(value) for key, value in dict(labels).items()}
            pairs.append(Pair(name, str(clean), str(noisy), text, sha256(clean), sha256(noisy)))
            bar.update(job, advance=1)
    if not pairs:
        raise EnhanceError(f"{folder}: the evaluation set has no pairs")
    name = "built-in (synthetic)" if folder is None else str(folder)
    if snr is not None:
        check_snr(levels, snr, name)
    cut = f"[:{limit}]" if len(chosen) < len(found.pairs) else ""
    return name + cut, found.hash + cut, pairs


def _group_labels(pairs: Sequence[Pair], wanted: Sequence[str] | None) -> list[str]:
    known = {label for pair in pairs for label in pair.labels}
    if wanted is None:
        return [label for label in GROUP_LABELS if label in known]
    unknown = [label for label in wanted if label not in known]
    if unknown:
        raise EnhanceError(
            f"group {unknown[0]!r}: no such label in the set; it has {', '.join(sorted(known))}"
        )
    return list(wanted)


def _by_group(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for label in labels:
        values = sorted({row["labels"].get(label, "") for row in rows})
        if len(values) > 1:
            groups[label] = {}
            for value in values:
                own = [row for row in rows if row["labels"].get(label, "") == value]
                groups[label][value or "(none)"] = {"clips": len(own), "metrics": summarize(own)}
    return groups


def _measure(
    candidates: Sequence[Candidate],
    pairs: Sequence[Pair],
    set_hash: str,
    folder: Path,
    jobs: int,
    cluster: str,
    quiet: bool,
) -> tuple[list[Row], int]:
    """All rows with gains, measured or taken from the folder; and how many were taken."""
    path = folder / CLIPS
    tools = " ".join(f"{key} {value}" for key, value in sorted(versions().items()))
    wanted = {(c.sha256, p.sha256, p.name): (i, p) for i, c in enumerate(candidates) for p in pairs}
    names = {candidate.sha256: candidate.name for candidate in candidates}
    done: dict[tuple[str, str, str], Row] = {}
    others: list[Row] = []
    for row in rows_of.read_rows(path):
        key = (row["model_hash"], row["clip_hash"], row["clip"])
        fresh = row["set_hash"] == set_hash and row.get("tools") == tools
        if fresh and key in wanted and not rows_of.missing_metrics(row):
            pair = wanted[key][1]
            done[key] = {**row, "model": names[key[0]], "labels": dict(pair.labels)}
        elif row["set_hash"] != set_hash or row["model_hash"] not in names:
            others.append(row)
    reused = len(done)
    write_jsonl(path, others + list(done.values()))  # without a line that a kill cut off
    tasks = [Task(pair, index) for key, (index, pair) in wanted.items() if key not in done]
    # In the order of the clips, so that a stopped run has every model on the same clips.
    order = {pair.name: number for number, pair in enumerate(pairs)}
    tasks.sort(key=lambda task: (order[task.pair.name], task.candidate))
    start = time.perf_counter()
    with (
        progress_bar(quiet=quiet) as bar,
        path.open("a", encoding="utf-8") as file,
        contextlib.closing(rows_of.run(tasks, candidates, jobs or cores(), cluster)) as stream,
    ):
        job = bar.add_task("measuring", total=len(tasks), speed="")
        for number, row in enumerate(stream, 1):
            row |= {"set_hash": set_hash, "tools": tools}
            done[row["model_hash"], row["clip_hash"], row["clip"]] = row
            file.write(_line(row))
            file.flush()
            speed = number / (time.perf_counter() - start)
            bar.update(job, advance=1, speed=f"{speed:.1f} clips/s")
    rows = [done[key] for key in wanted]
    noisy = {row["clip"]: row["metrics"] for row in rows if row["model_hash"] == NOISY}
    for row in rows:
        base = noisy[row["clip"]]
        row["gains"] = {k: v - base[k] for k, v in row["metrics"].items() if k in base}
    write_jsonl(path, others + rows)
    return rows, reused


def _line(row: Row) -> str:
    import json

    return json.dumps(row, ensure_ascii=False) + "\n"
