"""wav2vec (2019): a convolutional encoder and a causal convolutional aggregator.

Source: Schneider et al., "wav2vec: Unsupervised Pre-training for Speech Recognition", 2019,
section 3.1, and the public fairseq model of that name, which fixes what the paper leaves open
(skip connections, residual scale, log compression). The code is our own.

Every layer is followed by a group norm of ONE group: its mean and variance go over all channels
and ALL frames of a clip. So although no convolution of the aggregator looks ahead, every output
depends on the whole clip, and zeros behind a short clip would change all of its frames. Clips run
one by one or in batches of equal length, never in padded company.

vq-wav2vec (Baevski et al., "vq-wav2vec: Self-Supervised Learning of Discrete Speech
Representations", 2020, and the public fairseq recipes) has a quantiser between encoder and
aggregator: GELU, no log compression, 8 encoder layers, 2 groups of 320 codewords from one shared
codebook, Gumbel scores of two layers. Aggregator and loss are those of wav2vec, over codewords
instead of z.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.hf import conv_geometry
from distill.backbones.wav2vec.quantizer import GumbelQuantizer, KmeansQuantizer, Quantizer
from enhance.config.checked import Field, PositiveFloat, PositiveInt, Share, checked

ConvLayers = Annotated[
    tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...], Field(min_length=1)
]
"""Channels, kernel and stride of each layer."""


@checked
class Wav2VecConfig:
    """Architecture. The defaults are those of the published ``wav2vec_large`` (32.5 M weights)."""

    model_type: ClassVar[str] = "wav2vec"

    encoder: ConvLayers = (
        (512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2), (512, 1, 1), (512, 1, 1),
    )  # fmt: skip
    """Layers from the wave to z."""
    aggregator: ConvLayers = tuple((512, kernel, 1) for kernel in range(2, 14))
    """Layers from z to c; all of stride 1."""
    activation: Literal["relu", "gelu"] = "relu"
    """After every norm."""
    log_compression: bool = True
    """z = log(|x| + 1)."""
    skip_encoder: bool = False
    """Add a layer's (decimated) input to its output where the channels agree."""
    skip_aggregator: bool = True
    """Add a layer's input to its output, by a 1 x 1 convolution where the channels differ."""
    residual_scale: PositiveFloat = 0.5
    """A sum with a skip connection is multiplied by the square root of this."""
    aggregator_bias: bool = True
    """Whether the aggregator's convolutions have a bias; the encoder's have none."""
    zero_pad: bool = False
    """Zeros before the first frame of each aggregator layer instead of copies of that frame."""
    affine: bool = True
    """Whether the norms scale and shift each channel."""
    dropout: Share = 0.0
    """In the aggregator's layers, training only."""
    dropout_features: Share = 0.0
    """Of what the aggregator is given, training only."""
    dropout_context: Share = 0.0
    """Of c, training only."""

    def __post_init__(self) -> None:
        if any(stride != 1 for *_, stride in self.aggregator):
            raise ValueError("aggregator: every stride must be 1, or frames would be lost")

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """A model of 0.5 M weights that a CPU can train: stride 160, field 465 samples;
        ``changes`` are fields that shall differ."""
        rows = {
            "encoder": ((32, 10, 5), (64, 8, 4), (96, 4, 2), (128, 4, 2), (128, 4, 2)),
            "aggregator": tuple((128, kernel, 1) for kernel in (2, 3, 4, 5, 6)),
        }
        return cls(**{**rows, **changes})

    def to_dict(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}

    @property
    def width(self) -> int:
        """C, channels of z."""
        return self.encoder[-1][0]

    @property
    def context_width(self) -> int:
        """Channels of c."""
        return self.aggregator[-1][0]

    @property
    def geometry(self) -> tuple[int, int]:
        """Receptive field and stride of z, in samples."""
        return conv_geometry([k for _, k, _ in self.encoder], [s for *_, s in self.encoder])

    @property
    def context_frames(self) -> int:
        """Frames of z that the aggregator's convolutions see for one frame of c, its own too."""
        return 1 + sum(kernel - 1 for _, kernel, _ in self.aggregator)

    @property
    def prediction_offset(self) -> int:
        """Frames to the first target of the future prediction: ceil(field / stride).

        Nearer frames of z share samples with the present one and could be told without learning.
        """
        field, stride = self.geometry
        return math.ceil(field / stride)

    def act(self) -> nn.Module:
        """The activation as a module."""
        return nn.ReLU() if self.activation == "relu" else nn.GELU()


