"""How embeddings change with time: correlation and distance of frames against their lag.

Clean with clean: frame t and frame t + lag of one clip. Noisy with clean: frame t of the noisy
clip, and the frames ``lag`` before and behind it of the clean one. Correlation is Pearson's over
the features of the two frames, the mean over t and then over clips; *raw*, and *centred*, where
the mean of each feature over the whole corpus (of clean and of noisy clips apart) is taken out
first. Raw frames share that mean and correlate for its sake, however far apart: what frames of
unrelated clips have is given beside (the product of mean standardised frames, an expectation, not
a sample). Distance is Euclidean, raw, and over that of unrelated frames (root mean square).

What halves is the correlation at lag 0. The lag is interpolated between frames, so that the stride
is the resolution, and frames whose fields overlap share samples. Its interval inverts a test: the
lags at which correlation less half of that at 0 is not told from 0 by an interval over clips that
knows speakers and noises (an end is open where the largest lag is still among them).

Two passes over the clips, the first for the means; sums by cluster are all that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts import heard, record
from benchmarks.analysis.parts.pairs import Item, Pairs, waves
from benchmarks.analysis.parts.plots import ENDS
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.clusters import clustering, coarse
from benchmarks.figures.statistics import Cells, Interval
from benchmarks.figures.tables import Table, number, with_interval
from enhance.data.corpus.clip_store import ClipStore
from enhance.errors import EnhanceError
from enhance.parallel import torch_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MS = 300
"""Lags reach this, or the first frame beyond it."""
SNRS = (20.0, 5.0, -5.0)
"""dB of the noise that is mixed in, where nothing is named."""
CLUSTERS = 24
"""Speakers, and noises, are put into this many clusters at most."""
TITLES = {
    "raw": "correlation, raw",
    "centred": "correlation, centred",
    "distance": "distance / unrelated",
}
"""Words for each quantity of a row."""
QUANTITIES = tuple(TITLES)

ByState = list[list[np.ndarray]]
"""By condition (clean, then each noisy one), an array of each state of all backbones."""


def normalized(frames: np.ndarray) -> np.ndarray:
    """Frames (T, D) less their mean over features, of length 1: products are Pearson's r."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(frames, axis=1, keepdims=True)
    return frames / np.maximum(scale, 1e-30)


def curves(
    clean: np.ndarray, other: np.ndarray, mean_clean: np.ndarray, mean_other: np.ndarray, lags: int
) -> np.ndarray:
    """Raw and centred correlation, and distance, of one clip or its noisy version against the lag.

    Shape: frames (T, D), their means to be taken out where centred (D,), to (3, K) in the order of
    `QUANTITIES`; of K < T lags the first is of no frames.
    """
    x, y = np.asarray(clean, np.float64), np.asarray(other, np.float64)
    square = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1) - 2 * x @ y.T
    pairs = [  # of every two frames, (T, T)
        normalized(x) @ normalized(y).T,
        normalized(x - mean_clean) @ normalized(y - mean_other).T,
        np.sqrt(np.maximum(square, 0)),
    ]
    return np.array([
        [(np.trace(own, k) + np.trace(own, -k)) / (2 * (len(x) - k)) for k in range(lags)]
        for own in pairs
    ])  # fmt: skip


def half_lag(cells: Cells, quantity: int, lags_ms: np.ndarray) -> dict[str, Any]:
    """Lag at which a correlation halves, in ms, with its interval.

    ``cells`` holds what `curves` gave of each clip, ``quantity`` is the row of the correlation in
    it. ``mean``, ``low`` and ``high`` are None where the largest lag is too small to tell.

    Shape: lags from 0 on (K,), ms
    """

    found = _over_lags(cells, quantity, len(lags_ms), less=0.5)
    return {key: _crossing(values, lags_ms) for key, values in found.items()}


def _over_lags(
    cells: Cells, quantity: int, lags: int, less: float = 0.0
) -> dict[str, list[float | None]]:
    """Mean over clips with its interval at each lag, less a share of the value at lag 0."""

    def interval(k: int) -> Interval:
        return cells.interval(lambda found: found[quantity, k] - less * found[quantity, 0])

    found = [interval(k) for k in range(lags)]
    return {key: [getattr(one, key) for one in found] for key in ENDS}


def _crossing(values: Sequence[float | None], lags_ms: np.ndarray) -> float | None:
    """The first lag at which a curve falls to 0, between two lags on a straight line."""
    curve = np.array(values, np.float64)  # None becomes NaN, which is never below
    below = np.flatnonzero(curve <= 0)
    if not below.size:
        return None
    k = int(below[0])
    if k == 0:
        return float(lags_ms[0])
    share = curve[k - 1] / (curve[k - 1] - curve[k])
    return float(lags_ms[k - 1] + share * (lags_ms[k] - lags_ms[k - 1]))


