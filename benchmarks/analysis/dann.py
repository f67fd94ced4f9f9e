"""What training with the adversary changed: `enhance dann evaluate`.

Of each run: errors of the task, pooled and for each codec, with intervals over speakers; what of
the codec is left in the embedding; the learned layer weights; the error after each epoch. That the
network's own discriminator is at chance proves nothing: it was trained to be misled, and another
may not be. So fresh probes, one linear and one as deep as the discriminator, are trained on the
embeddings of the training clips, and tested on the same speakers as the discriminator.

Runs that differ in nothing but their seed are one *recipe*, whose figures are means over seeds, and
whose intervals know speakers, who are drawn, and seeds. A recipe is compared with the first one of
the same backbone, seed by seed and draw by draw.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts.linear import by_speaker
from benchmarks.analysis.parts.plots import percent, tidy, with_bars
from benchmarks.analysis.parts.record import Record, keep
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.tables import Table, number, with_interval
from distill.backbones.find import family, label
from distill.dann import train as training
from distill.dann.config import DannConfig
from distill.dann.data import Hearing, Labelled
from distill.dann.protocols import read
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.files import expanded
from enhance.progress import tracked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Draws = dict[str, np.ndarray]
"""EER under draws of speakers, by codec, each (rounds,)."""

POOLED = "pooled"
_WHO = ("discriminator", "fresh linear probe", "fresh deep probe")


def evaluate(
    runs: Sequence[Path], where: Path, output: Path, work: Work, *, audio: str = ""
) -> Record:
    """Measure runs of `distill.dann.train.train` on clips of speakers that none of them heard.

    Tables have the order of the runs. The clips are of a manifest or protocol, whose audio lies in
    the folder ``audio``; empty for the run's own. The seed of ``work`` is that of draws of
    speakers, and of the fresh probes. An `EnhanceError` says that a run or the clips cannot be
    used, or that a speaker was trained on.
    """
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {
        "title": "Training with and without a domain adversary",
        "evaluation": where.name,
        "seed": work.seed,
        "runs": {},
    }
    draws: dict[str, _Draws] = {}
    settings: dict[str, DannConfig] = {}
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise EnhanceError(f"{runs[0]}: two runs of one name; rename their folders")
    for folder in tracked(runs, "dann evaluate", len(runs), quiet=work.quiet):
        name, run = folder.resolve().name, training.load(folder)
        found, draws[name], facts = _measure(run, where, audio, work)
        if facts["task"] != about["runs"].get(names[0], facts)["task"]:
            raise EnhanceError(f"{folder}: has another task than {runs[0]}; evaluate it apart")
        settings[name] = run.config
        rows += [{"run": name, **row} for row in found]
        about["runs"][name] = facts
    about["recipes"] = recipes(settings)
    rows += _of_recipes(about, rows, draws, work.seed)
    return keep(output, {"analysis": "dann", "about": about, "rows": rows}, tables, plots)


def recipes(settings: dict[str, DannConfig]) -> dict[str, list[str]]:
    """Runs that share all settings but the seed, named as the first without its seed."""
    alike: dict[str, list[str]] = {}
    for name, config in settings.items():
        alike.setdefault(json.dumps(to_dict(replace(config, seed=0))), []).append(name)
    found: dict[str, list[str]] = {}
    for members in alike.values():
        name = members[0]
        if len(members) > 1:
            shared = re.sub(r"[-_.]?(s|seed)?[-_.]?\d+$", "", name)
            name = shared if shared and shared not in found else name
        found[name] = members
    return found


def _of_recipes(
    about: dict[str, Any], rows: list[dict[str, Any]], draws: dict[str, _Draws], seed: int
) -> list[dict[str, Any]]:
    """Means over seeds, and pooled differences to the first recipe of the same backbone."""
    runs, found = about["runs"], []
    errors = {(r["run"], r["group"]): r for r in rows if r["kind"] == "errors"}
    first: dict[str, str] = {}
    for name, members in about["recipes"].items():
        for group in draws[members[0]]:
            mine = [errors[run, group] for run in members]
            row = {"recipe": name, "group": group, "seeds": len(members)}
            for key in ("mean", "min_dcf"):
                row[key] = float(np.mean([r[key] for r in mine]))
            found.append(
                {"kind": "recipe", **row, **_ends([draws[r][group] for r in members], seed)}
            )
        over = first.setdefault(runs[members[0]]["backbone"], name)
        if over == name:
            continue
        base = {runs[run]["seed"]: run for run in about["recipes"][over]}
        both = [(run, base[s]) for run in members if (s := runs[run]["seed"]) in base]
        if both and POOLED in draws[members[0]]:
            apart = [errors[a, POOLED]["mean"] - errors[b, POOLED]["mean"] for a, b in both]
            ends = _ends([draws[a][POOLED] - draws[b][POOLED] for a, b in both], seed)
            row = {"recipe": name, "over": over, "seeds": len(both), "mean": float(np.mean(apart))}
            found.append({"kind": "difference", **row, **ends})
    return found


def _ends(parts: Sequence[np.ndarray], seed: int) -> dict[str, float]:
    """95 % interval of a mean over seeds, whose draws of speakers are (rounds,) each.

    To each draw is added what the mean of so few seeds may be off: Student's t of their spread.
    Seeds drawn with replacement would know too little of others: of three, where speakers differ
    little, such an interval covers in 70 % of the cases.
    """
    stack = np.stack(parts)  # (seeds, rounds)
    found, count = stack.mean(0), len(stack)
    if count > 1:
        error = stack.mean(1).std(ddof=1) / math.sqrt(count)
        found += error * np.random.default_rng(seed).standard_t(count - 1, len(found))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _measure(
    run: training.Trained, where: Path, audio: str, work: Work
) -> tuple[list[dict[str, Any]], _Draws, dict[str, Any]]:
    """Rows of one run, the draws of its EER, and what is told of it."""
    config, record, seed = run.config, run.record, work.seed
    known = (record["classes"], record["domains"])
    hearing = Hearing(config, run.teacher, work.cache)

    def open_clips(path: Path, folder: str) -> Labelled:
        return Labelled(read(path, folder, config.task, config.domain), config, *known)

    data = open_clips(where, audio or config.audio)
    both = set(data.speakers) & set(record["speakers"])
    if both:
        raise EnhanceError(
            f"{where}: {len(both)} speakers were trained on (first: {min(both)}); name others"
        )
    heard = training.hear(run.network, hearing, data)
    trials, clips = heard.trials(config.task, data)
    kinds = np.array(data.kinds)
    rows, draws = [], {}
    for group in (POOLED, *sorted(set(data.kinds))):
        chosen = np.ones(len(clips), bool) if group == POOLED else (kinds[clips] == group).all(1)
        part = trials.part(chosen)
        row: dict[str, Any] = {"trials": len(part.scores), "wanted": int(part.wanted.sum())}
        row |= dict.fromkeys(("mean", "low", "high", "min_dcf"))
        if part.both:
            draws[group] = part.draws(seed=seed)
            low, high = np.quantile(draws[group], [0.025, 0.975])
            row |= {"mean": part.eer(), "low": float(low), "high": float(high)}
            row["min_dcf"] = part.least_cost(config.task)
        rows.append({"kind": "errors", "group": group, **row})
    trained = open_clips(expanded(config.train), config.audio)
    taught = training.hear(run.network, hearing, trained).embeddings
    judged = {_WHO[0]: heard.judged}
    depth = (config.dann.discriminator.hidden_dim,) * config.dann.discriminator.num_layers
    for who, hidden in zip(_WHO[1:], ((), depth), strict=True):
        if len(known[1]) > 1:
            judged[who] = fresh(taught, trained.domains, heard.embeddings, hidden, seed)
    asked = data.domains >= 0
    if not asked.any():
        judged = {}
    for who, said in judged.items():
        share = by_speaker((said == data.domains)[asked], np.array(data.speakers)[asked])
        most = np.bincount(data.domains[asked]).max() / asked.sum()
        told = {"kind": "domain", "who": who, "n": int(asked.sum()), "chance": float(most)}
        rows.append({**told, **share})
    for state, weight in record["layer_weights"].items():
        rows.append({"kind": "layer", "state": int(state), "weight": weight})
    rows += [{"kind": "epoch", **row} for row in record["epochs"]]
    facts = {
        "task": config.task,
        "backbone": label(config.backbone.name),
        "family": family(config.backbone.name, run.teacher),
        "freeze": config.backbone.freeze,
        "freeze_layers": list(config.backbone.freeze_layers),
        "layers": config.backbone.layer_selection.text,
        "pooling": config.pooling.method,
        "lambda": [config.dann.lambda_schedule.start, config.dann.lambda_schedule.end],
        "discriminator": list(depth),
        "seed": config.seed,
        "epochs": config.epochs,
        "best_epoch": record["best"]["epoch"],
        "best_lambda": config.dann.lambda_schedule(record["best"]["epoch"] / config.epochs),
        "trained_clips": len(trained),
        "clips": len(data),
        "speakers": len(set(data.speakers)),
        "domains": known[1],
    }
    return rows, draws, facts


def fresh(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, hidden: Sequence[int], seed: int
) -> np.ndarray:
    """What a classifier trained from nothing says: linear, or with hidden layers.

    Shape: train (M, E), labels (M,), test (S, E) to (S,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = (
        MLPClassifier(tuple(hidden), random_state=seed, early_stopping=True, max_iter=300)
        if hidden
        else LogisticRegression(max_iter=2000)
    )
    said: np.ndarray = make_pipeline(StandardScaler(), kind).fit(train, labels).predict(test)
    return said


def tables(record: Record) -> list[Table]:
    """Errors, what is left of the domain, differences; a row for each recipe."""
    rows, runs = record["rows"], record["about"]["runs"]
    made: dict[str, list[str]] = record["about"]["recipes"]
    found = {(r["recipe"], r["group"]): r for r in rows if r["kind"] == "recipe"}
    groups = list(dict.fromkeys(group for _, group in found))
    errors = Table("EER in % [95 % over speakers and seeds]", ["recipe", "seeds", *groups])
    costs = Table("Least detection cost", ["recipe", *groups])
    left = Table(
        "Accuracy on the domain in %, mean over seeds (their range)",
        ["recipe", *_WHO, "the most frequent one"],
    )
    best = Table(
        "Best epoch on speakers held back, by seed", ["recipe", "epoch", "of", "lambda there"]
    )
    for name, members in made.items():
        mine = [found[name, group] for group in groups]
        errors.rows.append([name, f"{len(members)}", *(with_interval(percent(r), 1) for r in mine)])
        costs.rows.append([name, *(number(r["min_dcf"]) for r in mine)])
        told = [r for r in rows if r["kind"] == "domain" and r["run"] in members]
        chance = next((100 * r["chance"] for r in told), None)
        cells = [_range([100 * r["mean"] for r in told if r["who"] == who]) for who in _WHO]
        left.rows.append([name, *cells, number(chance, 1)])
        facts = [runs[run] for run in members]
        lambdas = ", ".join(number(f["best_lambda"], 2) for f in facts)
        epochs = ", ".join(str(f["best_epoch"]) for f in facts)
        best.rows.append([name, epochs, str(facts[0]["epochs"]), lambdas])
    result = [errors, costs, left, best]
    apart = [r for r in rows if r["kind"] == "difference"]
    if apart:
        more = Table(
            "Pooled EER less that of the first recipe of the same backbone, percentage points "
            "[95 % over speakers and seeds]",
            ["recipe", "less", "seeds", "difference"],
        )
        for row in apart:
            seeds = str(row["seeds"]) + (" (no claim)" if row["seeds"] < 3 else "")
            cells = [row["over"], seeds, with_interval(percent(row), 1, True)]
            more.rows.append([row["recipe"], *cells])
        result.append(more)
    return result


def _range(values: Sequence[float]) -> str:
    if len(values) < 2:
        return number(values[0] if values else None, 1)
    mean, low, high = (number(v, 1) for v in (float(np.mean(values)), min(values), max(values)))
    return f"{mean} ({low}-{high})"


def plots(record: Record) -> dict[str, Figure]:
    """EER by codec, the domain's accuracy, layer weights, and the error over the epochs."""
    from matplotlib.figure import Figure

    rows, made = record["rows"], record["about"]["recipes"]
    figure = Figure(figsize=(10, 7), layout="constrained")
    (top, left), (layers, epochs) = figure.subplots(2, 2)
    for index, (name, members) in enumerate(made.items()):
        color = f"C{index % 10}"
        aside = (index - (len(made) - 1) / 2) * 0.7 / len(made)
        told = [r for r in rows if r["kind"] == "recipe" and r["recipe"] == name]
        place = np.arange(len(told)) + aside
        with_bars(top, place, told, fmt="o", ms=4, label=name, color=color)
        top.set_xticks(range(len(told)), [r["group"] for r in told], rotation=20, fontsize=8)
        left.set_xticks(range(len(_WHO)), _WHO, rotation=20, fontsize=8)
        for run in members:
            mine = [r for r in rows if r.get("run") == run]
            told = [r for r in mine if r["kind"] == "domain"]
            place = np.array([_WHO.index(r["who"]) for r in told]) + aside
            left.plot(place, [100 * r["mean"] for r in told], "o", ms=4, color=color)
            weights = [r for r in mine if r["kind"] == "layer"]
            states = [r["state"] for r in weights]
            layers.plot(states, [r["weight"] for r in weights], "o-", ms=3, color=color)
            curve = [r for r in mine if r["kind"] == "epoch"]
            epochs.plot(
                [r["epoch"] for r in curve], [100 * r["eer"] for r in curve], lw=1, color=color
            )
            best = record["about"]["runs"][run]["best_epoch"]
            chosen = next(r for r in curve if r["epoch"] == best)
            epochs.plot(best, 100 * chosen["eer"], "o", ms=4, color=color)
    chance = [100 * r["chance"] for r in rows if r["kind"] == "domain"]
    if chance:
        left.axhline(chance[0], color="0.6", lw=0.8, ls="--")
    for axis, title in (
        (top, "EER (%), 95 % over speakers and seeds"),
        (left, "accuracy on the domain (%), each seed; dashed: the most frequent one"),
        (layers, "learned weight of each hidden state, each seed"),
        (epochs, "EER (%) after each epoch, speakers held back; dot: the best"),
    ):
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
        tidy(axis)
    top.legend(fontsize=7, frameon=False, ncols=2)
    return {"training": figure}
