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

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.analysis.codecs import coding
from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.linear import by_speaker
from benchmarks.analysis.parts.plots import panels, percent, with_bars
from benchmarks.analysis.parts.record import Record, keep
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.tables import Table, number, with_interval
from distill.dann import train as training
from distill.dann.data import Hearing
from distill.speaker.data import name_of, speech_of
from distill.teacher.features import Features
from enhance.audio import read as audio
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDS = 5
TASKS = ("all", "at 8 kHz")
EMBEDDING = "embedding"


Models = tuple[tuple[str, ...], tuple[Path, ...], Path]
"""Backbones, folders of `enhance dann train`, and the feature cache; a worker opens them by it."""


def codec(
    backbones: Sequence[str],
    corpus: Path,
    output: Path,
    work: Work,
    *,
    source: str = "",
    names: Sequence[str] | None = None,
    checkpoints: Sequence[Path] | None = None,
    num_samples: int = 3000,
) -> Record:
    """Measure how well each layer of each model tells codecs apart.

    Speakers of the corpus are named; only one ``source`` of it is heard, or all for an empty one.
    ``names`` are codecs, `coding.DEFAULT` for None; ``checkpoints`` folders of
    `distill.dann.train.train`. ``num_samples`` counts coded clips, recordings times codecs;
    recordings are drawn. Differences are to the first backbone. The rest is as of every analysis
    (`benchmarks.analysis.parts`). An `EnhanceError` says that a model, a codec or the corpus
    cannot be used.
    """
    require("analysis", "av")
    chosen, checkpoints = coding.check(names or ()), checkpoints or ()
    if len(chosen) < 2:
        raise EnhanceError(f"codec {chosen[0]}: alone it cannot be told from others; name two")
    found, _ = speech_of(corpus, source, True, work.quiet)
    drawn = np.random.default_rng(work.seed).permutation(len(found))[: num_samples // len(chosen)]
    clips = [found[i] for i in sorted(drawn)]
    speakers = np.array([name_of(clip) for clip in clips])
    if len(set(speakers)) < 2:
        raise EnhanceError(
            f"--num-samples {num_samples}: {len(clips)} recordings for {len(chosen)} codecs, of "
            f"fewer than two speakers; at least {4 * len(chosen)} are needed"
        )
    models: Models = tuple(backbones), tuple(checkpoints), work.cache
    runs = [training.load(folder) for folder in checkpoints]
    if backbones:
        heard.check(backbones, work.cache)
    if len({_short(folder) for folder in checkpoints}) < len(checkpoints):
        raise EnhanceError("--checkpoint: two folders of one name; rename one")
    listened = work.every(partial(listen, models, chosen), clips, "codec probe: listening")
    keys = list(listened[0])
    states = [np.stack([own[key] for own in listened]) for key in keys]  # (N, C, 2 D) each
    probed = work.every(partial(_probe, speakers, chosen), states, "codec probe: probing")
    rows: list[dict[str, Any]] = []
    right: dict[str, list[np.ndarray]] = {}
    for (model, state), (made, hits) in zip(keys, probed, strict=True):
        rows += [{"kind": "probe", "backbone": model, "state": state, **row} for row in made]
        if state != EMBEDDING:
            right.setdefault(model, []).append(hits)
    rows += _differences(right, speakers)
    for folder, run in zip(checkpoints, runs, strict=True):
        told = {"kind": "weight", "checkpoint": _short(folder), "of": run.config.backbone.name}
        weights = run.record["layer_weights"]
        rows += [{**told, "state": int(s), "weight": w} for s, w in weights.items()]
    about = {
        "title": "Which codec a clip went through",
        "codecs": list(chosen),
        "at 8 kHz": [n for n in chosen if coding.CODECS[n].rate == 8000],
        "recordings": len(clips),
        "speakers": len(set(speakers)),
        "sources": sorted({clip.source for clip in clips}),
        "hours": round(sum(c.duration for c in clips) / 3600, 4),
        "split": f"by speaker, {min(FOLDS, len(set(speakers)))} folds",
        "backbones": heard.families(backbones, work.cache),
        "checkpoints": [_short(folder) for folder in checkpoints],
        "seed": work.seed,
    }
    return keep(output, {"analysis": "codec", "about": about, "rows": rows}, tables, plots)


def listen(models: Models, names: Sequence[str], clip: Clip) -> dict[tuple[str, str], np.ndarray]:
    """By model and state, what it says of a clip through each codec, pooled over time: (C, 2 D)."""
    wave = audio.read(clip.path, coding.SAMPLE_RATE)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for name in names:
        coded = coding.through(wave, name)
        listeners, runs = _open(*models)
        for model, features in listeners:
            for place, state in enumerate(features.states(coded)):
                found.setdefault((model, str(place)), []).append(heard.pooled(state, "stats"))
        for model, run, hearing in runs:
            with torch.no_grad():
                embedded = run.network.embed(hearing.batch([coded]))[0].numpy()
            found.setdefault((model, EMBEDDING), []).append(embedded)
    return {key: np.stack(vectors) for key, vectors in found.items()}


def _short(folder: Path) -> str:
    return f"dann:{folder.resolve().name}"


@lru_cache(maxsize=2)
def _open(
    backbones: tuple[str, ...], checkpoints: tuple[Path, ...], cache: Path
) -> tuple[list[tuple[str, Features]], list[tuple[str, training.Trained, Hearing]]]:
    """Backbones, and those that checkpoints trained; and the checkpoints."""
    found = [(text, heard.features(name, cache)) for name, text in heard.labels(backbones).items()]
    runs = []
    for folder in checkpoints:
        name, run = _short(folder), training.load(folder)
        runs.append((name, run, Hearing(run.config, run.teacher, cache)))
        if not run.config.backbone.freeze:
            found.append((name, Features(run.teacher, "weighted", cache)))
    return found, runs


def _probe(
    speakers: np.ndarray, names: Sequence[str], features: np.ndarray
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows of one state, and whether each clip's codec was told of all (N, C)."""
    rows, every = [], np.zeros(features.shape[:2], bool)
    for task in TASKS:
        kinds = [i for i, n in enumerate(names) if task == "all" or coding.CODECS[n].rate == 8000]
        if len(kinds) < 2:
            continue
        hits = told(features[:, kinds], speakers)  # (N, C)
        shares = {f"recall {names[k]}": float(hits[:, i].mean()) for i, k in enumerate(kinds)}
        facts = {"task": task, "chance": 1 / len(kinds), **shares}
        rows.append({**facts, **by_speaker(hits, speakers), "n": hits.size})
        if task == "all":
            every = hits
    return rows, every


def told(features: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Whether each clip's codec is told by a linear classifier that never heard its speaker.

    Multinomial logistic regression on standardised features, speakers in `FOLDS` folds.

    Shape: features (N, C, D) of N recordings, speakers (N,), to bool (N, C).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clips, kinds, width = features.shape
    labels, groups = np.tile(np.arange(kinds), clips), np.repeat(speakers, kinds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = GroupKFold(min(FOLDS, len(set(speakers))))
    units = features.reshape(-1, width)
    said = cross_val_predict(model, units, labels, groups=groups, cv=folds)
    right: np.ndarray = (said == labels).reshape(clips, kinds)
    return right


def _differences(right: dict[str, list[np.ndarray]], speakers: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of each model less that of the first, the mean over states, clip by clip."""
    means = {model: np.mean(hits, axis=0) for model, hits in right.items()}  # (N, C)
    first = next(iter(means), "")
    return [
        {"kind": "difference", "backbone": model, "over": first,
         **by_speaker(mean - means[first], speakers)}
        for model, mean in means.items() if model != first
    ]  # fmt: skip


def tables(record: Record) -> list[Table]:
    """Accuracy by state, what each model has in all, and the codecs its best state knows."""
    rows = [r for r in record["rows"] if r["kind"] == "probe"]
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
            found = [percent(mine.get((model, state))) for model in models]
            table.rows.append([state, *(with_interval(row, 1) for row in found)])
        result.append(table)
    whole = Table("Over the states, all codecs, %", ["model", "mean", "best", "state", "spread"])
    apart = {r["backbone"]: r for r in record["rows"] if r["kind"] == "difference"}
    if apart:
        first = next(iter(apart.values()))["over"]
        whole.headers = [*whole.headers, f"mean less that of {first} [95 %]"]
    names = record["about"]["codecs"]
    known = Table("Codecs told by the best state, %", ["model", *names])
    for model in models:
        mine_all = [r for r in rows if r["backbone"] == model and r["task"] == "all"]
        own = [r for r in mine_all if r["state"] != EMBEDDING]
        best = max(own or mine_all, key=lambda r: r["mean"])
        known.rows.append([model, *(number(100 * best[f"recall {n}"], 0) for n in names)])
        values = [100 * r["mean"] for r in own]
        if values:
            cells = [number(np.mean(values), 1), number(max(values), 1), best["state"]]
            cells += [number(max(values) - min(values), 1)]
            if apart:
                cells += [with_interval(percent(apart.get(model)), 1, True)]
            whole.rows.append([model, *cells])
    return [*result, whole, known]


def plots(record: Record) -> dict[str, Figure]:
    """Heatmaps of model and state, curves with intervals, learned layer weights."""
    from matplotlib.figure import Figure

    rows = [r for r in record["rows"] if r["kind"] == "probe"]
    tasks = [task for task in TASKS if any(r["task"] == task for r in rows)]
    models = list(dict.fromkeys(r["backbone"] for r in rows))
    states = list(dict.fromkeys(r["state"] for r in rows))
    heat = Figure(figsize=(2.5 + 0.75 * len(states), len(tasks) * (1 + 0.5 * len(models))),
                  layout="constrained")  # fmt: skip
    lines, curves = panels([f"accuracy (%), codecs: {t}; dashed: chance" for t in tasks], 5, 3.4)
    for n, (task, curve) in enumerate(zip(tasks, curves, strict=True)):
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
        for model in models:
            own = [r for (m, s), r in mine.items() if m == model and s != EMBEDDING]
            if own:
                where = [int(r["state"]) for r in own]
                with_bars(curve, where, own, fmt="o-", ms=3, lw=1, label=model)
        curve.axhline(chance, color="0.6", lw=0.8, ls="--")
        curve.legend(fontsize=7, frameon=False)
    found = {"heatmap": heat, "layers": lines}
    weights = [r for r in record["rows"] if r["kind"] == "weight"]
    if weights:
        found["weights"], [axis] = panels(["learned layer weights"], 5, 3)
        for name in dict.fromkeys(r["checkpoint"] for r in weights):
            own = [r for r in weights if r["checkpoint"] == name]
            shares = [r["state"] for r in own], [r["weight"] for r in own]
            axis.plot(*shares, "o-", ms=4, label=f"{name} ({own[0]['of']})")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7, frameon=False)
    return found
