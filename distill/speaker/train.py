"""Training of a speaker encoder: `enhance teacher pretrain-speaker --objective aam|dino`.

One training by `distill.training.loop` for both objectives, the EER of what came out, record and
card.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from distill.backbones import ecapa_model
from distill.speaker import card, score
from distill.speaker.aam import Aam
from distill.speaker.config import SpeakerConfig
from distill.speaker.data import Crops, SpeakerData
from distill.speaker.dino import Dino
from distill.training.card import write
from distill.training.loop import Loop, Place
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Step
from enhance.training.engine.processes import on_cpu

log = logging.getLogger("enhance")

FORMAT = "enhance-speaker-3"
_COLLAPSED = 0.05
"""Entropy of the teacher's mean output, as a share of ln K, under which it says one thing only."""
_UNIFORM = 0.99
"""Entropy of single outputs, as a share of ln K, over which the teacher says nothing."""


def train(
    config: SpeakerConfig,
    corpus: Path | str,
    output: Path | str,
    *,
    evaluation: Path | str | None = None,
    **place: Unpack[Place],
) -> dict[str, Any]:
    """Train a speaker encoder; the record (as in ``record.json``), or ``{"stopped": ...}`` after
    Ctrl-C or SIGTERM.

    ``corpus`` is a folder of speech and noise, as `enhance.data.corpus.clips.load_clips` reads it;
    `aam` needs the column `speaker`. The model folder ``output`` gets ``config.json``,
    ``model.safetensors``, ``preprocessor_config.json``, ``record.json``, ``history.jsonl`` and
    ``README.md``; what a stopped run needs to go on is in its subfolder ``state``. ``evaluation``
    is a folder with speech of other, known speakers, whose EER is measured at the end; None leaves
    that out.

    An `EnhanceError` if a folder cannot be used, a speaker stands on both sides, or the loss is not
    finite.
    """
    with Interrupt() as interrupt, Loop(config, Path(output), FORMAT, **place) as loop:
        data = SpeakerData.open(Path(corpus), config, loop.quiet)
        loop.bind("data", data.digest(), f"recordings than those of {corpus}")
        unseen = None
        if evaluation is not None:
            unseen = score.open_evaluation(Path(evaluation), config.source, loop.quiet)
            score.check_unseen(data.train.clips, unseen.clips)
        learner = SpeakerLearner(config, data)
        steps, minutes = config.steps or None, config.minutes
        if not loop.train(learner, interrupt, steps=steps, minutes=minutes):
            return loop.stopped()
        loop.end_others()
        encoder = learner.objective.encoder
        record: dict[str, Any] = {
            "config": loop.plain,
            "data": data.describe(),
            "speakers": data.speakers,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            **loop.spent(),
        }
        held_back = learner.validate()
        if held_back is not None:
            record["held_back"] = held_back
        if unseen is not None:
            untrained = config.sizes.build(config.seed)
            record["verification"] = score.compare(encoder, untrained, data.train, unseen)
        ecapa_model.save(encoder, loop.output)
        write(loop.output, card.text, record)
        return record


class SpeakerLearner(Learner):
    """An objective and its crops, as the loop sees them."""

    def __init__(self, config: SpeakerConfig, data: SpeakerData) -> None:
        self.config, self.data, self.name = config, data, config.objective
        kind = {"aam": Aam, "dino": Dino}[config.objective]
        self.objective: Aam | Dino = kind(config, data.speakers)
        self.crops = Crops(data, config, self.objective.crops)

    def learnt(self) -> Mapping[str, nn.Module]:
        return {"learner": self.objective}

    def batches(self, rank: int, world: int, step: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Views (B, N) of clips, and their speakers (B,)."""
        for number in count(step * world + rank, world):
            views, speakers = self.crops.batch(number)
            yield [torch.from_numpy(v) for v in views], torch.from_numpy(speakers)

    def forward(self, batch: tuple[list[Tensor], Tensor], step: int) -> Step:
        loss, told = self.objective(*batch, step)
        return Step(loss, self.crops.seconds, told)

    def before_update(self, step: int) -> None:
        if isinstance(self.objective, Dino):
            self.objective.before_update(step)

    def after_update(self, step: int, total: int | None) -> None:
        if isinstance(self.objective, Dino):
            self.objective.after_update(step, total)

    def validate(self) -> dict[str, Any] | None:
        """EER on the speakers held back, if any."""
        if self.data.held is None:
            return None
        with on_cpu([self.objective]):
            return asdict(score.measure(self.data.held, score.of_encoder(self.objective.encoder)))

    def tell(self, row: dict[str, Any], seconds: float) -> str:
        """And warn of the two ways in which DINO collapses."""
        step = row["step"]
        if row.get("mean_entropy", 1.0) < _COLLAPSED:
            log.warning("step %d: the teacher gives one output to every clip", step)
        if row.get("teacher_entropy", 0.0) > _UNIFORM and step > self.config.warmup_steps:
            log.warning("step %d: the teacher's outputs are all but uniform", step)
        return super().tell(row, seconds)
