"""What a probe is asked: clips, labels, and what may never stand on both sides of a split.

A probe is tested on speakers that it never heard; speaker identification, whose classes are
speakers, on recordings that it never heard; SNR and kind of noise on mixtures that share neither a
speaker nor a recording of noise with those that train.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.analysis.parts.heard import in_turns
from distill.speaker.data import name_of
from distill.speaker.eer import chosen_pairs
from enhance.data.corpus.clips import groups_of
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

_TRIALS = 50_000  # at most, of each fold
_PER_CLASS = 6


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    label: str
    """Column, see `column`."""
    group: str
    """Column whose values are never on both sides."""
    metric: str = "accuracy"
    """``accuracy``, ``EER``, or ``mean error`` of a regression."""
    unit: str = ""
    """Of the mean error."""
    frames: bool = False
    """Whether frames are asked, not whole clips."""
    mixed: bool = False
    """Whether mixtures are made of the corpus."""


TASKS = {
    "phone": Task("phone", "speaker", frames=True),
    "pitch": Task("pitch", "speaker", "mean error", "semitones", frames=True),
    "speaker": Task("speaker", "recording"),
    "verification": Task("speaker", "speaker", "EER"),
    "language": Task("language", "speaker"),
    "channel": Task("source", "speaker"),
    "snr": Task("snr_db", "fold", "mean error", "dB", mixed=True),
    "noise": Task("type", "fold", mixed=True),
    "label": Task("", "speaker"),
}
"""By name; ``label`` is any column of a manifest: keyword, intent, device."""


@dataclass(frozen=True)
class Data:
    """Questions and right answers."""

    task: Task
    clips: list[Clip]
    labels: np.ndarray
    """Of each unit (a clip, or a frame of one), (M,): number of the class, or a value."""
    owner: np.ndarray
    """Number of the clip of each unit, (M,), rising."""
    classes: list[str]
    """Names; empty for a regression."""
    groups: list[str]
    """Of each clip: what is never on both sides."""
    times: list[np.ndarray] | None = None
    """Seconds of the frames of each clip; None where whole clips are asked."""
    trials: tuple[np.ndarray, np.ndarray] | None = None
    """Numbers of the clips of given trials; None where all pairs of a fold are taken."""
    notes: list[str] = field(default_factory=list)
    """What was left out."""

    def splits(self, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Numbers of the clips that train and that test; each is tested once.

        Given trials are the test, and all clips of other speakers train. An `EnhanceError` refuses
        where too little would be left on one side.
        """
        if self.trials is not None:
            tested = np.unique(np.concatenate(self.trials))
            heard = {self.groups[i] for i in tested}
            train = [i for i, group in enumerate(self.groups) if group not in heard]
            if len({self.groups[i] for i in train}) < 2:
                raise EnhanceError(
                    "--trials: fewer than two speakers of the manifest are in no trial, so that "
                    "nobody is left to train on; name a larger manifest"
                )
            return [(np.array(train), tested)]
        # Each fold holds the classes alike, where a clip has one of its own.
        alike = self.classes and not self.task.frames and self.task.metric == "accuracy"
        strata = self.labels if alike else np.zeros(len(self.clips), int)
        parts = fold_of(self.groups, strata, folds, seed)
        if self.task.metric == "EER" and any(
            len(np.unique(self.labels[parts != k])) < 2 for k in np.unique(parts)
        ):
            raise EnhanceError(
                f"{len(set(self.labels.tolist()))} speakers: one alone would be left to train on; "
                "name more data, or give more --folds or a larger --limit"
            )
        return [(np.flatnonzero(parts != k), np.flatnonzero(parts == k)) for k in np.unique(parts)]

    def pairs(self, tested: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Trials of a fold: the given ones, or `chosen_pairs` of its clips, at most `_TRIALS`."""
        if self.trials is not None:
            return self.trials
        owners = np.unique(self.labels[tested], return_inverse=True)[1]
        first, second = chosen_pairs(owners, seed, _TRIALS).T
        return tested[first], tested[second]


def fold_of(groups: Sequence[str], strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each clip, (n,); a group lies in one fold, each fold holds the strata alike.

    There are fewer than ``folds`` where there are fewer groups, or no stratum has so many clips. An
    `EnhanceError` refuses fewer than two groups.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    count = min(folds, len(set(groups)))
    if count < 2:
        raise EnhanceError(
            f"all clips are of one group ({groups[0] if groups else 'none'}): nothing is left to "
            "test on that was not trained on; name more data, or another --group"
        )
    sizes = Counter(strata.tolist())
    alike = len(sizes) > 1 < max(sizes.values())
    kind = StratifiedGroupKFold if alike else GroupKFold
    count = min(count, max(sizes.values())) if alike else count
    found = np.zeros(len(groups), int)
    parts = kind(count, shuffle=True, random_state=seed).split(strata, strata, list(groups))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it tests in some folds
        for k, (_, test) in enumerate(parts):
            found[test] = k
    return found


def column(clips: Sequence[Clip], text: str) -> list[str]:
    """A column of a manifest, for each clip; empty where it is not told.

    ``text`` is ``speaker``, ``source``, ``recording`` (what shares a source file is one), ``path``,
    or any other column; ``COLUMN:PATTERN`` takes the first group of a regular expression in it, and
    an `EnhanceError` refuses a pattern that is none.
    """
    name, _, pattern = text.partition(":")
    if name == "recording":
        values = [f"recording {root}" for root in groups_of(clips, "path")]
    elif name == "speaker":
        values = [name_of(clip) if clip.speaker else "" for clip in clips]
    else:
        values = [
            {"source": clip.source, "path": clip.path.as_posix()}.get(name)
            or clip.labels.get(name, "")
            for clip in clips
        ]
    if not pattern:
        return values
    try:
        found = [re.search(pattern, value) for value in values]
    except re.error as error:
        raise EnhanceError(f"{text}: not a regular expression ({error})") from error
    return [(m[1 if m.re.groups else 0] or "") if m else "" for m in found]


def columns_of(clips: Sequence[Clip]) -> str:
    """What `column` can be asked of a manifest, for messages."""
    return ", ".join(sorted({key for clip in clips for key in clip.labels} | {"source", "path"}))


def of_clips(task: Task, clips: list[Clip], limit: int, seed: int, where: str) -> Data:
    """One question a clip, at most ``limit`` of them (`drawn`); ``where`` they are, for messages.

    Clips without label or group are left out, and classes of a single group: of those either no
    clip would train or none be tested. An `EnhanceError` refuses columns that are not there, and
    what cannot be split without a leak.
    """
    labels, groups = column(clips, task.label), column(clips, task.group)
    keep = [i for i in range(len(clips)) if labels[i] and groups[i]]
    notes = [f"{len(clips) - len(keep)} clips without {task.label} or {task.group}"]
    if not keep:
        raise EnhanceError(
            f"{where}: no clip has both {task.label} and {task.group}; columns there: "
            f"{columns_of(clips)}"
        )
    regression = task.metric == "mean error"
    if not regression:
        has = Counter(kind for kind, _ in {(labels[i], groups[i]) for i in keep})
        few = {kind for kind, count in has.items() if count < 2 and task.metric != "EER"}
        keep = [i for i in keep if labels[i] not in few]
        notes.append(f"{len(few)} classes of a single {task.group}")
        if len({labels[i] for i in keep}) < 2:
            raise EnhanceError(
                f"{where}: fewer than two values of {task.label} have two or more of "
                f"{task.group}, so that no probe can be tested without a leak; name more data, or "
                "another --group"
            )
    keep = drawn(keep, groups, limit, seed, None if regression else labels)
    if not regression:
        has = Counter(labels[i] for i in keep)
        keep = [i for i in keep if has[labels[i]] > 1]
    chosen = [labels[i] for i in keep]
    classes = [] if regression else sorted(set(chosen))
    try:
        values = np.array([classes.index(x) if classes else float(x) for x in chosen])
    except ValueError as error:
        raise EnhanceError(f"{where}: {task.label} is no number ({error})") from error
    return Data(
        task,
        [clips[i] for i in keep],
        values,
        np.arange(len(keep)),
        classes,
        [groups[i] for i in keep],
        notes=[note for note in notes if not note.startswith("0 ")],
    )


def drawn(
    keep: Sequence[int], groups: list[str], limit: int, seed: int, labels: list[str] | None = None
) -> list[int]:
    """At most ``limit`` of some clips (0: all): classes take turns, and within one its groups.

    Rather fewer classes are taken than fewer than `_PER_CLASS` clips of one.
    """
    labels = labels or [""] * len(groups)
    order = [keep[j] for j in np.random.default_rng(seed).permutation(len(keep))]
    if limit:
        has = Counter(labels[i] for i in order)  # in the order drawn; the sort keeps it
        rich = sorted(has, key=lambda name: -min(has[name], _PER_CLASS))
        taken = set(rich[: max(2, limit // _PER_CLASS)])
        order = [i for i in order if labels[i] in taken]
    order = in_turns(in_turns(order, list(zip(labels, groups, strict=True))), labels)
    return sorted(order[:limit] if limit else order)
