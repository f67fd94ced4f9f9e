"""What the layers of frozen models know, the way SUPERB asks it (Yang et al., 2021).

For each model a linear probe (`benchmarks.analysis.parts.linear`) on each hidden state, and on
their weighted sum: raw, as in SUPERB, and of layer-normalised states. Whole clips are the mean of
their frames, or mean and deviation; the deviation is taken in each state, before the sum. Beside
each model always stand its twin with random weights and log-mel features at its frame rate,
asked the same questions with the same splits, so that gains are paired clip by clip.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.heard import Pool
from benchmarks.analysis.parts.plots import ENDS, from_to, panels, percent
from benchmarks.analysis.parts.record import keep
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.answers import SUMS, Answer, answer, choices, guess, hear
from benchmarks.analysis.probes.read import read
from benchmarks.analysis.probes.tasks import Data
from benchmarks.figures.clusters import Clusters, clustering, clusters_of
from benchmarks.figures.seeds import crossed_interval
from benchmarks.figures.tables import Table, number
from distill.speaker.eer import equal_error_rate, of_trials, resampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("enhance")

_ROUNDS = 300  # draws of speakers for the interval of an EER
_ALONE = ("random", "log-mel")
"""Kinds of backbones that need no control themselves."""


def probe(
    backbones: Sequence[str],
    task: str,
    corpus: Path,
    output: Path,
    work: Work,
    *,
    label: str = "",
    group: str = "",
    trials: Path | None = None,
    pool: Pool = "mean",
    frames: int = 20_000,
    folds: int = 3,
    seeds: int = 1,
) -> dict[str, Any]:
    """Ask one task of models and of what stands beside them; keep ``probe-TASK`` in a folder.

    Task, corpus, label, group, trials, frames and the limit are as
    `benchmarks.analysis.probes.read.read` has them. Where whole clips are asked, ``pool`` says how
    frames become one vector. Of ``folds`` parts each is tested once; ``seeds`` counts splits, twins
    and orders of training, from the seed of ``work`` on. The rest is as of every analysis
    (`benchmarks.analysis.parts`). An `EnhanceError` says that a model or the corpus cannot be read,
    or that no split without a leak is possible.
    """
    name = task if task != "label" else label.partition(":")[0]
    seed, all_seeds = work.seed, list(range(work.seed, work.seed + seeds))
    heard.check(backbones, work.cache)
    entries = [
        entry
        for b, label_of in heard.labels(backbones).items()
        for entry in _controls(b, label_of, work.cache, all_seeds)
    ]
    data = read(task, corpus, work, label=label, group=group, trials=trials, frames=frames,
                folder=output / f"mixtures-{task}")  # fmt: skip
    data.splits(folds, seed)  # what is impossible is told before the long work
    answers: dict[tuple[str, str, str], list[Answer]] = {}
    for backbone, kind, load, its_seeds in entries:
        raw, normal = hear(data, load, pool, work)
        for features, chosen in choices(raw, normal).items():
            found = [answer(data, *chosen, folds, s) for s in its_seeds]
            answers.setdefault((backbone, kind, features), []).extend(found)
            log.info("probe %s: %s %s %s", name, backbone, kind, features)
    clusters = clusters_of([{**c.labels, "speaker": c.speaker, "source": c.source}
                            for c in data.clips])  # fmt: skip
    rows = []
    if data.task.metric != "EER":
        own = [guess(data, folds, s) for s in all_seeds]
        rows = [{"backbone": "", "kind": "guess", "features": "", **_row(data, own, clusters)}]
    rows += [
        {"backbone": b, "kind": kind, "features": features, **_row(data, found, clusters)}
        for (b, kind, features), found in answers.items()
    ]
    record = {
        "analysis": f"probe-{name}",
        "about": {
            "task": name,
            "backbones": heard.families(backbones, work.cache),
            "metric": data.task.metric,
            "unit": data.task.unit,
            "label": data.task.label,
            "never on both sides": data.task.group,
            "corpus": sorted({clip.source for clip in data.clips}),
            "clips": len(data.clips),
            "hours": round(sum(clip.duration for clip in data.clips) / 3600, 3),
            "units": len(data.labels),
            "classes": len(data.classes),
            "groups": len(set(data.groups)),
            "speakers": len({clip.speaker for clip in data.clips}),
            "left out": data.notes,
            "pool": "frames" if data.times is not None else pool,
            "folds": len(data.splits(folds, seed)),
            "seeds": all_seeds,
            "intervals": "95 %, EER: bootstrap over speakers"
            if data.task.metric == "EER"
            else f"95 %, {clustering(clusters)}",
        },
        "rows": rows,
        "gains": _gains(data, answers, clusters),
    }
    return keep(output, record, tables, plots)


def _controls(
    backbone: str, name: str, cache: Path, all_seeds: list[int]
) -> list[tuple[str, str, str, list[int]]]:
    """What is heard for one backbone: its name, the kind of row, what to load, and the seeds."""
    found = [(name, "model", backbone, all_seeds)]
    if backbone.partition(":")[0] not in _ALONE:
        stride = heard.features(backbone, cache).grid.stride
        found += [(name, "random", f"random:{backbone}:{s}", [s]) for s in all_seeds]
        found.append((name, "log-mel", f"log-mel:{min(stride, 400)}", all_seeds))
    return found


def _row(data: Data, found: list[Answer], clusters: Clusters) -> dict[str, Any]:
    shares = np.mean([a.shares for a in found], 0)
    row: dict[str, Any] = {"states": found[0].states, "shares": shares.round(4).tolist()}
    if found[0].trials is None:
        row |= crossed_interval(np.stack([a.values for a in found], 1), clusters).row()
        if found[0].explained is not None:
            row["explained"] = float(np.mean([a.explained for a in found]))
    else:
        result = of_trials(*_trials(data, found), len(data.clips), rounds=_ROUNDS)
        row |= {"mean": result.eer, "low": result.low, "high": result.high, "n": result.clips}
        row |= {"method": "bootstrap over speakers", "min_dcf": result.min_dcf}
        row |= {"targets": result.targets, "nontargets": result.nontargets}
    return {**row, "seeds": [round(_mean(data, [one]), 5) for one in found]}


def _mean(data: Data, found: list[Answer]) -> float:
    """Accuracy, mean error or EER."""
    if found[0].trials is None:
        return float(np.mean([a.values.mean() for a in found]))
    scores, first, second = _trials(data, found)
    return equal_error_rate(scores, first == second)[0]


def _trials(data: Data, found: list[Answer]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and speakers (of verification, the classes) of the trials of all seeds."""
    sides = [np.concatenate(side) for side in zip(*(a.trials or () for a in found), strict=True)]
    first, second = (data.labels[side] for side in sides)
    return np.concatenate([a.values for a in found]), first, second


