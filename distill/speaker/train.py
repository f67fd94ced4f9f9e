"""Training of a speaker encoder: `enhance teacher pretrain-speaker --objective aam|dino`.

One training by `distill.training.loop` for both objectives, the EER of what came out, record and
card.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.backbones import ecapa_model
from distill.speaker import card, score
from distill.speaker.aam import Aam
from distill.speaker.config import SpeakerConfig
from distill.speaker.data import Crops, SpeakerData
from distill.speaker.dino import Dino
from distill.training.card import write
from distill.training.loop import Loop
from enhance.files import write_json
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Step
from enhance.training.engine.processes import Hardware, on_cpu

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
    resume: bool = False,
    hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a speaker encoder and write its folder.

    Parameters
    ----------
    config
        What to train and how long.
    corpus
        Folder with speech and noise, as `enhance.data.corpus.clips.load_clips` reads it; `aam`
        needs the column `speaker`.
    output
        Model folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``,
        ``record.json``, ``history.jsonl``, ``README.md``; what a stopped run needs to go on is
        in its subfolder ``state``.
    evaluation
        Folder with speech of other, known speakers, whose EER is measured at the end; None
        leaves that out.
    resume
        Go on from ``output/state``.
    hardware
        See `distill.training.loop.Loop`.
    quiet
        No progress bar.

    Returns
    -------
    dict
        The record (as in ``record.json``), or ``{"stopped": ...}`` after Ctrl-C or SIGTERM.

    Raises
    ------
    EnhanceError
        If a folder cannot be used, a speaker stands on both sides, or the loss is not finite.
    """
    where: dict[str, Any] = {"resume": resume, "hardware": hardware, "quiet": quiet}
    with Interrupt() as interrupt, Loop(config, Path(output), FORMAT, **where) as loop:
        return Training(config, Path(corpus), loop, evaluation).run(interrupt)


class Training:
    """One run; see `train`."""

    def __init__(
        self,
        config: SpeakerConfig,
        corpus: Path,
        loop: Loop,
        evaluation: Path | str | None,
    ) -> None:
        self.config, self.output, self.loop = config, loop.output, loop
        self.data = SpeakerData.open(corpus, config, loop.quiet)
        self.evaluation = None
        if evaluation is not None:
            self.evaluation = score.open_evaluation(Path(evaluation), config.source, loop.quiet)
            score.check_unseen(self.data.train.clips, self.evaluation.clips)
        self.learner = SpeakerLearner(config, self.data)

    def run(self, interrupt: Interrupt) -> dict[str, Any]:
        """Do what is left."""
        config, learner, state = self.config, self.learner, self.loop.state
        steps, minutes = config.steps or None, config.minutes
        if not self.loop.train(learner, interrupt, steps=steps, minutes=minutes):
            log.warning("stopped at step %d; --resume goes on", state.step)
            return {"stopped": f"step {state.step}"}
        self.loop.end_others()
        encoder = learner.objective.encoder
        record: dict[str, Any] = {
            "config": self.loop.plain,
            "data": self.data.describe(),
            "speakers": self.data.speakers,
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "steps": state.step,
            "seconds": round(state.seconds),
            "audio_seconds": round(state.audio),
        }
        held_back = learner.validate()
        if held_back is not None:
            record["held_back"] = held_back
        if self.evaluation is not None:
            untrained = config.sizes.build(config.seed)
            record["verification"] = score.compare(
                encoder, untrained, self.data.train, self.evaluation
            )
        ecapa_model.save(encoder, self.output)
        write_json(self.output / "record.json", record)
        write(self.output, card.text)
        return record


class SpeakerLearner(Learner):
    """An objective and its crops, as the loop sees them."""

    def __init__(self, config: SpeakerConfig, data: SpeakerData) -> None:
        self.config, self.data, self.name = config, data, config.objective
        kind = {"aam": Aam, "dino": Dino}[config.objective]
        self.objective: Aam | Dino = kind(config, data.speakers)
        self.crops = Crops(data, config, self.objective.crops)

    def learnt(self) -> Mapping[str, nn.Module]:
        """Encoder, and what the objective has beside it."""
        return {"learner": self.objective}

    def batches(self, rank: int, world: int, step: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Views (B, N) of clips, and their speakers (B,)."""
        for number in count(step * world + rank, world):
            views, speakers = self.crops.batch(number)
            yield [torch.from_numpy(v) for v in views], torch.from_numpy(speakers)

    def forward(self, batch: tuple[list[Tensor], Tensor], step: int) -> Step:
        """Loss of the objective."""
        loss, told = self.objective(*batch, step)
        return Step(loss, self.crops.seconds, told)

    def before_update(self, step: int) -> None:
        """As the objective wants."""
        self.objective.before_update(step)

    def after_update(self, step: int, total: int | None) -> None:
        """As the objective wants."""
        self.objective.after_update(step, total)

    def validate(self) -> dict[str, Any] | None:
        """EER on the speakers held back, if any."""
        if self.data.held is None:
            return None
        with on_cpu([self.objective]):
            return score.measure(self.data.held, score.of_encoder(self.objective.encoder)).to_dict()

    def tell(self, row: dict[str, Any], seconds: float) -> str:
        """And warn of the two ways in which DINO collapses."""
        step = row["step"]
        if row.get("mean_entropy", 1.0) < _COLLAPSED:
            log.warning("step %d: the teacher gives one output to every clip", step)
        if row.get("teacher_entropy", 0.0) > _UNIFORM and step > self.config.warmup_steps:
            log.warning("step %d: the teacher's outputs are all but uniform", step)
        return super().tell(row, seconds)
