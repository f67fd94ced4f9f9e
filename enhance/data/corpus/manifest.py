"""Clips and their manifests: JSON lines (our own form) or CSV, and scanning of folders."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enhance.audio import read as audio
from enhance.audio.write import SUFFIXES
from enhance.errors import EnhanceError
from enhance.files import (
    is_file,
    is_folder,
    read_jsonl,
    refuse_existing,
    resolved,
    walk,
    write_jsonl,
)
from enhance.progress import tracked

KINDS = {"speech": "speech", "clean": "speech", "noise": "noise"}
"""Words for a clip's kind that folders and manifests use, and what they mean here."""
UNKNOWN = frozenset({"", "-", "none", "unknown", "n/a", "na", "nan", "?"})
"""Entries of a speaker column that name nobody."""
COLUMNS = frozenset({
    "path", "duration", "seconds", "sample_rate", "kind", "source", "speaker", "labels",
})  # fmt: skip
"""What a manifest tells of a clip, whatever the case of its names; the rest is labels."""


@dataclass(frozen=True)
class Clip:
    """One audio file and what is known about it."""

    path: Path
    """Absolute path."""
    duration: float
    """Seconds, as the manifest or the header says."""
    sample_rate: int
    """Of the file; 0 where the manifest does not say."""
    kind: str = ""
    """``speech``, ``noise``, or empty; another word of a manifest is kept as it stands."""
    source: str = ""
    """Where it comes from: clips are drawn by source."""
    speaker: str = ""
    """Who speaks; empty if unknown."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Every other column of the manifest."""

    @property
    def recordings(self) -> tuple[str, ...]:
        """Keys of the recordings this clip was cut from: two clips that share one belong together.

        Named by the label ``recording`` (one name) or ``source_files`` (names parted by spaces),
        else the path.
        """
        if name := self.labels.get("recording"):
            return (f"{self.source}/{name}",)
        names = self.labels.get("source_files", "").split()
        return tuple(f"{self.source}/{name}" for name in names) or (str(self.path),)


def read_manifest(path: Path | str) -> list[Clip]:
    """Clips of a manifest, ``.jsonl`` or ``.csv``.

    Columns: ``path`` (relative to the manifest's folder, or absolute), optionally ``duration`` or
    ``seconds`` (without them the file's header is asked), ``sample_rate``, ``kind``, ``source``,
    ``speaker``; everything else (``labels`` included) becomes labels. A speaker such as
    ``unknown`` counts as none.

    Raises
    ------
    EnhanceError
        If the manifest cannot be read, lacks a column, or names files that are not there: the
        first of them and their number are told.
    """
    path = Path(path)
    if not is_file(path):
        raise EnhanceError(f"{path}: no such manifest; `enhance data manifest FOLDER` makes one")
    folder = resolved(path).parent
    clips = [_clip(row, folder, f"{path}, entry {i}") for i, row in enumerate(read_rows(path), 1)]
    if not clips:
        raise EnhanceError(f"{path}: the manifest is empty")
    missing = [clip.path for clip in clips if not is_file(clip.path)]
    if missing:
        raise EnhanceError(
            f"{path}: {len(missing)} of {len(clips)} files are not there, first {missing[0]}; "
            "restore them or make the manifest anew"
        )
    return clips


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Entries of a JSONL, CSV or TSV file (no quoting there) as dictionaries."""
    path = Path(path)
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise EnhanceError(f"{path}, entry {number}: expected a JSON object")
        return rows
    if path.suffix not in (".csv", ".tsv"):
        raise EnhanceError(f"{path}: a manifest is a .jsonl or .csv file")
    tabs: dict[str, Any] = {}
    if path.suffix == ".tsv":
        tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, **tabs)
            names, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EnhanceError(f"{path}: cannot be read as a table ({error})") from error
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            raise EnhanceError(f"{path}: its columns are parted by {word}; write commas")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise EnhanceError(f"{path}: has the column `{twice[0]}` twice")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise EnhanceError(f"{path}, entry {number}: has another number of columns than line 1")
    return rows


def write_manifest(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write clips as JSON lines, atomically; paths below the manifest's folder become relative."""
    folder = Path(path).parent
    roots = (folder, resolved(folder))  # a clip's path may lead through the same links, or not
    write_jsonl(path, [_row(clip, roots) for clip in clips])


