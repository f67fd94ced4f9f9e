"""Mode `distill`: the enhancer's encoder learns to say what a teacher says of the CLEAN speech.

The loss is the enhancement loss plus ``weight`` times the distance (`distill.modes.imitation`)
between a projection of the encoder's output and the teacher's embedding of the clean speech, after
the *distill* integration of Shankar, Tan, Xu and Kumar (arXiv 2403.01369).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from distill.modes.imitation import Imitation, ImitationConfig
from distill.teacher.contract import Teacher
from enhance.config import LossConfig, ModelConfig
from enhance.config.checked import NonNegativeFloat, checked
from enhance.data.corpus.clip_store import ClipStore
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Objective, clean_loss, enhance_batch


@checked
class DistillConfig(ImitationConfig):
    """Settings of mode `distill`: the keys of `objective` in a run's configuration."""

    weight: NonNegativeFloat = 0.5
    """Factor on the distance. The scale of L1 is about 0.8 for a constant guess; at weight 1 its
    gradient in the encoder was half of the enhancement loss' (`gcrn-tiny`, steps 60 to 120)."""


class Distillation(Imitation, Objective):
    """Enhancement loss + weight * distance(projection(encoding), embedding of clean speech).

    Arguments and errors as in `Imitation.imitate`; ``loss`` weighs the terms of enhancement.
    """

    config: DistillConfig

    def __init__(
        self,
        config: DistillConfig,
        loss: LossConfig,
        model: ModelConfig,
        *,
        teacher: Teacher,
        expected_mixtures: int = 0,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.imitate(config, model, teacher, expected_mixtures, seed, quiet)
        self.alignment = math.lcm(Objective.alignment, self.targets.grid.stride)

    def prepare(self, speech: ClipStore) -> None:
        self.fill(speech, self.config.weight > 0)

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of the enhancement loss, and ``distill``."""
        spec, wave, encoding = enhance_batch(model, batch["noisy"])
        losses = clean_loss(self.loss, model, spec, wave, batch["clean"])
        losses["distill"] = self.config.weight * self.distance(encoding, batch)
        return losses

    def distance(self, encoding: Tensor, batch: dict[str, Any]) -> Tensor:
        """Mean distance over frames, see `Imitation.apart`.

        Shape: encoding (B, T, C F') -> scalar
        """
        target, valid = self.cached(batch, encoding.shape[1])
        return self.apart(encoding, target, valid, batch["index"])

    def describe(self) -> dict[str, Any]:
        return {"mode": "distill", **self.about()}

    def log(self) -> dict[str, float]:
        return self.targets.log()
