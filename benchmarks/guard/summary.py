"""Figures of one model from the rows of its clips: means, groups and differences, each with the
interval that its bound is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from benchmarks.figures.clusters import clusters_of
from benchmarks.figures.statistics import group_difference, row_difference, row_interval
from benchmarks.guard import cases as c
from benchmarks.guard.bounds import Harm, judge
from benchmarks.guard.cases import Case
from benchmarks.quality.candidates import Candidate
from benchmarks.quality.clips import Row
from enhance.data.corpus.manifest import UNKNOWN
from enhance.measure.metrics import METRICS

Rows = dict[tuple[str, str], list[Row]]
"""Rows in the order of the clips, by case and hash of the model."""


def summary(
    candidate: Candidate,
    rows: Rows,
    cases: Sequence[Case],
    bounds: Harm,
    sex: str,
    heard: tuple[str, Sequence[Row]],
) -> Row:
    """Everything found of one model, and, unless it is the untouched input, its checks.

    ``heard`` is the list of what it heard in training, as `benchmarks.quality.heard.list_of`.
    """
    own = {case.name: rows[case.name, candidate.sha256] for case in cases}
    place, listed = heard
    speakers = {str(row.get("speaker", "")) for row in listed} if place else None
    by_sex = _parted(own[c.HARD], lambda row: c.sex_of(row["labels"], sex))
    by_speaker = _parted(own[c.HARD], lambda row: c.heard_of(row["labels"], speakers))
    groups: Row = {
        "sex": _groups(by_sex, "female", "male"),
        "speaker": _groups(by_speaker, "heard", "unheard"),
    }
    if c.LANGUAGE in own:
        both = {"other": own[c.LANGUAGE], "the set's": own[c.HARD]}
        groups["language"] = _groups(both, "other", "the set's")
    groups["signals"] = signals_and_noise(own)
    levels = {name: _level_change(own[c.HARD], own[name]) for name in c.LEVELS}
    found: Row = {
        "model": candidate.name,
        "model_kind": candidate.kind,
        "model_hash": candidate.sha256,
        "path": candidate.path,
        "cases": {case.name: summarize(case, own[case.name]) for case in cases},
        "groups": {key: value for key, value in groups.items() if value},
        "levels": levels,
    }
    checks = [] if candidate.kind == "noisy" else judge(found, bounds)
    return found | {"checks": [asdict(check) for check in checks]}


def summarize(case: Case, rows: Sequence[Row]) -> Row:
    """Means, intervals and worst tenths of one case for one model."""
    done = [row for row in rows if not row["error"]]
    errors = [{"clip": row["clip"], "error": row["error"]} for row in rows if row["error"]]
    found: Row = {"what": case.what, "clips": len(rows), "errors": errors, "metrics": {}}
    found["synthetic"] = all(row["labels"].get("synthetic") == "yes" for row in rows)
    kept = [c.KEPT] if any(c.KEPT in (*row["metrics"], *row["lost"]) for row in rows) else []
    for metric in (*case.metrics, *kept):
        entry = row_interval(rows, "metrics", metric)
        entry["worst_tenth_interval"] = worst_tenth(rows, metric)
        entry["worst_tenth"] = entry["worst_tenth_interval"]["mean"]
        entry["gain"] = row_interval(rows, "gains", metric)
        reasons = [
            next((x["reason"] for x in row["refusals"] if x["metric"] == metric), row["error"])
            for row in rows
            if metric in row["lost"]
        ]
        entry["lost"], entry["reason"] = len(reasons), reasons[0] if reasons else ""
        found["metrics"][metric] = entry
    over = [row["overshoot_db"] for row in done if row["overshoot_db"] is not None]
    changed = [row for row in done if row["change_db"] is not None]
    levels = [{"change": {"db": r["change_db"]}, "labels": r["labels"]} for r in changed]
    found["change_db"] = row_interval(levels, "change", "db")
    found["overshoot_db"] = max(over, default=None)
    found["peak_out_dbfs"] = max((row["peak_out_dbfs"] for row in done), default=None)
    return found


def worst_tenth(rows: Sequence[Row], metric: str) -> Row:
    """Mean of the tenth of the clips with the lowest values, and its interval.

    It is the mean over all clips of ``q + min(x - q, 0) n / k``, with k of n clips in the tenth
    and q the lowest value outside (Rockafellar and Uryasev 2000, J. Risk 2(3), 21): the interval
    is that of these values.
    """
    told = [row for row in rows if metric in row["metrics"]]
    values = np.array([row["metrics"][metric] for row in told])
    if values.size > 1:
        count = math.ceil(values.size / 10)
        edge = np.sort(values)[count]
        values = edge + np.minimum(values - edge, 0) * values.size / count
    bent = [
        {"metrics": {metric: float(value)}, "labels": row["labels"]}
        for value, row in zip(values, told, strict=True)
    ]
    return row_interval(bent, "metrics", metric)


def _parted(rows: Sequence[Row], name_of: Callable[[Row], str]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(name_of(row) or "(unknown)", []).append(row)
    return parts


def _groups(parts: Mapping[str, Sequence[Row]], first: str, second: str) -> Row:
    """Gains of two groups and of clips in neither, and the difference; empty without both."""
    if not {first, second} <= parts.keys():
        return {}
    order = [name for name in (first, second, "(unknown)") if name in parts]
    apart = {m: gap(parts[first], parts[second], m) for m in c.FIGURES}
    return {
        "values": {name: _gains(parts[name]) for name in order},
        "difference": {"of": f"{first} - {second}", **apart},
    }


def _gains(rows: Sequence[Row]) -> Row:
    """Gains of one group."""
    return {
        "clips": len(rows),
        "speakers": len({row["labels"].get("speaker", "") for row in rows} - UNKNOWN),
        "gain": {m: row_interval(rows, "gains", m) for m in c.FIGURES},
    }


def signals_and_noise(own: Mapping[str, Sequence[Row]]) -> Row:
    """Gains with signals (alarms, sirens, ...) and with the other noise from formulas, and their
    difference paired by clip: each clip stands for its mean over the kinds of noise."""
    sides: dict[str, dict[str, list[Row]]] = {"signals": {}, "other noise": {}}
    for case in c.KINDS:
        side = sides["signals" if case in c.SIGNALS else "other noise"]
        for row in own[case]:
            side.setdefault(row["clip"], []).append(row)
    signals, noise = ([_mean_gains(rows) for rows in side.values()] for side in sides.values())
    values = {
        name: {**_gains([row for row in rows if row["gains"]]), "speakers": 0}
        for name, rows in (("signals", signals), ("other noise", noise))
    }
    apart = {m: row_difference(noise, signals, "gains", m) for m in c.FIGURES}
    return {"values": values, "difference": {"of": "signals - other noise", **apart}}


def _mean_gains(rows: Sequence[Row]) -> Row:
    """One row for the rows of one clip."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for figure, gain in row["gains"].items():
            found.setdefault(figure, []).append(gain)
    means = {figure: float(np.mean(gains)) for figure, gains in found.items()}
    return {"clip": rows[0]["clip"], "labels": rows[0]["labels"], "gains": means}


def gap(a: Sequence[Row], b: Sequence[Row], metric: str) -> Row | None:
    """Mean gain of rows ``a`` less that of rows ``b``, other clips, with its clustered interval.

    No limits where a group has one value, and None where it has none. `n` is of both.
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
    clips = {row["clip"] for row in other}
    common = [row for row in usual if row["clip"] in clips]
    return {metric: row_difference(common, other, "gains", metric) for metric in METRICS}
