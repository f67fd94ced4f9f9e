"""vq-wav2vec: contrastive prediction of frames to come that a codebook has quantised.

Source: Baevski et al. 2020 (vq-wav2vec). The network and its quantiser, Gumbel (straight-through)
or k-means, are `distill.backbones.wav2vec.model`. Equal codewords tie and share the hit: a codebook
that collapses gives exactly chance.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from distill.backbones.wav2vec.model import VqWav2Vec, VqWav2VecConfig
from distill.backbones.wav2vec.quantizer import code_use
from distill.ssl.families.wav2vec import Future, FutureConfig
from distill.training.accuracy import code_usage
from enhance.config.checked import NonNegativeFloat, checked
from enhance.training.engine.processes import same_everywhere


def _small() -> VqWav2VecConfig:
    # The published factor 0.999995 would leave a run of minutes at its first temperature.
    return VqWav2VecConfig.small(vq_temperature=(2.0, 0.5, 0.9993))


@checked
class VqFutureConfig(FutureConfig):
    """What decides the weights of a vq-wav2vec."""

    family: str = "vq-wav2vec"
    """`vq-wav2vec`."""
    architecture: VqWav2VecConfig = field(default_factory=_small)
    """Layers, and the codebook: ``vq_type`` `gumbel` or `kmeans`, ``vq_temperature``, ..."""
    infonce: bool = True
    """Softmax over true and false frames in place of the logistic loss, as in the public recipe.
    The logistic loss let the codebook collapse within 20 steps."""
    diversity_weight: NonNegativeFloat = 0.1
    """Gumbel: weight of the share of the codebook that the mean softmax leaves unused."""


class VqFuture(Future):
    """The model, its quantiser and its predictor; see `distill.ssl.families.family.Family`."""

    config: VqFutureConfig

    def __init__(self, config: VqFutureConfig) -> None:
        super().__init__(config, VqWav2Vec.build(config.architecture, config.seed))

    def losses(self, batch: Tensor, step: int) -> Any:
        """As wav2vec's, over codewords at the temperature of the step.

        A k-means codebook begins with frames of the first batch.
        """
        self.model.quantizer.set_step(step)
        if step == 0 and self.config.architecture.vq_type == "kmeans":
            generator = torch.Generator().manual_seed(self.config.seed)
            self.model.quantizer.start_from(self.model.features(batch), generator)
            same_everywhere(self.model.quantizer.codebook.data)
        return super().losses(batch, step)

    def targets(self, z: Tensor) -> tuple[Tensor, Tensor | None, dict[str, float], Tensor | None]:
        """Codewords, the codebook's own loss, code perplexity (mean of the groups), codes."""
        made = self.model.quantizer(z)
        extra = made.codebook_loss
        if made.diversity is not None:
            extra = self.config.diversity_weight * made.diversity
        means = {"perplexity": float(made.code_perplexity) / made.codes.shape[-1]}
        return made.values, extra, means, made.codes

    def facts(self) -> dict[str, Any]:
        """And the kind of quantiser."""
        return {**super().facts(), "quantiser": self.config.architecture.vq_type}

    def usage(self, codes: list[Tensor]) -> dict[str, Any]:
        """The use of each codebook."""
        size = self.config.architecture.vq_codes
        counts = torch.stack([code_use(batch, size) for batch in codes]).sum(dim=0)  # (G, V)
        return {"codes": [code_usage(row) for row in counts]}


FAMILY = (VqFutureConfig, VqFuture)
