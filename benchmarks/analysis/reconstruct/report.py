"""From the results of a reconstruction to a page: tables, a picture, and sentences.

A sentence says no more than its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.measure import MEAN, NOISY, ORIGINAL, RESYNTHESIS
from benchmarks.figures.results import Row
from benchmarks.figures.tables import Table, number, plus_minus
from distill.training.card import fill

Columns = Sequence[tuple[str, str, int, bool]]
"""Of a table of metrics: header, metric, decimals, whether signed."""

_HIGH = "4-8 against 0-4 kHz"
SPECTRUM: Columns = (
    ("L1", "l1_db", 2, False),
    ("LSD", "lsd_db", 2, False),
    ("L1 under 4 kHz", "l1_low_db", 2, False),
    ("L1 over 4 kHz", "l1_high_db", 2, False),
    *((f"energy {band}", f"spectrum {band}", 1, True) for band in spectrum.NAMES),
    (_HIGH, "spectrum high", 1, True),
)
"""What the decoder predicts: distance, and energy by band."""
WAVEFORM: Columns = (
    ("STOI", "stoi", 3, False),
    ("ESTOI", "estoi", 3, False),
    ("PESQ-WB", "pesq_wb", 2, False),
    ("energy 4-8 kHz", "waveform 4-8 kHz", 1, True),
    (_HIGH, "waveform high", 1, True),
)
"""What a listener gets."""
DIFFERENCES: Columns = (
    ("L1 dB", "l1_db", 2, True),
    (f"{_HIGH}, dB", "spectrum high", 2, True),
    ("STOI", "stoi", 3, True),
    ("PESQ-WB", "pesq_wb", 2, True),
)
"""Teachers against their controls, paired clip by clip."""


def _table(title: str, first: str, columns: Columns, rows: Mapping[str, Row]) -> Table:
    """Metrics of some methods or pairs of methods."""
    table = Table(title, [first, *(header for header, _, _, _ in columns)])
    for name, found in rows.items():
        cells = (plus_minus(found.get(key), digits, sign) for _, key, digits, sign in columns)
        table.rows.append([name, *cells])
    return table


def result_tables(results: Sequence[Row], errors: str) -> list[Table]:
    """Spectrum, waveform with recognised words, and differences, of rows of ``results.jsonl``.

    ``errors`` is what the recogniser's errors are counted in: word or token.
    """
    metrics = {row["method"]: row["metrics"] for row in results}
    inside = {k: v for k, v in metrics.items() if k not in (ORIGINAL, RESYNTHESIS)}
    apart = {f"{row['method']} - {control}": found
             for row in results for control, found in row["differences"].items()}  # fmt: skip
    waveform = _table("waveform", "features", WAVEFORM, metrics)
    if any("wer" in row for row in results):
        waveform.headers = [*waveform.headers, f"{errors} errors %"]
        waveform.rows = [[*cells, _percent(row.get("wer"))]
                         for cells, row in zip(waveform.rows, results, strict=True)]  # fmt: skip
    return [
        _table("spectrum", "features", SPECTRUM, inside),
        waveform,
        _table("differences", "features - control", DIFFERENCES, apart),
    ]


def sentences(record: Mapping[str, Any], results: Sequence[Row]) -> list[str]:
    """What the figures support, a paragraph for each teacher and choice of layers."""
    by_name = {row["method"]: row for row in results}
    lines = []
    for row in results:
        if row["method_kind"] != "teacher" or "l1_db" not in row["metrics"]:
            continue
        found, floor = row["metrics"], by_name[MEAN]["metrics"]
        text = (
            f"From `{row['method']}` the decoder comes within {plus_minus(found['l1_db'], 2)} dB "
            f"of the clean spectrum; the mean spectrum, without features, lies "
            f"{plus_minus(floor['l1_db'], 2)} dB from it."
        )
        high = found.get("spectrum high")
        if high:
            text += f" {_loss(high)}"
            for control, entries in row["differences"].items():
                if entry := entries.get("spectrum high"):
                    text += (
                        f" Against `{control}` through the same decoder: "
                        f"{plus_minus(entry, 2, True)} dB."
                    )
        if "stoi" in found:
            best = by_name[RESYNTHESIS]["metrics"].get("stoi")
            text += (
                f" Resynthesised, its STOI is {plus_minus(found['stoi'], 3)}, where the original's "
                f"own magnitudes give {plus_minus(best, 3)}"
            )
            others = [
                f"`{control}` {number(by_name[control]['metrics']['stoi']['mean'])}"
                for control in row["differences"]
                if "stoi" in by_name[control]["metrics"]
            ]
            text += f" ({', '.join(others)})." if others else "."
        if row.get("wer"):
            who = record["recognizer"]
            text += (
                f" {who['name']} makes {_percent(row['wer'])} % {who['errors']} errors on it "
                f"against {who['reference']}."
            )
        lines.append(text)
    return lines


def _loss(entry: Mapping[str, Any]) -> str:
    shown = f"{plus_minus(entry, 2, True)} dB"
    if entry["low"] is None:
        return f"4 to 8 kHz against 0 to 4 kHz: {shown} (one clip, no interval)."
    if entry["high"] < 0:
        return f"Energy from 4 to 8 kHz is lost against 0 to 4 kHz: {shown}."
    if entry["low"] > 0:
        return f"Energy from 4 to 8 kHz is gained against 0 to 4 kHz: {shown}."
    return f"No loss of energy from 4 to 8 kHz against 0 to 4 kHz is seen: {shown}."


def _percent(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return "-"
    return (
        f"{100 * entry['mean']:.1f} ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"
        if entry["low"] is not None
        else f"{100 * entry['mean']:.1f}"
    )


def text(record: Mapping[str, Any], results: Sequence[Row], picture: str) -> str:
    """The page.

    Parameters
    ----------
    record
        As in ``record.json``.
    results
        As in ``results.jsonl``.
    picture
        Name of the clip in ``spectrograms.png``.
    """
    of_spectrum, of_waveform, of_differences = result_tables(
        results, record["recognizer"]["errors"]
    )
    held = Table("held back", ["features", "L1 dB", "mean spectrum", "steps", "minutes"])
    for row in record["decoders"]:
        far = [number(row["held_back"][key], 2) for key in ("l1_db", "mean_spectrum_l1_db")]
        held.rows.append([row["name"], *far, str(row["steps"]), number(row["seconds"] / 60, 1)])
    return fill(
        Path(__file__).with_name("report.md.jinja"),
        record=record,
        first=record["decoders"][0],
        hours=sum(row["hours"] for row in record["data"]["train"]),
        crop_seconds=record["config"]["crop_frames"] * spectrum.HOP / spectrum.SAMPLE_RATE,
        floor_db=20 * np.log10(spectrum.FLOOR),
        sentences=sentences(record, results),
        spectrum=of_spectrum,
        waveform=of_waveform,
        differences=of_differences,
        held_back=held,
        bound=RESYNTHESIS,
        noisy=NOISY,
        picture=picture,
        refused=sum(len(row["refusals"]) for row in results),
    )
