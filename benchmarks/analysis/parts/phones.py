"""Phones of recordings: forced alignments, as a table beside a manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enhance.data.corpus.clips import manifest_of
from enhance.data.corpus.manifest import Clip, read_manifest, read_rows
from enhance.errors import EnhanceError
from enhance.files import is_file, is_folder

SILENCE = "SIL"
Span = tuple[float, float, int]
"""Start and end in seconds, and the number of the phone."""


def label_at(rows: list[Span], seconds: np.ndarray) -> np.ndarray:
    """Number of the phone at each time in seconds, -1 where no phone stands: (T,) to int (T,)."""
    labels = np.full(len(seconds), -1)
    for start, end, phone in rows:
        labels[(seconds >= start) & (seconds < end)] = phone
    return labels


def read_phones(folder: Path) -> tuple[list[Clip], list[list[Span]], list[str]]:
    """Clips of a folder, the phones of each, silence left out, and the names of the phones.

    The folder has ``manifest.csv`` (path, seconds, speaker) or else ``manifest.jsonl``, which may
    be named in its place, and ``phones.csv`` with the columns ``file``, ``start_s``, ``end_s`` and
    ``phone_base`` or ``phone``. An `EnhanceError` names a file or column that is missing.
    """
    if is_folder(folder):
        made = folder / "manifest.csv"
        manifest = made if is_file(made) else manifest_of(folder) or made
    else:
        manifest = folder
    folder, clips = manifest.parent, read_manifest(manifest)
    if not is_file(folder / "phones.csv"):
        raise EnhanceError(f"{folder / 'phones.csv'}: not there; `enhance data align` makes one")
    rows: dict[Path, list[tuple[float, float, str]]] = {}
    try:
        for row in read_rows(folder / "phones.csv"):
            name = row.get("phone_base") or row["phone"]
            if name != SILENCE:
                span = (float(row["start_s"]), float(row["end_s"]), name)
                rows.setdefault((folder / row["file"]).resolve(), []).append(span)
    except (KeyError, ValueError) as error:
        raise EnhanceError(f"{folder / 'phones.csv'}: not a table of phones ({error})") from error
    phones = sorted({name for spans in rows.values() for _, _, name in spans})
    number = {name: i for i, name in enumerate(phones)}
    spans = [
        [(a, b, number[name]) for a, b, name in rows.get(clip.path.resolve(), [])] for clip in clips
    ]
    return clips, spans, phones
