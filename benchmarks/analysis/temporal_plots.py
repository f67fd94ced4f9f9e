"""Plots of the curves of `benchmarks.analysis.temporal`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "raw": "correlation, raw",
    "centred": "correlation, centred",
    "distance": "distance / unrelated",
}
"""Words for each quantity of a row."""


def at_lag(row: dict[str, Any], ms: float, over: float = 1.0) -> dict[str, Any]:
    """A curve at one lag, between two on straight lines."""
    return {
        key: None if row[key][0] is None else float(np.interp(ms, row["lags_ms"], row[key])) / over
        for key in ("mean", "low", "high")
    }


def plots(made: dict[str, Any]) -> dict[str, Figure]:
    """Curves of every state, clean; and of the last state, noisy, with every state at lag 0."""
    return {"clean": _clean_plot(made), "noisy": _noisy_plot(made)}


def _panels(made: dict[str, Any]) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    names = list(made["about"]["backbones"])
    figure = Figure(figsize=(1.2 + 2.1 * len(names), 6.2), layout="constrained")
    axes = figure.subplots(3, len(names), sharey="row", squeeze=False)
    for column, name in enumerate(names):
        axes[0, column].set_title(name, size=8)
        for axis in axes[:, column]:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=7)
            axis.grid(color="0.93", lw=0.6)
            axis.margins(x=0)
    return figure, axes


def _draw(axis: Any, row: dict[str, Any], colour: Any, label: str, *, band: bool) -> None:
    over = row["unrelated"] if row["quantity"] == "distance" else 1.0
    lags = row["lags_ms"]
    axis.plot(lags, np.divide(row["mean"], over), color=colour, lw=1.2, label=label)
    if band and row["low"][0] is not None:
        low, high = np.divide(row["low"], over), np.divide(row["high"], over)
        axis.fill_between(lags, low, high, color=colour, alpha=0.12, lw=0)


def _clean_plot(made: dict[str, Any]) -> Figure:
    from matplotlib import colormaps

    figure, axes = _panels(made)
    for column, name in enumerate(made["about"]["backbones"]):
        own = [r for r in made["rows"] if r["backbone"] == name and r["heard"] == "clean"]
        last = max(row["state"] for row in own)
        for axis, quantity in zip(axes[:, column], TITLES, strict=True):
            for row in own:
                if row["quantity"] == quantity:
                    colour = colormaps["viridis"](0.9 * row["state"] / max(last, 1))
                    _draw(axis, row, colour, str(row["state"]), band=True)
                    if quantity == "raw":
                        axis.axhline(row["unrelated"], color=colour, lw=0.8, ls=":")
        axes[-1, column].set_xlabel("lag (ms)", size=8)
        axes[-1, column].legend(title="state", title_fontsize=6, fontsize=6, frameon=False,
                                ncols=1 + last // 5, loc="lower right")  # fmt: skip
    for axis, quantity in zip(axes[:, 0], TITLES, strict=True):
        more = "\n(dotted: unrelated frames)" if quantity == "raw" else ""
        axis.set_ylabel(TITLES[quantity] + more, size=8)
    return figure


def _noisy_plot(made: dict[str, Any]) -> Figure:
    from matplotlib import colormaps

    figure, axes = _panels(made)
    for column, name in enumerate(made["about"]["backbones"]):
        own = [row for row in made["rows"] if row["backbone"] == name]
        last = max(row["state"] for row in own)
        snrs = list(dict.fromkeys(r["snr_db"] for r in own if r["heard"] == "noisy"))
        for place, snr_db in enumerate(snrs):
            colour = colormaps["plasma"](0.8 * place / max(len(snrs) - 1, 1))
            rows = [r for r in own if r["heard"] == "noisy" and r["snr_db"] == snr_db]
            label = "noisy" if snr_db is None else f"{snr_db:g} dB"
            for axis, quantity in zip(axes[:2, column], ("raw", "centred"), strict=True):
                row = next(r for r in rows if r["state"] == last and r["quantity"] == quantity)
                _draw(axis, row, colour, label, band=True)
            at = sorted((r["state"], at_lag(r, 0)) for r in rows if r["quantity"] == "centred")
            numbers, values = [n for n, _ in at], [v["mean"] for _, v in at]
            error = [[v["mean"] - (v["low"] or v["mean"]), (v["high"] or v["mean"]) - v["mean"]]
                     for _, v in at]  # fmt: skip
            axes[2, column].errorbar(numbers, values, np.transpose(error), color=colour,
                                     marker="o", ms=3, lw=1.2, label=label)  # fmt: skip
        for axis, quantity in zip(axes[:2, column], ("raw", "centred"), strict=True):
            row = next(r for r in own if r["state"] == last and r["quantity"] == quantity)
            _draw(axis, row, "0.5", "clean", band=False)
        axes[1, column].set_xlabel(f"lag (ms), state {last}", size=8)
        axes[2, column].set_xlabel("state, lag 0", size=8)
        axes[2, column].set_xticks(range(last + 1))
        axes[2, column].set_xlim(-0.4, last + 0.4)
    axes[0, 0].legend(fontsize=6, frameon=False, loc="upper right")
    for axis, label in zip(axes[:, 0], ("raw", "centred", "centred"), strict=True):
        axis.set_ylabel(TITLES[label], size=8)
    return figure
