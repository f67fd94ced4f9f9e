"""A table of text, drawn in the terminal or written as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enhance.measure.metrics import OPINIONS, TITLES, WER

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DIGITS = {"pesq_wb": 3, "stoi": 3, "estoi": 3, "si_sdr": 2, **dict.fromkeys(OPINIONS, 2), WER: 3}
"""Decimals of each metric; a level in dB has 2."""


@dataclass
class Table:
    """Headers and rows of text; the first column is set left, the others right."""

    title: str
    headers: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def section(self) -> list[str]:
        """Lines of a page: the title as a heading of the third level, then the table."""
        return [f"### {self.title}", "", self.markdown(), ""]

    def markdown(self) -> str:
        """GitHub Markdown, without the title."""
        head, *rows = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            for cells in (self.headers, *self.rows)
        )
        return "\n".join([head, "|---" + "|---:" * (len(self.headers) - 1) + "|", *rows])

    def rich(self) -> RichTable:
        """The same for `rich.console.Console.print`."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=Text(self.title, "table.title"), title_justify="left")
        for index, header in enumerate(self.headers):
            table.add_column(Text(header), justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A figure, or a dash where there is none."""
    if value is None:
        return "-"
    value = round(value, digits) + 0.0  # minus zero becomes zero
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def plus_minus(entry: Mapping[str, Any] | None, digits: int = 3, signed: bool = False) -> str:
    """``mean ±half`` of a symmetric interval's row; the mean alone where there is no interval."""
    mean, low, high = _limits(entry)
    text = number(mean, digits, signed)
    return text if low is None or high is None else f"{text} ±{number((high - low) / 2, digits)}"


def with_interval(entry: Mapping[str, Any] | None, digits: int = 3, signed: bool = False) -> str:
    """``mean [low, high]`` of an interval's row; the mean alone where there is no interval."""
    mean, low, high = (number(value, digits, signed) for value in _limits(entry))
    return mean if "-" in (low, high) else f"{mean} [{low}, {high}]"


def _limits(entry: Mapping[str, Any] | None) -> tuple[float | None, ...]:
    """Mean and limits of an interval's row; no limits without a mean."""
    if not entry or entry.get("mean") is None:
        return None, None, None
    return entry["mean"], entry.get("low"), entry.get("high")


def size(count: float | None, unit: str = "B") -> str:
    """A count with a decimal prefix: ``16.8 MB``, ``980 k``."""
    if count is None:
        return "-"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * factor:  # which is 1 of it in the digits shown
            return f"{count / factor:.3g} {prefix}{unit}"
    return f"{count:.0f} {unit}".rstrip()


def show(tables: Iterable[Table], lines: Iterable[str] = ()) -> None:
    """Print tables to standard output and warnings to standard error."""
    from rich.console import Console

    # Unwatched output (a file, a pipe) is as wide as its tables.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        console.print(table.rich())
    errors = Console(stderr=True)
    for line in lines:
        errors.print(f"warning: {line}", style="yellow", markup=False, highlight=False,
                     soft_wrap=True)  # fmt: skip


def metric_title(metric: str, unit: str = " dB") -> str:
    """Name of a metric, with its unit as it is to be written."""
    return TITLES[metric] + (unit if metric == "si_sdr" else "")


def metric_cell(entry: Mapping[str, Any] | None, metric: str, signed: bool = False) -> str:
    """`plus_minus` with the decimals of the metric."""
    return plus_minus(entry, DIGITS.get(metric, 2), signed)


def visible(entry: Mapping[str, Any] | None, metric: str) -> bool:
    """Whether a difference is one in the decimals shown: rounding noise is no finding."""
    return bool(entry and round(entry["mean"], DIGITS[metric]))


def difference_cell(entry: Mapping[str, Any] | None, metric: str, held: bool = False) -> str:
    """A difference, with a star where it is held and visible."""
    return metric_cell(entry, metric, True) + (" *" if held and visible(entry, metric) else "")
