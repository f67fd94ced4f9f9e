"""The questions of one task on one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.framed import of_frames
from benchmarks.analysis.probes.mixed import mixtures
from benchmarks.analysis.probes.tasks import TASKS, Data, of_clips
from distill.speaker.data import name_of, speech_of
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError


def read(
    name: str,
    corpus: Path,
    work: Work,
    *,
    label: str = "",
    group: str = "",
    trials: Path | None = None,
    frames: int = 20_000,
    folder: Path,
) -> Data:
    """Questions of one task on one corpus.

    Parameters
    ----------
    name
        Of `TASKS`.
    corpus
        Folder or manifest; for ``phone`` as `benchmarks.analysis.parts.phones.read_phones`.
    work
        Its limit is of clips drawn class by class and group by group in turn, of mixtures 600
        where there is none.
    label, group
        Columns instead of the task's own.
    trials
        For ``verification``: lines of 1 (one speaker) or 0 and two paths, as in VoxCeleb.
    frames
        At most so many in all, evenly over clips, and over the labelled frames of each.
    folder
        Where mixtures are written.

    Raises
    ------
    EnhanceError
        If a label or a group is missing, or a split without a leak is impossible.
    """
    if name not in TASKS:
        raise EnhanceError(f"--task {name}: unknown; take {', '.join(TASKS)}")
    task = TASKS[name]
    task = replace(task, label=label or task.label, group=group or task.group)
    if not task.label:
        raise EnhanceError("--task label: name the column with --label")
    if task.mixed and group:
        raise EnhanceError(f"--group: mixtures of --task {name} are parted by speaker and noise")
    if trials is not None and name != "verification":
        raise EnhanceError(f"--trials: only --task verification takes them, not {name}")
    if task.mixed:
        kinds = task.label if name == "noise" else ""
        corpus = mixtures(corpus, folder, kinds, work=replace(work, limit=work.limit or 600))
        task, work = replace(task, label="type" if kinds else task.label), replace(work, limit=0)
    if task.frames:
        return of_frames(name, task, corpus, frames, work)
    clips, _ = speech_of(corpus, "", False, work.quiet)
    data = of_clips(task, clips, work.limit, work.seed, f"{corpus}")
    return replace(data, trials=read_trials(trials, data.clips)) if trials else data


def read_trials(path: Path, clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Trials as numbers of clips: lines of 1 or 0 and two paths, each the end of one clip's.

    Raises
    ------
    EnhanceError
        If a line is none, names no clip, or says otherwise than the manifest's speakers.
    """
    ends: dict[str, int] = {}
    for i, clip in enumerate(clips):
        parts = clip.path.parts
        ends |= {"/".join(parts[k:]): i for k in range(1, len(parts))}
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{path}: no list of trials ({error})") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise EnhanceError(f"{path}, line {number}: write 1 or 0, and two paths")
        missing = [word for word in words[1:] if word not in ends]
        if missing:
            raise EnhanceError(f"{path}, line {number}: {missing[0]} is no clip of the manifest")
        a, b = ends[words[1]], ends[words[2]]
        if (name_of(clips[a]) == name_of(clips[b])) != (words[0] == "1"):
            raise EnhanceError(f"{path}, line {number}: the manifest's speakers say otherwise")
        found.append((a, b))
    if not found:
        raise EnhanceError(f"{path}: holds no trial")
    first, second = np.array(found).T
    return first, second
