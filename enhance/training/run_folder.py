"""A run's folder: begun, resumed, or refused; and the list of the files it hears."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from enhance.config import RunConfig
from enhance.data.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import atomic, sha256, write_jsonl
from enhance.network.checkpoint import HEARD, WEIGHTS, difference
from enhance.progress import progress_bar
from enhance.settings import dump_yaml, parse, to_dict
from enhance.training.history import HISTORY
from enhance.training.schedule import is_stable, progress, since
from enhance.training.state import FILE, FORMAT, load_tensors

CONFIG = "config.yaml"
HARMLESS = frozenset(
    {
        "data.workers",
        "data.cache_mb",
        "data.cache_gb",
        "training.checkpoint_every",
        "training.threads",
    }
)
"""Settings that may change on resume: the weights do not depend on them (`threads` may change the
last bits)."""
CACHES = frozenset({"cache", "cache_gb", "precompute"})
"""Settings of an objective that may change on resume: where and how much it remembers."""
PLACES = frozenset({"data.corpus", "data.speech", "data.noise"})
"""Settings that may change on resume: that the files are the same, `check_data` sees to."""
BUDGET = ("training.steps", "training.minutes")
"""Settings that may change on resume, with a warning: the rest of the run follows a schedule that
no run from the start would have followed. Not so in the stable part of a `wsd` schedule."""


def prepare(run: Path, config: RunConfig, describe: dict[str, Any], resume: bool) -> list[str]:
    """Make the folder of a new run, or check that an old one can go on.

    Parameters
    ----------
    run
        The folder.
    config
        Resolved configuration, written to config.yaml.
    describe
        The objective's `describe()`.
    resume
        Whether to go on.

    Returns
    -------
    list
        Lines that the user should read.

    Raises
    ------
    EnhanceError
        If a new run would overwrite one, there is none to resume, or its settings differ.
    """
    notes = []
    if not resume:
        refuse_present(run)
    elif not _present(run):
        raise EnhanceError(f"{run}: there is no run to resume")
    if resume and (run / FILE).exists():
        _, header = load_tensors(run / FILE, FORMAT, tensors=False)
        notes = _compare(run, header, config, describe)
    elif resume:
        notes = [f"{run}: was stopped before its first checkpoint, starts from step 0"]
    with atomic(run / CONFIG) as temporary:
        temporary.write_text(dump_yaml(config), "utf-8")
    return notes


def refuse_present(run: Path) -> None:
    """Refuse a folder that holds a run.

    Raises
    ------
    EnhanceError
        Names what says so.
    """
    present = _present(run)
    if present:
        raise EnhanceError(
            f"{run}: holds a run already ({present[0]}); --resume goes on with it, "
            "another name starts a new one"
        )


def _present(run: Path) -> list[str]:
    return [name for name in (CONFIG, FILE, WEIGHTS, HISTORY) if (run / name).exists()]


def of_cache(key: str) -> bool:
    """Whether a setting says where and how much an objective remembers."""
    names = key.split(".")
    return names[0] in ("objective", "described") and names[-1] in CACHES


def _compare(
    run: Path, header: dict[str, Any], config: RunConfig, describe: dict[str, Any]
) -> list[str]:
    # What came after the state was written has its default, which changes nothing.
    before = parse(RunConfig, header["config"], str(run / FILE))
    old = {**to_dict(before), "described": header["objective"]}
    changed = difference(old, {**to_dict(config), "described": describe})
    allowed = {*HARMLESS, *PLACES, *BUDGET}
    refused = [c for c in changed if c[0] not in allowed and not of_cache(c[0])]
    if refused:
        text = ", ".join(f"{key} was {old!r}, is {now!r}" for key, old, now in refused)
        raise EnhanceError(
            f"{run}: cannot go on with other settings ({text}); "
            f"use the old ones, or start a new run with --init {run}"
        )
    step, seconds = header["step"], header["seconds"]
    spent = since(header.get("branch"), step, seconds)
    used, used_before = (progress(c.training, *spent) for c in (config, before))
    if used >= 1:
        raise EnhanceError(
            f"{run}: has used its budget ({spent[0]} steps, {spent[1] / 60:.1f} minutes); "
            "a larger training.steps or training.minutes goes on"
        )
    if is_stable(before.training, used_before) and is_stable(config.training, used):
        return []
    return [
        f"{run}: {key} was {then}, is {now}: from step {step} on the learning rate follows the "
        "new budget, which no run from the start would give"
        for key, then, now in changed
        if key in BUDGET
    ]


def check_data(run: Path, found: str) -> None:
    """Refuse to go on with other training files.

    Raises
    ------
    EnhanceError
        If the fingerprint differs from the one in the run's state.
    """
    _, header = load_tensors(run / FILE, FORMAT, tensors=False)
    if header["data"] != found:
        raise EnhanceError(
            f"{run}: the training files are others than when it began (files were added, removed "
            f"or changed in length); put them back, or start a new run with --init {run}"
        )


def fingerprint(clips: Sequence[Clip]) -> str:
    """Hash of which files, in which order and of which length, a run draws from.

    Wherever the corpus lies: paths count from the folder that all files share.
    """
    digest = hashlib.sha256()
    for place, clip in zip(below_common([clip.path for clip in clips]), clips, strict=True):
        digest.update(f"{place}\0{clip.duration!r}\n".encode())
    return digest.hexdigest()


def below_common(paths: Sequence[Path]) -> list[str]:
    """Paths counted from the deepest folder that holds them all."""
    if not paths:
        return []
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(folder).as_posix() for path in paths]


def write_heard(
    run: Path, parts: dict[str, Sequence[Clip]], *, keep: bool = False, quiet: bool = False
) -> None:
    """Write heard.jsonl: every file of training and validation with the SHA-256 of its bytes.

    Paths count from the folder that all of them share.

    Parameters
    ----------
    run
        The folder.
    parts
        Clips by part, ``"train"`` and ``"validation"``.
    keep
        Leave a list that is there already, of as many files, as it is.
    quiet
        No progress bar.
    """
    path = run / HEARD
    clips = [(part, clip) for part, some in parts.items() for clip in some]
    if keep and path.is_file() and path.read_bytes().count(b"\n") == len(clips):
        return
    places = below_common([clip.path for _, clip in clips])
    hashes = []
    with progress_bar(quiet=quiet) as bar, ThreadPoolExecutor(4) as pool:
        task = bar.add_task("hashing files", total=len(clips), speed="")
        for value in pool.map(lambda item: sha256(item[1].path), clips):
            hashes.append(value)
            bar.update(task, advance=1)
    rows = [
        {
            "path": place,
            "kind": clip.kind,
            "source": clip.source,
            "speaker": clip.speaker,
            "part": part,
            "recordings": list(clip.recordings),
            "sha256": value,
        }
        for (part, clip), place, value in zip(clips, places, hashes, strict=True)
    ]
    write_jsonl(path, rows)
