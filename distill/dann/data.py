"""What a domain-adversarial training hears: clips of one length, their answers and their domains.

A frozen backbone hears each clip once; its states come from the feature cache. So that it hears
the same as one that learns, a clip is always cut (or repeated) from its beginning, never at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.dann.config import DannConfig
from distill.dann.protocols import BONAFIDE, SPOOF
from distill.speaker.data import name_of
from distill.teacher.contract import Teacher, check_rate
from distill.teacher.features import Features
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

SAMPLE_RATE = 16000


class Hearing:
    """How a backbone is given clips: whole states where it is frozen, waves where it learns.

    An `EnhanceError` if the backbone hears another rate, or its clips are too short for a frame.
    """

    def __init__(self, config: DannConfig, teacher: Teacher, cache: Path) -> None:
        check_rate(teacher, SAMPLE_RATE)
        self.samples = round(config.seconds * SAMPLE_RATE)
        if not teacher.frames(self.samples):
            raise EnhanceError(f"seconds {config.seconds:g}: too short for {teacher.name}")
        text = config.backbone.layer_selection.text
        self.features = Features(teacher, text, cache) if config.backbone.freeze else None

    def batch(self, waves: Sequence[np.ndarray]) -> Tensor:
        """What `Network.embed` takes.

        Shape: B waves (n,) -> (K, B, T, D), or (B, N) where the backbone learns.
        """
        cut = [np.resize(wave, self.samples) for wave in waves]  # repeats what is too short
        if self.features is None:
            return torch.from_numpy(np.stack(cut))
        states = [np.stack(self.features.states(wave)) for wave in cut]  # (K, T, D) each
        return torch.from_numpy(np.stack(states, 1).astype(np.float32))


class Labelled:
    """Clips of `distill.dann.protocols.read`, and the numbers of their answers and domains in
    ``classes`` and ``domains``; a clip of another has the number -1.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        config: DannConfig,
        classes: Sequence[str],
        domains: Sequence[str],
        quiet: bool = True,
    ) -> None:
        self.store = ClipStore(clips, SAMPLE_RATE, name=config.task, quiet=quiet)
        self.speakers = [name_of(clip) for clip in clips]
        self.kinds = [clip.labels[config.domain] for clip in clips]
        answers = [answer(clip, config.task) for clip in clips]
        self.answers = _numbers(answers, classes)
        self.domains = _numbers(self.kinds, domains)

    def __len__(self) -> int:
        return len(self.store)

    def identity(self) -> list[Any]:
        """Names, lengths, speakers, answers and domains, in order."""
        names = [clip.path.name for clip in self.store.clips]
        lengths = map(self.store.length, range(len(self)))
        columns = names, lengths, self.speakers, self.answers.tolist(), self.kinds
        return list(zip(*columns, strict=True))

    def batch(self, hearing: Hearing, chosen: Sequence[int]) -> dict[str, Any]:
        """Clips by their numbers: ``heard``, ``answers`` (B,), ``domains`` (B,)."""
        return {
            "heard": hearing.batch([self.store.whole(i) for i in chosen]),
            "answers": torch.from_numpy(self.answers[chosen]),
            "domains": torch.from_numpy(self.domains[chosen]),
        }


def answer(clip: Clip, task: str) -> str:
    """What the task head shall say of a clip."""
    return clip.labels["label"] if task == "spoof" else name_of(clip)


def classes_of(clips: Sequence[Clip], config: DannConfig) -> tuple[list[str], list[str]]:
    """Names of the answers and of the domains of a training set.

    An `EnhanceError` if there is one answer only, or one domain where it shall be forgotten.
    """
    found = {answer(clip, config.task) for clip in clips}
    classes = [SPOOF, BONAFIDE] if config.task == "spoof" else sorted(found)
    if len(found) < 2:
        raise EnhanceError(f"train: all clips are {min(found)}; two kinds or more are needed")
    domains = sorted({clip.labels[config.domain] for clip in clips})
    if len(domains) < 2 and config.adversarial:
        raise EnhanceError(
            f"train: every clip's {config.domain} is {domains[0]}; there is nothing to forget: "
            "name other data, or set dann.lambda_schedule to start and end at 0"
        )
    return classes, domains


def _numbers(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(known)}
    return np.array([place.get(name, -1) for name in names], np.int64)