def scan_folder(
    folder: Path | str,
    *,
    kind: str = "",
    source: str = "",
    speaker: str = "",
    quiet: bool = False,
) -> tuple[list[Clip], list[str]]:
    """Clips of the audio files below a folder, in the order of their names, and one line for each
    file whose header or last sample cannot be read. What is hidden is passed over.

    Parameters
    ----------
    kind
        ``speech`` or ``noise``; empty to tell it from a folder's name (``speech``, ``clean``,
        ``noise``), where it has one.
    source
        Name of the source; empty for the folder's name.
    speaker
        A regular expression searched in each path relative to the folder; its first group (or
        the whole match) names the speaker. Empty: speakers are unknown.

    Raises
    ------
    EnhanceError
        If the folder is missing, or the expression is none.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise EnhanceError(f"{folder}: no such folder")
    try:
        pattern = re.compile(speaker) if speaker else None
    except re.error as error:
        raise EnhanceError(f"speaker {speaker!r}: not a regular expression ({error})") from error
    root = resolved(folder)
    clips: list[Clip] = []
    problems: list[str] = []
    paths = list(walk(root, SUFFIXES))
    for path in tracked(paths, "scanning", len(paths), quiet=quiet):
        relative = path.relative_to(root).as_posix()
        try:
            frames, rate = _probe(path)
        except EnhanceError as error:
            problems.append(str(error))
            continue
        found = pattern.search(relative) if pattern else None
        name = found.group(1 if found.re.groups else 0) if found else ""
        clips.append(
            Clip(
                path=path,
                duration=frames / rate,
                sample_rate=rate,
                kind=kind or _kind_of(relative, root.name),
                source=source or root.name,
                speaker=name or "",
            )
        )
    return clips, problems


def make_manifest(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    kind: str = "",
    source: str = "",
    speaker: str = "",
    force: bool = False,
    quiet: bool = False,
) -> tuple[Path, list[Clip], list[str]]:
    """What ``enhance data manifest FOLDER`` does: scan, then write ``FOLDER/manifest.jsonl``.

    Returns the manifest's path, its clips, and one line for each file left out.

    Raises
    ------
    EnhanceError
        If there is no audio in the folder, or a manifest stands there already (see ``force``).
    """
    out = Path(out) if out is not None else Path(folder) / "manifest.jsonl"
    if out.suffix != ".jsonl":
        raise EnhanceError(f"{out}: a manifest is written as .jsonl")
    refuse_existing(out, force=force)
    clips, problems = scan_folder(folder, kind=kind, source=source, speaker=speaker, quiet=quiet)
    if not clips:
        why = f" ({len(problems)} files refused, first: {problems[0]})" if problems else ""
        raise EnhanceError(f"{folder}: holds no audio that can be read{why}")
    write_manifest(out, clips)
    return out, clips, problems


def _kind_of(relative: str, root: str) -> str:
    folders = (part.lower() for part in (*Path(relative).parts[:-1], root))
    return next((KINDS[name] for name in folders if name in KINDS), "")


def _probe(path: Path) -> tuple[int, int]:
    # The header may promise more than the file holds: the last sample must be readable.
    found = audio.info(path)
    audio.read(path, start=max(found.frames - 1, 0), frames=1)
    return found.frames, found.sample_rate


def _clip(row: Mapping[str, Any], folder: Path, where: str) -> Clip:
    row = _by_name(row, where)
    path = row.pop("path", None)
    if not isinstance(path, str) or not path:
        raise EnhanceError(f"{where}: lacks `path`")
    seconds = row.pop("duration", None)
    seconds = row.pop("seconds", None) if seconds in (None, "") else seconds
    place = Path(os.path.normpath(folder / path))
    rate = _number(row.pop("sample_rate", None) or 0)
    if not (rate >= 0 and rate.is_integer()):
        raise EnhanceError(f"{where}: `sample_rate` is no whole number")
    duration = 1.0  # a file that is not there is told with all others
    if seconds not in (None, ""):
        duration = _number(seconds)
    elif is_file(place):
        frames, rate = _probe(place)
        duration = frames / rate
    if not 0 < duration < math.inf:
        raise EnhanceError(f"{where}: `duration` (or `seconds`) {seconds!r} is no positive number")
    kind = str(row.pop("kind", None) or "")
    speaker = str(row.pop("speaker", None) or "")
    labels = row.pop("labels", None) or {}
    if not isinstance(labels, dict):
        raise EnhanceError(f"{where}: `labels` must hold names and values")
    return Clip(
        path=place,
        duration=duration,
        sample_rate=int(rate),
        kind=KINDS.get(kind, kind),
        source=str(row.pop("source", None) or ""),
        speaker="" if speaker.lower() in UNKNOWN else speaker,
        labels={str(k): str(v) for k, v in {**row, **labels}.items() if v not in (None, "")},
    )


def _number(value: Any) -> float:
    """NaN for what is none."""
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return math.nan


def _by_name(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    # Written by hand, a column is ` Speaker` as well; unseen, it would be a label.
    found: dict[str, Any] = {}
    for name, value in row.items():
        key = name.strip()
        key = key.lower() if key.lower() in COLUMNS else key
        if key in found:
            raise EnhanceError(f"{where}: has `{key}` twice")
        found[key] = value.strip() if isinstance(value, str) and key != "path" else value
    return found


def _row(clip: Clip, roots: tuple[Path, ...]) -> dict[str, Any]:
    path = clip.path
    inside = next((root for root in roots if path.is_relative_to(root)), None)
    row = {
        "path": path.relative_to(inside).as_posix() if inside is not None else str(path),
        "duration": round(clip.duration, 6),
        "sample_rate": clip.sample_rate,
        "kind": clip.kind,
        "source": clip.source,
        "speaker": clip.speaker,
    }
    return row | ({"labels": dict(clip.labels)} if clip.labels else {})
