"""From the rows of a study to ``RESULTS.md``: tables, and one sentence for each run.

A sentence says no more than its figures: one or two seeds are told, and claim nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.seeds import ENOUGH, Row, claims, compared_seeds, no_claim
from benchmarks.figures.tables import (
    Table,
    difference_cell,
    metric_cell,
    metric_title,
    number,
    size,
    visible,
)
from benchmarks.latency.tables import machine_lines
from benchmarks.study.grid import PAPER
from distill.training import card
from enhance.measure.metrics import METRICS, TITLES

PAGE = "RESULTS.md"

_UNEVEN = 0.1
"""Relative difference of CPU times that passes for none."""
GROUP_METRICS = ("pesq_wb", "si_sdr")
"""Metrics whose differences are shown by group; all four are in the results."""


def shown_rows(rows: Sequence[Row]) -> list[Row]:
    """One row with figures for each name: over its seeds where there are several."""
    shown: dict[str, Row] = {}
    for row in rows:
        if row["kind"] in ("trial", "trial-mean") and row["metrics"]:
            shown[row["name"]] = row
    names = dict.fromkeys(row["name"] for row in rows if row["kind"] == "trial")
    return [shown[name] for name in names if name in shown]


def score_table(rows: Sequence[Row], *, brief: bool = False) -> Table:
    """Scores and costs, the noisy input first; ``brief`` for a narrow terminal."""
    columns: dict[str, Callable[[Row], str]] = {
        "settings": lambda row: row["config_hash"][:8],
        "seeds": lambda row: _seeds(row["seeds"]),
        "heard h": lambda row: number(row["hours_heard"], 2),
        **{metric_title(metric): _score(metric) for metric in METRICS},
        "parameters": lambda row: size(row["parameters"], ""),
        "hop ms": lambda row: _plain((row["cpu"] or {}).get("hop_ms")),
        "CPU ms": lambda row: number(row["cpu_ms_p50"]),
        "cold": lambda row: number(row["cpu_cold_ms_p50"]),
        "training CPU min": lambda row: number(_minutes(row["train_cpu_seconds"]), 1),
    }
    if brief:
        for name in ("settings", "heard h", "cold", "training CPU min"):
            del columns[name]
    table = Table("scores: mean and 95 % interval", ["run", *columns])
    measured = {metric_title(metric) for metric in METRICS}
    for row in rows:
        if row["kind"] == "noisy":
            cells = [cell(row) if name in measured else "" for name, cell in columns.items()]
            table.rows.append(["noisy", *cells])
    for row in shown_rows(rows):
        table.rows.append([row["name"], *(cell(row) for cell in columns.values())])
    return table


def difference_table(rows: Sequence[Row]) -> Table:
    """Paired differences to each run's baseline, a star where one holds among all of them."""
    table = Table(
        "paired differences (* holds among all of this table)",
        ["run - baseline", "what differs", "seeds", *(metric_title(metric) for metric in METRICS)],
    )
    held = claims(shown_rows(rows))
    for row in shown_rows(rows):
        if row["difference"]:
            cells = [
                difference_cell(row["difference"][m], m, (row["name"], m) in held) for m in METRICS
            ]
            seeds = _seeds(compared_seeds(row))
            seeds += f" ({silence})" if (silence := no_claim(row)) else ""
            name = f"{row['name']} - {row['baseline']}"
            table.rows.append([name, what_differs(row), seeds, *cells])
    return table


def group_tables(rows: Sequence[Row]) -> list[Table]:
    """Paired differences by group, for each label and metric of `GROUP_METRICS`; no stars."""
    shown = [row for row in shown_rows(rows) if row["group_difference"]]
    counts: Row = next((row["groups"] for row in rows if row["kind"] == "noisy"), {})
    tables = []
    for label in dict.fromkeys(label for row in shown for label in row["group_difference"]):
        values = list(dict.fromkeys(v for row in shown for v in row["group_difference"][label]))
        clips = {v: counts.get(label, {}).get(v, {}).get("clips", "?") for v in values}
        for metric in GROUP_METRICS:
            table = Table(
                f"{metric_title(metric)} by {label}: paired differences",
                ["run - baseline", *(f"{value} ({clips[value]})" for value in values)],
            )
            for row in shown:
                found = row["group_difference"][label]
                cells = [difference_cell(found[value][metric], metric) for value in values]
                table.rows.append([f"{row['name']} - {row['baseline']}", *cells])
            tables.append(table)
    return tables


def what_differs(row: Row) -> str:
    """Settings of a run that are not those of its baseline."""
    parts = [f"{key} {_short(old)} → {_short(new)}" for key, old, new in row["changes"]]
    return "; ".join(parts) or "nothing"


