"""What layouts share: a count of what was made, evaluation sets of links."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.errors import EnhanceError
from enhance.files import sha256, unwritable, write_jsonl

Pair = tuple[str, Path, Path, Mapping[str, str]]
"""Name, clean file, noisy file, labels."""


@dataclass(frozen=True)
class Found:
    """One part of a corpus that was made."""

    name: str
    """Of its folder below the one that was made."""
    files: int
    """Files of a training corpus, or pairs of an evaluation set."""
    hours: float = 0.0
    """Of a training corpus."""
    problems: tuple[str, ...] = ()
    """One line for each file that was left out."""


def write_training(folder: Path, clips: Sequence[Clip], problems: Sequence[str]) -> Found:
    """The manifest of a training corpus."""
    write_manifest(folder / "manifest.jsonl", clips)
    hours = sum(clip.duration for clip in clips if clip.kind == "speech") / 3600
    return Found(folder.name, len(clips), hours, tuple(problems))


def write_pairs(folder: Path, pairs: Sequence[Pair]) -> None:
    """An evaluation set: links in ``clean/`` and ``noisy/``, labels and hashes in the manifest; an
    `EnhanceError` if a file cannot be read, or links cannot be made there."""
    rows = []
    for name, clean, noisy, labels in pairs:
        for part, path in (("clean", clean), ("noisy", noisy)):
            link = folder / part / f"{name}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(path)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                raise unwritable(link, error, "made as a link") from error
        rows.append({
            "name": name,
            "path": f"noisy/{name}{noisy.suffix}",
            "clean_sha256": sha256(clean),
            "noisy_sha256": sha256(noisy),
            "labels": dict(labels),
        })  # fmt: skip
    write_jsonl(folder / "manifest.jsonl", rows)


def paired(clean: Mapping[str, Path], noisy: Mapping[str, Path], where: Path) -> list[str]:
    """The names, sorted; an `EnhanceError` if one is only on one side, or there is none."""
    alone = sorted(set(clean) ^ set(noisy))
    if alone or not clean:
        raise EnhanceError(
            f"{where}: {len(alone)} files have no partner, first {alone[0]}"
            if alone
            else f"{where}: holds no audio"
        )
    return sorted(clean)
