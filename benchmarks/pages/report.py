"""From ``results.jsonl`` to tables and a page: nothing here measures anything.

Every figure of a report can be traced to one row of the results; the page is written anew from
all rows each time, so that quality and latency of one folder stand together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures.results import read_results
from benchmarks.figures.tables import Table, number, plus_minus, size, with_interval
from enhance.files import atomic
from enhance.measure.metrics import METRICS, TITLES
from enhance.measure.timing import REGIMES

if TYPE_CHECKING:
    from benchmarks.latency.bench import Bench
    from benchmarks.quality.evaluate import Evaluation

Row = dict[str, Any]

DIGITS = {"pesq_wb": 3, "stoi": 3, "estoi": 3, "si_sdr": 2}
"""Decimals of each metric."""

KEYS = ("p50", "p95", "p99", "max")
"""Percentiles that are shown."""


def quality_table(rows: Sequence[Row]) -> Table:
    """Mean and interval of each metric, one line per model."""
    title = f"{_set_title(rows[0])}: mean and 95 % interval"
    table = Table(title, ["model", *(_title(m) for m in METRICS)])
    for row in rows:
        table.rows.append([row["model"], *(_cell(row["metrics"][m], m) for m in METRICS)])
    return table


def gain_table(rows: Sequence[Row]) -> Table:
    """Gain over the noisy input, paired clip by clip."""
    table = Table("gain over the noisy input (paired)", ["model", *(_title(m) for m in METRICS)])
    for row in rows:
        if row["model_kind"] != "noisy":
            cells = (plus_minus(row["metrics"][m]["gain"], DIGITS[m], True) for m in METRICS)
            table.rows.append([row["model"], *cells])
    return table


def comparison_table(rows: Sequence[Row]) -> Table:
    """Paired differences of models, with a star where the interval leaves out zero."""
    table = Table(
        "paired differences (* the interval leaves out zero)",
        ["difference", *(_title(m) for m in METRICS)],
    )
    for row in rows:
        cells = []
        for metric in METRICS:
            entry = row["metrics"][metric]
            shown = entry and round(entry["mean"], DIGITS[metric])  # rounding noise is no finding
            star = " *" if shown and entry["verdict"] != "undecided" else ""
            cells.append(plus_minus(entry, DIGITS[metric], True) + star)
        table.rows.append([f"{row['b']} - {row['a']}", *cells])
    return table


def group_tables(rows: Sequence[Row]) -> list[Table]:
    """One table per label: groups and models against the metrics."""
    tables = []
    labels = list(dict.fromkeys(label for row in rows for label in row["groups"]))
    for label in labels:
        table = Table(f"by {label}", [label, "clips", "model", *(_title(m) for m in METRICS)])
        values = dict.fromkeys(v for row in rows for v in row["groups"].get(label, {}))
        for value in values:
            for row in rows:
                group = row["groups"].get(label, {}).get(value)
                if group:
                    cells = (_cell(group["metrics"][m], m) for m in METRICS)
                    table.rows.append([value, str(group["clips"]), row["model"], *cells])
        tables.append(table)
    return tables


def times_table(rows: Sequence[Row], clock: str) -> Table:
    """Times per frame in each regime by one clock, one line per model and regime.

    Parameters
    ----------
    rows
        Latency rows of one run.
    clock
        ``"cpu"`` (with real-time factor and ratio) or ``"wall"`` (with deadline misses).
    """
    last = ["RTF", "vs first"] if clock == "cpu" else ["late"]
    title = {"cpu": "CPU time per frame in ms, one thread", "wall": "wall time per frame in ms"}
    table = Table(title[clock], ["model", "regime", *KEYS, *last])
    for row in rows:
        for regime in REGIMES:
            entry = row["regimes"].get(regime)
            if not entry or not entry["frames"]:
                continue
            cells = [number(entry[f"{clock}_ms"][key]) for key in KEYS]
            if clock == "cpu":
                cells.append(number(entry["real_time_factor"], 4))
                cells.append(with_interval(row["ratio"].get(regime), 2))
            else:
                cells.append(f"{entry['deadline_misses']}/{entry['frames']}")
            table.rows.append([row["model"], regime, *cells])
    return table


def start_table(rows: Sequence[Row]) -> Table:
    """Start of a fresh process and its memory, one line per model."""
    table = Table(
        "fresh process: start, first frame, resident memory (median)",
        ["model", "start ms", "of it model", "first frame ms", "second", "resident MB"],
    )
    for row in rows:
        start, times = row["cold_start"], row["relative"]
        table.rows.append(
            [
                row["model"],
                _times(number(start["total_ms"], 0), times["start"]),
                number(start["session_ms"], 0),
                number(start["first_frame_ms"], 2),
                number(start["second_frame_ms"], 2),
                _times(number(start["resident_mb"], 0), times["resident"]),
            ]
        )
    return table


def size_table(rows: Sequence[Row]) -> Table:
    """Latency by design and size, one line per model."""
    table = Table(
        "algorithmic latency and size",
        ["model", "hop ms", "latency ms", "file", "parameters", "MAC/s", "weights"],
    )
    for row in rows:
        table.rows.append(
            [
                row["model"],
                number(row["hop_ms"], 1),
                number(row["algorithmic_latency_ms"], 1),
                _times(size(row["file_bytes"]), row["relative"]["file"]),
                _times(size(row["parameters"], ""), row["relative"]["parameters"]),
                size(row["macs_per_second"], ""),
                row["quantization"],
            ]
        )
    return table


def _times(text: str, ratio: float | None) -> str:
    return text if ratio is None else f"{text} (x{ratio:.2f})"


def quality_tables(models: Sequence[Row], comparisons: Sequence[Row]) -> list[Table]:
    """All tables of one evaluation."""
    tables = [quality_table(models)]
    if any(row["model_kind"] != "noisy" for row in models):
        tables.append(gain_table(models))
    if comparisons:
        tables.append(comparison_table(comparisons))
    return tables + group_tables(models)


def latency_tables(rows: Sequence[Row]) -> list[Table]:
    """All tables of one bench run."""
    return [
        times_table(rows, "cpu"),
        times_table(rows, "wall"),
        start_table(rows),
        size_table(rows),
    ]


def show(tables: Iterable[Table], lines: Iterable[str] = ()) -> None:
    """Print tables to standard output and warnings to standard error."""
    from rich.console import Console

    # Unwatched output (a file, a pipe) is as wide as its tables.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        console.print(table.rich())
    errors = Console(stderr=True)
    for line in lines:
        errors.print(f"warning: {line}", style="yellow", markup=False, highlight=False,
                     soft_wrap=True)  # fmt: skip


def show_evaluation(found: Evaluation) -> None:
    """Print what `benchmarks.quality.evaluate.evaluate` found."""
    show(quality_tables(found.models, found.comparisons), found.warnings)
    first = found.models[0]
    print(f"set hash {found.set_hash}; intervals: {first['interval']}")
    if found.reused:
        print(f"{found.reused} rows were measured by an earlier run and taken from {found.folder}")
    print(f"report: {found.folder / 'report.md'}")


def show_bench(found: Bench) -> None:
    """Print what `benchmarks.latency.bench.bench` found."""
    show(latency_tables(found.models), found.warnings)
    print(*machine_lines(found.hardware), sep="\n")
    if found.folder is not None:
        print(f"report: {found.folder / 'report.md'}")


def write_report(folder: Path | str) -> Path:
    """Write ``report.md`` and its plots from the folder's ``results.jsonl``.

    Raises
    ------
    EnhanceError
        If there are no results, or the page cannot be written.
    """
    folder = Path(folder)
    rows = read_results(folder)
    parts = ["# Measurements", ""]
    quality = [row for row in rows if row.get("kind") == "quality"]
    for set_hash in dict.fromkeys(row["set_hash"] for row in quality):
        models = [row for row in quality if row["set_hash"] == set_hash]
        models.sort(key=lambda row: row["model_kind"] != "noisy")
        present = {row["model_hash"] for row in models}
        comparisons = [
            row
            for row in rows
            if row.get("kind") == "comparison"
            and row["set_hash"] == set_hash
            and {row["a_hash"], row["b_hash"]} <= present
        ]
        parts += _quality_section(folder, models, comparisons)
    harm = [row for row in rows if row.get("kind") == "harm"]
    for question in dict.fromkeys((row["set_hash"], row["settings"]) for row in harm):
        from benchmarks.guard.tables import harm_section

        models = [row for row in harm if (row["set_hash"], row["settings"]) == question]
        models.sort(key=lambda row: row["model_kind"] != "noisy")
        parts += harm_section(models)
    latency = [row for row in rows if row.get("kind") == "latency"]
    if latency:
        newest = latency[-1]["run"]
        parts += _latency_section(folder, [row for row in latency if row["run"] == newest])
    path = folder / "report.md"
    with atomic(path) as temporary:
        temporary.write_text("\n".join(parts) + "\n", "utf-8")
    return path


def _quality_section(folder: Path, models: Sequence[Row], comparisons: Sequence[Row]) -> list[str]:
    from benchmarks.figures.plots import quality_plot

    first = models[0]
    parts = [f"## Quality: {_set_title(first)}", ""]
    parts += [f"Set hash `{first['set_hash']}`. Means with intervals: {first['interval']}.", ""]
    scores, *others = quality_tables(models, comparisons)
    parts += [scores.markdown(), ""]
    for table in others:
        parts += [f"### {table.title}", "", table.markdown(), ""]
    notes = []
    for row in models:
        notes += [
            f"- {row['model']}: {item['metric']} refused {item['clip']}: {item['reason']}"
            for item in row["refusals"]
        ]
        heard = row["heard"]
        if row["model_kind"] != "noisy":
            told = (
                f"{len(heard['same_bytes'])} test files by bytes and {len(heard['same_name'])} by "
                f"name among {heard['files']} training files"
                if heard["checked"]
                else "no list of training files was found"
            )
            notes.append(f"- {row['model']}: heard in training: {told}")
    parts += ["### Notes", "", *notes, ""] if notes else []
    image = folder / f"quality-{first['set_hash'][:8]}.png"
    if quality_plot(models, folder / "clips.jsonl", image):
        parts += [f"![Quality]({image.name})", ""]
    return parts


def _latency_section(folder: Path, rows: Sequence[Row]) -> list[str]:
    from benchmarks.figures.plots import latency_plot

    machine, settings = rows[0]["hardware"], rows[0]["settings"]
    parts = ["## Latency", "", *(f"{line}  " for line in machine_lines(machine)), ""]
    parts += [
        f"Hot: blocks of {settings['block']} frames back to back, models in turn. "
        f"Cold: a buffer of {settings['disturb_mb']} MB is written between frames. "
        "Paced: real time, sleeping between frames, one model at a time. "
        "RTF: mean CPU time per second of audio; late: frames whose wall time passed the hop; "
        "vs first: ratio of median CPU time per second of audio with a block bootstrap interval; "
        "(x): ratio to the first model.",
        "",
    ]
    for table in latency_tables(rows):
        parts += [f"### {table.title}", "", table.markdown(), ""]
    warnings = [f"- {row['model']}: {line}" for row in rows for line in row["warnings"]]
    parts += ["### Notes", "", *warnings, ""] if warnings else []
    image = folder / "latency.png"
    latency_plot(rows, image)
    return [*parts, f"![Latency]({image.name})", ""]


def machine_lines(machine: Row) -> list[str]:
    """The hardware in two lines."""
    sets = ", ".join(machine["instruction_sets"]) or "unknown"
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    return [
        f"{machine['processor']} ({machine['architecture']}, {machine['cores']} cores; {sets})",
        f"{machine['system']}; {versions}; load {machine['load_average']}",
    ]


def _set_title(row: Row) -> str:
    snr = "own SNR" if row["snr_db"] is None else f"{row['snr_db']:g} dB"
    return f"{row['set']}, {row['clips']} clips, {snr}, set {row['set_hash'][:12]}"


def _title(metric: str) -> str:
    return TITLES[metric] + (" dB" if metric == "si_sdr" else "")


def _cell(entry: Row, metric: str) -> str:
    text = plus_minus(entry, DIGITS[metric])
    return text + (f" (n={entry['n']})" if entry["refused"] else "")
