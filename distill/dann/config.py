"""Everything that can be set of a domain-adversarial training.

The plain training (ERM) is the one whose ``dann.lambda_schedule`` starts and ends at 0: its
discriminator learns as well and is heard by nobody.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal

from distill.training.config import LoopConfig
from enhance.config.checked import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    checked,
)


@checked
class LayerSelection:
    """Which hidden states of the backbone are used (`distill.teacher.layers.Layers`)."""

    method: Literal["weighted", "first_k", "last_k", "single", "last"] = "weighted"
    """Several states meet in a learned weighted sum."""
    k: NonNegativeInt = 0
    """How many of the first or last states, counted with state 0; the number of the single one."""

    @property
    def text(self) -> str:
        """As `Layers.parse` reads it."""
        return self.method if self.method in ("weighted", "last") else f"{self.method}:{self.k}"


@checked
class BackboneConfig:
    """The speech model below."""

    name: str = "mini-wavlm"
    """As `distill.backbones.find.load` finds it."""
    freeze: bool = True
    """Whether it stays as it is; what it says is then remembered on disk. Else its transformer
    blocks learn, never what lies before them."""
    freeze_layers: tuple[NonNegativeInt, ...] = ()
    """Blocks, from 0, that stay as they are where the others learn."""
    rate: PositiveFloat = 0.1
    """Learning rate of its blocks, as a share of the rate of all else."""
    layer_selection: LayerSelection = field(default_factory=LayerSelection)
    """States used."""

    def __post_init__(self) -> None:
        if self.freeze and self.freeze_layers:
            raise ValueError("freeze_layers: says nothing where freeze is true; set freeze: false")


@checked
class Pooling:
    """From frames to one vector."""

    method: Literal["statistics", "attention"] = "statistics"
    """Mean and standard deviation, or a learned weighted mean for each head."""
    heads: PositiveInt = 4
    """Of attention: each weighs the frames for its own share of the features."""


@checked
class LambdaSchedule:
    """Strength of the reversed gradient over the training."""

    start: NonNegativeFloat = 0.0
    """At the beginning."""
    end: NonNegativeFloat = 1.0
    """At the end. From 0 to 1 is Ganin et al.'s (2016, section 5.2.2) own."""

    def __call__(self, progress: float) -> float:
        """``start + (end - start) (2 / (1 + exp(-10 p)) - 1)`` at the part p of the training."""
        return self.start + (self.end - self.start) * (2 / (1 + math.exp(-10 * progress)) - 1)


@checked
class Discriminator:
    """Tells the domain from the embedding."""

    hidden_dim: PositiveInt = 256
    """Width of its hidden layers."""
    num_layers: PositiveInt = 2
    """Number of hidden layers."""


@checked
class Adversary:
    """What makes the embedding forget the domain."""

    lambda_schedule: LambdaSchedule = field(default_factory=LambdaSchedule)
    """Of the reversed gradient."""
    discriminator: Discriminator = field(default_factory=Discriminator)
    """Whose gradient is reversed."""


@checked
class DannConfig(LoopConfig):
    """Everything that decides the weights.

    A validation ends each epoch, and the rate falls from the first step: ``validate_every`` and
    ``warmup_steps`` are not looked at.
    """

    task: Literal["spoof", "speaker"] = "spoof"
    """Bona fide against spoof, or who speaks (verified on speakers never heard)."""
    train: str = ""
    """Manifest (labels ``label``, ``codec``) or ASVspoof protocol of what is trained on."""
    validation: str = ""
    """Of what chooses the best epoch; empty for a part of ``train``."""
    audio: str = ""
    """Folder below which the audio lies that protocols name."""
    held_back: Part = 0.2
    """That part, by speaker."""
    domain: str = "codec"
    """Label that names a clip's domain."""
    seconds: PositiveFloat = 4.0
    """Of each clip: cut, or repeated."""
    epochs: PositiveInt = 20
    """Times that all clips are heard: the schedules need to know the end."""
    batch: PositiveInt = 32
    """Clips of one step."""
    embedding: PositiveInt = 128
    """Dimensions of what task and discriminator see."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Below it."""
    pooling: Pooling = field(default_factory=Pooling)
    """From frames to one vector."""
    dann: Adversary = field(default_factory=Adversary)
    """Beside it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` has Ganin et al.'s momentum of 0.9."""
    minutes: NonNegativeFloat = 0.0
    """0: the number of epochs decides."""
    learning_rate: PositiveFloat = 0.01
    """At the beginning; falls as Ganin et al.'s, see `rate`."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of the optimiser, on matrices only."""
    log_every: PositiveInt = 10
    """Steps between lines of history.jsonl."""

    def __post_init__(self) -> None:
        if self.minutes:
            raise ValueError("minutes: the schedules need to know the end; set epochs")

    def rate(self, step: int, total: int | None) -> float:
        """``learning_rate / (1 + 10 p)^0.75`` at the part p of the training."""
        return self.learning_rate / (1 + 10 * step / (total or 1)) ** 0.75

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator is heard at any time."""
        return max(self.dann.lambda_schedule.start, self.dann.lambda_schedule.end) > 0
