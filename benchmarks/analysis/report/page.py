"""The page: one HTML file that needs nothing else, drawn from the records of a folder."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.analysis.parts.record import Record, svg
from benchmarks.analysis.reconstruct.report import result_tables
from benchmarks.analysis.report.evidence import RECONSTRUCT, Evidence, Verdict, Word
from benchmarks.analysis.report.seeds import CLAIMS, Claim
from distill.training.card import fill
from enhance.errors import EnhanceError
from enhance.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
MOST_BYTES = 4_000_000
"""A page that is larger is refused: nobody opens it on a telephone."""

_DPI = (80, 55, 40)  # of pictures within plots, as fine as the page has room for
QUESTIONS = {
    "temporal": "How do embeddings change with time, and with noise?",
    "cka": "Which hidden states are alike?",
    "probe": "What do the states know?",
    "codec": "Do they know the codec?",
    "dann": "Can they forget it?",
    "maps": "What do they look like?",
    "reconstruct": "What can be made of them?",
}
"""Analyses in the order of the page; ``probe`` stands for every task."""


def write(folder: Path, study: Path | None = None) -> list[tuple[Claim, Verdict]]:
    """Write ``report.html`` over the records of a folder, and a study of modes (`enhance compare`).

    Returns each claim of the seeds with its verdict. An `EnhanceError` says that there is no
    record, that one is damaged, or that the page would be too large.
    """
    evidence = Evidence.open(folder, study)
    if not evidence.records:
        below = sorted({path.parent.name for path in folder.glob("*/*.json")})
        what = "run enhance analyze all, or one analysis"
        if below:
            what = f"there are some in {', '.join(below)}: name one, or give all analyses one --out"
        raise EnhanceError(f"{folder}: holds no record; {what}")
    verdicts = [(claim, claim.judge(evidence)) for claim in CLAIMS]
    facts = {
        "verdicts": verdicts,
        "counts": {w: sum(verdict.word == w for _, verdict in verdicts) for w in get_args(Word)},
        "families": evidence.families,
        "versions": next(iter(evidence.records.values())).get("versions", {}),
        "study": study.name if study else "",
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    for dpi in _DPI:
        sections = [
            _section(folder, name, question, record, dpi)
            for question in QUESTIONS
            for name, record in sorted(evidence.records.items())
            if name.partition("-")[0] == question
        ]
        text = fill(Path(__file__).with_name("page.html.jinja"), sections=sections, **facts)
        if len(text.encode()) <= MOST_BYTES:
            break
    else:
        largest = max(sections, key=lambda s: sum(len(image) for _, image in s["plots"]))["name"]
        raise EnhanceError(
            f"{folder / PAGE}: would be {len(text.encode()) / 1e6:.1f} MB, more than "
            f"{MOST_BYTES / 1e6:.0f}; most of it are the plots of {largest}: ask it of fewer "
            "states or frames"
        )
    with atomic(folder / PAGE) as temporary:
        temporary.write_text(text, "utf-8")
    return verdicts


def _section(folder: Path, name: str, question: str, record: Record, dpi: int) -> dict[str, Any]:
    """What the page tells of one record: what was run on what, tables, and plots as SVG."""
    plots: dict[str, Figure] = {}
    try:
        if question == RECONSTRUCT:
            tables = result_tables(record["rows"], record["unit"])
        else:
            module: Any = importlib.import_module(f"benchmarks.analysis.{question}")
            tables, plots = module.tables(record), module.plots(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EnhanceError(
            f"{folder}: the record of {name} is damaged, or an older version wrote it "
            f"({type(error).__name__}: {error}); run the analysis again"
        ) from error
    about = record["about"].items()
    return {
        "name": name,
        "question": QUESTIONS[question],
        "about": [(key, _told(value)) for key, value in about if value not in ("", None)],
        "tables": tables,
        "plots": [(part, svg(figure, dpi)) for part, figure in plots.items()],
    }


def _told(value: Any) -> str:
    """A fact in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_told(v)}" for k, v in value.items() if v not in ("", [], None))
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
