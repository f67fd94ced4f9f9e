"""Maps of hidden states: t-SNE of frames, coloured by phone, speaker or any column of a manifest.

A map shows neighbourhoods and nothing else: distances between islands, their sizes and their
shapes mean nothing (Wattenberg et al. 2016). What it can show is told in a figure beside it, found
in the state itself (each feature brought to unit variance, as for the map): of the `NEIGHBOURS`
nearest frames *of other clips* (a frame's own neighbours in time are always near), the share with
the frame's label, against what blind choice would give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts import heard, record
from benchmarks.analysis.parts.phones import label_at, read_phones
from benchmarks.analysis.parts.plots import ENDS
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.clusters import clusters_of
from benchmarks.figures.statistics import mean_interval
from benchmarks.figures.tables import Table, number, with_interval
from distill.speaker.data import speech_of
from enhance.data.corpus.inventory import by_source
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import expanded
from enhance.parallel import torch_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHONE = "phone"
NEIGHBOURS = 10
COLOURS = 10
"""Most frequent values that have a colour of their own; others are grey."""


def maps(
    backbones: Sequence[str],
    corpus: Path,
    output: Path,
    work: Work,
    *,
    by: Sequence[str] | None = None,
    frames: int = 2000,
    perplexity: float = 30.0,
) -> dict[str, Any]:
    """Map every hidden state of some backbones, by t-SNE; one state is one piece of work.

    Colours are ``by`` phone, speaker (for None) or columns of the manifest. With ``phone`` the
    corpus is as `parts.phones.read_phones` has it, and only frames that have one are drawn. There
    are at most so many ``frames`` in all, rounded up to as many of each clip, evenly over its
    length. The rest is as of every analysis (`benchmarks.analysis.parts`). An `EnhanceError` says
    that a backbone, the corpus or a column cannot be had, or that frames are too few.
    """
    cache, by = work.cache, list(dict.fromkeys(by or ["speaker"]))
    heard.check(backbones, cache)
    corpus = expanded(corpus)
    phones: dict[Path, Any] = {}
    names: list[str] = []
    if PHONE in by:
        clips, spans, names = read_phones(corpus)
        phones = dict(zip((clip.path for clip in clips), spans, strict=True))
    else:
        clips = list(speech_of(corpus, "", False, work.quiet)[0])
    few = replace(work, limit=work.limit or min(len(clips), frames))
    clips = heard.draw(clips, few, corpus)
    times, labels, owner = _frames(clips, by, phones, names, -(-frames // len(clips)))
    if len(owner) <= 3 * perplexity:
        raise EnhanceError(
            f"{corpus}: {len(owner)} frames; t-SNE of perplexity {perplexity:g} needs more than "
            f"{3 * perplexity:g}: raise --frames, or lower --perplexity"
        )
    if len(set(owner)) < 2:
        raise EnhanceError(f"{corpus}: frames of one clip only; neighbours are sought in others")
    states = heard.state_names(backbones, cache)
    spoken_of = [(clip.path, seconds) for clip, seconds in zip(clips, times, strict=True)]
    with torch_threads(1):
        heard_of = work.every(partial(_at, list(backbones), cache), spoken_of, "frames")
        items = [np.concatenate(own) for own in zip(*heard_of, strict=True)]
        done = work.every(partial(_map, owner, labels, perplexity, work.seed), items, "maps",
                          batch=1)  # fmt: skip
    clusters = clusters_of([{"speaker": clip.speaker, "source": clip.source} for clip in clips])
    spoken = np.unique(owner)  # clips without a labelled frame have none
    clusters = {factor: [own[i] for i in spoken] for factor, own in clusters.items()}
    label, rows = heard.labels(backbones), []
    for (name, layer), (points, near) in zip(states, done, strict=True):
        row: dict[str, Any] = {"backbone": label[name], "state": layer}
        for column, share in near.items():
            interval = mean_interval(_by_clip(share, owner), clusters).row()
            row |= {f"{column}_{key}": interval[key] for key in ENDS}
        rows.append({**row, "points": np.round(points, 2).tolist()})
    about = {
        "title": "Maps of hidden states",
        "backbones": heard.families(backbones, cache),
        "corpus": by_source(clips),
        "clips": len(clips),
        "chance": {column: _chance(values, owner) for column, values in labels.items()},
        "perplexity": perplexity,
        "seed": work.seed,
    }
    made = {"analysis": "maps", "about": about, "rows": rows, "labels": labels}
    return record.keep(output, made, tables, plots)


def _frames(
    clips: Sequence[Clip], by: Sequence[str], phones: Any, names: Sequence[str], most: int
) -> tuple[list[np.ndarray], dict[str, list[str]], np.ndarray]:
    """Seconds of the frames of each clip; over all frames, labels by column and numbers of clips.

    An `EnhanceError` names a clip that has no such column.
    """
    times: list[np.ndarray] = []
    labels: dict[str, list[str]] = {column: [] for column in by}
    for clip in clips:
        seconds = np.arange(0.02, min(clip.duration, heard.MOST_SECONDS) - 0.02, 0.01)
        if PHONE in by:
            seconds = seconds[label_at(phones[clip.path], seconds) >= 0]
        seconds = heard.evenly(seconds, most)
        times.append(seconds)
        for column in by:
            if column == PHONE:
                labels[column] += [names[k] for k in label_at(phones[clip.path], seconds)]
                continue
            value = getattr(clip, column, "") if column in ("speaker", "source") else ""
            value = value or clip.labels.get(column, "")
            if not value:
                raise EnhanceError(f"{clip.path}: its manifest tells no {column}")
            labels[column] += [value] * len(seconds)
    return times, labels, np.repeat(np.arange(len(clips)), [len(seconds) for seconds in times])


def _at(backbones: Sequence[str], cache: Path, spoken: tuple[Path, np.ndarray]) -> list[np.ndarray]:
    """Of each state of a clip, the frames whose centres are nearest to times: (T, D) each."""
    path, seconds = spoken
    wave, found = heard.wave_of(path), []
    for name in backbones:
        states = heard.states_of(name, cache, wave)
        grid = heard.features(name, cache).grid
        found += [state[heard.nearest(grid, seconds, len(state))] for state in states]
    return found


def _map(
    owner: np.ndarray,
    labels: dict[str, list[str]],
    perplexity: float,
    seed: int,
    frames: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Points (M, 2) of frames (M, D), and by column each frame's share of alike neighbours (M,)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    frames = (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-6)
    near = _nearest(frames, owner, min(NEIGHBOURS, len(owner) - np.bincount(owner).max()))
    few = PCA(min(50, *frames.shape), random_state=seed).fit_transform(frames)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(few)
    shares = {
        column: (np.array(values)[near] == np.array(values)[:, None]).mean(axis=1)
        for column, values in labels.items()
    }
    return points, shares


def _nearest(frames: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the nearest frames of other clips: (M, D), (M,) to (M, count)."""
    square = np.einsum("td,td->t", frames, frames)
    found = []
    for rows in np.array_split(np.arange(len(frames)), -(-len(frames) // 500)):
        far = square[None] - 2 * frames[rows] @ frames.T  # less a constant of each row
        far[owner[rows][:, None] == owner] = np.inf
        found.append(np.argpartition(far, count - 1, axis=1)[:, :count])
    return np.concatenate(found)


def _chance(values: Sequence[str], owner: np.ndarray) -> float:
    """Share of frames of other clips that have a frame's label, the mean over clips as of what
    stands beside it.
    """
    both, of_label = Counter(zip(owner.tolist(), values, strict=True)), Counter(values)
    of_clip = np.bincount(owner)
    each = [
        (of_label[value] - both[clip, value]) / (len(owner) - of_clip[clip])
        for clip, value in zip(owner.tolist(), values, strict=True)
    ]
    return float(np.mean(_by_clip(np.array(each), owner)))


def _by_clip(each: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Means over the frames of each clip that has any: (M,), (M,) to (n,)."""
    counts = np.bincount(owner)
    found: np.ndarray = np.bincount(owner, each)[counts > 0] / counts[counts > 0]
    return found


def tables(made: dict[str, Any]) -> list[Table]:
    """Share of neighbours with the same label, of each state."""
    chance = made["about"]["chance"]
    table = Table(
        f"Of the {NEIGHBOURS} nearest frames of other clips, the share with the same label",
        ["state", *chance],
        [["blind choice", *(number(value, 2) for value in chance.values())]],
    )
    for row in made["rows"]:
        cells = [
            with_interval({key: row[f"{column}_{key}"] for key in ENDS}, 2) for column in chance
        ]
        table.rows.append([f"{row['backbone']} {row['state']}", *cells])
    return [table]


def plots(made: dict[str, Any]) -> dict[str, Figure]:
    """One figure for each column: a row of maps for each backbone."""
    return {column: _plot(made, column) for column in made["labels"]}


def _plot(made: dict[str, Any], column: str) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(made["about"]["backbones"])
    values = np.array(made["labels"][column])
    shown = [value for value, _ in Counter(values.tolist()).most_common(COLOURS)]
    colours = {value: colormaps["tab10"](k) for k, value in enumerate(sorted(shown))}
    dots = [colours.get(value, (0.8, 0.8, 0.8, 1.0)) for value in values]
    columns = 1 + max(row["state"] for row in made["rows"])
    figure = Figure(figsize=(1.0 + 1.5 * columns, 0.5 + 1.6 * len(names)), dpi=160,
                    layout="constrained")  # fmt: skip
    axes = figure.subplots(len(names), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    order = np.random.default_rng(0).permutation(len(values))  # no value lies over all others
    for row in made["rows"]:
        axis = axes[names.index(row["backbone"]), row["state"]]
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        points = np.array(row["points"])[order]
        axis.scatter(*points.T, s=1.5, lw=0, c=[dots[k] for k in order], rasterized=True)
        axis.set_title(f"state {row['state']}: {number(row[f'{column}_mean'], 2)}", size=7, pad=2)
        if row["state"] == 0:
            axis.set_ylabel(row["backbone"], size=7)
    blind = number(made["about"]["chance"][column], 2)
    figure.supxlabel(
        f"figures: share of the {NEIGHBOURS} nearest frames of other clips with the same {column} "
        f"(blind choice {blind})",
        size=7,
    )
    marks = [Line2D([], [], ls="", marker="o", ms=4, color=colour) for colour in colours.values()]
    words = list(colours)
    if len(shown) < len(set(values.tolist())):
        marks.append(Line2D([], [], ls="", marker="o", ms=4, color="0.8"))
        words.append("others")
    figure.legend(marks, words, title=column, fontsize=6, title_fontsize=7, frameon=False,
                  loc="outside right upper")  # fmt: skip
    return figure
