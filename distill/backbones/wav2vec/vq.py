"""vq-wav2vec (2020): wav2vec with a quantiser between encoder and aggregator.

Source: Baevski et al., "vq-wav2vec: Self-Supervised Learning of Discrete Speech Representations",
2020, and the public fairseq recipes: GELU, no log compression, 8 encoder layers, 2 groups of 320
codewords from one shared codebook, Gumbel scores of two layers. Aggregator and loss are those of
wav2vec, over codewords instead of z.

Hidden states of the teacher: 0 is z (dense), 1 the codewords, 2 to L the aggregator's layers.
What `distill.backbones.wav2vec.model` says on group norm over time holds here too.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from distill.backbones.wav2vec.model import ConvLayers, Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.quantizer import GumbelQuantizer, KmeansQuantizer, Quantizer
from enhance.config.checked import PositiveInt, checked


@checked
class VqWav2VecConfig(Wav2VecConfig):
    """Architecture. The defaults are those of the published Gumbel recipe."""

    model_type: ClassVar[str] = "vq-wav2vec"

    encoder: ConvLayers = (*Wav2VecConfig.encoder, (512, 1, 1))
    """Layers from the wave to z; one more than in ``wav2vec_large``."""
    activation: Literal["relu", "gelu"] = "gelu"
    """After every norm, and between the layers of the scores."""
    log_compression: bool = False
    """z = log(|x| + 1)."""
    vq_type: Literal["gumbel", "kmeans"] = "gumbel"
    """Kind of quantiser."""
    vq_codes: PositiveInt = 320
    """V, codewords per group."""
    vq_groups: PositiveInt = 2
    """G, groups."""
    vq_shared: bool = True
    """One codebook for all groups."""
    vq_depth: PositiveInt = 2
    """Layers of the Gumbel scores."""
    vq_temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995)
    """Gumbel: first value, last value, factor per step."""
    vq_gamma: float = 0.25
    """k-means: weight of the commitment term."""

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """A model that a CPU can train, with 2 groups of 64 codewords; ``changes`` are fields."""
        return super().small(**{"vq_codes": 64, **changes})


class VqWav2Vec(Wav2Vec):
    """Encoder, quantiser and aggregator."""

    config_type: ClassVar[type[Wav2VecConfig]] = VqWav2VecConfig
    config: VqWav2VecConfig
    quantizer: Quantizer
    """Its codewords of z, not z, go to the aggregator and are the targets."""

    def __init__(self, config: VqWav2VecConfig) -> None:
        super().__init__(config)
        book = (config.width, config.vq_codes, config.vq_groups, config.vq_shared)
        if config.vq_type == "gumbel":
            self.quantizer = GumbelQuantizer(
                *book, depth=config.vq_depth, act=config.act(), temperature=config.vq_temperature
            )
        else:
            self.quantizer = KmeansQuantizer(*book, gamma=config.vq_gamma)

    def states(self, waves: Tensor) -> list[Tensor]:
        """Hidden states of a teacher: z, codewords, output of each aggregator layer.

        Shape: (B, N) to L + 1 tensors (B, T, C of the state).
        """
        z = self.features(waves)
        values = self.quantizer(z).values
        return [z, values, *self.context_states(values)]

    @property
    def state_widths(self) -> tuple[int, ...]:
        """Channels of each of `states`."""
        z, *layers = super().state_widths
        return (z, z, *layers)
