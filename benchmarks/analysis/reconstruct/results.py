"""Rows of all clips and methods, kept as they are done; and what they come to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.analysis.recognizers.choose import Listening
from benchmarks.analysis.reconstruct import measure as measuring
from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.measure import ORIGINAL, Method, Row
from benchmarks.analysis.reconstruct.sources import LOG_MEL, TEACHER, TWIN
from benchmarks.figures.statistics import row_difference, row_interval
from benchmarks.quality.clips import Pair
from enhance.files import write_jsonl
from enhance.measure.metrics import versions
from enhance.progress import progress_bar
from enhance.training.engine.interrupt import Interrupt


def measure_all(
    table: Sequence[Method],
    pairs: Sequence[Pair],
    listening: Listening,
    config: DecoderConfig,
    path: Path,
    interrupt: Interrupt,
    *,
    quiet: bool,
) -> list[Row] | None:
    """A row for each method and clip, kept as they are done; None where interrupted.

    Parameters
    ----------
    table, pairs
        Methods and clips.
    listening
        The recogniser, if any.
    config
        Its seed is that of the phases, and it says which side is heard.
    path
        File of the rows; those it holds of the same clips are not measured again.
    interrupt
        Looked at before each row.
    quiet
        No progress bar.
    """
    listener = listening.recognizer.name if listening.recognizer else None
    tools = " ".join(f"{key} {value}" for key, value in sorted(versions().items()))
    same = {"recognizer": listener, "seed": config.seed, "tools": tools}
    # In the order of the clips, so that a stopped run has every method on the same clips.
    wanted = {(m.name, m.digest, p.name, p.sha256): (m, p) for p in pairs for m in table}
    done: dict[tuple[str, ...], Row] = {}
    for row in _read_rows(path):
        key = tuple(row.get(name) for name in ("method", "digest", "clip", "clip_hash"))
        if key in wanted and row.items() >= same.items():
            done[key] = row
    write_jsonl(path, list(done.values()))  # without a line that a kill cut off
    todo = [(key, *item) for key, item in wanted.items() if key not in done]
    with progress_bar(quiet=quiet) as bar, path.open("a", encoding="utf-8") as file:
        task = bar.add_task("measuring", total=len(todo), speed="")
        heard: tuple[Pair, tuple[np.ndarray, np.ndarray]] | None = None
        for key, method, pair in todo:
            if interrupt.caught:
                return None
            if heard is None or heard[0] is not pair:
                heard = pair, measuring.read_clip(pair, noisy=config.noisy)
            row = {
                "method": method.name,
                "kind": method.kind,
                "digest": method.digest,
                "clip": pair.name,
                "clip_hash": pair.sha256,
                "labels": dict(pair.labels),
                **same,
                **measuring.measure_clip(method, *heard[1], listening, config.seed),
            }
            done[key] = row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            bar.update(task, advance=1)
    rows = [done[key] for key in wanted]
    write_jsonl(path, rows)
    return rows


def _read_rows(path: Path) -> list[Row]:
    """Rows of a stopped run; lines that a kill cut off are left out."""
    rows = []
    for line in path.read_text("utf-8").split("\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and "figures" in row]


def summarize(
    table: Sequence[Method],
    rows: Sequence[Row],
    listening: Listening,
    texts: dict[str, str] | None,
) -> list[Row]:
    """One row for each method: mean and interval of each figure, differences to controls, WER.

    Parameters
    ----------
    table
        The methods, in order.
    rows
        Of every method and clip.
    listening
        The recogniser, if any.
    texts
        What is said in each clip; None for the recogniser's text of the original audio.
    """
    by_method = {m.name: [r for r in rows if r["method"] == m.name] for m in table}
    if listening.recognizer and texts is None:
        texts = {row["clip"]: row["text"] for row in by_method[ORIGINAL]}
    results = []
    for method in table:
        own = by_method[method.name]
        names = list(dict.fromkeys(name for row in own for name in row["figures"]))
        found = {name: row_interval(own, "figures", name) for name in names}
        result: Row = {
            "kind": "reconstruction",
            "method": method.name,
            "method_kind": method.kind,
            "digest": method.digest,
            "metrics": {
                name: row | {"refused": len(own) - row["n"]} for name, row in found.items()
            },
            "differences": {
                control: {
                    name: difference
                    for name in names
                    if (difference := row_difference(by_method[control], own, "figures", name))
                }
                for control in _controls(method, table)
            },
            "refusals": [
                {"clip": row["clip"], "metric": name, "reason": why}
                for row in own
                for name, why in row["refusals"].items()
            ],
        }
        if listening.recognizer and texts is not None:
            told = [row for row in own if row["clip"] in texts and row["text"] is not None]
            result["wer"] = listening.rate(
                [texts[row["clip"]] for row in told], [row["text"] for row in told]
            )
        results.append(result)
    return results


def _controls(method: Method, table: Sequence[Method]) -> list[str]:
    """What a teacher's row is compared with, clip by clip."""
    if method.kind != TEACHER:
        return []
    ours = [m.name for m in table if m.kind == LOG_MEL]
    return ours + [m.name for m in table if m.name == f"{method.name}, {TWIN}"]
