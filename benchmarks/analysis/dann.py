"""What training with the adversary changed: `enhance dann evaluate`.

Of each run: errors of the task, pooled and for each codec, with intervals over speakers; what of
the codec is left in the embedding; the learned layer weights; the error after each epoch. That the
network's own discriminator is at chance proves nothing: it was trained to be misled, and another
may not be. So fresh probes, one linear and one as deep as the discriminator, are trained on the
embeddings of the training clips, and tested on the same speakers as the discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.analysis.parts.linear import by_speaker
from benchmarks.analysis.parts.plots import percent, tidy, with_bars
from benchmarks.analysis.parts.record import Record, keep
from benchmarks.analysis.parts.work import Work
from benchmarks.figures.tables import Table, number, with_interval
from distill.dann import train as training
from distill.dann.data import Hearing, Labelled
from distill.dann.errors import Trials
from distill.dann.protocols import read
from enhance.errors import EnhanceError
from enhance.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOLED = "pooled"
_WHO = ("discriminator", "fresh linear probe", "fresh deep probe")


def evaluate(
    runs: Sequence[Path], where: Path, output: Path, work: Work, *, audio: str = ""
) -> Record:
    """Measure runs on clips of speakers that none of them heard.

    Parameters
    ----------
    runs
        Folders of `distill.dann.train.train`; the others are compared with the first.
    where
        Manifest or protocol of the clips.
    output
        Folder of ``dann.json``, ``dann.md`` and plots.
    work
        How; its seed is that of draws of speakers, and of the fresh probes.
    audio
        Folder of a protocol's audio; empty for the run's own.

    Raises
    ------
    EnhanceError
        If a run or the clips cannot be used, or a speaker was trained on.
    """
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {
        "title": "Training with and without a domain adversary",
        "evaluation": where.name,
        "seed": work.seed,
        "runs": {},
    }
    first: np.ndarray | None = None
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise EnhanceError(f"{runs[0]}: two runs of one name; rename their folders")
    with progress_bar(quiet=work.quiet) as bar:
        task = bar.add_task("dann evaluate", total=len(runs), speed="")
        for name, folder in zip(names, runs, strict=True):
            run = training.load(folder)
            found, pooled, facts = _measure(run, where, audio, work)
            first = pooled if first is None else first
            if len(first) != len(pooled):
                raise EnhanceError(f"{folder}: has another task than {runs[0]}; evaluate it apart")
            if name != names[0]:
                low, high = np.quantile(pooled - first, [0.025, 0.975])
                eers = [r["mean"] for r in (*rows, *found) if r.get("group") == POOLED]
                found.append({
                    "kind": "difference", "over": names[0], "mean": eers[-1] - eers[0],
                    "low": float(low), "high": float(high),
                })  # fmt: skip
            rows += [{"run": name, **row} for row in found]
            about["runs"][name] = facts
            bar.update(task, advance=1)
    return keep(output, {"analysis": "dann", "about": about, "rows": rows}, tables, plots)


def _measure(
    run: training.Trained, where: Path, audio: str, work: Work
) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, Any]]:
    """Rows of one run, the draws of its pooled EER, and what is told of it."""
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
    rows = []
    for group in (POOLED, *sorted(set(data.kinds))):
        chosen = np.ones(len(clips), bool) if group == POOLED else (kinds[clips] == group).all(1)
        rows.append(
            {"kind": "errors", "group": group, **_errors(trials.part(chosen), config, seed)}
        )
    trained = open_clips(Path(config.train).expanduser(), config.audio)
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
        "backbone": config.backbone.name,
        "freeze": config.backbone.freeze,
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
    return rows, trials.draws(seed=seed), facts


def _errors(trials: Trials, config: Any, seed: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"trials": len(trials.scores), "wanted": int(trials.wanted.sum())}
    if not trials.both:
        return {**facts, "mean": None, "low": None, "high": None, "min_dcf": None}
    low, high = np.quantile(trials.draws(seed=seed), [0.025, 0.975])
    return {
        **facts,
        "mean": trials.eer(),
        "low": float(low),
        "high": float(high),
        "min_dcf": trials.least_cost(config.task),
    }


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
    """Errors, what is left of the domain, differences."""
    rows = record["rows"]
    runs = list(record["about"]["runs"])
    found = {(r["run"], r["group"]): r for r in rows if r["kind"] == "errors"}
    groups = list(dict.fromkeys(group for _, group in found))
    errors = Table("EER in % [95 % over speakers]", ["codec", *runs])
    costs = Table("Least detection cost", ["codec", *runs])
    for group in groups:
        errors.rows.append([group, *(with_interval(percent(found[n, group]), 1) for n in runs)])
        costs.rows.append([group, *(number(found[n, group]["min_dcf"]) for n in runs)])
    left = Table(
        "Accuracy on the domain in % [95 % over speakers]", ["run", *_WHO, "the most frequent one"]
    )
    for name in runs:
        told = {r["who"]: r for r in rows if r["kind"] == "domain" and r["run"] == name}
        chance = next((100 * r["chance"] for r in told.values()), None)
        cells = [with_interval(percent(told[w]), 1) if w in told else "-" for w in _WHO]
        left.rows.append([name, *cells, number(chance, 1)])
    best = Table("Best epoch on speakers held back", ["run", "epoch", "of", "lambda there"])
    for name, facts in record["about"]["runs"].items():
        cells = [str(facts["best_epoch"]), str(facts["epochs"]), number(facts["best_lambda"], 2)]
        best.rows.append([name, *cells])
    result = [errors, costs, left, best]
    apart = [r for r in rows if r["kind"] == "difference"]
    if apart:
        more = Table(
            f"Pooled EER less that of {apart[0]['over']}, percentage points [95 %]",
            ["run", "difference"],
        )
        more.rows += [[r["run"], with_interval(percent(r), 1, True)] for r in apart]
        result.append(more)
    return result


def plots(record: Record) -> dict[str, Figure]:
    """EER by codec, the domain's accuracy, layer weights, and the error over the epochs."""
    from matplotlib.figure import Figure

    rows, runs = record["rows"], list(record["about"]["runs"])
    figure = Figure(figsize=(10, 7), layout="constrained")
    (top, left), (layers, epochs) = figure.subplots(2, 2)
    for index, name in enumerate(runs):
        mine = [r for r in rows if r["run"] == name]
        aside = (index - (len(runs) - 1) / 2) * 0.7 / len(runs)
        for axis, kind, key in ((top, "errors", "group"), (left, "domain", "who")):
            told = [r for r in mine if r["kind"] == kind and r["mean"] is not None]
            with_bars(axis, np.arange(len(told)) + aside, told, fmt="o", ms=4, label=name)
            axis.set_xticks(range(len(told)), [r[key] for r in told], rotation=20, fontsize=8)
        weights = [r for r in mine if r["kind"] == "layer"]
        layers.plot([r["state"] for r in weights], [r["weight"] for r in weights], "o-", ms=4)
        curve = [r for r in mine if r["kind"] == "epoch"]
        epochs.plot([r["epoch"] for r in curve], [100 * r["eer"] for r in curve], lw=1)
        chosen = next(r for r in curve if r["epoch"] == record["about"]["runs"][name]["best_epoch"])
        epochs.plot(chosen["epoch"], 100 * chosen["eer"], "o", color=f"C{index}")
    chance = [100 * r["chance"] for r in rows if r["kind"] == "domain"]
    if chance:
        left.axhline(chance[0], color="0.6", lw=0.8, ls="--")
    for axis, title in (
        (top, "EER (%), 95 % over speakers"),
        (left, "accuracy on the domain (%); dashed: the most frequent one"),
        (layers, "learned weight of each hidden state"),
        (epochs, "EER (%) after each epoch, speakers held back; dot: the best"),
    ):
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
        tidy(axis)
    top.legend(fontsize=8, frameon=False)
    return {"training": figure}
