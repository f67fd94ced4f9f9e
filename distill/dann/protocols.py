"""Labelled clips of spoofing tasks: our manifests, and the protocol files of ASVspoof.

Layouts, by their number of columns (white space between them, whatever the file's ending):

5   ASVspoof 2019: speaker, file, -, attack, key
8   ASVspoof 2021 LA: speaker, file, codec, transmission, attack, key, trimming, phase
13  ASVspoof 2021 DF: the same (its fourth column is the corpus), vocoder, and four more
10  ASVspoof 5: speaker, file, gender, codec, quality, seed, attack tag, attack, key, -

Of 2021 only the phase `eval` is taken, as its published figures are. Where nothing was coded the
codec is `none`. ASVspoof 2019, and ASVspoof 5 in training, know no codec: DANN has nothing to do
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from enhance.audio import read as audio
from enhance.data.corpus.manifest import Clip, read_manifest
from enhance.errors import EnhanceError
from enhance.files import expanded, is_file, read_text

BONAFIDE, SPOOF = "bonafide", "spoof"
_UNCODED = frozenset({"-", "none", "nocodec"})
_ENDINGS = (".flac", ".wav")


@dataclass(frozen=True)
class Layout:
    """Columns, from 0, that are read; -1 for none."""

    source: str
    attack: int
    key: int
    codec: int = -1
    phase: int = -1


LAYOUTS = {
    5: Layout("ASVspoof2019", attack=3, key=4),
    8: Layout("ASVspoof2021", codec=2, attack=4, key=5, phase=7),
    13: Layout("ASVspoof2021", codec=2, attack=4, key=5, phase=7),
    10: Layout("ASVspoof5", codec=3, attack=7, key=8),
}
"""By the number of columns."""


def read(path: Path, folder: str, task: str, domain: str) -> list[Clip]:
    """Clips with the labels ``label``, ``method`` and ``domain``'s own.

    ``path`` is a manifest (``.jsonl`` or ``.csv``) or a protocol, whose audio lies in ``folder`` or
    below it. The ``task`` `speaker` takes bona fide speech only, and needs speakers instead of
    labels. An `EnhanceError` if it cannot be read, or a clip lacks a label, such as ``domain``, or
    a speaker.
    """
    manifest = path.suffix in (".jsonl", ".csv")
    clips = read_manifest(path) if manifest else read_protocol(path, folder)
    for clip in clips:
        key = clip.labels.get("label", BONAFIDE if task == "speaker" else "")
        if key not in (BONAFIDE, SPOOF):
            raise EnhanceError(f"{path}: {clip.path.name}: label {key!r}, not bonafide or spoof")
        if not clip.labels.get(domain):
            raise EnhanceError(f"{path}: {clip.path.name}: has no label {domain!r}, its domain")
        if not clip.speaker:
            raise EnhanceError(f"{path}: {clip.path.name}: names no speaker")
    if task == "speaker":
        clips = [clip for clip in clips if clip.labels.get("label", BONAFIDE) == BONAFIDE]
        if not clips:
            raise EnhanceError(f"{path}: has no bona fide speech")
    return clips


def read_protocol(path: Path, folder: str) -> list[Clip]:
    """Clips of an ASVspoof protocol.

    An `EnhanceError` if it is none, or a file that it names is not there.
    """
    if not folder:
        raise EnhanceError(f"{path}: a protocol names no folder; set audio to that of its files")
    if not is_file(path):
        raise EnhanceError(f"{path}: no such protocol or manifest")
    lines = read_text(path).splitlines()
    clips = []
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        layout = LAYOUTS.get(len(cells))
        if layout is None or cells[layout.key] not in (BONAFIDE, SPOOF):
            raise EnhanceError(
                f"{path}, line {number}: not of ASVspoof 2019, 2021 (LA, DF) or 5; make a manifest "
                "with the labels label and codec"
            )
        if layout.phase >= 0 and cells[layout.phase] != "eval":
            continue
        codec = cells[layout.codec] if layout.codec >= 0 else "none"
        attack = cells[layout.attack]
        labels = {
            "label": cells[layout.key],
            "codec": "none" if codec in _UNCODED else codec,
            "method": "none" if attack in ("-", BONAFIDE) else attack,
        }
        found = _audio(expanded(folder), cells[1], f"{path}, line {number}")
        told = audio.info(found)
        seconds, rate = told.duration, told.sample_rate
        clips.append(Clip(found, seconds, rate, "speech", layout.source, cells[0], labels))
    if not clips:
        raise EnhanceError(f"{path}: names no clip (of ASVspoof 2021: of the phase eval)")
    return clips


@lru_cache(maxsize=4)
def _index(folder: Path) -> dict[str, Path]:
    """Audio below a folder by its name without ending."""
    return {path.stem: path for path in folder.rglob("*") if path.suffix in _ENDINGS}


def _audio(folder: Path, name: str, where: str) -> Path:
    found = _index(folder).get(name)
    if found is None:
        raise EnhanceError(
            f"{where}: no {name}{_ENDINGS[0]} below {folder}; set audio to its folder"
        )
    return found.resolve()
