"""What the records of analyses say, asked by the claims: states of probes, curves, studies.

Models have other depths than those of the seeds (12 or 24 blocks): a layer of a claim is compared
by its share of the depth, state k of L blocks standing at k / L.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from benchmarks.analysis.parts.record import Record, read
from benchmarks.figures.results import read_results
from benchmarks.figures.statistics import Interval, mean_interval
from benchmarks.figures.tables import number, with_interval
from enhance.errors import EnhanceError
from enhance.files import read_json, read_jsonl

Found = TypeVar("Found")
Word = Literal["supported", "not supported", "not testable here"]
Row = Mapping[str, Any]


RECONSTRUCT = "reconstruct"
"""Folder that `enhance analyze reconstruct` wrote to, within that of the other records."""


def reconstruction(folder: Path) -> Record:
    """What a reconstruction measured, as a record."""
    rows = read_jsonl(folder / "results.jsonl")
    record = read_json(folder / "record.json")
    try:
        about = {key: record[key] for key in ("set", "clips", "input", "interval")}
        unit = record["recognizer"]["errors"]
    except (KeyError, TypeError) as error:
        raise EnhanceError(
            f"{folder / 'record.json'}: not the record of enhance analyze reconstruct (it lacks "
            f"{error}); run it again"
        ) from error
    return {"analysis": RECONSTRUCT, "about": about, "unit": unit, "rows": rows}


@dataclass(frozen=True)
class Verdict:
    """Of one claim."""

    word: Word
    """In one word."""
    figure: str
    """What was measured, or what is missing."""


class Untestable(Exception):
    """Nothing was measured that could decide; the text says what is missing."""


def need(found: Found | None, missing: str) -> Found:
    """What a claim is judged by; `Untestable` if there is none of it."""
    if not found:
        raise Untestable(missing)
    return found


def decided(holds: bool, figure: str) -> Verdict:
    """The figures decide."""
    return Verdict("supported" if holds else "not supported", figure)


@dataclass(frozen=True)
class Evidence:
    """All records of a folder."""

    records: Mapping[str, Record]
    """By the name of the analysis."""
    families: Mapping[str, str]
    """Kind of each backbone, by its label: ``wavlm``, ``wav2vec2``, ``ecapa-tdnn`` and so on."""
    study: tuple[Row, ...] = ()
    """Rows of a comparison of modes."""

    @classmethod
    def open(cls, folder: Path, study: Path | None) -> Evidence:
        """Read what analyses left in a folder, and a study.

        An `EnhanceError` names a file that is damaged, or a study without results.
        """
        names = sorted(path.stem for path in folder.glob("*.json"))
        records = {name: read(folder, name) for name in names}
        if (folder / RECONSTRUCT / "results.jsonl").is_file():
            records[RECONSTRUCT] = reconstruction(folder / RECONSTRUCT)
        families: dict[str, str] = {}
        for name, record in records.items():
            about = record["about"]
            try:
                families |= about.get("backbones", {})
                families |= {r["backbone"]: r["family"] for r in about.get("runs", {}).values()}
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise EnhanceError(
                    f"{folder / name}.json: does not tell the kinds of its models, as an older "
                    "version wrote it; run the analysis again"
                ) from error
        return cls(records, families, tuple(read_results(study)) if study else ())

    def of_family(self, *families: str) -> list[str]:
        """Labels of the backbones of some kinds."""
        return [label for label, family in self.families.items() if family in families]

    def rows(self, analysis: str, **wanted: Any) -> list[Row]:
        """Rows of a record with these values; none where it was not run."""
        rows = self.records.get(analysis, {"rows": []})["rows"]
        return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]

    def states(self, analysis: str, backbone: str) -> list[Row]:
        """Rows of the single states of a backbone, in order."""
        rows = self.rows(analysis, backbone=backbone, kind="model")
        return [row for row in rows if str(row.get("features", "")).startswith("state")]

    def best(self, analysis: str, backbone: str) -> tuple[Row, float] | None:
        """The best single state of a probe, and its share of the depth; None for a single one."""
        rows = self.states(analysis, backbone)
        if len(rows) < 3:
            return None
        values = self._better(analysis) * np.array([row["mean"] for row in rows])
        place = int(values.argmax())
        return rows[place], place / (len(rows) - 1)

    def _better(self, analysis: str) -> int:
        return 1 if self.records[analysis]["about"]["metric"] == "accuracy" else -1

    def layers(self, analysis: str, backbone: str, low: float, high: float) -> Verdict:
        """Whether the best state lies between two shares of the depth."""
        asked = f"enhance analyze probe did not ask {analysis[6:]} of {backbone}"
        best, depth = need(self.best(analysis, backbone), asked)
        rows = self.states(analysis, backbone)
        half = 0.5 / (len(rows) - 1)  # a state stands for the depth around it
        inside = [
            row for k, row in enumerate(rows) if low - half <= k / (len(rows) - 1) <= high + half
        ]
        sign = self._better(analysis)
        nearest = max(inside, key=lambda row: sign * row["mean"])
        text = f"{backbone}: best {best['features']} of {len(rows) - 1}, {with_interval(best)}"
        if best is not nearest:
            text += f"; within the claimed depth {nearest['features']}, {with_interval(nearest)}"
        return decided(low - half <= depth <= high + half, text)

    def gain(self, analysis: str, backbone: str, over: str) -> Row | None:
        """The paired gain of a probe's best state over a control."""
        rows = self.records.get(analysis, {"gains": []})["gains"]
        return next((row for row in rows if row["backbone"] == backbone and row["over"] == over
                     and row["features"].startswith("state")), None)  # fmt: skip

    def eers(self, backbone: str, setting: str) -> dict[int, float]:
        """Pooled EER by seed of the adversarial runs of one setting (`setting_of`)."""
        runs = self.records.get("dann", {"about": {"runs": {}}})["about"]["runs"]
        return {
            facts["seed"]: row["mean"]
            for name, facts in runs.items()
            if facts["backbone"] == backbone and setting_of(facts) == setting
            for row in self.rows("dann", kind="errors", run=name, group="pooled")
            if row["mean"] is not None  # clips of one kind give none
        }


def setting_of(facts: Row) -> str:
    """What an adversarial run differs in from the plain one: a recommendation of seed 000."""
    heard = any(facts["lambda"])  # else the discriminator changes nothing
    told = {
        "erm": not heard,
        "first-k": facts["layers"].startswith("first_k"),
        "unfreeze": not facts["freeze"],
        "lambda": heard and facts["lambda"] != [0.0, 1.0],
        "discriminator": heard and max(facts["discriminator"]) >= 1024,
        "attention": facts["pooling"] == "attention",
    }
    return "+".join(name for name, holds in told.items() if holds) or "dann"


def paired(less: Mapping[int, float], more: Mapping[int, float]) -> Interval | None:
    """Difference of two settings over the seeds they share; None for fewer than 3."""
    seeds = sorted(less.keys() & more.keys())
    return mean_interval([more[s] - less[s] for s in seeds]) if len(seeds) >= 3 else None


def listed(values: Mapping[str, float], digits: int = 3) -> str:
    """``a .12, b .34``"""
    return ", ".join(f"{name} {number(v, digits)}" for name, v in values.items())
