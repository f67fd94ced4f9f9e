"""Does it harm? What a model does to input that it should leave alone (``enhance guard``).

A mean gain at one SNR says nothing about clean speech, a whisper, a pause, or music. Each
condition is measured on real clips (what is made from a formula says so), the untouched input
always among the models; bounds turn the figures into lines that pass or fail, and none is hidden.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.figures.results import merge_results
from benchmarks.figures.statistics import (
    group_difference,
    mean_interval,
    paired_difference,
    row_interval,
)
from benchmarks.guard import cases as c
from benchmarks.guard.bounds import Harm, judge
from benchmarks.guard.cases import Case, Probe
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import NOISY, Candidate, load, resolve_all
from benchmarks.quality.clips import Pair, Row
from benchmarks.quality.heard import list_of
from enhance.data import evaluation_set
from enhance.data.manifest import UNKNOWN, Clip
from enhance.errors import EnhanceError, require
from enhance.files import check_writable, sha256, write_jsonl
from enhance.measure.metrics import METRICS, versions
from enhance.measure.timing import cores
from enhance.progress import progress_bar

CLIPS = "guard-clips.jsonl"

SEX = "an4_([fm])"
"""Speaker names that tell the sex: those of the AN4 corpus."""


@dataclass
class Guard:
    """What `guard` found."""

    folder: Path
    """Where rows and report lie."""
    models: list[Row]
    """One row per model, the input first: the rows written to ``results.jsonl``."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the user."""

    @property
    def failed(self) -> int:
        """Checks that failed, of all models."""
        return sum(check["verdict"] == "fail" for row in self.models for check in row["checks"])


