"""Small plots of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures.results import Row, read_rows
from benchmarks.figures.seeds import claims
from benchmarks.figures.tables import metric_title
from enhance.files import atomic
from enhance.measure.metrics import METRICS
from enhance.measure.timing import REGIMES


def quality_plot(models: Sequence[Row], clips: Path, path: Path) -> bool:
    """Mean of each metric with its interval, and the SI-SDR gain of every clip.

    Of quality rows of one set and its ``clips.jsonl``. False, and nothing written, where there is
    nothing to draw.
    """
    models = [row for row in models if row["metrics"]["si_sdr"]["mean"] is not None]
    if not models:
        return False
    figure = _figure(11, 2.6 + 0.25 * len(models))
    axes = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 1.6])
    names = [row["model"] for row in models]
    colours = ["0.5" if row["model_kind"] == "noisy" else "C0" for row in models]
    for axis, metric in zip(axes, METRICS, strict=False):
        _intervals(axis, metric, names, [row["metrics"][metric] for row in models], colours)
        names = [""] * len(names)
    _gains(axes[4], models, clips)
    _save(figure, path)
    return True


def _intervals(
    axis: Any, metric: str, names: Sequence[str], entries: Sequence[Row], colours: Sequence[str]
) -> None:
    """A line for each entry, the first on top: a mean and its interval, where there are any."""
    where = np.arange(len(entries))[::-1]
    for place, entry, colour in zip(where, entries, colours, strict=True):
        if entry and entry["mean"] is not None:
            if entry["low"] is not None:
                axis.plot([entry["low"], entry["high"]], [place, place], color=colour, lw=2)
            axis.plot(entry["mean"], place, "o", color=colour, ms=5)
    axis.set_title(metric_title(metric, " (dB)"), fontsize=9)
    axis.set_yticks(where, names, fontsize=8)
    axis.set_ylim(-0.6, len(entries) - 0.4)
    _clean(axis)


def _gains(axis: Any, models: Sequence[Row], clips: Path) -> None:
    """Sorted SI-SDR gain per clip of each model: the curve shows the worst clips too."""
    rows = read_rows(clips)
    for row in models:
        if row["model_kind"] == "noisy":
            continue
        gains = sorted(
            item["gains"]["si_sdr"]
            for item in rows
            if item["model_hash"] == row["model_hash"]
            and item["set_hash"] == row["set_hash"]
            and "si_sdr" in item.get("gains", {})
        )
        if gains:
            share = (np.arange(len(gains)) + 0.5) / len(gains)
            axis.plot(gains, 100 * share, lw=1.5, label=row["model"])
    axis.axvline(0, color="0.6", lw=0.8)
    axis.set_title("clips with at most this SI-SDR gain (%)", fontsize=9)
    axis.set_xlabel("dB over noisy", fontsize=8)
    axis.set_ylim(0, 100)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False)
    _clean(axis)


def latency_plot(rows: Sequence[Row], path: Path) -> None:
    """CPU time per frame of each model and regime of one bench run: median and percentiles."""
    figure = _figure(7, 1.4 + 0.55 * len(rows))
    axis = figure.subplots()
    colours = dict(zip(REGIMES, ("C3", "C0", "C2"), strict=True))
    for index, row in enumerate(reversed(rows)):
        for offset, regime in zip((0.22, 0.0, -0.22), REGIMES, strict=True):
            entry = row["regimes"].get(regime)
            if not entry or not entry["frames"]:
                continue
            cpu, place = entry["cpu_ms"], index + offset
            label = regime if index == 0 else None
            axis.plot([cpu["p50"], cpu["p99"]], [place] * 2, color=colours[regime], lw=1, alpha=0.6)
            axis.plot(cpu["p50"], place, "o", color=colours[regime], ms=5, label=label)
            axis.plot([cpu["p95"], cpu["p99"]], [place] * 2, "|", color=colours[regime], ms=7)
    axis.set_yticks(range(len(rows)), [row["model"] for row in reversed(rows)], fontsize=8)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(left=0)
    axis.set_xlabel("CPU ms per frame: median (dot), 95th and 99th percentile (bars)", fontsize=8)
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _clean(axis)
    _save(figure, path)


def difference_plot(rows: Sequence[Row], path: Path) -> None:
    """Paired difference of each run to its baseline, with its interval, one panel a metric.

    Coloured where the difference holds among all of them (`benchmarks.figures.seeds.claims`). Of
    one row for each run (`benchmarks.study.report.shown_rows`); nothing is written where none has
    a finished baseline.
    """
    rows = [row for row in rows if row["difference"]]
    if not rows:
        return
    held = claims(rows)
    figure = _figure(11, 1.2 + 0.3 * len(rows))
    axes = figure.subplots(1, len(METRICS))
    names = [f"{row['name']} - {row['baseline']}" for row in rows]
    for axis, metric in zip(axes, METRICS, strict=True):
        axis.axvline(0, color="0.6", lw=0.8)
        colours = ["C0" if (row["name"], metric) in held else "0.5" for row in rows]
        _intervals(axis, metric, names, [row["difference"][metric] for row in rows], colours)
        axis.locator_params(axis="x", nbins=4)
        names = [""] * len(names)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """Without pyplot: no global state, no display; the PNG backend is Agg."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", color="0.92", lw=0.6)
    axis.set_axisbelow(True)


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
