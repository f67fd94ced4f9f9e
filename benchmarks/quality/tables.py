"""Tables of quality, and their part of a report: nothing here measures anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures.results import Row
from benchmarks.figures.statistics import holm
from benchmarks.figures.tables import Table, difference_cell, metric_cell, metric_title, show
from enhance.measure.metrics import ALL_METRICS

if TYPE_CHECKING:
    from benchmarks.quality.evaluate import Evaluation


def quality_table(rows: Sequence[Row]) -> Table:
    """Mean and interval of each metric, one line per model."""
    title = f"{_set_title(rows[0])}: mean and 95 % interval"
    metrics = _measured(rows)
    table = Table(title, ["model", *map(metric_title, metrics)])
    for row in rows:
        table.rows.append([row["model"], *(_cell(row["metrics"].get(m), m) for m in metrics)])
    return table


def _measured(rows: Sequence[Row]) -> list[str]:
    """Metrics that a row holds, in their usual order."""
    return [metric for metric in ALL_METRICS if any(metric in row["metrics"] for row in rows)]


def gain_table(rows: Sequence[Row]) -> Table:
    """Gain over the noisy input, paired clip by clip."""
    metrics = _measured(rows)
    table = Table("gain over the noisy input (paired)", ["model", *map(metric_title, metrics)])
    for row in rows:
        if row["model_kind"] != "noisy":
            cells = (metric_cell(row["metrics"].get(m, {}).get("gain"), m, True) for m in metrics)
            table.rows.append([row["model"], *cells])
    return table


def comparison_table(rows: Sequence[Row]) -> Table:
    """Paired differences of models, with a star where one holds among all of the table.

    The claim is on these very files: what another training of the same recipe would give is not
    known from one file each (`benchmarks.figures.seeds`).
    """
    metrics = _measured(rows)
    title = "paired differences of these files, not of their recipes"
    headers = ["difference", *map(metric_title, metrics)]
    table = Table(f"{title} (* holds among all of this table)", headers)
    entries = [row["metrics"].get(metric) for row in rows for metric in metrics]
    held = iter(holm([entry and entry.get("p") for entry in entries]))
    for row in rows:
        cells = (difference_cell(row["metrics"].get(m), m, next(held)) for m in metrics)
        table.rows.append([f"{row['b']} - {row['a']}", *cells])
    return table


def group_tables(rows: Sequence[Row]) -> list[Table]:
    """One table per label: groups and models against the metrics."""
    tables = []
    metrics = _measured(rows)
    labels = list(dict.fromkeys(label for row in rows for label in row["groups"]))
    for label in labels:
        table = Table(f"by {label}", [label, "clips", "model", *map(metric_title, metrics)])
        values = dict.fromkeys(v for row in rows for v in row["groups"].get(label, {}))
        for value in values:
            for row in rows:
                group = row["groups"].get(label, {}).get(value)
                if group:
                    cells = (_cell(group["metrics"].get(m), m) for m in metrics)
                    table.rows.append([value, str(group["clips"]), row["model"], *cells])
        tables.append(table)
    return tables


def quality_tables(models: Sequence[Row], comparisons: Sequence[Row]) -> list[Table]:
    """All tables of one evaluation."""
    tables = [quality_table(models)]
    if any(row["model_kind"] != "noisy" for row in models):
        tables.append(gain_table(models))
    if comparisons:
        tables.append(comparison_table(comparisons))
    return tables + group_tables(models)


def show_evaluation(found: Evaluation) -> None:
    """Print what `benchmarks.quality.evaluate.evaluate` found."""
    show(quality_tables(found.models, found.comparisons), found.warnings)
    first = found.models[0]
    print(f"set hash {found.set_hash}; intervals: {first['interval']}")
    if found.reused:
        print(f"{found.reused} rows were measured by an earlier run and taken from {found.folder}")
    print(f"report: {found.folder / 'report.md'}")


def quality_section(folder: Path, models: Sequence[Row], comparisons: Sequence[Row]) -> list[str]:
    from benchmarks.figures.plots import quality_plot

    first = models[0]
    parts = [f"## Quality: {_set_title(first)}", ""]
    parts += [f"Set hash `{first['set_hash']}`. Means with intervals: {first['interval']}.", ""]
    scores, *others = quality_tables(models, comparisons)
    parts += [scores.markdown(), ""]
    parts += [line for table in others for line in table.section()]
    notes = []
    for row in models:
        notes += [
            f"- {row['model']}: {item['metric']} refused {item['clip']}: {item['reason']}"
            for item in row["refusals"]
        ]
        heard = row["heard"]
        if row["model_kind"] != "noisy":
            told = "no list of training files was found"
            if heard["checked"]:
                same = (
                    len({clip for clip, _ in heard[f"same_{how}"]}) for how in ("bytes", "name")
                )
                told = "{} test files by bytes and {} by name among ".format(*same)
                told += f"{heard['files']} training files"
            notes.append(f"- {row['model']}: heard in training: {told}")
    parts += ["### Notes", "", *notes, ""] if notes else []
    image = folder / f"quality-{first['set_hash'][:8]}.png"
    if quality_plot(models, folder / "clips.jsonl", image):
        parts += [f"![Quality]({image.name})", ""]
    return parts


def _set_title(row: Row) -> str:
    snr = "own SNR" if row["snr_db"] is None else f"{row['snr_db']:g} dB"
    return f"{row['set']}, {row['clips']} clips, {snr}, set {row['set_hash'][:12]}"


def _cell(entry: Row | None, metric: str) -> str:
    return metric_cell(entry, metric) + (f" (n={entry['n']})" if entry and entry["refused"] else "")
