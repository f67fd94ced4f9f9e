"""Does it harm? What a model does to input that it should leave alone (``enhance guard``).

A mean gain at one SNR says nothing about clean speech, a whisper, a pause, or music. Each
condition is measured on real clips (what is made from a formula says so), the untouched input
always among the models; bounds turn the figures into lines that pass, fail or are not shown, and
none is hidden.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures.clusters import clustering, clusters_of
from benchmarks.figures.results import merge_results
from benchmarks.guard import cases as c
from benchmarks.guard.bounds import Harm
from benchmarks.guard.cases import Case, Probe
from benchmarks.guard.summary import Rows, summary
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import NOISY, Candidate, resolve_all
from benchmarks.quality.clips import Row
from benchmarks.quality.evaluate import open_pairs
from benchmarks.quality.heard import list_of
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError, require
from enhance.files import check_writable, sha256, write_jsonl
from enhance.measure.metrics import metric_versions
from enhance.parallel import Workers

CLIPS = "guard-clips.jsonl"

SEX = "an4_([fm])"
"""Speaker names that tell the sex: those of the AN4 corpus."""


@dataclass
class Guard:
    """What `guard` found."""

    folder: Path
    """Where rows and report lie."""
    models: list[Row]
    """One row per model, the input first: the rows written to ``results.jsonl``."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the user."""

    @property
    def failed(self) -> int:
        """Checks that failed, of all models."""
        return sum(check["verdict"] == "fail" for row in self.models for check in row["checks"])


def guard(
    models: str | Path | Sequence[str | Path],
    set: Path | str | None = None,
    out: Path | str = Path("report"),
    *,
    speech: Path | str | None = None,
    noise: Path | str | None = None,
    music: Path | str | None = None,
    limit: int = 48,
    sex: str = SEX,
    jobs: int = 0,
    quiet: bool = False,
) -> Guard:
    """Measure what models do to input they should leave alone; what ``enhance guard`` does.

    Parameters
    ----------
    models
        Checkpoint folders, ONNX files or shipped names.
    set
        Folder with ``clean/`` and ``noisy/`` of the same names. None: the built-in synthetic set.
    out
        Folder for ``guard-clips.jsonl`` and ``results.jsonl``.
    speech
        Folder or manifest of clean speech in another language; without it that is not measured.
    noise
        Folder or manifest of noise to use alone, and with that speech, instead of the set's own.
    music
        Folder or manifest of music; without it a piece is made.
    limit
        Clips of each condition, at even distances over the set's groups; groups are compared on
        `benchmarks.guard.cases.GROUP_FACTOR` times as many.
    sex
        Pattern whose first group is f or m in a speaker's name; used where no label tells it.
    jobs
        Worker processes; 0 for all cores.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If a model or a recording cannot be read, or ``out`` cannot be written.
    KeyboardInterrupt
        On Ctrl-C; nothing is written.
    """
    require("measure", "pesq", "pystoi", "scipy")
    bounds = Harm()
    if limit < 4:
        raise EnhanceError(f"limit {limit}: needs at least 4 clips for each condition")
    try:
        groups = re.compile(sex).groups if sex else 1
    except re.error as error:
        raise EnhanceError(f"sex {sex!r}: not a regular expression ({error})") from error
    if groups < 1:
        raise EnhanceError(f"sex {sex!r}: has no group in parentheses")
    candidates = resolve_all(models)
    if len(candidates) < 2:
        raise EnhanceError("guard: no model named; give ONNX files, shipped names or run folders")
    folder = Path(out)
    name, set_hash, pairs = open_pairs(set, quiet=quiet)
    places = {"speech": speech, "noise": noise, "music": music}
    given = {kind: c.find_clips(place, kind) if place else [] for kind, place in places.items()}
    cases = c.make_cases(pairs, limit, **given)
    heard = [list_of(candidate) for candidate in candidates]
    check_writable(folder / CLIPS)  # after what may be refused, before the long work
    rows = _measure(candidates, cases, Workers(jobs, quiet=quiet))
    sources = {kind: _describe(place, given[kind]) for kind, place in places.items()}
    hashes = {kind: source and source["hash"] for kind, source in sources.items()}
    settings = json.dumps([limit, hashes, asdict(bounds), sex], sort_keys=True)
    common: Row = {
        "kind": "harm",
        "set": name,
        "set_hash": set_hash,
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        "limit": limit,
        "given": sources,
        "interval": f"95 %, {clustering(clusters_of([pair.labels for pair in pairs]))}",
        "bounds": asdict(bounds),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": metric_versions(),
    }
    summaries = [
        summary(candidate, rows, cases, bounds, sex, listed) | common
        for candidate, listed in zip(candidates, heard, strict=True)
    ]
    write_jsonl(folder / CLIPS, [row for own in rows.values() for row in own])
    merge_results(folder, summaries)
    warnings = []
    if not speech:
        warnings.append("another language was not measured; name a folder of it with --speech")
    if not set:
        warnings.append("the set is SYNTHETIC: these figures say nothing about real speech")
    return Guard(folder, summaries, warnings)


def _measure(candidates: Sequence[Candidate], cases: Sequence[Case], workers: Workers) -> Rows:
    probes = [
        Probe(pair, index, case.name, stimulus, case.metrics)
        for case in cases
        for pair, stimulus in case.stimuli
        for index in range(len(candidates))
    ]
    rows: Rows = {(case.name, own.sha256): [] for own in candidates for case in cases}
    with contextlib.closing(rows_of.run(probes, candidates, workers)) as stream:
        for row in stream:
            rows[row["case"], row["model_hash"]].append(row)
    for case in cases:
        order = {pair.name: number for number, (pair, _) in enumerate(case.stimuli)}
        inputs = {row["clip"]: row["metrics"] for row in rows[case.name, NOISY]}
        for own in candidates:
            found = rows[case.name, own.sha256]
            found.sort(key=lambda row: order[row["clip"]])
            for row in found:
                base = inputs[row["clip"]]
                row["gains"] = {k: v - base[k] for k, v in row["metrics"].items() if k in base}
                # What the input could be measured by and the output cannot is the model's fault.
                row["lost"] = sorted(base.keys() - row["metrics"].keys())
    return rows


def _describe(place: Path | str | None, clips: Sequence[Clip]) -> Row | None:
    """Where recordings come from, for the record; None where none were given."""
    if not place:
        return None

    def stated(key: str) -> list[str]:
        return sorted({clip.labels.get(key, "") for clip in clips} - {""})

    ordered = sorted((clip.path for clip in clips), key=lambda path: path.name)
    lines = "".join(f"{path.name}\t{sha256(path)}\n" for path in ordered)
    return {
        "place": str(place),
        "files": len(clips),
        "hash": hashlib.sha256(lines.encode()).hexdigest(),
        "sources": sorted({clip.source for clip in clips} - {""}),
        "languages": stated("language"),
        "licences": stated("licence"),
    }
