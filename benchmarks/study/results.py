"""From a study's folder to rows of ``results.jsonl``; nothing here trains or measures.

Rows are of four kinds: ``study`` (what all runs share), ``noisy`` (the input), ``trial`` (one for
each run and seed) and, where a name has several finished seeds, ``trial-mean``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.figures.results import FORMAT, read_rows
from benchmarks.figures.seeds import Row, Scores, by_group, differences, grouped, mean_scores
from benchmarks.quality.candidates import NOISY
from benchmarks.quality.evaluate import GROUP_LABELS
from benchmarks.study.file import Study, Trial, changes, digest, newer_settings
from benchmarks.study.networks import read_times
from benchmarks.study.trial import CLIPS, DONE, EVALUATION, STALE, Record, read_record, state_of
from distill.backbones.find import SHIPPED
from distill.training import card
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.measure.metrics import metric_versions

_SAME = ("config_hash", "parameters", "cpu_ms_p50", "cpu_cold_ms_p50", "cpu")
"""What all seeds of a name share."""


def study_rows(study: Study, folder: Path, set_name: str, set_hash: str) -> list[Row]:
    """All rows of a study as its folder stands, with scores on one set.

    An `EnhanceError` if a file of the folder is damaged.
    """
    found = _Found(study, folder, set_hash)
    times = found.times
    head: Row = {
        "kind": "study",
        "title": study.title,
        "study": Path(study.path).name,
        "baseline": study.baseline,
        "of_modes": study.of_modes,
        "teachers": _teachers(study) if study.of_modes else {},
        "seeds": list(study.seeds),
        "budget": study.budget,
        "hours_heard": study.trials[0].hours,
        "set": set_name,
        "set_hash": set_hash,
        "clips": len(found.noisy),
        "metric_versions": metric_versions(),
        "hardware": times.get("hardware"),
        "timing": times.get("settings"),
        "warnings": times.get("warnings", []),
    }
    rows = [head]
    if found.noisy:
        labels = [row["labels"] for row in found.noisy.values()]
        rows.append({
            "kind": NOISY,
            "metrics": mean_scores([found.noisy]),
            "groups": grouped([found.noisy], GROUP_LABELS, mean_scores),
            "clustering": clustering(clusters_of(labels)),
        })  # fmt: skip
    singles = [found.trial_row(trial) for trial in study.trials]
    rows += singles
    for name in study.names:
        done = [t for t in study.trials if t.name == name and t.key in found.scores]
        if len(done) > 1:
            keys = [trial.key for trial in done]
            rows.append(found.mean_row(done, [row for row in singles if row["run"] in keys]))
    return [{"kind": row["kind"], "format": FORMAT, **row} for row in rows]


class _Found:
    """What lies in a study's folder: records, scores on one set, times."""

    def __init__(self, study: Study, folder: Path, set_hash: str) -> None:
        self.study = study
        self.noisy = _scores(folder / NOISY / CLIPS, set_hash, NOISY)
        self.records = {trial.key: read_record(folder / trial.key) for trial in study.trials}
        self.states = {
            t.key: state_of(t, folder / t.key, self.records[t.key], set_hash) for t in study.trials
        }
        self.scores: dict[str, Scores] = {}
        for key, record in self.records.items():
            if record and self.states[key][0] == DONE:
                place = folder / key / EVALUATION / CLIPS
                self.scores[key] = _scores(place, set_hash, record["evaluated"]["model_hash"])
        # Of the set as it stands: its manifest may have told other things when a run was measured.
        for row in (row for scores in self.scores.values() for row in scores.values()):
            row["labels"] = self.noisy.get(row["clip"], row)["labels"]
        self.times = read_times(folder)

    def trial_row(self, trial: Trial) -> Row:
        """One run of one seed."""
        record = self.records[trial.key] or {}
        state, reason = self.states[trial.key]
        trained = (record.get("trained") if state != STALE else None) or {}
        row: Row = {
            "kind": "trial",
            "run": trial.key,
            **self._about(trial),
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
            **_cpu(self.times.get("networks", {}).get(digest(trial.config.model))),
            **self._measured([trial] if trial.key in self.scores else []),
            "warnings": [],
        }
        if trial.key in self.scores:
            row["warnings"] = self._warnings(trial, record, bool(row["difference"]))
        return row

    def _warnings(self, trial: Trial, record: Record, compared: bool) -> list[str]:
        lines = list((record.get("evaluated") or {}).get("warnings", []))
        newer = newer_settings(record["config"], trial)
        if newer:
            lines.append(
                f"{trial.key}: was trained before these settings existed, which count as their "
                f"defaults: {', '.join(newer)}"
            )
        if compared:
            other = self.study.trial(trial.baseline, trial.seed)
            theirs = (self.records[other.key] or {})["trained"]["training_files"]
            same_data = trial.config.data == other.config.data
            if same_data and theirs != record["trained"]["training_files"]:
                lines.append(
                    f"{trial.key}: {other.key} was trained on other files of the same folders "
                    "(they changed in between): the difference is not that of the settings alone"
                )
        return lines

    def mean_row(self, done: Sequence[Trial], singles: Sequence[Row]) -> Row:
        """One name over its finished seeds, of the rows of each."""
        return {
            "kind": "trial-mean",
            **self._about(done[0]),
            "seeds": [trial.seed for trial in done],
            "hours_heard": singles[0]["hours_heard"],
            "train_seconds": _mean([single["train_seconds"] for single in singles]),
            "train_cpu_seconds": _mean([single["train_cpu_seconds"] for single in singles]),
            **{k: singles[0][k] for k in _SAME},
            **self._measured(done),
        }

    def _measured(self, done: Sequence[Trial]) -> Row:
        """Scores over the finished seeds of one name, and against its baseline's."""
        own = [self.scores[trial.key] for trial in done]
        row: Row = {
            "metrics": mean_scores(own) if own else None,
            "groups": grouped(own, GROUP_LABELS, mean_scores),
            "difference": None,
            "difference_seeds": [],
            "group_difference": {},
        }
        pairs = [(t, self.study.trial(t.baseline, t.seed).key) for t in done if t.baseline]
        pairs = [(trial, base) for trial, base in pairs if base in self.scores]
        if pairs:
            base = [self.scores[key] for _, key in pairs]
            own = [self.scores[trial.key] for trial, _ in pairs]
            row["difference"] = differences(base, own)
            row["difference_seeds"] = [trial.seed for trial, _ in pairs]
            for label in GROUP_LABELS:
                first, second = by_group(base, label), by_group(own, label)
                if first:
                    found = {value: differences(first[value], second[value]) for value in first}
                    row["group_difference"][label] = found
        return row

    def _about(self, trial: Trial) -> Row:
        base = self.study.trial(trial.baseline, trial.seed) if trial.baseline else None
        differ = changes(to_dict(base.config), to_dict(trial.config)) if base else []
        return {
            "name": trial.name,
            "why": trial.why,
            "baseline": trial.baseline or None,
            "changes": [list(change) for change in differ],
        }


