"""Linear centred kernel alignment (CKA) of hidden states, within and across models, debiased.

With frames as examples, CKA is ``H(X, Y) / sqrt(H(X, X) H(Y, Y))`` (Kornblith et al. 2019,
arXiv 1905.00414), H being the Hilbert-Schmidt independence criterion of two linear kernels. The
plug-in H, ``|X'Y|^2`` of centred columns, grows with width over frames: on independent data of
100 frames it gives .66. Here H is the unbiased U-statistic (Song et al. 2012, J. Mach. Learn. Res.
13, 1393, eq. 5), whose kernels have an empty diagonal. It needs no n x n kernel: with row norms
a_t = |x_t|^2, b_t = |y_t|^2 and column sums s, r of X, Y,

    tr KL  = |X'Y|^2 - sum a b
    1'K1   = |s|^2 - sum a                              (1'L1 alike)
    1'KL1  = s'X'Y r - s'(sum b x) - r'(sum a y) + sum a b
    H      = [tr KL + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] / (n (n-3))

and every sum stands in one matrix, the product of the frames [1, x, a] and [1, y, b]: it is added
up clip by clip, in any order and pieces. H does not change if a constant row is taken from X,
which is why columns count as centred; the mean of the first clip is, for the sake of rounding.

Memory is that of the matrices, whatever the audio: those of as many pairs of states as
`BUDGET_BYTES` holds are summed in one pass, further ones in further passes over the cached
features. Intervals are jackknifed over groups of speakers, whose sums lie on disk meanwhile.

Neighbouring frames are alike, so that they are fewer examples than they seem, and a pair of
neighbours counts like a frame with itself: with many clips their share is small; with few,
``stride_frames`` keeps every k-th frame only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts import heard, record
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.clusters import coarse
from benchmarks.figures.statistics import Interval, combined
from benchmarks.figures.tables import Table, with_interval
from distill.speaker.data import speech_of
from enhance.data.corpus.inventory import by_source
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import expanded, temporary_folder
from enhance.parallel import torch_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = 16
"""Speakers are put into this many groups at most; each is left out in turn."""
BUDGET_BYTES = 256e6
"""Of the matrices that one pass sums up; on disk lie `GROUPS` times as many."""
_BLOCK = 512  # frames that are multiplied at once

Pair = tuple[int, int]
State = tuple[str, int]
"""Backbone, and number."""


def extend(frames: np.ndarray) -> np.ndarray:
    """Frames with 1 before them and their squared norm behind: (n, D) to float64 (n, D + 2)."""
    x = np.asarray(frames, np.float64)
    return np.column_stack([np.ones(len(x)), x, np.einsum("td,td->t", x, x)])


def hsic(sums: np.ndarray) -> float:
    """The unbiased H of two sets of features, from ``extend(x).T @ extend(y)`` of all n frames.

    An `EnhanceError` refuses fewer than 4 frames, with which it is not defined.

    Shape: (D_x + 2, D_y + 2)
    """
    n = sums[0, 0]
    if n < 4:
        raise EnhanceError(f"cka: {n:.0f} frames; the estimator needs 4 or more")
    cross, both = sums[1:-1, 1:-1], sums[-1, -1]
    s, r = sums[1:-1, 0], sums[0, 1:-1]
    trace = np.vdot(cross, cross) - both
    totals = (s @ s - sums[-1, 0]) * (r @ r - sums[0, -1])
    mixed = s @ cross @ r - s @ sums[1:-1, -1] - r @ sums[-1, 1:-1] + both
    found = trace + totals / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)
    return float(found / (n * (n - 3)))


def jackknife(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray, groups: str) -> Interval:
    """CKA with its interval, from H of all frames and then without each group in turn.

    ``groups`` says what a group is. An `EnhanceError` refuses a state that does not vary.

    Shape: (1 + G,) each
    """
    if min(xx.min(), yy.min()) <= 0:
        raise EnhanceError("cka: a hidden state hardly varies over these frames; give more clips")
    values = xy / np.sqrt(xx * yy)
    mean, left = float(values[0]), values[1:]
    count = len(left)
    if count < 2:
        return Interval(mean, None, None, count, "one group")
    error = float(np.sqrt((count - 1) * np.var(left)))
    return combined(mean, count, f"jackknife over {count} groups ({groups})", [(error, count - 1)])


def cka(
    backbones: Sequence[str], corpus: Path, output: Path, work: Work, *, stride_frames: int = 1
) -> dict[str, Any]:
    """CKA of every pair of hidden states of some backbones, from every k-th frame of a clip.

    Frames of a finer grid are averaged over those of the coarsest. A group of speakers is one piece
    of work. Parameters not named here are those of every analysis (`benchmarks.analysis.parts`). An
    `EnhanceError` names a backbone or corpus that cannot be had, or refuses too few clips.
    """
    cache = work.cache
    heard.check(backbones, cache)
    corpus = expanded(corpus)
    clips = heard.draw(speech_of(corpus, "", False, work.quiet)[0], work, corpus)
    labels = [{"speaker": clip.speaker, "source": clip.source} for clip in clips]
    factor, numbers = next(iter(coarse(labels, GROUPS).items()))
    groups = [
        [clip for clip, own in zip(clips, numbers, strict=True) if own == number]
        for number in sorted(set(numbers))
    ]
    first = heard.aligned(backbones, cache, heard.wave_of(clips[0].path))
    shift = [state.mean(axis=0, dtype=np.float64) for state in first]
    widths = [len(mean) for mean in shift]
    states = heard.state_names(backbones, cache)
    found: dict[Pair, np.ndarray] = {}
    passes = list(_passes(widths, BUDGET_BYTES))
    output.mkdir(parents=True, exist_ok=True)
    items = list(enumerate(groups))
    with temporary_folder(output) as folder, torch_threads(1):
        for number, pairs in enumerate(passes, 1):
            add = partial(_sum, list(backbones), cache, shift, pairs, stride_frames, folder)
            work.every(add, items, f"cka, pass {number} of {len(passes)}", batch=1)
            found |= _without_each(folder, len(groups), pairs)
    label, rows = heard.labels(backbones), []
    for (i, j), values in found.items():
        interval = jackknife(values[1:], found[i, i][1:], found[j, j][1:], factor)
        rows.append({
            "backbone_a": label[states[i][0]], "state_a": states[i][1],
            "backbone_b": label[states[j][0]], "state_b": states[j][1],
            "cka": interval.mean, "low": interval.low, "high": interval.high,
        })  # fmt: skip
    stride = heard.features(heard.coarsest(backbones, cache), cache).grid.stride
    about = {
        "title": "Debiased linear CKA of hidden states",
        "backbones": heard.families(backbones, cache),
        "corpus": by_source(clips),
        "clips": len(clips),
        "frames": int(next(iter(found.values()))[0]),
        "frame_ms": 1000 / heard.SAMPLE_RATE * stride_frames * stride,
        "intervals": f"95 %, jackknife over {len(groups)} groups ({factor})",
        "passes": len(passes),
        "seed": work.seed,
    }
    made = {"analysis": "cka", "about": about, "rows": rows}
    return record.keep(output, made, tables, plots)


def _passes(widths: Sequence[int], budget: float) -> Iterator[list[Pair]]:
    """Pairs of states, i <= j, in parts whose matrices are no larger than the budget."""
    part: list[Pair] = []
    room = budget
    for i, j in combinations_with_replacement(range(len(widths)), 2):
        size = 8 * (widths[i] + 2) * (widths[j] + 2)
        if part and size > room:
            yield part
            part, room = [], budget
        part.append((i, j))
        room -= size
    yield part


def _sum(
    backbones: Sequence[str],
    cache: Path,
    shift: Sequence[np.ndarray],
    pairs: Sequence[Pair],
    stride_frames: int,
    folder: Path,
    item: tuple[int, Sequence[Clip]],
) -> None:
    """Write the matrices of one group of clips, one after the other."""
    number, clips = item
    sums = [np.zeros((len(shift[i]) + 2, len(shift[j]) + 2)) for i, j in pairs]
    for block in _blocks(backbones, cache, stride_frames, clips):
        extended = [extend(x - mean) for x, mean in zip(block, shift, strict=True)]
        for total, (i, j) in zip(sums, pairs, strict=True):
            total += extended[i].T @ extended[j]
    for total, (i, j) in zip(sums, pairs, strict=True):
        np.save(folder / f"{number}-{i}-{j}.npy", total)


def _blocks(
    backbones: Sequence[str], cache: Path, stride_frames: int, clips: Sequence[Clip]
) -> Iterator[list[np.ndarray]]:
    """Frames of all states, some clips at once: products of few rows would be slow."""
    waiting: list[list[np.ndarray]] = []
    for number, clip in enumerate(clips, 1):
        states = heard.aligned(backbones, cache, heard.wave_of(clip.path))
        waiting.append([state[::stride_frames] for state in states])
        if number == len(clips) or sum(len(states[0]) for states in waiting) >= _BLOCK:
            yield [np.concatenate(parts) for parts in zip(*waiting, strict=True)]
            waiting = []


def _without_each(folder: Path, groups: int, pairs: Sequence[Pair]) -> dict[Pair, np.ndarray]:
    """Of each pair: frames, H of all groups, H without each in turn, (2 + G,)."""
    found = {}
    for i, j in pairs:
        files = [folder / f"{group}-{i}-{j}.npy" for group in range(groups)]
        # Not as maps: what was looked at would count as this process's memory.
        total = reduce(np.add, map(np.load, files))
        left = [hsic(total - np.load(file)) for file in files if groups > 1]
        found[i, j] = np.array([total[0, 0], hsic(total), *left])
        for file in files:
            file.unlink()
    return found


def _by_pair(made: dict[str, Any]) -> dict[tuple[State, State], dict[str, Any]]:
    """Rows by their two states, either first."""
    found = {}
    for row in made["rows"]:
        a, b = ((row[f"backbone_{end}"], row[f"state_{end}"]) for end in "ab")
        found[a, b] = found[b, a] = row
    return found


def tables(made: dict[str, Any]) -> list[Table]:
    """Of each state, the most similar state of each other backbone; and neighbours within one."""
    pairs, names = _by_pair(made), list(made["about"]["backbones"])
    states = list(dict.fromkeys(state for state, _ in pairs))
    table = Table("Debiased linear CKA: the most similar state", ["state", *names])
    for own in states:
        cells = []
        for name in names:
            others = [state for state in states if state[0] == name and state != own]
            best = max(others, key=lambda other: pairs[own, other]["cka"], default=None)
            row = pairs[own, best] if best else {}
            text = with_interval({**row, "mean": row.get("cka")}, 2)
            cells.append(f"{best[1]}: {text}" if best else text)
        table.rows.append([f"{own[0]} {own[1]}", *cells])
    return [table]


def plots(made: dict[str, Any]) -> dict[str, Figure]:
    """A heatmap of all pairs of states, backbones parted by lines."""
    from matplotlib.figure import Figure

    pairs = _by_pair(made)
    states = list(dict.fromkeys(state for state, _ in pairs))
    matrix = np.array([[pairs[a, b]["cka"] for b in states] for a in states])
    count = len(states)
    side = max(4.0, 0.24 * count + 2.2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap="magma")
    if count <= 40:
        for i in range(count):
            for j in range(count):
                colour = "white" if matrix[i, j] < 0.6 else "black"
                text = f"{matrix[i, j]:.2f}".replace("0.", ".").replace("-.00", ".00")
                axis.text(j, i, text, ha="center", va="center", size=4.5, color=colour)
    names = [name for name, _ in states]
    for edge in [k for k in range(1, count) if names[k] != names[k - 1]]:
        axis.axhline(edge - 0.5, color="white", lw=1.5)
        axis.axvline(edge - 0.5, color="white", lw=1.5)
    numbers = [str(state) for _, state in states]
    axis.set_xticks(range(count), numbers, size=6)
    axis.set_yticks(range(count), numbers, size=6)
    axis.tick_params(length=0)
    for name in dict.fromkeys(names):
        middle = (names.index(name) + count - 1 - names[::-1].index(name)) / 2
        axis.annotate(name, (middle, 1), (0, 4), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", size=7)  # fmt: skip
        axis.annotate(name, (0, middle), (-14, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", va="center", rotation=90,
                      size=7)  # fmt: skip
    axis.set_xlabel("hidden state", size=8)
    figure.colorbar(image, ax=axis, shrink=0.7, label="debiased linear CKA")
    return {"cka": figure}