def sentence(row: Row, held: Collection[tuple[str, str]]) -> str:
    """What the figures of a run, a row of `shown_rows`, support, in one or two sentences.

    ``held`` are the differences that hold, see `benchmarks.figures.seeds.claims`.
    """
    name = f"`{row['name']}`"
    if not row["baseline"]:
        return f"{name} is what the others are compared with."
    if not row["difference"]:
        return f"{name} has no comparison: `{row['baseline']}` has no finished run of its seed."
    sides: dict[str, list[str]] = {"higher": [], "lower": [], "undecided": []}
    for metric in METRICS:
        entry = row["difference"][metric]
        if entry:
            unit = " dB" if metric == "si_sdr" else ""
            text = f"{TITLES[metric]} ({metric_cell(entry, metric, True)}{unit})"
            side = "higher" if entry["mean"] > 0 else "lower"
            claimed = (row["name"], metric) in held and visible(entry, metric)
            sides[side if claimed else "undecided"].append(text)
    start = f"{name} against `{row['baseline']}`: "
    if silence := no_claim(row):
        return f"{start}{_and(sides['undecided'])}; {silence}."
    words = ("significantly higher", "significantly lower", "no significant difference in")
    told = [f"{word} {_and(x)}" for word, x in zip(words, sides.values(), strict=True) if x]
    return (
        f"{start}{'; '.join(told)}. The intervals hold for new clips and new seeds "
        f"({len(compared_seeds(row))} seeds)."
    )


def tables(rows: Sequence[Row]) -> list[Table]:
    """The tables that are printed at the end."""
    found = [score_table(rows, brief=True), difference_table(rows)]
    return found if found[1].rows else found[:1]


def left_out(rows: Sequence[Row]) -> list[str]:
    """Runs that have no figures, and why: a line for each reason; the page tells each run's."""
    runs: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] == "trial" and not row["metrics"]:
            why = f"failed: {row['reason']}" if row["state"] == "failed" else row["reason"]
            runs.setdefault(why, []).append(row["run"])
    return [f"left out: {', '.join(names)}: {why}" for why, names in runs.items()]


def page(rows: Sequence[Row]) -> str:
    """The whole report in Markdown."""
    shown, trials = shown_rows(rows), [row for row in rows if row["kind"] == "trial"]
    held, head = claims(shown), rows[0]
    judged = [row for row in shown if row["difference"] and not no_claim(row)]
    students = (size(row["parameters"], "") for row in shown if not row["baseline"])
    text = card.fill(
        Path(__file__).with_name("page.md.jinja"),
        head=head,
        noisy=next((row for row in rows if row["kind"] == "noisy"), {}),
        trials=trials,
        shown=shown,
        seeds=max((len(row["seeds"]) for row in shown), default=1),
        enough=ENOUGH,
        machine_lines=machine_lines,
        teachers=[_teacher(*item) for item in (head.get("teachers") or {}).items()],
        students=list(dict.fromkeys(students)),
        listed=_and,
        scores=[score_table(rows), difference_table(rows)],
        paper=PAPER,
        sentence=lambda row: sentence(row, held),
        whys={row["name"]: row["why"] for row in trials},
        judged=len(judged) * len(METRICS),
        groups=group_tables(rows),
        notes=[*head["warnings"], *_uneven(head, shown), *_warnings(trials)],
    )
    return f"{text.strip()}\n"


def _teacher(name: str, probe: Row | None) -> str:
    """What is known of a teacher of a study of modes."""
    if probe is None:
        return f"`{name}` (no phone probe on its record)"
    side = "better" if probe["low"] > 0 else "worse" if probe["high"] < 0 else "no better"
    mean, low, high = (f"{100 * probe[key]:+.1f}" for key in ("mean", "low", "high"))
    return (
        f"`{name}`, {side} than {probe['over']} at telling phones "
        f"({mean} points, 95 % {low} to {high})"
    )


def _warnings(trials: Sequence[Row]) -> list[str]:
    """Warnings of the runs, one that many share once, and why networks were not timed."""
    shared: dict[str, list[str]] = {}
    for row in trials:
        for line in row["warnings"]:
            shared.setdefault(line.removeprefix(f"{row['run']}: "), []).append(row["run"])
    return [
        f"{runs[0] if len(runs) == 1 else f'{len(runs)} runs ({runs[0]}, ...)'}: {text}"
        for text, runs in shared.items()
    ] + [
        f"{row['run']}: no CPU time: {row['cpu']['refused']}"
        for row in trials
        if row.get("cpu") and "refused" in row["cpu"]
    ]


def _uneven(head: Row, shown: Sequence[Row]) -> list[str]:
    """Runs that took another CPU time than their baseline, where that is to be the same."""
    took = {row["name"]: row["train_cpu_seconds"] for row in shown}
    lines = []
    for row in shown if head.get("budget") == "cpu" else []:
        own, other = took[row["name"]], took.get(row["baseline"])
        if own and other and abs(own / other - 1) > _UNEVEN:
            text = f"its training took {own / other:.2f} of the CPU time of {row['baseline']}"
            lines.append(f"{row['name']}: {text}")
    return lines


def _score(metric: str) -> Callable[[Row], str]:
    return lambda row: metric_cell(row["metrics"][metric], metric)


def _plain(value: float | None) -> str:
    return number(value) if value is None else f"{value:g}"


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _seeds(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _and(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return parts[0] if parts else ""
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    if value is None:
        return "none"
    return str(value) if value != "" else '""'
