"""Mode `pretrain`: the encoder first learns to say what a teacher says, then to enhance.

In the first ``pretrain_steps`` steps only the GCRN's encoder and a linear projection are trained:
the distance (`distill.modes.imitation`) between the projection of the encoder's output and the
teacher's embedding. Then the whole network is trained for enhancement, with the encoder free,
frozen for the first ``freeze_steps`` of those steps, or frozen for good. After the *pretrain*
integration of Shankar, Tan, Xu and Kumar (arXiv 2403.01369). The kept model is an ordinary one.

It is ONE run: the steps of both phases count into its budget (``training.steps``, and the audio
heard of `enhance compare`), there is one history, and one cosine of the learning rate over all.
Where mode base has N steps to learn to enhance, this one has N - ``pretrain_steps``. What a phase
does not train has no gradient, and the optimiser leaves it alone: no decay, no momentum. A frozen
encoder is in evaluation mode, so that the statistics of its batch norms stay too. Before
fine-tuning begins nothing is validated and no model is kept.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from distill.modes.imitation import Imitation, ImitationConfig
from distill.modes.wrapper import Around
from distill.teacher.contract import Teacher
from distill.teacher.frames import resample
from enhance.config import ModelConfig, TrainingConfig
from enhance.config.checked import Field, PositiveInt, checked
from enhance.data.corpus.clip_store import ClipStore
from enhance.errors import EnhanceError
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Objective, encode_batch


@checked
class PretrainConfig(ImitationConfig):
    """Settings of mode `pretrain`: keys of `objective` in a run's configuration."""

    target: Literal["noisy", "clean"] = "noisy"
    """Whose embedding: of the noisy input (the live teacher hears each mixture, nothing is cached),
    or of the clean speech (from the cache of targets, as in mode distill)."""
    pretrain_steps: PositiveInt = 2000
    """Steps of the first phase; part of `training.steps`."""
    freeze_steps: Annotated[int, Field(ge=-1)] = 0
    """Steps of fine-tuning in which the encoder is frozen: 0 for none, -1 for all."""


class Pretraining(Imitation, Around):
    """A first phase in which the encoder learns from a teacher; then what ``inner`` minimises.

    Arguments and errors as in `Imitation.imitate`.
    """

    mode = "pretrain"
    config: PretrainConfig

    def __init__(
        self,
        config: PretrainConfig,
        model: ModelConfig,
        inner: Objective,
        *,
        teacher: Teacher,
        expected_mixtures: int = 0,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        Around.__init__(self, inner)
        self.imitate(config, model, teacher, expected_mixtures, seed, quiet)
        self.partial = True
        self.alignment = math.lcm(inner.alignment, self.targets.grid.stride)
        self.step = 0

    def prepare(self, speech: ClipStore) -> None:
        super().prepare(speech)
        if self.config.target == "clean":
            self.fill(speech)

    def begin_step(self, step: int, model: WaveformModel) -> None:
        super().begin_step(step, model)
        self.step = step
        frozen = self.freezes(step)
        model.network.encoder.requires_grad_(not frozen).train(not frozen)

    def freezes(self, step: int) -> bool:
        """Whether the encoder is frozen in the step after ``step`` finished ones."""
        tuned = step - self.config.pretrain_steps
        return tuned >= 0 and (self.config.freeze_steps < 0 or tuned < self.config.freeze_steps)

    def trains_enhancer(self, step: int) -> bool:
        """Whether at least one step of fine-tuning is done."""
        return step > self.config.pretrain_steps and super().trains_enhancer(step)

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``pretrain`` alone in the first phase, then the losses of the objective inside."""
        if self.step >= self.config.pretrain_steps:
            return self.inner(model, batch)
        encoding = encode_batch(model, batch["noisy"])  # (B, T, C F')
        target, valid = self.target(batch, encoding.shape[1])
        return {"pretrain": self.apart(encoding, target, valid, batch["index"])}

    def target(self, batch: dict[str, Any], frames: int) -> tuple[Tensor, Tensor]:
        """The teacher's embedding on the student's frames, and which of them have one.

        Shape: -> (B, T, D), bool (B, T)
        """
        with torch.autocast(batch["noisy"].device.type, enabled=False):
            if self.config.target == "clean":
                return self.cached(batch, frames)
            values = self.targets.ask(batch["noisy"].float())
            valid = values.new_ones(values.shape[:2], dtype=torch.bool)
            return resample(values, valid, self.targets.grid, self.grid, frames)

    def log(self) -> dict[str, float]:
        """Where both phases have targets, those of the present one."""
        mine = self.targets.log() if self.config.target == "clean" else {}
        inner = self.inner.log()
        return {**inner, **mine} if self.step < self.config.pretrain_steps else {**mine, **inner}


def check_steps(config: PretrainConfig, training: TrainingConfig) -> None:
    """Refuse a first phase that leaves no step to enhance."""
    if 0 < training.steps <= config.pretrain_steps:
        raise EnhanceError(
            f"objective.pretrain_steps {config.pretrain_steps}: leaves nothing of training.steps "
            f"{training.steps} to enhance in; pre-training counts into the budget"
        )
