"""Which codec a clip went through, told from a layer: a linear probe on pooled hidden states.

Every recording goes through every codec, so that what is said tells nothing, and speakers are left
out fold by fold, so that each clip is judged by a probe that never heard its voice. A state is
pooled to the mean and deviation of each feature over time. Beside `all` codecs and controls stand
those `at 8 kHz` alone, with the recording that was only resampled there: among them bandwidth
tells nothing, and what is found is the codec.

Checkpoints of `enhance dann train` are heard too: their embedding, and every state where they
trained the backbone; their learned layer weights are drawn beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.analysis import codecs
from benchmarks.analysis.record import Record, keep
from benchmarks.figures.tables import Table, number, with_interval
from distill.backbones.find import label, load
from distill.dann import train as training
from distill.dann.data import Hearing
from distill.speaker.data import name_of, speech_of
from distill.teacher.contract import check_rate
from distill.teacher.features import Features
from distill.training.accuracy import interval
from enhance import parallel
from enhance.audio import read as audio
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError, require
from enhance.files import cache_folder
from enhance.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "codec"
FOLDS = 5
TASKS = ("all", "at 8 kHz")
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Ears:
    """What hears the clips; a worker opens the models by it."""

    backbones: tuple[str, ...]
    """As `distill.backbones.find.load` takes them."""
    checkpoints: tuple[Path, ...]
    """Folders of `enhance dann train`."""
    names: tuple[str, ...]
    """Codecs, in the order of the classes."""
    cache: Path
    """Folder of the feature cache."""


Pooled = dict[tuple[str, str], np.ndarray]
"""By model and state: a vector for each codec, (C, 2 D)."""


def codec(
    backbones: Sequence[str],
    corpus: Path,
    output: Path,
    *,
    source: str = "",
    names: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    num_samples: int = 3000,
    cache: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    cluster: str = "",
    quiet: bool = False,
) -> Record:
    """Measure how well each layer of each model tells codecs apart.

    Parameters
    ----------
    backbones
        Names of models; differences are to the first.
    corpus
        Folder or manifest with speech of named speakers.
    output
        Folder of ``codec.json``, ``codec.md`` and plots.
    source
        Only this source of the corpus; empty for all.
    names
        Codecs; empty for `codecs.DEFAULT`.
    checkpoints
        Folders of `distill.dann.train.train`.
    num_samples
        Coded clips: recordings times codecs. Recordings are drawn by ``seed``.
    cache
        Folder of the feature cache; None for the user's.
    seed
        See there.
    jobs, cluster
        As `enhance.parallel.run`.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If a model, a codec or the corpus cannot be used.
    """
    require("analysis", "av")
    chosen = codecs.check(names)
    if len(chosen) < 2:
        raise EnhanceError(f"codec {chosen[0]}: alone it cannot be told from others; name two")
    found, _ = speech_of(corpus, source, True, quiet)
    drawn = np.random.default_rng(seed).permutation(len(found))[: num_samples // len(chosen)]
    clips = [found[i] for i in sorted(drawn)]
    speakers = np.array([name_of(clip) for clip in clips])
    if len(set(speakers)) < 2:
        raise EnhanceError(
            f"--num-samples {num_samples}: {len(clips)} recordings for {len(chosen)} codecs, of "
            f"fewer than two speakers; at least {4 * len(chosen)} are needed"
        )
    where = cache or cache_folder("features")
    ears = Ears(tuple(backbones), tuple(checkpoints), chosen, where.resolve())
    runs = [training.load(folder) for folder in checkpoints]
    for name in backbones:
        check_rate(load(name), codecs.SAMPLE_RATE)
    work = parallel.run(partial(listen, ears), clips, jobs=jobs, cluster=cluster)
    heard: dict[int, Pooled] = {}
    with progress_bar(quiet=quiet) as bar, contextlib.closing(work) as done:
        task = bar.add_task("codec probe: listening", total=len(clips), speed="")
        for index, pooled in done:
            heard[index] = pooled
            bar.update(task, advance=1)
        keys = list(heard[0])
        task = bar.add_task("codec probe: probing", total=len(keys), speed="")
        rows: list[dict[str, Any]] = []
        right: dict[str, list[np.ndarray]] = {}
        for model, state in keys:
            features = np.stack([heard[i][model, state] for i in range(len(clips))])  # (N, C, 2D)
            made, hits = _probe(features, speakers, chosen)
            rows += [{"kind": "probe", "backbone": model, "state": state, **row} for row in made]
            if state != EMBEDDING:
                right.setdefault(model, []).append(hits)
            bar.update(task, advance=1)
    rows += _differences(right, speakers)
    for folder, run in zip(checkpoints, runs, strict=True):
        told = {"kind": "weight", "checkpoint": _short(folder), "of": run.config.backbone.name}
        weights = run.record["layer_weights"]
        rows += [{**told, "state": int(s), "weight": w} for s, w in weights.items()]
    about = {
        "title": "Which codec a clip went through",
        "codecs": list(chosen),
        "at 8 kHz": [n for n in chosen if codecs.CODECS[n].rate == 8000],
        "recordings": len(clips),
        "speakers": len(set(speakers)),
        "sources": sorted({clip.source for clip in clips}),
        "hours": round(sum(c.duration for c in clips) / 3600, 4),
        "split": f"by speaker, {min(FOLDS, len(set(speakers)))} folds",
        "backbones": [label(name) for name in backbones],
        "checkpoints": [_short(folder) for folder in checkpoints],
        "seed": seed,
    }
    record = {"about": about, "rows": rows}
    keep(output, NAME, record, tables(record), plots(record))
    return record


def listen(ears: Ears, clip: Clip) -> Pooled:
    """What each model says of a recording through each codec, pooled over time."""
    wave = audio.read(clip.path, codecs.SAMPLE_RATE)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for name in ears.names:
        coded = codecs.through(wave, name)
        for model, features in _open(ears):
            for place, state in enumerate(features.states(coded)):
                found.setdefault((model, str(place)), []).append(pooled(state))
        for model, run, hearing in _runs(ears):
            with torch.no_grad():
                embedded = run.network.embed(hearing.batch([coded]))[0].numpy()
            found.setdefault((model, EMBEDDING), []).append(embedded)
    return {key: np.stack(vectors) for key, vectors in found.items()}


def pooled(state: np.ndarray) -> np.ndarray:
    """Mean and deviation of each feature over time.

    Shape: (T, D) to float32 (2 D,)
    """
    frames = np.asarray(state, np.float32)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


def _short(folder: Path) -> str:
    return f"dann:{folder.resolve().name}"


@lru_cache(maxsize=2)
def _runs(ears: Ears) -> list[tuple[str, training.Trained, Hearing]]:
    runs = [(_short(folder), training.load(folder)) for folder in ears.checkpoints]
    return [(name, run, Hearing(run.config, run.teacher, ears.cache)) for name, run in runs]


@lru_cache(maxsize=2)
def _open(ears: Ears) -> list[tuple[str, Features]]:
    """Backbones, and those that checkpoints trained."""
    models = [(label(name), load(name)) for name in ears.backbones]
    models += [(n, r.teacher) for n, r, _ in _runs(ears) if not r.config.backbone.freeze]
    return [(name, Features(teacher, "weighted", ears.cache)) for name, teacher in models]


def _probe(
    features: np.ndarray, speakers: np.ndarray, names: Sequence[str]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows of one state, and whether each clip's codec was told of all (N, C)."""
    rows, every = [], np.zeros(features.shape[:2], bool)
    for task in TASKS:
        kinds = [i for i, n in enumerate(names) if task == "all" or codecs.CODECS[n].rate == 8000]
        if len(kinds) < 2:
            continue
        hits = told(features[:, kinds], speakers)  # (N, C)
        owners = np.unique(speakers, return_inverse=True)[1]
        counts = np.bincount(owners) * len(kinds)
        found = interval(np.bincount(owners, hits.sum(axis=1)), counts)
        shares = {f"recall {names[k]}": float(hits[:, i].mean()) for i, k in enumerate(kinds)}
        rows.append({"task": task, **found, "chance": 1 / len(kinds), "n": hits.size, **shares})
        if task == "all":
            every = hits
    return rows, every


