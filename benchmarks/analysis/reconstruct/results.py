"""Rows of all clips and methods, kept as they are done; and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.analysis.reconstruct import measure as measuring
from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.measure import ORIGINAL, Method, Row
from benchmarks.figures.clusters import clusters_of
from benchmarks.figures.statistics import mean_interval, paired_difference
from benchmarks.quality.clips import Pair
from benchmarks.recognizers.choose import Listening
from enhance.files import append_jsonl, write_jsonl
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
    wanted = {(m.name, m.digest, p.name): (m, p) for m, p in _tasks(table, pairs)}
    done: dict[tuple[str, str, str], Row] = {}
    for row in _read_rows(path):
        key = (row["method"], row["digest"], row["clip"])
        if key in wanted and row.items() >= (same | {"clip_hash": wanted[key][1].sha256}).items():
            done[key] = row
    write_jsonl(path, list(done.values()))  # without a line that a kill cut off
    todo = [item for key, item in wanted.items() if key not in done]
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("measuring", total=len(todo), speed="")
        heard: tuple[str, tuple[np.ndarray, np.ndarray]] | None = None
        for method, pair in todo:
            if interrupt.caught:
                return None
            if heard is None or heard[0] != pair.name:
                heard = pair.name, measuring.read_clip(pair, noisy=config.noisy)
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
            done[method.name, method.digest, pair.name] = row
            append_jsonl(path, row)
            elapsed = max(bar.tasks[task].elapsed or 0.0, 1e-9)
            bar.update(
                task, advance=1, speed=f"{(bar.tasks[task].completed + 1) / elapsed:.1f} clips/s"
            )
    rows = [done[key] for key in wanted]
    write_jsonl(path, rows)
    return rows


def _tasks(table: Sequence[Method], pairs: Sequence[Pair]) -> Iterator[tuple[Method, Pair]]:
    """In the order of the clips, so that a stopped run has every method on the same clips."""
    for pair in pairs:
        for method in table:
            yield method, pair


def _read_rows(path: Path) -> list[Row]:
    """Rows of a stopped run; lines that a kill cut off are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text("utf-8").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"method", "digest", "clip", "figures"} <= row.keys():
            rows.append(row)
    return rows


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
    labels = {row["clip"]: row.get("labels", {}) for row in rows}
    by_method = {m.name: [r for r in rows if r["method"] == m.name] for m in table}
    if listening.recognizer and texts is None:
        texts = {row["clip"]: row["text"] for row in by_method[ORIGINAL]}
    results = []
    for method in table:
        own = by_method[method.name]
        names = dict.fromkeys(name for row in own for name in row["figures"])
        figures = {name: _values(own, name) for name in names}
        result: Row = {
            "kind": "reconstruction",
            "method": method.name,
            "method_kind": method.kind,
            "digest": method.digest,
            "metrics": {
                name: mean_interval(
                    list(values.values()), clusters_of([labels[clip] for clip in values])
                ).row()
                | {"refused": len(own) - len(values)}
                for name, values in figures.items()
            },
            "differences": {},
            "refusals": [
                {"clip": row["clip"], "metric": name, "reason": why}
                for row in own
                for name, why in row["refusals"].items()
            ],
        }
        for control in _controls(method, table):
            other = by_method[control]
            result["differences"][control] = {
                name: difference.row()
                for name, values in figures.items()
                if (difference := paired_difference(_values(other, name), values, labels))
            }
        if listening.recognizer and texts is not None:
            told = [row for row in own if row["clip"] in texts and row["text"] is not None]
            result["wer"] = listening.rate(
                [texts[row["clip"]] for row in told], [row["text"] for row in told]
            )
        results.append(result)
    return results


def _values(rows: Sequence[Row], name: str) -> dict[str, float]:
    return {row["clip"]: row["figures"][name] for row in rows if name in row["figures"]}


def _controls(method: Method, table: Sequence[Method]) -> list[str]:
    """What a teacher's row is compared with, clip by clip."""
    if method.kind != "teacher":
        return []
    kinds = [m.name for m in table if m.kind == "log-mel"]
    twin = f"{method.name}, random weights"
    return kinds + [m.name for m in table if m.name == twin]
