"""From ``results.jsonl`` to tables and a page: nothing here measures anything.

Every figure of a report can be traced to one row of the results; the page is written anew from
all rows each time, so that quality and latency of one folder stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.results import Row, read_results
from benchmarks.latency.tables import latency_section
from benchmarks.quality.tables import quality_section
from enhance.files import write_text


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
    for models in _questions(rows, "quality", "set_hash"):
        set_hash, present = models[0]["set_hash"], {row["model_hash"] for row in models}
        comparisons = [
            row
            for row in rows
            if row.get("kind") == "comparison"
            and row["set_hash"] == set_hash
            and {row["a_hash"], row["b_hash"]} <= present
        ]
        parts += quality_section(folder, models, comparisons)
    for models in _questions(rows, "harm", "set_hash", "settings"):
        from benchmarks.guard.tables import harm_section

        parts += harm_section(models)
    latency = [row for row in rows if row.get("kind") == "latency"]
    if latency:
        newest = latency[-1]["run"]
        parts += latency_section(folder, [row for row in latency if row["run"] == newest])
    path = folder / "report.md"
    write_text(path, "\n".join(parts) + "\n")
    return path


def _questions(rows: Sequence[Row], kind: str, *keys: str) -> list[list[Row]]:
    """Rows of one kind, those that agree in the keys together, the noisy input first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("kind") == kind:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [sorted(own, key=lambda row: row["model_kind"] != "noisy") for own in found.values()]