def told(features: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Whether each clip's codec is told by a linear classifier that never heard its speaker.

    Multinomial logistic regression on standardised features, speakers in `FOLDS` folds.

    Shape: features (N, C, D) of N recordings, speakers (N,), to bool (N, C).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.broadcast_to(np.arange(features.shape[1]), features.shape[:2])
    right = np.zeros(features.shape[:2], bool)
    folds = GroupKFold(min(FOLDS, len(set(speakers))))
    for train, test in folds.split(features, groups=speakers):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features[train].reshape(-1, features.shape[2]), labels[train].ravel())
        said = model.predict(features[test].reshape(-1, features.shape[2]))
        right[test] = said.reshape(len(test), -1) == labels[test]
    return right


def _differences(right: dict[str, list[np.ndarray]], speakers: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of each model less that of the first, the mean over states, clip by clip."""
    owners = np.unique(speakers, return_inverse=True)[1]
    means = {model: np.mean(hits, axis=0) for model, hits in right.items()}  # (N, C)
    first = next(iter(means), "")
    rows = []
    for model, mean in means.items():
        if model != first:
            apart = mean - means[first]
            sums = np.bincount(owners, apart.sum(axis=1))
            found = interval(sums, np.bincount(owners) * apart.shape[1])
            rows.append({"kind": "difference", "backbone": model, "over": first, **found})
    return rows


def tables(record: Record) -> list[Table]:
    """Accuracy by state, what each model has in all, and the codecs its best state knows."""
    rows, about = [r for r in record["rows"] if r["kind"] == "probe"], record["about"]
    models = list(dict.fromkeys(r["backbone"] for r in rows))
    result = []
    for task in TASKS:
        mine = {(r["backbone"], r["state"]): r for r in rows if r["task"] == task}
        if not mine:
            continue
        chance = number(100 * next(iter(mine.values()))["chance"], 1)
        states = list(dict.fromkeys(state for _, state in mine))
        table = Table(f"Accuracy in % [95 %], codecs: {task}; chance {chance}", ["state", *models])
        for state in states:
            found = [_percent(mine.get((model, state))) for model in models]
            table.rows.append([state, *(with_interval(row, 1) for row in found)])
        result.append(table)
    whole = Table("Over the states, all codecs, %", ["model", "mean", "best", "state", "spread"])
    apart = {r["backbone"]: r for r in record["rows"] if r["kind"] == "difference"}
    if apart:
        whole.headers = [*whole.headers, f"mean less that of {about['backbones'][0]} [95 %]"]
    names = about["codecs"]
    known = Table("Codecs told by the best state, %", ["model", *names])
    for model in models:
        mine_all = [r for r in rows if r["backbone"] == model and r["task"] == "all"]
        best = max(mine_all, key=lambda r: r["mean"])
        known.rows.append([model, *(number(100 * best[f"recall {n}"], 0) for n in names)])
        values = [100 * r["mean"] for r in mine_all if r["state"] != EMBEDDING]
        if values:
            cells = [number(np.mean(values), 1), number(max(values), 1), best["state"]]
            cells += [number(max(values) - min(values), 1)]
            if apart:
                cells += [with_interval(_percent(apart.get(model)), 1, True)]
            whole.rows.append([model, *cells])
    return [*result, whole, known]


def _percent(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return row and {key: 100 * row[key] for key in ("mean", "low", "high")}


def plots(record: Record) -> dict[str, Figure]:
    """Heatmaps of model and state, curves with intervals, learned layer weights."""
    from matplotlib.figure import Figure

    rows = [r for r in record["rows"] if r["kind"] == "probe"]
    tasks = [task for task in TASKS if any(r["task"] == task for r in rows)]
    models = list(dict.fromkeys(r["backbone"] for r in rows))
    states = list(dict.fromkeys(r["state"] for r in rows))
    found: dict[str, Figure] = {}
    heat = Figure(figsize=(2.5 + 0.75 * len(states), len(tasks) * (1 + 0.5 * len(models))),
                  layout="constrained")  # fmt: skip
    lines = Figure(figsize=(5 * len(tasks), 3.4), layout="constrained")
    for n, task in enumerate(tasks):
        mine = {(r["backbone"], r["state"]): r for r in rows if r["task"] == task}
        chance = 100 * next(iter(mine.values()))["chance"]
        axis = heat.add_subplot(len(tasks), 1, n + 1)
        grid = np.full((len(models), len(states)), np.nan)
        for (model, state), row in mine.items():
            place = models.index(model), states.index(state)
            grid[place] = 100 * row["mean"]
            axis.text(*place[::-1], f"{grid[place]:.0f}", ha="center", va="center", fontsize=8,
                      color="w" if grid[place] < (chance + 100) / 2 else "k")  # fmt: skip
        drawn = axis.imshow(grid, vmin=chance, vmax=100, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(states)), states, fontsize=8)
        axis.set_yticks(range(len(models)), models, fontsize=8)
        axis.set_title(f"accuracy (%), codecs: {task}; chance {chance:.0f}", fontsize=9)
        heat.colorbar(drawn, ax=axis)
        curve = lines.add_subplot(1, len(tasks), n + 1)
        for model in models:
            own = [r for (m, s), r in mine.items() if m == model and s != EMBEDDING]
            if own:
                mean, low, high = (np.array([100 * r[k] for r in own]) for k in _ENDS)
                where, error = [int(r["state"]) for r in own], [mean - low, high - mean]
                curve.errorbar(where, mean, error, fmt="o-", ms=3, lw=1, label=model)
        curve.axhline(chance, color="0.6", lw=0.8, ls="--")
        curve.set_xlabel("hidden state", fontsize=8)
        curve.set_title(f"accuracy (%), codecs: {task}; dashed: chance", fontsize=9)
        curve.legend(fontsize=7, frameon=False)
        _finish(curve)
    found["heatmap"], found["layers"] = heat, lines
    weights = [r for r in record["rows"] if r["kind"] == "weight"]
    if weights:
        figure = Figure(figsize=(5, 3), layout="constrained")
        axis = figure.subplots()
        for name in dict.fromkeys(r["checkpoint"] for r in weights):
            own = [r for r in weights if r["checkpoint"] == name]
            title = f"{name} ({own[0]['of']})"
            axis.plot(
                [r["state"] for r in own], [r["weight"] for r in own], "o-", ms=4, label=title
            )
        axis.set_xlabel("hidden state", fontsize=8)
        axis.set_title("learned layer weights", fontsize=9)
        axis.legend(fontsize=7, frameon=False)
        _finish(axis)
        found["weights"] = figure
    return found


_ENDS = ("mean", "low", "high")


def _finish(axis: Any) -> None:
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
