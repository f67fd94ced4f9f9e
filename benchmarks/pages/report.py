"""From ``results.jsonl`` to tables and a page: nothing here measures anything.

Every figure of a report can be traced to one row of the results; the page is written anew from
all rows each time, so that quality and latency of one folder stand together.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures.results import read_results
from benchmarks.latency.tables import latency_section
from benchmarks.quality.tables import quality_section
from enhance.files import atomic


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
    quality = [row for row in rows if row.get("kind") == "quality"]
    for set_hash in dict.fromkeys(row["set_hash"] for row in quality):
        models = [row for row in quality if row["set_hash"] == set_hash]
        models.sort(key=lambda row: row["model_kind"] != "noisy")
        present = {row["model_hash"] for row in models}
        comparisons = [
            row
            for row in rows
            if row.get("kind") == "comparison"
            and row["set_hash"] == set_hash
            and {row["a_hash"], row["b_hash"]} <= present
        ]
        parts += quality_section(folder, models, comparisons)
    harm = [row for row in rows if row.get("kind") == "harm"]
    for question in dict.fromkeys((row["set_hash"], row["settings"]) for row in harm):
        from benchmarks.guard.tables import harm_section

        models = [row for row in harm if (row["set_hash"], row["settings"]) == question]
        models.sort(key=lambda row: row["model_kind"] != "noisy")
        parts += harm_section(models)
    latency = [row for row in rows if row.get("kind") == "latency"]
    if latency:
        newest = latency[-1]["run"]
        parts += latency_section(folder, [row for row in latency if row["run"] == newest])
    path = folder / "report.md"
    with atomic(path) as temporary:
        temporary.write_text("\n".join(parts) + "\n", "utf-8")
    return path