class EncoderLayer(nn.Module):
    """Convolution without bias, group norm, activation."""

    def __init__(self, channels: int, row: tuple[int, int, int], config: Wav2VecConfig) -> None:
        super().__init__()
        out, kernel, stride = row
        self.conv = nn.Conv1d(channels, out, kernel, stride, bias=False)
        self.norm = nn.GroupNorm(1, out, affine=config.affine)
        self.act = config.act()
        self.skip = config.skip_encoder and channels == out
        self.scale = math.sqrt(config.residual_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T) to (B, C', T')."""
        y = self.act(self.norm(self.conv(x)))
        if self.skip:
            step = x.shape[2] // y.shape[2]
            y = (y + x[..., ::step][..., : y.shape[2]]) * self.scale
        return y


class AggregatorLayer(nn.Module):
    """Convolution over this frame and those before it, group norm, activation, skip connection."""

    def __init__(self, channels: int, row: tuple[int, int, int], config: Wav2VecConfig) -> None:
        super().__init__()
        out, self.kernel, _ = row
        self.conv = nn.Conv1d(channels, out, self.kernel, bias=config.aggregator_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.GroupNorm(1, out, affine=config.affine)
        self.act = config.act()
        self.pad_mode = "constant" if config.zero_pad else "replicate"
        self.skip: nn.Module | None = None
        if config.skip_aggregator:
            same = channels == out
            self.skip = nn.Identity() if same else nn.Conv1d(channels, out, 1, bias=False)
        self.scale = math.sqrt(config.residual_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T) to (B, C', T)."""
        padded = F.pad(x, (self.kernel - 1, 0), mode=self.pad_mode)
        y = self.act(self.norm(self.dropout(self.conv(padded))))
        return y if self.skip is None else (y + self.skip(x)) * self.scale


class Wav2Vec(nn.Module):
    """Encoder and aggregator; the predictions are `distill.ssl.losses.future`."""

    config_type: ClassVar[type[Wav2VecConfig]] = Wav2VecConfig

    def __init__(self, config: Wav2VecConfig) -> None:
        super().__init__()
        self.config = config
        widths = [1, *(row[0] for row in config.encoder)]
        self.encoder = nn.ModuleList(
            EncoderLayer(c, row, config) for c, row in zip(widths, config.encoder, strict=False)
        )
        widths = [config.width, *(row[0] for row in config.aggregator)]
        self.aggregator = nn.ModuleList(
            AggregatorLayer(c, row, config)
            for c, row in zip(widths, config.aggregator, strict=False)
        )
        self.dropout_features = nn.Dropout(config.dropout_features)
        self.dropout_context = nn.Dropout(config.dropout_context)

    @classmethod
    def build(cls, config: Wav2VecConfig, seed: int) -> Self:
        """Make a model with weights drawn from ``seed``; the global random state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def features(self, waves: Tensor) -> Tensor:
        """Encoder output z of whole clips of one length.

        Shape: (B, N) to (B, T, C).
        """
        x = waves[:, None]  # (B, 1, N)
        for layer in self.encoder:
            x = layer(x)
        if self.config.log_compression:
            x = torch.log(x.abs() + 1)
        return x.transpose(1, 2)

    def context_states(self, z: Tensor) -> list[Tensor]:
        """Output of each aggregator layer; the last is c.

        Shape: (B, T, C) to L tensors (B, T, C of the layer).
        """
        x = self.dropout_features(z).transpose(1, 2)  # (B, C, T)
        states = []
        for layer in self.aggregator:
            x = layer(x)
            states.append(x.transpose(1, 2))
        return [*states[:-1], self.dropout_context(states[-1])]

    def aggregate(self, z: Tensor) -> Tensor:
        """Context c: frame t is made of frames 0..t of z (and of the norms' statistics).

        Shape: (B, T, C) to (B, T, C of c).
        """
        return self.context_states(z)[-1]

    def states(self, waves: Tensor) -> list[Tensor]:
        """Hidden states of a teacher: z, then the output of each aggregator layer.

        Shape: (B, N) to L + 1 tensors (B, T, C of the state).
        """
        z = self.features(waves)
        return [z, *self.context_states(z)]

    @property
    def state_widths(self) -> tuple[int, ...]:
        """Channels of each of `states`."""
        return (self.config.width, *(row[0] for row in self.config.aggregator))


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
