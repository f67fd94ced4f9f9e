"""From a study's folder to rows of ``results.jsonl``; nothing here trains or measures.

Rows are of four kinds: ``study`` (what all runs share), ``noisy`` (the input), ``trial`` (one for
each run and seed) and, where a name has several finished seeds, ``trial-mean``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.figures.results import FORMAT, read_rows
from benchmarks.figures.seeds import Row, Scores, by_group, differences, mean_scores
from benchmarks.quality.candidates import NOISY
from benchmarks.quality.evaluate import GROUP_LABELS
from benchmarks.study.file import Study, Trial, changes, changes_since, digest, newer_settings, told
from benchmarks.study.networks import read_times
from benchmarks.study.trial import CLIPS, EVALUATION, Record, is_done, read_record
from distill.training import card
from distill.training.card import leaves
from enhance.config import RunConfig
from enhance.config.settings import to_dict
from enhance.measure.metrics import versions

STALE = "stale"
FAILED = "failed"
OPEN = "not finished"
DONE = "done"

_SAME = ("config_hash", "parameters", "cpu_ms_p50", "cpu_cold_ms_p50", "cpu")
"""What all seeds of a name share."""


def study_rows(study: Study, folder: Path, set_name: str, set_hash: str) -> list[Row]:
    """All rows of a study as its folder stands.

    Parameters
    ----------
    study
        As the study file has it now.
    folder
        Of the study.
    set_name, set_hash
        Set whose scores are wanted.

    Raises
    ------
    EnhanceError
        If a file of the folder is damaged.
    """
    noisy = _scores(folder / NOISY / CLIPS, set_hash, NOISY)
    records = {trial.key: read_record(folder / trial.key) for trial in study.trials}
    states = {t.key: _state(t, records[t.key], set_hash) for t in study.trials}
    scores: dict[str, Scores] = {}
    for trial in study.trials:
        record = records[trial.key]
        if record and states[trial.key][0] == DONE:
            place = folder / trial.key / EVALUATION / CLIPS
            scores[trial.key] = _scores(place, set_hash, record["evaluated"]["model_hash"])
    times = read_times(folder)
    first = study.trials[0]
    head: Row = {
        "kind": "study",
        "title": study.title,
        "study": Path(study.path).name,
        "baseline": study.baseline,
        "of_modes": study.of_modes,
        "teachers": _teachers(study) if study.of_modes else {},
        "seeds": list(study.seeds),
        "hours_heard": first.hours,
        "set": set_name,
        "set_hash": set_hash,
        "clips": len(noisy),
        "metric_versions": versions(),
        "hardware": times.get("hardware"),
        "timing": times.get("settings"),
        "warnings": times.get("warnings", []),
    }
    rows = [head]
    if noisy:
        rows.append({
            "kind": NOISY,
            "metrics": mean_scores([noisy]),
            "groups": _groups([noisy]),
            "clustering": clustering(clusters_of([row["labels"] for row in noisy.values()])),
        })  # fmt: skip
    for trial in study.trials:
        rows.append(_trial_row(study, trial, records, states, scores, times))
    for name in study.names:
        done = [t for t in study.trials if t.name == name and t.key in scores]
        if len(done) > 1:
            rows.append(_mean_row(study, done, scores, rows))
    return [{"kind": row["kind"], "format": FORMAT, **row} for row in rows]


def _teachers(study: Study) -> dict[str, Row | None]:
    """Each teacher of a study of modes, and how far its phone probe lies over the best of MFCC."""
    from distill.backbones.find import SHIPPED

    found: dict[str, Row | None] = {}
    for trial in study.trials:
        for key, value in leaves(json.loads(json.dumps(to_dict(trial.config)))):
            if key.startswith("objective.") and key.endswith("teacher") and value:
                found[str(value)] = None
    for name in found:  # nothing is fetched: of a published teacher no record is known
        for place in (SHIPPED / name, Path(name)):
            if (place / "record.json").is_file():
                gains = (card.read(place).get("phone_probe") or {}).get("gains") or []
                found[name] = next((x for x in gains if x["over"].startswith("MFCC")), None)
                break
    return found


def _state(trial: Trial, record: Record | None, set_hash: str) -> tuple[str, str]:
    """Where a run stands, and why it has no figures."""
    if record is None:
        return OPEN, "has not begun"
    changed = changes_since(record["config"], trial)
    if changed:
        return STALE, f"was trained with other settings than the study has now ({told(changed)})"
    if record.get("failed"):
        return FAILED, record["failed"]["message"]
    if is_done(record, set_hash):
        return DONE, ""
    trained = "is trained, and not evaluated on this set"
    return OPEN, trained if record.get("trained") else "is not trained to its end"


def _trial_row(
    study: Study,
    trial: Trial,
    records: dict[str, Record | None],
    states: dict[str, tuple[str, str]],
    scores: dict[str, Scores],
    times: dict[str, Any],
) -> Row:
    record = records[trial.key] or {}
    state, reason = states[trial.key]
    trained = record.get("trained") if state != STALE else None
    trained = trained or {}
    row: Row = {
        "kind": "trial",
        "run": trial.key,
        **_about(study, trial),
        "seed": trial.seed,
        "seeds": [trial.seed],
        "config_hash": record.get("config_hash") or digest(trial.config),
        "state": state,
        "reason": reason,
        "steps": trained.get("steps"),
        "hours_heard": trained.get("hours_heard"),
        "train_seconds": trained.get("seconds"),
        "train_cpu_seconds": trained.get("cpu_seconds"),
        "parameters": trained.get("parameters"),
        "validation": trained.get("score"),
        **_cpu(times.get("networks", {}).get(digest(trial.config.model))),
        **_measured(study, [trial] if trial.key in scores else [], scores),
        "warnings": [],
    }
    if trial.key not in scores:
        return row
    row["warnings"] = list((record.get("evaluated") or {}).get("warnings", []))
    newer = newer_settings(record["config"], trial)
    if newer:
        row["warnings"].append(
            f"{trial.key}: was trained before these settings existed, which count as their "
            f"defaults: {', '.join(newer)}"
        )
    if row["difference"]:
        other = study.trial(trial.baseline, trial.seed)
        theirs = (records[other.key] or {})["trained"]["training_files"]
        same_data = trial.config.data == other.config.data
        if same_data and theirs != trained["training_files"]:
            row["warnings"].append(
                f"{trial.key}: {other.key} was trained on other files of the same folders "
                "(they changed in between): the difference is not that of the settings alone"
            )
    return row


def _mean_row(
    study: Study, done: Sequence[Trial], scores: dict[str, Scores], rows: Sequence[Row]
) -> Row:
    """One name over its finished seeds."""
    keys = [trial.key for trial in done]
    singles = [row for row in rows if row["kind"] == "trial" and row["run"] in keys]
    return {
        "kind": "trial-mean",
        **_about(study, done[0]),
        "seeds": [trial.seed for trial in done],
        "hours_heard": singles[0]["hours_heard"],
        "train_seconds": _mean([single["train_seconds"] for single in singles]),
        "train_cpu_seconds": _mean([single["train_cpu_seconds"] for single in singles]),
        **{k: singles[0][k] for k in _SAME},
        **_measured(study, done, scores),
    }


def _measured(study: Study, done: Sequence[Trial], scores: dict[str, Scores]) -> Row:
    """Scores over the finished seeds of one name, and against the baseline's where it has them."""
    own = [scores[trial.key] for trial in done]
    row: Row = {
        "metrics": mean_scores(own) if own else None,
        "groups": _groups(own),
        "difference": None,
        "difference_seeds": [],
        "group_difference": {},
    }
    pairs = [(t, study.trial(t.baseline, t.seed).key) for t in done if t.baseline]
    pairs = [(trial, base) for trial, base in pairs if base in scores]
    if pairs:
        row |= _compared([scores[key] for _, key in pairs], [scores[t.key] for t, _ in pairs])
        row["difference_seeds"] = [trial.seed for trial, _ in pairs]
    return row


