"""From the results of a reconstruction to a page; a sentence says no more than its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.parts.plots import from_to, percent
from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.measure import MEAN, NOISY, ORIGINAL, RESYNTHESIS, read_clip
from benchmarks.analysis.reconstruct.sources import LOG_MEL, TEACHER, TWIN
from benchmarks.analysis.reconstruct.training import Trained
from benchmarks.figures.results import Row
from benchmarks.figures.tables import Table, number, plus_minus
from benchmarks.quality.clips import Pair
from distill.training.card import fill
from enhance.files import atomic

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
        waveform.rows = [[*cells, from_to(percent(row.get("wer")), 1)]
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
                f" {who['name']} makes {from_to(percent(row['wer']), 1)} % {who['errors']} errors "
                f"on it against {who['reference']}."
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


def text(record: Mapping[str, Any], results: Sequence[Row], picture: str) -> str:
    """The page of these records; ``picture`` names the clip in ``spectrograms.png``."""
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


def picture(
    path: Path,
    trained: Sequence[Trained],
    pairs: Sequence[Pair],
    rows: Sequence[Row],
    *,
    noisy: bool,
) -> str:
    """Draw the original and reconstructions of one clip into a file; returns the clip's name.

    It is that of median L1 in the measured rows of the first decoder.
    """
    from matplotlib.figure import Figure

    first = trained[0].source.name
    far = [
        (r["figures"]["l1_db"], r["clip"]) for r in rows if r["method"] == first and r["figures"]
    ]
    name = sorted(far)[len(far) // 2][1] if far else pairs[0].name
    pair = next(pair for pair in pairs if pair.name == name)
    clean, heard = read_clip(pair, noisy=noisy)
    original = spectrum.decibels(spectrum.of_clip(clean))
    shown = {one.source.kind: one for one in reversed(trained)}  # the first of each kind
    panels = {f"from {one.source.name}": one.decibels(heard, len(original))
              for kind in (TEACHER, TWIN, LOG_MEL) if (one := shown.get(kind))}  # fmt: skip
    panels = {"original": original, **panels}
    figure = Figure(figsize=(9, 2.1 * len(panels)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True, sharey=True))
    extent = (0, len(clean) / spectrum.SAMPLE_RATE, 0, spectrum.SAMPLE_RATE / 2000)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(
            values.numpy().T, origin="lower", aspect="auto", extent=extent, vmin=-55, vmax=25
        )
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("kHz", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("s", fontsize=8)
    figure.colorbar(image, ax=list(axes), label="dB", shrink=0.6)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return name
