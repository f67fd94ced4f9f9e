"""What training hears: the named manifests and folders, split so that validation hears others."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from enhance.config import DataConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip, read_manifest, scan_folder
from enhance.errors import EnhanceError
from enhance.files import expanded, is_file, is_folder

log = logging.getLogger("enhance")
Weights = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]
"""See `source_weights`."""


def load_clips(
    data: DataConfig, *, held_out: bool = False, quiet: bool = False
) -> tuple[list[Clip], list[Clip]]:
    """Speech and noise clips that a configuration names, without duplicates.

    ``held_out`` takes only those of `DataConfig.held_out`, instead of all others. An `EnhanceError`
    if a place is missing or holds nothing of its kind, only one of speech and noise is named, a
    source to hold out has no clip, or no speech or noise is left.
    """
    speech, noise = _named(data, quiet)
    absent = set(data.held_out) - {clip.source for clip in (*speech, *noise)}
    if absent:
        raise EnhanceError(f"data.held_out: no clip is of the source {sorted(absent)[0]!r}")

    def part(kind: str, clips: Sequence[Clip]) -> list[Clip]:
        found = [clip for clip in clips if (clip.source in data.held_out) == held_out]
        if not found:
            raise EnhanceError(
                f"data.held_out: names no source of {kind}, so that no set can be made of it; give "
                "the configuration that does (-c FILE)"
                if held_out
                else f"data.held_out: leaves no {kind} to train on"
            )
        return found

    return part("speech", speech), part("noise", noise)


def _named(data: DataConfig, quiet: bool) -> list[list[Clip]]:
    """Speech and noise."""
    corpus = data.corpus
    if not (corpus or data.speech or data.noise):
        from enhance.data.corpus import demo_corpus

        corpus = str(demo_corpus.ensure(quiet=quiet))
        log.warning("no data named: using the built-in SYNTHETIC corpus (%s)", corpus)
    clips = _corpus(expanded(corpus), quiet) if corpus else []
    if corpus and not {clip.kind for clip in clips} & {"speech", "noise"}:
        raise EnhanceError(
            f"{corpus}: nothing there is marked as speech or noise; the manifest needs a "
            "column `kind`, or the folder subfolders `speech` and `noise`"
        )
    parts = []
    for kind, places in (("speech", data.speech), ("noise", data.noise)):
        part = of_kind(clips, kind)
        for named in places:
            found = place(expanded(named), kind, quiet)
            found = [clip for clip in found if clip.kind in (kind, "")]
            if not found:
                raise EnhanceError(f"data.{kind}: {named} holds no clip of kind {kind}")
            part += found
        if not part:
            raise EnhanceError(
                f"{corpus}: no {kind} there (column `kind` of its manifest, or a folder "
                f"`{kind}`); add some, or set data.{kind}"
                if corpus
                else f"no {kind} named: set data.{kind}, or data.corpus to a folder"
            )
        parts.append(list({clip.path: clip for clip in reversed(part)}.values())[::-1])
    return parts


def split(
    clips: Sequence[Clip],
    fraction: float,
    by: Literal["speaker", "path"] = "speaker",
    seed: int = 0,
) -> tuple[list[Clip], list[Clip]]:
    """Part clips into kept and held back, so that no speaker (or recording) is on both sides.

    Clips that share a speaker (for ``by="speaker"``) or a recording (`Clip.recordings`) form a
    group that stays together; a clip of unknown speaker is grouped by recording alone. Of each
    source, groups in an order drawn by ``seed`` are held back up to about ``fraction`` of its
    duration, at most twice as much; one group (a single voice) stays. If no group fits anywhere,
    the shortest group of all is held back. If all speech is one speaker's, it is split
    by recording instead, with a warning; one recording alone is refused by an `EnhanceError`. Both
    parts keep the order of ``clips``; for ``fraction=0`` nothing is held back.
    """
    if fraction <= 0:
        return list(clips), []
    group = groups_of(clips, by)
    members: dict[int, list[int]] = {}
    for i, root in enumerate(group):
        members.setdefault(root, []).append(i)
    if len(members) < 2 and by == "speaker" and clips:
        who = clips[0].speaker or "nobody is named"
        log.warning("only one speaker (%s): validation hears the same voice", who)
        return split(clips, fraction, "path", seed)
    if len(members) < 2:
        raise EnhanceError(
            f"{clips[0].path if clips else 'no clips'}: only one recording, nothing can be held "
            "back; name more data (a training of an enhancer may hold back none: data.held_back=0)"
        )
    seconds = {root: sum(clips[i].duration for i in ids) for root, ids in members.items()}
    sources: dict[str, list[int]] = {}
    for root in members:
        sources.setdefault(clips[root].source, []).append(root)
    held: set[int] = set()
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(clips)]))
    for source in sorted(sources):
        roots = sources[source]
        room, left = fraction * sum(seconds[root] for root in roots), len(roots)
        # A group somewhat longer than the room is let in, or few speakers would leave none.
        for j in rng.permutation(len(roots)):
            if left > 1 and seconds[roots[j]] <= 2 * room:
                left -= 1
                held.add(roots[j])
                room -= seconds[roots[j]]
    if not held:
        held.add(min(members, key=lambda root: (seconds[root], root)))
    kept = [clip for clip, root in zip(clips, group, strict=True) if root not in held]
    return kept, [clip for clip, root in zip(clips, group, strict=True) if root in held]


def source_weights(store: ClipStore, balance: float) -> Weights:
    """How clips are drawn: a source by its hours to the power ``balance``, a clip by its length.

    Of each source, in the order of their names, the clips' numbers and the running sum of their
    samples; then the running sum of the sources' probabilities, (S,), last entry 1.
    """
    by_source: dict[str, list[int]] = {}
    for i, clip in enumerate(store.clips):
        by_source.setdefault(clip.source, []).append(i)
    members = [np.array(by_source[name]) for name in sorted(by_source)]
    ends = [np.cumsum([store.length(i) for i in ids], dtype=np.int64) for ids in members]
    chances = np.cumsum([math.pow(float(end[-1]), balance) for end in ends])
    return members, ends, chances / chances[-1]


def draw_clip(weights: Weights, rng: np.random.Generator) -> tuple[int, int]:
    """A source and one of its clips, by their numbers; see `source_weights`."""
    source = min(int(np.searchsorted(weights[2], rng.random(), "right")), len(weights[2]) - 1)
    return source, clip_of(weights, source, rng)


def clip_of(weights: Weights, source: int, rng: np.random.Generator) -> int:
    """A clip of a source, by its length."""
    members, ends = weights[0][source], weights[1][source]
    return int(members[np.searchsorted(ends, rng.integers(ends[-1]), "right")])


def groups_of(clips: Sequence[Clip], by: Literal["speaker", "path"]) -> list[int]:
    """Number of the group of each clip: what shares a recording (or a speaker) is one; `split`."""
    # Union-find over the keys that clips share.
    parent = list(range(len(clips)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, clip in enumerate(clips):
        keys = [("recording", name) for name in clip.recordings]
        if by == "speaker" and clip.speaker:
            keys.append(("speaker", clip.speaker))
        for key in keys:
            a, b = find(first.setdefault(key, i)), find(i)
            parent[max(a, b)] = min(a, b)
    return [find(i) for i in range(len(clips))]


def of_kind(clips: Sequence[Clip], kind: str) -> list[Clip]:
    """The clips of one kind."""
    return [clip for clip in clips if clip.kind == kind]


def _corpus(folder: Path, quiet: bool) -> list[Clip]:
    if is_folder(folder) and not manifest_of(folder):
        parts = [folder / "speech", folder / "noise"]
        if not all(is_folder(part) for part in parts):
            raise EnhanceError(
                f"{folder}: a corpus has a manifest.jsonl or manifest.csv, or subfolders `speech` "
                "and `noise`"
            )
        return [c for part in parts for c in place(part, part.name, quiet)]
    return place(folder, "", quiet)


def place(where: Path, kind: str, quiet: bool) -> list[Clip]:
    """Clips of a manifest, of a folder's manifest, or of all audio files below a folder; an
    `EnhanceError` if there is none of them."""
    if is_file(where):
        return read_manifest(where)
    if not is_folder(where):
        looked = "" if where.is_absolute() else f" (below {Path.cwd()})"
        raise EnhanceError(f"{where}: no such manifest or folder{looked}")
    manifest = manifest_of(where)
    if manifest:
        return read_manifest(manifest)
    clips, problems = scan_folder(where, kind=kind, quiet=quiet)
    for problem in problems:
        log.warning("left out: %s", problem)
    return clips


def manifest_of(folder: Path) -> Path | None:
    """The manifest that stands in a folder."""
    places = (folder / "manifest.jsonl", folder / "manifest.csv")
    return next((place for place in places if is_file(place)), None)
