"""What an analysis leaves in its folder: figures as JSON, tables as text, plots as SVG.

``NAME.json`` holds ``{"analysis": NAME, "about": ..., "rows": [...]}``: what was run on what, and
flat rows of figures. Everything else is drawn from it, here and in the report over all analyses.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enhance.errors import EnhanceError
from enhance.files import atomic, read_json, to_json
from enhance.measure.timing import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.figures.tables import Table

Record = dict[str, Any]

PACKAGES = ("python", "enhance", "torch", "transformers", "numpy", "scikit-learn", "av")
"""What decides figures."""


def keep(
    output: Path,
    record: Record,
    tables: Callable[[Record], Sequence[Table]],
    plots: Callable[[Record], Mapping[str, Figure]],
) -> Record:
    """Write an analysis and give its record back; an earlier one of its name is replaced.

    The record is JSON: ``analysis``, the name of it and of its files, ``about`` and ``rows``. A
    plot's name ends its file's. An `EnhanceError` names what cannot be written.
    """
    name = record["analysis"]
    lines = [f"# {record['about'].get('title', name)}", ""]
    for table in tables(record):
        lines += [f"## {table.title}", "", table.markdown(), ""]
    texts = {}
    for part, figure in plots(record).items():
        file = output / f"{name}-{part}.svg"
        texts[file] = svg(figure)
        lines += [f"![{part}]({file.name})", ""]
    texts[output / f"{name}.md"] = "\n".join(lines)
    whole = {"analysis": name, "versions": versions(*PACKAGES), **record}
    texts[output / f"{name}.json"] = to_json(whole, 2) + "\n"
    with contextlib.ExitStack() as stack:  # all take their names, or none does
        for file, text in texts.items():
            stack.enter_context(atomic(file)).write_text(text, "utf-8")
    return record


def read(output: Path, name: str) -> Record:
    """What `keep` wrote; an `EnhanceError` if it is not there or no record."""
    path = output / f"{name}.json"
    record = read_json(path, f"not there; run enhance analyze {name}")
    if not {"analysis", "about", "rows"} <= record.keys():
        raise EnhanceError(f"{path}: not the record of an analysis; run enhance analyze {name}")
    return record


def svg(figure: Figure, dpi: float | None = None) -> str:
    """A figure as SVG text that can stand within a page; the same every time.

    ``dpi`` is of what is a picture within it (many points); None for the figure's own.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "enhance", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", dpi=dpi or figure.dpi, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
