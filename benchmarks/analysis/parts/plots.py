"""What plots and tables of analyses share: panels, figures in per cent with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figures.tables import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDS = ("mean", "low", "high")


def percent(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Mean and interval of a row, times 100."""
    if not row:
        return None
    return {key: None if row[key] is None else 100 * row[key] for key in ENDS}


def from_to(row: Mapping[str, Any] | None, digits: int, signed: bool = False) -> str:
    """``mean (low to high)``; the mean alone where there is no interval."""
    mean, *ends = (number((row or {}).get(key), digits, signed) for key in ENDS)
    return mean if "-" in ends else f"{mean} ({' to '.join(ends)})"


def panels(titles: Sequence[str], width: float, height: float) -> tuple[Figure, Any]:
    """A figure of panels side by side, (n,) axes that share what they measure; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * len(titles), height), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("hidden state", fontsize=8)
        tidy(axis)
    return figure, axes


def tidy(axis: Any) -> None:
    """No frame on the right and above, small figures."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def with_bars(axis: Any, place: Any, rows: Sequence[Mapping[str, Any]], **style: Any) -> None:
    """Figures in per cent with their intervals as bars."""
    mean, low, high = (np.array([100 * row[key] for row in rows]) for key in ENDS)
    axis.errorbar(place, mean, [mean - low, high - mean], **style)
    axis.set_ylim(bottom=0)