def _gains(
    data: Data, answers: dict[tuple[str, str, str], list[Answer]], clusters: Clusters
) -> list[dict[str, Any]]:
    """How much better each model is than what stands beside it; more is better.

    The best state of one is compared with the best of the other, and each sum with the same
    sum of the twin, or the one state of log-mel. The best is chosen on what is tested: of two
    probes alike, the one of more states looks better.
    """
    lower = data.task.metric != "accuracy"
    rows = []
    for backbone in dict.fromkeys(b for b, _, _ in answers):
        best = {}
        for kind in ("model", "random", "log-mel"):
            states = [key for key in answers
                      if key[:2] == (backbone, kind) and key[2] not in SUMS]  # fmt: skip
            if states:
                values = {key: _mean(data, answers[key]) for key in states}
                best[kind] = (min if lower else max)(states, key=values.__getitem__)
        for features in ("best state", *SUMS):
            own = best["model"] if features == "best state" else (backbone, "model", features)
            for kind in best.keys() - {"model"}:
                other = (backbone, kind, features)
                other = other if other in answers else best[kind]
                if own in answers:
                    rows.append({
                        "backbone": backbone, "features": own[2], "over": kind,
                        "over_features": other[2],
                        **_difference(data, answers[own], answers[other], clusters, lower),
                    })  # fmt: skip
    return sorted(rows, key=lambda row: (row["backbone"], row["over"]))


