"""What decides the weights of a speaker encoder."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from distill.backbones.ecapa_model import EcapaConfig
from distill.training.config import LoopConfig
from enhance.config.checked import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Share,
    checked,
)
from enhance.config.mixing import MixingConfig
from enhance.errors import EnhanceError

PRESETS = {
    "small": EcapaConfig(
        channels=(128, 128, 128, 128, 256),
        attention_channels=64,
        res2net_scale=4,
        se_channels=64,
        embedding=96,
    ),
    "medium": EcapaConfig(channels=(256, 256, 256, 256, 768), embedding=192),
    "published": EcapaConfig(),
}
"""Sizes: `small` trains on one CPU core, `published` is that of spkrec-ecapa-voxceleb."""


@checked
class AamConfig:
    """Supervised training: additive angular margin softmax (Deng et al. 2019)."""

    margin: NonNegativeFloat = 0.2
    """Radians added to the angle to the own speaker."""
    scale: PositiveFloat = 30.0
    """Of the cosines."""
    crop_seconds: PositiveFloat = 2.0
    """Length of a training crop."""


@checked
class DinoConfig:
    """Training without labels: self-distillation (Caron et al. 2021)."""

    global_crops: Annotated[int, Field(ge=2)] = 2
    """Long crops of a clip, heard by teacher and student."""
    global_seconds: PositiveFloat = 1.6
    """Their length."""
    local_crops: NonNegativeInt = 4
    """Short crops, heard by the student."""
    local_seconds: PositiveFloat = 0.8
    """Their length."""
    outputs: PositiveInt = 512
    """Dimensions K of the distributions."""
    hidden: PositiveInt = 256
    """Width of the head's two hidden layers."""
    bottleneck: PositiveInt = 64
    """Width before the last layer, where vectors have length 1."""
    student_temperature: PositiveFloat = 0.1
    """Divides the student's outputs."""
    teacher_temperature: tuple[PositiveFloat, PositiveFloat] = (0.04, 0.04)
    """Divides the teacher's outputs: at the start, and after the warm-up. The paper ends at 0.07
    with a hundred times the outputs; with few, that is close to uniform."""
    temperature_steps: NonNegativeInt = 200
    """Steps of that warm-up, linear."""
    centre_momentum: Share = 0.9
    """Of the mean that is taken off the teacher's outputs."""
    teacher_momentum: Share = 0.99
    """Of the teacher's weights; rises to 1 by a half cosine over the last quarter. Trainings of
    many thousand steps take 0.996."""
    frozen_steps: NonNegativeInt = 10
    """Steps in which the last layer stays as it is."""


@checked
class SpeakerConfig(LoopConfig):
    """Everything that decides the weights."""

    objective: Literal["aam", "dino"] = "aam"
    """`aam` or `dino`."""
    preset: str = "small"
    """Sizes of the encoder, a key of `PRESETS`; empty takes `architecture`."""
    architecture: EcapaConfig = field(default_factory=EcapaConfig)
    """Sizes where no preset is named."""
    source: str = ""
    """Only clips of this source (column `source` of the manifest); empty for all."""
    steps: NonNegativeInt = 0
    """Number of steps; 0 where the clock decides."""
    batch: Annotated[int, Field(ge=2)] = 32
    """Clips of one step."""
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: NonNegativeInt = 30
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat = 3.0
    held_back: Part = 0.1
    """Share of the speech kept for validation, by speaker."""
    clean_probability: Share = 0.3
    """Share of crops without noise and room."""
    mixing: MixingConfig = field(
        default_factory=lambda: MixingConfig(snr=(0.0, 15.0), rir_probability=0.3, rir_count=32)
    )
    """Noise and rooms of the others; the segment is as long as the crop."""
    aam: AamConfig = field(default_factory=AamConfig)
    """Of `aam`."""
    dino: DinoConfig = field(default_factory=DinoConfig)
    """Of `dino`."""
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 100

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    epsilon: ClassVar[float] = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset and self.preset not in PRESETS:
            raise EnhanceError(f"--preset {self.preset}: unknown; there is {', '.join(PRESETS)}")

    @property
    def sizes(self) -> EcapaConfig:
        """Sizes of the encoder."""
        return PRESETS[self.preset] if self.preset else self.architecture
