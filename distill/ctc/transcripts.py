"""Lists of recordings and what is said in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from enhance.data.corpus.manifest import UNKNOWN, read_rows
from enhance.errors import EnhanceError

KINDS = (".csv", ".tsv", ".jsonl")


class Transcript(NamedTuple):
    """One recording."""

    path: Path
    """Audio file, absolute."""
    text: str
    """What is said, as it was written."""
    speaker: str = ""
    """Who says it; empty if unknown."""


def read_transcripts(path: Path | str) -> list[Transcript]:
    """Read a file of transcripts: ``.csv`` or ``.tsv`` with a first line of names (no quoting in
    ``.tsv``), or ``.jsonl``.

    Columns: ``path`` (relative to the file's folder, or absolute), ``text``, and, where known,
    ``speaker``; others are passed over. An `EnhanceError` if the file cannot be read, lacks a
    column, has an empty text, names an audio file twice or one that is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise EnhanceError(f"{path}: no such file of transcripts (columns path and text)")
    if path.suffix not in KINDS:
        raise EnhanceError(f"{path}: transcripts are a {', '.join(KINDS)} file")
    found = [_transcript(row, path, number) for number, row in enumerate(read_rows(path), 1)]
    if not found:
        raise EnhanceError(f"{path}: holds no transcript")
    missing = [row.path for row in found if not row.path.is_file()]
    if missing:
        raise EnhanceError(
            f"{path}: {len(missing)} of {len(found)} audio files are not there, first "
            f"{missing[0]}; paths are relative to the folder of {path.name}"
        )
    seen: dict[Path, int] = {}
    for number, row in enumerate(found, 1):
        first = seen.setdefault(row.path, number)
        if first != number:
            raise EnhanceError(
                f"{path}, entries {first} and {number}: both name {row.path}; keep one of them"
            )
    return found


def _transcript(row: dict[str, Any], path: Path, number: int) -> Transcript:
    for name in ("path", "text"):
        if name not in row:
            names = ", ".join(map(str, row)) or "none"
            raise EnhanceError(f"{path}, entry {number}: lacks `{name}` (there is {names})")
        if not isinstance(row[name], str) or not row[name].strip():
            raise EnhanceError(
                f"{path}, entry {number}: `{name}` is empty or no text; correct it or leave the "
                "entry out"
            )
    speaker = str(row.get("speaker") or "").strip()
    return Transcript(
        # resolve() would leave the folder of a link
        path=Path(os.path.normpath(path.absolute().parent / row["path"].strip())),
        text=row["text"],
        speaker="" if speaker.lower() in UNKNOWN else speaker,
    )
