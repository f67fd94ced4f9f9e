"""Tables of latency, and their part of a report: nothing here measures anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures.results import Row
from benchmarks.figures.tables import Table, number, show, size, with_interval
from enhance.measure.timing import REGIMES

if TYPE_CHECKING:
    from benchmarks.latency.bench import Bench

KEYS = ("p50", "p95", "p99", "max")
"""Percentiles that are shown."""


def times_table(rows: Sequence[Row], clock: str) -> Table:
    """Times per frame in each regime of one run by one clock, one line per model and regime.

    ``clock`` is ``"cpu"`` (with real-time factor and ratio) or ``"wall"`` (with deadline misses).
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
    headers = ["model", "start ms", "of it model", "first frame ms", "second", "resident MB"]
    table = Table("fresh process: start, first frame, resident memory (median)", headers)
    for row in rows:
        start, times = row["cold_start"], row["relative"]
        whole = _times(number(start["total_ms"], 0), times["start"])
        frames = (number(start[f"{which}_frame_ms"], 2) for which in ("first", "second"))
        memory = _times(number(start["resident_mb"], 0), times["resident"])
        table.rows.append([row["model"], whole, number(start["session_ms"], 0), *frames, memory])
    return table


def size_table(rows: Sequence[Row]) -> Table:
    """Latency by design and size, one line per model."""
    headers = ["model", "hop ms", "latency ms", "file", "parameters", "MAC/s", "weights"]
    table = Table("algorithmic latency and size", headers)
    for row in rows:
        delays = (number(row[key], 1) for key in ("hop_ms", "algorithmic_latency_ms"))
        file = _times(size(row["file_bytes"]), row["relative"]["file"])
        parameters = _times(size(row["parameters"], ""), row["relative"]["parameters"])
        work = size(row["macs_per_second"], "")
        table.rows.append([row["model"], *delays, file, parameters, work, row["quantization"]])
    return table


def _times(text: str, ratio: float | None) -> str:
    return text if ratio is None else f"{text} (x{ratio:.2f})"


def latency_tables(rows: Sequence[Row]) -> list[Table]:
    """All tables of one bench run."""
    times = [times_table(rows, clock) for clock in ("cpu", "wall")]
    return [*times, start_table(rows), size_table(rows)]


def show_bench(found: Bench) -> None:
    """Print what `benchmarks.latency.bench.bench` found."""
    show(latency_tables(found.models), found.warnings)
    print(*machine_lines(found.hardware), sep="\n")
    if found.folder is not None:
        print(f"report: {found.folder / 'report.md'}")


def latency_section(folder: Path, rows: Sequence[Row]) -> list[str]:
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
    parts += [line for table in latency_tables(rows) for line in table.section()]
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
