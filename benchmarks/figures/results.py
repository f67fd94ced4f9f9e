"""``results.jsonl``: every figure that was measured, one row per model and question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError
from enhance.files import read_jsonl, write_jsonl

RESULTS = "results.jsonl"

FORMAT = 1
"""Written into every row; rows of another format are kept, and not shown."""

Row = dict[str, Any]


def merge_results(folder: Path, rows: Sequence[Row]) -> None:
    """Add rows; they take the place of older ones on the same question.

    The question of a quality row is the model and the set, that of a comparison both models, in
    either order, and the set, that of a harm row the model, the set and the settings. Latency rows
    answer only for their own run.
    """
    path = folder / RESULTS
    rows = [{"kind": row["kind"], "format": FORMAT, **row} for row in rows]
    old = read_jsonl(path) if path.exists() else []
    new = {_question(row) for row in rows}
    kept = [row for row in old if not isinstance(row, dict) or _question(row) not in new]
    write_jsonl(path, [*kept, *rows])


def read_results(place: Path | str) -> list[Row]:
    """Rows of this format in a folder or file.

    An `EnhanceError` if there is no such file, or a line of it is not JSON.
    """
    path = Path(place) / RESULTS if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise EnhanceError(
            f"{path}: no such results; enhance evaluate, guard and bench write them with -o"
        )
    rows = read_jsonl(path)
    return [row for row in rows if isinstance(row, dict) and row.get("format") == FORMAT]


def _question(row: Row) -> tuple[Any, ...]:
    if row.get("kind") in ("quality", "harm"):
        return (row["kind"], row.get("model_hash"), row.get("set_hash"), row.get("settings"))
    if row.get("kind") == "comparison":
        models = sorted(str(row.get(key)) for key in ("a_hash", "b_hash"))
        return ("comparison", *models, row.get("set_hash"))
    return (row.get("kind"), row.get("run"), row.get("model"))


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier evaluation; a last line that was cut off in writing is left out.

    An `EnhanceError` if another line is not JSON, or the file cannot be read.
    """
    rows = read_jsonl(path, unfinished=True) if path.exists() else []
    known = {"clip", "model_hash", "clip_hash", "set_hash"}
    return [row for row in rows if isinstance(row, dict) and known <= row.keys()]