def guard(
    models: str | Path | Sequence[str | Path],
    set: Path | str | None = None,
    out: Path | str = Path("report"),
    *,
    speech: Path | str | None = None,
    noise: Path | str | None = None,
    music: Path | str | None = None,
    limit: int = 48,
    sex: str = SEX,
    bounds: Harm | None = None,
    jobs: int = 0,
    quiet: bool = False,
) -> Guard:
    """Measure what models do to input they should leave alone; what ``enhance guard`` does.

    Parameters
    ----------
    models
        Checkpoint folders, ONNX files or shipped names.
    set
        Folder with ``clean/`` and ``noisy/`` of the same names. None: the built-in synthetic set.
    out
        Folder for ``guard-clips.jsonl`` and ``results.jsonl``.
    speech
        Folder or manifest of clean speech in another language; without it that is not measured.
    noise
        Folder or manifest of noise to use alone, and with that speech, instead of the set's own.
    music
        Folder or manifest of music; without it a piece is made.
    limit
        Clips of each condition, at even distances over the set's groups; groups are compared on
        `benchmarks.guard.cases.GROUP_FACTOR` times as many.
    sex
        Pattern whose first group is f or m in a speaker's name; used where no label tells it.
    bounds
        None for the defaults of `Harm`.
    jobs
        Worker processes; 0 for all cores.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If a model or a recording cannot be read, or ``out`` cannot be written.
    KeyboardInterrupt
        On Ctrl-C; nothing is written.
    """
    require("measure", "pesq", "pystoi", "scipy")
    bounds = bounds or Harm()
    if limit < 4:
        raise EnhanceError(f"limit {limit}: needs at least 4 clips for each condition")
    try:
        groups = re.compile(sex).groups if sex else 1
    except re.error as error:
        raise EnhanceError(f"sex {sex!r}: not a regular expression ({error})") from error
    if groups < 1:
        raise EnhanceError(f"sex {sex!r}: has no group in parentheses")
    candidates = resolve_all([models] if isinstance(models, str | Path) else models, noisy=True)
    if len(candidates) < 2:
        raise EnhanceError("guard: no model named; give ONNX files, shipped names or run folders")
    for candidate in candidates:
        load(candidate)  # a broken model is told before the long work
    folder = Path(out)
    check_writable(folder / CLIPS)
    found = evaluation_set.open_set(set) if set else evaluation_set.builtin_set(quiet=quiet)
    pairs = [
        Pair(name, str(clean), str(noisy), dict(labels), "", "")
        for name, clean, noisy, labels in found.pairs
    ]
    given = {
        kind: c.find_clips(place, kind) if place else []
        for kind, place in (("speech", speech), ("noise", noise), ("music", music))
    }
    cases = c.make_cases(pairs, limit, given["speech"], given["noise"], given["music"])
    rows = _measure(candidates, cases, jobs, quiet)
    places = {"speech": speech, "noise": noise, "music": music}
    sources = {kind: _describe(place, given[kind]) for kind, place in places.items()}
    hashes = {kind: source and source["hash"] for kind, source in sources.items()}
    settings = json.dumps([limit, hashes, asdict(bounds), sex], sort_keys=True)
    common: Row = {
        "kind": "harm",
        "set": str(set) if set else "built-in (synthetic)",
        "set_hash": found.hash,
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        "limit": limit,
        "given": sources,
        "interval": f"95 %, {clustering(clusters_of([pair.labels for pair in pairs]))}",
        "bounds": asdict(bounds),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    summaries = [_summary(candidate, rows, cases, bounds, sex) | common for candidate in candidates]
    write_jsonl(folder / CLIPS, [row for own in rows.values() for row in own])
    merge_results(folder, summaries)
    warnings = []
    if not speech:
        warnings.append("another language was not measured; name a folder of it with --speech")
    if not set:
        warnings.append("the set is SYNTHETIC: these figures say nothing about real speech")
    return Guard(folder, summaries, warnings)


Rows = dict[tuple[str, str], list[Row]]
"""Rows in the order of the clips, by case and hash of the model."""


def _measure(
    candidates: Sequence[Candidate], cases: Sequence[Case], jobs: int, quiet: bool
) -> Rows:
    probes = [
        Probe(pair, index, case.name, stimulus, case.metrics)
        for case in cases
        for pair, stimulus in case.stimuli
        for index in range(len(candidates))
    ]
    rows: Rows = {(case.name, own.sha256): [] for own in candidates for case in cases}
    start = time.perf_counter()
    with (
        progress_bar(quiet=quiet) as bar,
        contextlib.closing(rows_of.run(probes, candidates, jobs or cores())) as stream,
    ):
        job = bar.add_task("measuring", total=len(probes), speed="")
        for number, row in enumerate(stream, 1):
            rows[row["case"], row["model_hash"]].append(row)
            speed = number / (time.perf_counter() - start)
            bar.update(job, advance=1, speed=f"{speed:.1f} clips/s")
    for case in cases:
        order = {pair.name: number for number, (pair, _) in enumerate(case.stimuli)}
        inputs = {row["clip"]: row["metrics"] for row in rows[case.name, NOISY]}
        for own in candidates:
            found = rows[case.name, own.sha256]
            found.sort(key=lambda row: order[row["clip"]])
            for row in found:
                base = inputs[row["clip"]]
                row["gains"] = {k: v - base[k] for k, v in row["metrics"].items() if k in base}
                # What the input could be measured by and the output cannot is the model's fault.
                row["lost"] = sorted(base.keys() - row["metrics"].keys())
    return rows


def _describe(place: Path | str | None, clips: Sequence[Clip]) -> Row | None:
    """Where recordings come from, for the record; None where none were given."""
    if not place:
        return None

    def stated(key: str) -> list[str]:
        return sorted({clip.labels.get(key, "") for clip in clips} - {""})

    digest = hashlib.sha256()
    for clip in sorted(clips, key=lambda clip: clip.path.name):
        digest.update(f"{clip.path.name}\t{sha256(clip.path)}\n".encode())
    return {
        "place": str(place),
        "files": len(clips),
        "hash": digest.hexdigest(),
        "sources": sorted({clip.source for clip in clips} - {""}),
        "languages": stated("language"),
        "licences": stated("licence"),
    }


def _summary(
    candidate: Candidate, rows: Rows, cases: Sequence[Case], bounds: Harm, sex: str
) -> Row:
    own = {case.name: rows[case.name, candidate.sha256] for case in cases}
    place, listed = list_of(candidate)
    speakers = {str(row.get("speaker", "")) for row in listed} if place else None
    groups: Row = {
        "sex": _groups(own[c.HARD], lambda row: c.sex_of(row["labels"], sex), "female", "male"),
        "speaker": _groups(
            own[c.HARD], lambda row: c.heard_of(row["labels"], speakers), "heard", "unheard"
        ),
    }
    if c.LANGUAGE in own:
        both = [(row, "other") for row in own[c.LANGUAGE]] + [(r, "the set's") for r in own[c.HARD]]
        names = {id(row): name for row, name in both}
        groups["language"] = _groups(
            [row for row, _ in both], lambda row: names[id(row)], "other", "the set's"
        )
    groups["signals"] = signals_and_noise(own)
    levels = {name: _level_change(own[c.HARD], own[name]) for name in c.LEVELS}
    summary: Row = {
        "model": candidate.name,
        "model_kind": candidate.kind,
        "model_hash": candidate.sha256,
        "path": candidate.path,
        "cases": {case.name: summarize(case, own[case.name]) for case in cases},
        "groups": {key: value for key, value in groups.items() if value},
        "levels": levels,
    }
    checks = [] if candidate.kind == "noisy" else judge(summary, bounds)
    return summary | {"checks": [asdict(check) for check in checks]}


def summarize(case: Case, rows: Sequence[Row]) -> Row:
    """Means, intervals and worst tenths of one case for one model."""
    done = [row for row in rows if not row["error"]]
    errors = [{"clip": row["clip"], "error": row["error"]} for row in rows if row["error"]]
    summary: Row = {"what": case.what, "clips": len(rows), "errors": errors, "metrics": {}}
    summary["synthetic"] = all(row["labels"].get("synthetic") == "yes" for row in rows)
    for metric in case.metrics:
        values = [row["metrics"][metric] for row in rows if metric in row["metrics"]]
        entry = row_interval(rows, "metrics", metric)
        tenth = sorted(values)[: math.ceil(len(values) / 10)]
        entry["worst_tenth"] = float(np.mean(tenth)) if tenth else None
        entry["gain"] = row_interval(rows, "gains", metric)
        reasons = [
            next((x["reason"] for x in row["refusals"] if x["metric"] == metric), row["error"])
            for row in rows
            if metric in row["lost"]
        ]
        entry["lost"], entry["reason"] = len(reasons), reasons[0] if reasons else ""
        summary["metrics"][metric] = entry
    changed = [row for row in done if row["change_db"] is not None]
    over = [row["overshoot_db"] for row in done if row["overshoot_db"] is not None]
    levels = [{"change": {"db": r["change_db"]}, "labels": r["labels"]} for r in changed]
    summary["change_db"] = row_interval(levels, "change", "db")
    summary["overshoot_db"] = max(over, default=None)
    summary["peak_out_dbfs"] = max((row["peak_out_dbfs"] for row in done), default=None)
    return summary


def _groups(rows: Sequence[Row], name_of: Callable[[Row], str], first: str, second: str) -> Row:
    """Gains of two groups and of clips in neither, and the difference; empty without both."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(name_of(row) or "(unknown)", []).append(row)
    if not {first, second} <= parts.keys():
        return {}

    values = {}
    for name in sorted(parts, key=[first, second, "(unknown)"].index):
        speakers = {row["labels"].get("speaker", "") for row in parts[name]} - UNKNOWN
        values[name] = {
            "clips": len(parts[name]),
            "speakers": len(speakers),
            "gain": {m: row_interval(parts[name], "gains", m) for m in METRICS},
        }
    return {
        "values": values,
        "difference": {
            "of": f"{first} - {second}",
            **{m: gap(parts[first], parts[second], m) for m in METRICS},
        },
    }


def signals_and_noise(own: Mapping[str, Sequence[Row]]) -> Row:
    """Gains with signals (alarms, sirens, ...) and with the other noise from formulas, and their
    difference paired by clip: each clip stands for its mean over the kinds of noise."""
    parts: dict[str, dict[str, dict[str, list[float]]]] = {}
    labels: dict[str, Mapping[str, str]] = {}
    for case in c.KINDS:
        name = "signals" if case in c.SIGNALS else "other noise"
        for row in own[case]:
            labels[row["clip"]] = row["labels"]
            for metric, gain in row["gains"].items():
                by_clip = parts.setdefault(name, {}).setdefault(metric, {})
                by_clip.setdefault(row["clip"], []).append(gain)
    if len(parts) < 2:
        return {}
    means = {
        name: {
            metric: {clip: float(np.mean(gains)) for clip, gains in by_clip.items()}
            for metric, by_clip in metrics.items()
        }
        for name, metrics in parts.items()
    }
    signals, others = means["signals"], means["other noise"]
    gaps = {m: paired_difference(others.get(m, {}), signals.get(m, {}), labels) for m in METRICS}
    values = {
        name: {
            "clips": len({clip for by_clip in found.values() for clip in by_clip}),
            "speakers": 0,
            "gain": {
                m: mean_interval(
                    list(found[m].values()), clusters_of([labels[clip] for clip in found[m]])
                ).row()
                if m in found
                else None
                for m in METRICS
            },
        }
        for name, found in (("signals", signals), ("other noise", others))
    }
    difference = {m: gap.row() if gap else None for m, gap in gaps.items()}
    return {"values": values, "difference": {"of": "signals - other noise", **difference}}


def gap(a: Sequence[Row], b: Sequence[Row], metric: str) -> Row | None:
    """Mean gain of rows ``a`` less that of rows ``b``, other clips, with its clustered interval.

    Returns
    -------
    dict or None
        `mean`, `low`, `high` (None where a group has one value) and `n` of both; None where a
        group has none.
    """
    both = [[row for row in rows if metric in row["gains"]] for rows in (b, a)]
    second, first = ([row["gains"][metric] for row in rows] for rows in both)
    if not first or not second:
        return None
    count = [len(first), len(second)]
    if min(count) < 2:
        mean = float(np.mean(first) - np.mean(second))
        return {"mean": mean, "low": None, "high": None, "n": count}
    labels = [clusters_of([row["labels"] for row in rows]) for rows in both]
    return group_difference(second, first, (labels[0], labels[1])).row() | {"n": count}


def _level_change(usual: Sequence[Row], other: Sequence[Row]) -> Row:
    """Paired change of each metric's gain from the usual level to another, over common clips."""
    result = {}
    labels = {row["clip"]: row["labels"] for row in other}
    for metric in METRICS:
        a, b = (
            {
                r["clip"]: r["gains"][metric]
                for r in rows
                if r["clip"] in labels and metric in r["gains"]
            }
            for rows in (usual, other)
        )
        difference = paired_difference(a, b, labels)
        result[metric] = difference.row() if difference else None
    return result
