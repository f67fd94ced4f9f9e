"""How good is it? PESQ, STOI, ESTOI, SI-SDR of models on one frozen set (``enhance evaluate``).

Opinions and word errors join them where they are asked for.

The noisy input is always measured too, and every gain is over it, clip by clip. Rows are kept in
the output folder as they are done: a run that was stopped goes on, and a second model on the same
set costs only its own clips.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.figures.results import merge_results, read_rows
from benchmarks.figures.seeds import Scores, grouped
from benchmarks.figures.statistics import row_difference, row_interval
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import NOISY, Candidate, resolve_all
from benchmarks.quality.clips import Pair, Row, Task
from benchmarks.quality.heard import check
from enhance.errors import EnhanceError, require
from enhance.files import append_jsonl, sha256, write_jsonl
from enhance.measure.metrics import ALL_METRICS, METRICS, WER, metric_versions
from enhance.measure.opinions import DISTILLMOS, DNSMOS
from enhance.measure.timing import hardware
from enhance.parallel import Workers, check_cluster
from enhance.progress import tracked

CLIPS = "clips.jsonl"

SNR_TOLERANCE_DB = 0.1
"""Largest deviation of a pair from the SNR that was asked for."""

BUILTIN_DB = -5.0
"""SNR of the built-in set where none is named."""

GROUP_LABELS = ("speech_group", "speaker_in_train", "group", "noise_kind")
"""Labels by which clips are reported apart where the set has them."""


@dataclass
class Evaluation:
    """What `evaluate` found."""

    folder: Path
    """Where rows, report and plot lie."""
    set_hash: str
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
    dnsmos: bool = False,
    distillmos: bool = False,
    wer: str | None = None,
    cluster: str = "",
    groups: Sequence[str] | None = None,
    limit: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Measure models on a set of clean/noisy pairs; what ``enhance evaluate`` does.

    Parameters
    ----------
    models
        Checkpoint folders, ONNX files, shipped names, ``"noisy"``, or folders with what another
        system made of the set: a file for each clip, under the name of its noisy one. None: the
        newest run.
    set
        Folder with ``clean/`` and ``noisy/`` of the same names. None: the built-in synthetic set.
    snr
        SNR in dB that every pair must have within `SNR_TOLERANCE_DB`; None checks nothing.
    out
        Folder for ``clips.jsonl`` and ``results.jsonl``; the page of it is
        `benchmarks.pages.report.write_report`.
    jobs
        Worker processes; 0 for all cores.
    dnsmos
        Measure DNSMOS too: 1.2 s of CPU time for a clip of 4 s, six times that of all the others.
    distillmos
        Measure DistillMOS too: half a second.
    wer
        Recogniser (`benchmarks.recognizers.choose.load`) whose words of the clean clip are the
        reference, so that no transcript is needed; None counts no word errors.
    cluster
        Address of a Dask scheduler whose workers measure instead (`enhance.parallel.run`).
    groups
        Labels to report apart; None for those of `GROUP_LABELS` that the set has.
    limit
        Only the first clips of the set (a trial; the set's hash then names the limit); 0 for all.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If a model or the set cannot be read, a pair has another SNR, or ``out`` cannot be written.
    KeyboardInterrupt
        On Ctrl-C; finished clips are kept and used by the next run.
    """
    require("bench", "pesq", "pystoi", "scipy", "matplotlib", *(["speechmos"] if dnsmos else []))
    if distillmos:
        require("teachers", "distillmos", "xls_r_sqa")
    added = (*(DNSMOS if dnsmos else ()), *([DISTILLMOS] if distillmos else ()))
    metrics = (*METRICS, *added, *([WER] if wer else ()))
    tools = metric_versions(metrics)
    if wer:
        from benchmarks.recognizers import choose  # which imports torch

        choose.load(wer)  # what cannot be had is told before the long work
        tools |= {"recognizer": choose.identity(wer)}
    if not models:
        from enhance.network.checkpoint import newest_run

        models = [newest_run()]
    candidates = resolve_all(models, outputs=True)
    if cluster:
        check_cluster(cluster)
    folder = Path(out)
    name, set_hash, pairs = open_pairs(set, snr, limit, quiet=quiet)
    labels = _group_labels(pairs, groups)
    workers = Workers(jobs, cluster, quiet)
    rows, reused = _measure(candidates, pairs, metrics, tools, wer, set_hash, folder, workers)
    table = {(row["model_hash"], row["clip"]): row for row in rows}
    warnings: list[str] = []
    summaries = []
    common: Row = {
        "set": name,
        "set_hash": set_hash,
        "snr_db": snr,
        "clips": len(pairs),
        "interval": f"95 %, {clustering(clusters_of([pair.labels for pair in pairs]))}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    shared = {**common, "hardware": {**hardware(), "metric_versions": tools}}
    for candidate in candidates:
        own = [table[candidate.sha256, pair.name] for pair in pairs]
        heard = check(candidate, pairs)
        row = _summary(candidate, own, labels, metrics) | shared | {"heard": asdict(heard)}
        if candidate.kind != "noisy":
            warnings += heard.lines(candidate.name, len(pairs))
        warnings += refusal_lines(candidate.name, row["refusals"], len(pairs))
        summaries.append(row)
    comparisons: list[Row] = []
    for a, b in combinations([c for c in candidates if c.kind != "noisy"], 2):
        first, second = ([table[c.sha256, pair.name] for pair in pairs] for c in (a, b))
        who = {"a": a.name, "b": b.name, "a_hash": a.sha256, "b_hash": b.sha256}
        found = {metric: row_difference(first, second, "metrics", metric) for metric in metrics}
        comparisons.append({"kind": "comparison", **who, **common, "metrics": found})
    merge_results(folder, summaries + comparisons)
    return Evaluation(folder, set_hash, summaries, comparisons, warnings, reused)


def _summary(
    candidate: Candidate, rows: Sequence[Row], labels: Sequence[str], metrics: Sequence[str]
) -> Row:
    def figures(runs: Sequence[Scores]) -> Row:
        return summarize(list(runs[0].values()), metrics)

    return {
        "kind": "quality",
        "model": candidate.name,
        "model_kind": candidate.kind,
        "model_hash": candidate.sha256,
        "path": candidate.path,
        "metrics": summarize(rows, metrics),
        "groups": grouped([{row["clip"]: row for row in rows}], labels, figures),
        "refusals": [
            {"clip": row["clip"], **item}
            for row in rows
            for item in row["refusals"]
            if item["metric"] in metrics
        ],
    }


def summarize(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    """Mean, interval and number refused of each metric, and of its gain over the noisy input."""
    result: dict[str, Any] = {}
    for metric in metrics:
        entry = row_interval(rows, "metrics", metric)
        more = {"refused": len(rows) - entry["n"], "gain": row_interval(rows, "gains", metric)}
        result[metric] = entry | more
    return result


def refusal_lines(model: str, refusals: Sequence[Row], clips: int) -> list[str]:
    """One line per metric that refused clips: how many, the first names, the first reason."""
    lines = []
    for metric in ALL_METRICS:
        found = [item for item in refusals if item["metric"] == metric]
        if found:
            names = ", ".join(item["clip"] for item in found[:5])
            names += " ..." if len(found) > 5 else ""
            lines.append(
                f"{model}: {metric} refused {len(found)} of {clips} clips, its mean is over the "
                f"rest: {names} ({found[0]['reason']})"
            )
    return lines


def check_snr(found: Sequence[tuple[str, float]], snr: float, where: str) -> None:
    """Check that every pair of the set ``where`` has the SNR that was asked for.

    ``found`` is (name, SNR in dB) of each pair, NaN where one file is silent or both are the same.

    Raises
    ------
    EnhanceError
        Naming the first pairs that deviate by more than `SNR_TOLERANCE_DB`, their number, and what
        to give as ``--snr`` instead.
    """
    wrong = [(name, value) for name, value in found if not abs(value - snr) <= SNR_TOLERANCE_DB]
    if wrong:
        some = ", ".join(f"{name} ({value:.2f} dB)" for name, value in wrong[:3])
        values = [value for _, value in found]
        own = round(float(np.median(values)), 1)
        one = all(abs(value - own) <= SNR_TOLERANCE_DB for value in values)
        advice = f"--snr {own:g}" if one else "--snr any (each pair at its own)"
        raise EnhanceError(
            f"{where}: {len(wrong)} of {len(found)} pairs are not at {snr:g} dB within "
            f"{SNR_TOLERANCE_DB:g} dB, first {some}; measure this set with {advice}"
        )


def open_pairs(
    folder: Path | str | None, snr: float | None = None, limit: int = 0, *, quiet: bool = False
) -> tuple[str, str, list[Pair]]:
    """Read, hash and check every pair of a set, as `evaluate`: its name, hash and pairs."""
    from enhance.data import evaluation_set

    if folder is None:
        if snr is not None and not abs(snr) <= 60:
            raise EnhanceError(f"--snr {snr:g}: the built-in set is mixed at -60 to 60 dB")
        found = evaluation_set.builtin_set(BUILTIN_DB if snr is None else snr, quiet=quiet)
    else:
        found = evaluation_set.open_set(Path(folder))
    chosen = list(found.pairs)[: limit or None]
    pairs: list[Pair] = []
    levels: list[tuple[str, float]] = []
    under_bar = tracked(chosen, "checking the set", len(chosen), quiet=quiet)
    for name, clean, noisy, labels in under_bar:
        if snr is not None:
            levels.append((name, rows_of.snr_db(*rows_of.read_pair(clean, noisy)[:2])))
        text = {key: str(value) for key, value in dict(labels).items()}
        pairs.append(Pair(name, str(clean), str(noisy), text, sha256(clean), sha256(noisy)))
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
            f"--by {unknown[0]}: no such label in the set; "
            + (f"it has {', '.join(sorted(known))}" if known else "it has no manifest with labels")
        )
    return list(wanted)


_NOTHING: Row = {"metrics": {}, "refusals": []}


def _measure(
    candidates: Sequence[Candidate],
    pairs: Sequence[Pair],
    metrics: Sequence[str],
    tools: dict[str, str],
    recognizer: str | None,
    set_hash: str,
    folder: Path,
    workers: Workers,
) -> tuple[list[Row], int]:
    """All rows with gains, measured or taken from the folder; and how many were taken."""
    path = folder / CLIPS
    wanted = {(c.sha256, p.sha256, p.name): (i, p) for i, c in enumerate(candidates) for p in pairs}
    names = {candidate.sha256: candidate.name for candidate in candidates}
    known: dict[tuple[str, str, str], Row] = {}
    others: list[Row] = []
    for row in read_rows(path):
        key = (row["model_hash"], row["clip_hash"], row["clip"])
        old = _tools_of(row)
        fresh = row["set_hash"] == set_hash and old
        fresh = fresh and all(old.get(name, version) == version for name, version in tools.items())
        if fresh and key in wanted:
            labels = dict(wanted[key][1].labels)
            known[key] = {**row, "model": names[key[0]], "labels": labels}
        elif row["set_hash"] != set_hash or row["model_hash"] not in names:
            others.append(row)
    write_jsonl(path, [*others, *known.values()])  # without a line that a kill cut off
    tasks = [
        Task(pair, index, figures=missing, recognizer=recognizer)
        for key, (index, pair) in wanted.items()
        if (missing := rows_of.missing_metrics(known.get(key, _NOTHING), metrics))
    ]
    # In the order of the clips, so that a stopped run has every model on the same clips.
    order = {pair.name: number for number, pair in enumerate(pairs)}
    tasks.sort(key=lambda task: (order[task.pair.name], task.candidate))
    with contextlib.closing(rows_of.run(tasks, candidates, workers)) as stream:
        for row in stream:
            key = (row["model_hash"], row["clip_hash"], row["clip"])
            part = known.get(key, _NOTHING)
            row["metrics"] = {**part["metrics"], **row["metrics"]}
            row["refusals"] = [*part["refusals"], *row["refusals"]]
            # What measured the older figures is still true of them.
            used = sorted({**_tools_of(part), **tools}.items())
            told = " ".join(f"{name} {version}" for name, version in used)
            known[key] = row | {"set_hash": set_hash, "tools": told}
            append_jsonl(path, known[key])
    rows = [known[key] for key in wanted]
    noisy = {row["clip"]: row["metrics"] for row in rows if row["model_hash"] == NOISY}
    for row in rows:
        base = noisy[row["clip"]]
        row["gains"] = {k: v - base[k] for k, v in row["metrics"].items() if k in base}
    write_jsonl(path, others + rows)
    return rows, len(wanted) - len(tasks)


def _tools_of(row: Row) -> dict[str, str]:
    """What measured a row: versions by name."""
    words = str(row.get("tools", "")).split(" ")
    return dict(zip(words[::2], words[1::2], strict=False))