def _teachers(study: Study) -> dict[str, Row | None]:
    """Each teacher of a study of modes, and how far its phone probe lies over the best of MFCC."""
    found: dict[str, Row | None] = {}
    for trial in study.trials:
        for key, value in card.leaves(json.loads(json.dumps(to_dict(trial.config)))):
            if key.startswith("objective.") and key.endswith("teacher") and value:
                found[str(value)] = None
    for name in found:  # nothing is fetched: of a published teacher no record is known
        for place in (SHIPPED / name, Path(name)):
            if (place / "record.json").is_file():
                gains = (card.read(place).get("phone_probe") or {}).get("gains") or []
                found[name] = next((x for x in gains if x["over"].startswith("MFCC")), None)
                break
    return found


def _cpu(found: Row | None) -> Row:
    """CPU time of a run's network, in milliseconds per frame."""
    if not found or "regimes" not in found:
        refused = {"refused": found["refused"]} if found else None
        return {"cpu_ms_p50": None, "cpu_cold_ms_p50": None, "cpu": refused}
    regimes = found["regimes"]
    kept = ("hop_ms", "regimes", "ratio", "macs_per_second", "file_bytes")
    return {
        "cpu_ms_p50": regimes["hot"]["cpu_ms"]["p50"],
        "cpu_cold_ms_p50": regimes["cold"]["cpu_ms"]["p50"],
        "cpu": {"timed": found["run"], **{key: found[key] for key in kept}},
    }


def _scores(path: Path, set_hash: str, model_hash: str) -> Scores:
    """Rows of one model on one set, by clip."""
    own = [r for r in read_rows(path) if (r["set_hash"], r["model_hash"]) == (set_hash, model_hash)]
    for row in own:
        if not _whole(row):
            raise EnhanceError(
                f"{path}: is damaged: clip {row['clip']!r} has a metric that is no number, or no "
                "labels; bring the file back from a copy"
            )
    return {row["clip"]: row for row in own}


def _whole(row: Row) -> bool:
    """Whether a row has all that is computed with."""
    metrics = row.get("metrics")
    return (
        isinstance(row["clip"], str)
        and isinstance(row.get("labels"), dict)
        and isinstance(metrics, dict)
        and all(type(x) in (int, float) and math.isfinite(x) for x in metrics.values())
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