def _about(study: Study, trial: Trial) -> Row:
    base: RunConfig | None = None
    if trial.baseline:
        base = study.trial(trial.baseline, trial.seed).config
    return {
        "name": trial.name,
        "why": trial.why,
        "baseline": trial.baseline or None,
        "changes": [list(change) for change in changes(base, trial.config)] if base else [],
    }


def _compared(base: Sequence[Scores], own: Sequence[Scores]) -> Row:
    groups: Row = {}
    for label in GROUP_LABELS:
        first, second = by_group(base, label), by_group(own, label)
        if first:
            groups[label] = {value: differences(first[value], second[value]) for value in first}
    return {"difference": differences(base, own), "group_difference": groups}


def _groups(runs: Sequence[Scores]) -> Row:
    return {
        label: {
            value: {"clips": len(cut[0]), "metrics": mean_scores(cut)}
            for value, cut in groups.items()
        }
        for label in GROUP_LABELS
        if (groups := by_group(runs, label))
    }


def _cpu(found: Row | None) -> Row:
    """CPU time of a run's network, in milliseconds per frame."""
    if not found or "regimes" not in found:
        refused = {"refused": found["refused"]} if found else None
        return {"cpu_ms_p50": None, "cpu_cold_ms_p50": None, "cpu": refused}
    regimes = found["regimes"]
    return {
        "cpu_ms_p50": regimes["hot"]["cpu_ms"]["p50"],
        "cpu_cold_ms_p50": regimes["cold"]["cpu_ms"]["p50"],
        "cpu": {
            "timed": found["run"],
            "hop_ms": found["hop_ms"],
            "regimes": regimes,
            "ratio": found["ratio"],
            "macs_per_second": found["macs_per_second"],
            "file_bytes": found["file_bytes"],
        },
    }


def _scores(path: Path, set_hash: str, model_hash: str) -> Scores:
    """Rows of one model on one set, by clip."""
    return {
        row["clip"]: row
        for row in read_rows(path)
        if row["set_hash"] == set_hash and row["model_hash"] == model_hash
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
