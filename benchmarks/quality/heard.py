"""Did the model hear this test set while it was trained? By bytes, and by name.

The same bytes are certain. The same name is a strong hint only: a corpus may have been encoded or
cut anew, which changes every byte and no name. Names that say nothing (digits, ``noisy``) are not
compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.candidates import Candidate
from benchmarks.quality.clips import Pair
from enhance.files import read_jsonl

_AUDIO = re.compile(r"\.(wav|flac|ogg|opus|mp3|aiff?|m4a|sph|au|raw)$", re.IGNORECASE)
_FILE_LABELS = {"source_files", "speech_files", "noise_files", "noise_name", "recording"}
_EMPTY = {"clean", "noisy", "noise", "speech", "audio", "sample", "mixture", "output", "input"}


@dataclass(frozen=True)
class Heard:
    """What the check found."""

    checked: str
    """Where the list of training files was; empty if there was none."""
    files: int = 0
    """Files in that list."""
    same_bytes: list[list[str]] = field(default_factory=list)
    """(clip, training file) with the same bytes."""
    same_name: list[list[str]] = field(default_factory=list)
    """(clip, training file) with the same name only."""

    def lines(self, model: str, clips: int) -> list[str]:
        """Warnings for the user, one a line; empty if nothing is wrong."""
        if not self.checked:
            return [
                f"{model}: no list of training files found beside it (heard.jsonl), so it cannot "
                "be told whether it was trained on this test set"
            ]
        found = []
        for kind, pairs in (("the same bytes", self.same_bytes), ("the same name", self.same_name)):
            if pairs:
                some = ", ".join(f"{clip} ({file})" for clip, file in pairs[:3])
                count = len({clip for clip, _ in pairs})
                more = " ..." if len(pairs) > 3 else ""
                found.append(
                    f"{model}: {count} of {clips} test clips hold a file that was heard in "
                    f"training, by {kind}: {some}{more}"
                )
        return found


def telling_name(path: str) -> str:
    """Stem of a file name in lower case, or nothing where it says nothing about its content."""
    stem = _AUDIO.sub("", str(path).replace("\\", "/").rsplit("/", 1)[-1]).lower()
    return stem if len(stem) >= 5 and re.search("[a-z]", stem) and stem not in _EMPTY else ""


def source_names(name: str, labels: Mapping[str, str]) -> set[str]:
    """Names of a test pair and of the files it was made from."""
    found = {telling_name(name)}
    for label, value in labels.items():
        # One file, with its folders, in whose names spaces part nothing.
        for word in [value] if label == "noise_name" else _words(value):
            if _AUDIO.search(word) or label in _FILE_LABELS:
                found.add(telling_name(word))
    return found - {""}


def _words(value: Any) -> list[str]:
    """Items of a list as they are, the words of a text."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else str(value).split()


def list_of(candidate: Candidate) -> tuple[str, list[dict[str, Any]]]:
    """The list of training files that belongs to a model, and where it lies.

    A checkpoint has ``heard.jsonl`` in its folder; beside an ONNX file lies ``NAME.heard.jsonl`` or
    ``heard.jsonl``.
    """
    if candidate.kind in ("noisy", "outputs"):
        return "", []
    path = Path(candidate.path)
    if candidate.kind == "checkpoint":
        places = [path / "heard.jsonl"]
    else:
        stem = path.name.removesuffix(".onnx")
        stems = [stem, stem.removesuffix(".int8"), stem.removesuffix(".int8w")]
        names = [*(f"{stem}.heard.jsonl" for stem in stems), "heard.jsonl"]
        places = [path.with_name(name) for name in names]
    for place in places:
        if place.is_file():
            rows = [row for row in read_jsonl(place) if isinstance(row, dict)]
            return str(place), rows
    return "", []


def check(candidate: Candidate, clips: Sequence[Pair]) -> Heard:
    """Compare a test set with what a model heard.

    Words of the clips' labels that look like audio files are taken as their sources.
    """
    place, rows = list_of(candidate)
    if not place:
        return Heard("")
    by_hash = {str(row["sha256"]): str(row.get("path", "")) for row in rows if row.get("sha256")}
    by_name: dict[str, str] = {}
    for row in rows:
        for name in heard_names(row):
            by_name.setdefault(name, str(row.get("path", "")))
    same_bytes, same_name = [], []
    for clip in clips:
        hashes = (clip.clean_sha256, clip.noisy_sha256)
        hits = dict.fromkeys(by_hash[value] for value in hashes if value in by_hash)
        same_bytes += [[clip.name, Path(file).name] for file in hits]
        if not hits:
            names = sorted(source_names(clip.name, clip.labels) & by_name.keys())
            same_name += [[clip.name, Path(by_name[name]).name] for name in names]
    return Heard(place, len(rows), same_bytes, same_name)


def heard_names(row: Mapping[str, Any]) -> set[str]:
    """Names of a training file, one row of heard.jsonl, and of what it was cut from."""
    labels = row.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    words = [str(row.get("path", ""))]
    for key in ("source_files", "recordings", "recording"):
        words += _words(row.get(key) or labels.get(key) or "")
    return {telling_name(word) for word in words} - {""}