def temporal(
    backbones: Sequence[str],
    output: Path,
    work: Work,
    *,
    corpus: Path | None = None,
    pairs: Path | None = None,
    snrs: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Curves of every hidden state of some backbones.

    Clips are of a corpus or of pairs, with noise at some SNRs, as
    `benchmarks.analysis.parts.pairs.Pairs.open` has it; `SNRS` where there are none, and pairs have
    their own. The rest is as of every analysis (`benchmarks.analysis.parts`). An `EnhanceError`
    names backbones or clips that cannot be had, and refuses too short clips and noise that cannot
    be mixed in so.
    """
    if snrs and pairs is not None:
        raise EnhanceError("--snr: pairs of a --set have their own SNR; give it with --corpus")
    if not all(map(math.isfinite, snrs or ())):
        raise EnhanceError("--snr: give numbers of dB")
    heard.check(backbones, work.cache)
    clips = Pairs.open(corpus, pairs, snrs or SNRS, work)
    items, heads = clips.items, [None, *clips.snrs]
    states = heard.state_names(backbones, work.cache)
    strides = [heard.features(name, work.cache).grid.stride for name, _ in states]
    lags = [math.ceil(MOST_MS * heard.SAMPLE_RATE / 1000 / stride) + 1 for stride in strides]
    alone = [{k: v for k, v in x.labels.items() if k in ("speaker", "source")} for x in items]
    factors = [coarse(alone, CLUSTERS), coarse([x.labels for x in items], CLUSTERS)]
    cells = [[Cells(factors[c > 0]) for _ in states] for c in range(len(heads))]
    sums: ByState = []
    facing: ByState = []
    hear = partial(_hidden, list(backbones), work.cache, clips.noise, clips.snrs)
    with torch_threads(1):
        for _, own in work.each(partial(_sums, hear), items, "means"):
            sums = _added(sums, own)
        means = [[state[2:] / state[0] for state in own] for own in sums]
        for clip, (found, own) in work.each(partial(_curves, hear, means, lags), items, "lags"):
            for c, by_state in enumerate(found):
                for s, values in enumerate(by_state):
                    cells[c][s].add(clip, values)
            facing = _added(facing, own)
    label, rows = heard.labels(backbones), []
    for c, snr_db in enumerate(heads):
        for s, (name, layer) in enumerate(states):
            who = {"backbone": label[name], "state": layer, "heard": "noisy" if c else "clean"}
            ms = 1000 * strides[s] / heard.SAMPLE_RATE * np.arange(lags[s])
            unrelated = _unrelated(sums, facing, c, s)
            for q, quantity in enumerate(QUANTITIES):
                curve = _over_lags(cells[c][s], q, len(ms))
                half = half_lag(cells[c][s], q, ms) if q < 2 else {}
                rows.append({
                    **who, "snr_db": snr_db, "quantity": quantity, "lags_ms": ms.tolist(),
                    **{key: [v if v is None else round(v, 6) for v in values]
                       for key, values in curve.items()},
                    "unrelated": unrelated[q],
                    **{f"half_{key}": value for key, value in half.items()},
                })  # fmt: skip
    made = {
        "analysis": "temporal",
        "about": {
            "title": "Temporal structure of hidden states",
            "backbones": heard.families(backbones, work.cache),
            **clips.about,
            "clips": len(items),
            "intervals": {"clean": clustering(factors[0]), "noisy": clustering(factors[1])},
            "seed": work.seed,
        },
        "rows": rows,
    }
    return record.keep(output, made, tables, plots)


def _hidden(
    backbones: Sequence[str],
    cache: Path,
    noise: ClipStore | None,
    snrs: Sequence[float | None],
    item: Item,
) -> ByState:
    """States of a clip, clean and in each noisy condition."""
    heard_waves = waves(noise, snrs, item)
    return [[x for name in backbones for x in heard.states_of(name, cache, w)] for w in heard_waves]


def _sums(hear: Callable[[Item], ByState], item: Item) -> ByState:
    """Of each state: frames, sum of squared norms, sum of frames, (2 + D,)."""
    return [
        [np.array([len(x), np.vdot(x, x), *x.sum(axis=0, dtype=np.float64)]) for x in own]
        for own in hear(item)
    ]


def _curves(
    hear: Callable[[Item], ByState], means: ByState, lags: Sequence[int], item: Item
) -> tuple[ByState, ByState]:
    """`curves` of each state; and frames, and sums of its standardised ones raw and centred."""
    heard_states = hear(item)
    found, sums = [], []
    for own, own_means in zip(heard_states, means, strict=True):
        columns = list(zip(heard_states[0], own, means[0], own_means, lags, strict=True))
        found.append([curves(*column) for column in columns])
        sums.append([
            np.array([len(y), *normalized(y).sum(axis=0), *normalized(y - mean).sum(axis=0)])
            for _, y, _, mean, _ in columns
        ])  # fmt: skip
    return found, sums


def _added(total: ByState, more: ByState) -> ByState:
    """The sums of both; at the beginning there are none."""
    pairs = (zip(*both, strict=True) for both in zip(total, more, strict=True))
    return [[a + b for a, b in own] for own in pairs] if total else more


def _unrelated(sums: ByState, facing: ByState, c: int, s: int) -> list[float]:
    """What frames of two unrelated clips have in place of each of `QUANTITIES`."""
    x, y = sums[0][s], sums[c][s]
    z = [facing[k][s][1:].reshape(2, -1) / facing[k][s][0] for k in (0, c)]
    raw, centred = (float(v) for v in np.sum(z[0] * z[1], axis=1))
    square = x[1] / x[0] + y[1] / y[0] - 2 * (x[2:] / x[0]) @ (y[2:] / y[0])
    return [raw, centred, float(np.sqrt(max(square, 0)))]


def at_lag(row: dict[str, Any], ms: float, over: float = 1.0) -> dict[str, Any]:
    """A curve at one lag, between two on straight lines."""
    return {
        key: None if row[key][0] is None else float(np.interp(ms, row["lags_ms"], row[key])) / over
        for key in ENDS
    }


def _half(row: dict[str, Any]) -> str:
    mean, *ends = (number(row[f"half_{key}"], 0) for key in ENDS)
    if row["half_mean"] is None:
        mean = f"> {row['lags_ms'][-1]:.0f}"
    return mean if ends == ["-", "-"] else f"{mean} [{', '.join(ends)}]"


def tables(made: dict[str, Any]) -> list[Table]:
    """Clean with clean, and noisy with clean; a dash is an end beyond the largest lag."""
    clean = Table(
        "Clean with clean: correlation, the lag (ms) at which it halves, and distance over that "
        "of unrelated frames",
        ["state", "raw, 60 ms", "raw, 300 ms", "unrelated", "halves at", "centred, 60 ms",
         "centred, 300 ms", "halves at", "distance, 60 ms", "300 ms"],
    )  # fmt: skip
    noisy = Table(
        "Noisy with clean: correlation at the same frame and where it halves, distance over that "
        "of unrelated frames",
        ["state", "SNR, dB", "raw, 0 ms", "unrelated", "halves at", "centred, 0 ms", "60 ms",
         "halves at", "distance, 0 ms"],
    )  # fmt: skip
    grouped: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in made["rows"]:
        place = list(made["about"]["backbones"]).index(row["backbone"])
        snr_db = -np.inf if row["snr_db"] is None else -row["snr_db"]
        key = place, row["state"], snr_db, row["heard"]
        grouped.setdefault(key, {})[row["quantity"]] = row
    for (_, state, _, how), row in sorted(grouped.items()):
        raw, centred, far = (row[quantity] for quantity in QUANTITIES)
        name, unrelated = f"{raw['backbone']} {state}", number(raw["unrelated"], 2)
        cells = [[with_interval(at_lag(own, ms), 2) for ms in (0, 60)] for own in (raw, centred)]
        means = [[number(at_lag(own, ms)["mean"], 2) for ms in (60, 300)] for own in (raw, centred)]
        apart = [number(at_lag(far, ms, far["unrelated"])["mean"], 2) for ms in (0, 60, 300)]
        if how == "clean":
            clean.rows.append([
                name, cells[0][1], means[0][1], unrelated, _half(raw),
                cells[1][1], means[1][1], _half(centred), *apart[1:],
            ])  # fmt: skip
        else:
            snr = "its own" if raw["snr_db"] is None else f"{raw['snr_db']:g}"
            noisy.rows.append([
                name, snr, cells[0][0], unrelated, _half(raw),
                cells[1][0], means[1][0], _half(centred), apart[0],
            ])  # fmt: skip
    return [clean, noisy]


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
            ends = [[v["mean"] if v[end] is None else v[end] for end in ("low", "high")]
                    for _, v in at]  # fmt: skip
            error = np.abs(np.subtract(ends, np.reshape(values, (-1, 1))))
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
