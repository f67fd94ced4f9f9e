"""From the results of a reconstruction to a page: tables, a picture, and sentences.

A sentence says no more than its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.measure import MEAN, NOISY, ORIGINAL, RESYNTHESIS
from benchmarks.figures.results import Row
from benchmarks.figures.tables import Table, number, plus_minus

PAPER = (
    "The paper behind this question (Shankar et al., arXiv 2403.01369), as this project's notes "
    "tell it, reports a word error rate under 20 % of a pre-trained CRDNN recogniser on speech "
    "reconstructed from wav2vec 2.0 embeddings, and a loss of high-frequency energy where the "
    "embeddings were a student's. These are its claims, on its data; nothing here verifies them."
)
_SPECTRUM = ("l1_db", "lsd_db", "l1_low_db", "l1_high_db")


def spectrum_table(results: Sequence[Row]) -> Table:
    """What the decoder predicts: distance, and energy by band."""
    bands = [f"spectrum {band}" for band in spectrum.NAMES]
    table = Table(
        "spectrum",
        ["features", "L1", "LSD", "L1 under 4 kHz", "L1 over 4 kHz"]
        + [f"energy {band}" for band in spectrum.NAMES]
        + ["4-8 against 0-4 kHz"],
    )
    for row in results:
        if row["method"] in (ORIGINAL, RESYNTHESIS):
            continue
        cells = [plus_minus(row["metrics"].get(name), 2) for name in _SPECTRUM]
        cells += [plus_minus(row["metrics"].get(b), 1, True) for b in (*bands, "spectrum high")]
        table.rows.append([row["method"], *cells])
    return table


def waveform_table(results: Sequence[Row], errors: str) -> Table:
    """What a listener gets: metrics of the waveform, energy, recognised words.

    Parameters
    ----------
    results
        Rows of ``results.jsonl``.
    errors
        What the recogniser's errors are counted in: word or token.
    """
    listened = any("wer" in row for row in results)
    headers = ["features", "STOI", "ESTOI", "PESQ-WB", "energy 4-8 kHz", "4-8 against 0-4 kHz"]
    table = Table("waveform", headers + ([f"{errors} errors %"] if listened else []))
    for row in results:
        found = row["metrics"]
        cells = [plus_minus(found.get(name), 3) for name in ("stoi", "estoi")]
        cells.append(plus_minus(found.get("pesq_wb"), 2))
        cells += [plus_minus(found.get(f"waveform {b}"), 1, True) for b in ("4-8 kHz", "high")]
        if listened:
            cells.append(_percent(row.get("wer")))
        table.rows.append([row["method"], *cells])
    return table


def difference_table(results: Sequence[Row]) -> Table:
    """Teachers against their controls, paired clip by clip."""
    names = {
        "L1 dB": ("l1_db", 2),
        "4-8 against 0-4 kHz, dB": ("spectrum high", 2),
        "STOI": ("stoi", 3),
        "PESQ-WB": ("pesq_wb", 2),
    }
    table = Table("differences", ["features - control", *names])
    for row in results:
        for control, found in row["differences"].items():
            cells = []
            for name, digits in names.values():
                cells.append(plus_minus(found.get(name), digits, True))
            table.rows.append([f"{row['method']} - {control}", *cells])
    return table


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
    config = record["config"]
    hours = sum(row["hours"] for row in record["data"]["train"])
    first = record["decoders"][0]
    lines = [
        "# Speech reconstructed from embeddings",
        "",
        f"Generated by `enhance analyze reconstruct`. Set: {record['set']}, {record['clips']} "
        f"clips, hash `{record['set_hash'][:16]}`; features of its {record['input'].upper()} side, "
        "the target is the clean side. One decoder for each row "
        f"({first['parameters'] / 1e6:.2f} M parameters and the like), trained on {hours:.2f} h of "
        f"{record['corpus']}, {first['steps']} steps of {config['batch']} crops of "
        f"{config['crop_frames'] * spectrum.HOP / spectrum.SAMPLE_RATE:g} s, seed {config['seed']}."
        f" Intervals: {record['interval']}. One seed: another decoder may turn a difference.",
        "",
        *(f"- {line}" for line in sentences(record, results)),
        "",
        PAPER,
        "",
        "## Predicted spectrum, dB",
        "",
        spectrum_table(results).markdown(),
        "",
        f"L1: mean absolute difference of log magnitudes (floor {20 * np.log10(spectrum.FLOOR):g} "
        "dB) in frames within 40 dB of the loudest. Energy: of the reconstruction over the "
        "original's, whole clip. A decoder that minimises L1 of decibels predicts medians: what "
        "features leave open becomes quieter, the more the less they tell. Read energies against "
        "the controls, not against zero.",
        "",
        f"## Waveform by Griffin-Lim ({record['griffin_lim_iterations']} iterations, seeded phase)",
        "",
        waveform_table(results, record["recognizer"]["errors"]).markdown(),
        "",
        f"`{RESYNTHESIS}` is the bound: what the lost phase alone costs."
        + (f" `{NOISY}`: the input as it is." if record["input"] == "noisy" else ""),
        "",
        *_differences(results),
        *_recogniser(record),
        *_held_back(record),
        "## One clip",
        "",
        f"`{picture}`, the clip of median L1 from the first row's features:",
        "",
        "![spectrograms](spectrograms.png)",
    ]
    refused = sum(len(row["refusals"]) for row in results)
    if refused:
        lines += ["", f"Figures refused: {refused}, each named in results.jsonl."]
    return "\n".join(lines) + "\n"


def _differences(results: Sequence[Row]) -> list[str]:
    table = difference_table(results)
    if not table.rows:
        return []
    title = "## Differences, paired clip by clip (decoders of one seed: no claim)"
    return [title, "", table.markdown(), ""]


def _recogniser(record: Mapping[str, Any]) -> list[str]:
    found = record["recognizer"]
    if found["name"] is None:
        return ["## Recogniser", "", f"No word error rate was measured: {found['missing']}.", ""]
    return ["## Recogniser", "", _heard_by(found), ""]


def _held_back(record: Mapping[str, Any]) -> list[str]:
    table = Table("held back", ["features", "L1 dB", "mean spectrum", "steps", "minutes"])
    for row in record["decoders"]:
        held = row["held_back"]
        table.rows.append(
            [
                row["name"],
                number(held["l1_db"], 2),
                number(held["mean_spectrum_l1_db"], 2),
                str(row["steps"]),
                number(row["seconds"] / 60, 1),
            ]
        )
    return ["## Held-back clips of the corpus, all frames", "", table.markdown(), ""]


def _heard_by(found: dict[str, Any]) -> str:
    told = f"{found['name']}; errors against {found['reference']}"
    return f"{told}; texts before counting: {found['normalisation']}."