def _difference(
    data: Data, own: list[Answer], other: list[Answer], clusters: Clusters, lower: bool
) -> dict[str, Any]:
    sign = -1 if lower else 1
    if own[0].trials is None:
        table = np.stack([a.values - b.values for a, b in zip(own, other, strict=True)], 1)
        return crossed_interval(sign * table, clusters).row()
    ours, theirs = (resampled(*_trials(data, found), rounds=_ROUNDS, seed=0)
                    for found in (own, other))  # fmt: skip
    low, high = np.quantile(sign * (ours - theirs), [0.025, 0.975])
    return {"mean": sign * (_mean(data, own) - _mean(data, other)), "low": float(low),
            "high": float(high), "n": len(data.clips),
            "method": "bootstrap over speakers"}  # fmt: skip


def tables(record: dict[str, Any]) -> list[Table]:
    """All probes, and the gains."""
    about = record["about"]
    rated = about["metric"] != "mean error"
    title = f"{about['task']}: {about['metric']}" + (" (%)" if rated else f" ({about['unit']})")

    def value(row: dict[str, Any], signed: bool = False) -> str:
        return from_to(percent(row), 1, signed) if rated else from_to(row, 2, signed)

    extra = {"min_dcf": "minDCF", "explained": "variance explained"}
    extra = {key: name for key, name in extra.items() if any(key in row for row in record["rows"])}
    probes = Table(title, ["model", "", "features", about["metric"], *extra.values()])
    for row in record["rows"]:
        more = [number(row.get(key), 3) for key in extra]
        probes.rows.append([row["backbone"], row["kind"], row["features"], value(row), *more])
    gains = Table(
        f"{about['task']}: better than what stands beside (positive: better)",
        ["model", "features", "over", "its features", "gain"],
    )
    gains.rows += [
        [row["backbone"], row["features"], row["over"], row["over_features"], value(row, True)]
        for row in record["gains"]
    ]
    return [probes, gains]


def plots(record: dict[str, Any]) -> dict[str, Figure]:
    """``layers``: the metric of each state; ``weights``: shares of the states in the sums."""
    about, rows = record["about"], record["rows"]
    names = list(dict.fromkeys(row["backbone"] for row in rows if row["backbone"]))
    factor = 100 if about["metric"] != "mean error" else 1
    unit = "%" if factor == 100 else about["unit"]
    colours = {"model": "C0", "random": "C7", "log-mel": "C1", "guess": "0.8"}
    found: dict[str, Figure] = {}
    found["layers"], axes = panels(names, 4.2, 3.4)
    for axis, name in zip(axes, names, strict=True):
        for kind, colour in colours.items():
            own = [row for row in rows if row["kind"] == kind and row["backbone"] in (name, "")]
            states = [row for row in own if row["features"].startswith("state")]
            if kind == "guess" or len(states) == 1:
                for row in own:
                    axis.axhline(factor * row["mean"], color=colour, ls=":", label=kind)
                continue
            if not states:
                continue
            axis.plot([factor * row["mean"] for row in states], "o-", color=colour, ms=4,
                      label=kind)  # fmt: skip
            if all(row["low"] is not None for row in states):
                low, high = ([factor * row[key] for row in states] for key in ENDS[1:])
                axis.fill_between(range(len(states)), low, high, color=colour, alpha=0.15, lw=0)
            sums = [row for row in own if row["features"] in SUMS]
            for row, style in zip(sums, ("--", "-."), strict=False):
                axis.axhline(factor * row["mean"], color=colour, ls=style, lw=1,
                             label=f"{kind}, {row['features']}")  # fmt: skip
    axes[0].set_ylabel(f"{about['task']}: {about['metric']} ({unit})", fontsize=8)
    summed = [row for row in rows if row["features"] in SUMS and row["kind"] != "guess"]
    drawn = [axes[-1]]
    if summed:
        found["weights"], axes = panels(names, 4.2, 2.8)
        for axis, name in zip(axes, names, strict=True):
            bars = [row for row in summed if row["backbone"] == name]
            for k, row in enumerate(bars):
                width = 0.8 / len(bars)
                place = np.array(row["states"]) + (k - (len(bars) - 1) / 2) * width
                axis.bar(place, row["shares"], width, color=colours[row["kind"]],
                         alpha=1 if row["features"] == SUMS[0] else 0.5,
                         label=f"{row['kind']}, {row['features']}")  # fmt: skip
        axes[0].set_ylabel(f"{about['task']}: share in the sum", fontsize=8)
        drawn.append(axes[-1])
    for axis in drawn:
        axis.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return found
