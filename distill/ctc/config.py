"""What a fine-tuning run is set by."""

from __future__ import annotations

from typing import Annotated, Literal

from distill.training.config import LoopConfig
from enhance.config.checked import Field, NonNegativeInt, Part, PositiveFloat, PositiveInt, checked


@checked
class CtcConfig(LoopConfig):
    """Everything that decides the weights, apart from the recordings."""

    backbone: str = "mini-wavlm"
    """Where it starts: a name that `distill.backbones.find.load` knows."""
    from_scratch: bool = False
    """Only the backbone's architecture, with random weights: what pre-training is worth. The front
    end is trained too."""
    units: Literal["char", "word"] = "char"
    """`char`: characters, words parted by `|`; `word`: tokens parted by spaces."""
    steps: NonNegativeInt = 0
    """Number of steps; 0 where the clock decides."""
    learning_rate: PositiveFloat = 3e-4
    """Peak. Base size takes 1e-4 and less, the mini models up to 1e-3."""
    warmup_steps: NonNegativeInt = 100
    freeze_steps: NonNegativeInt = 100
    """Steps at the start in which the head alone is trained."""
    train_front_end: bool = False
    """Train the convolutions as well; the paper leaves them as they are."""
    mask: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of frames of the front end that start a masked span; 0 masks nothing. The paper has
    0.05 to 0.08, for models that heard hundreds of hours; it masks channels too, which is left
    out here."""
    mask_length: PositiveInt = 10
    """Frames of a span."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of states, activations and the head's input."""
    batch_seconds: PositiveFloat = 32.0
    """Audio of one step, padding included; a longer clip is a batch of its own."""
    longest_seconds: PositiveFloat = 60.0
    """Longer clips are refused: attention takes memory with the square of their length."""
    held_back: Part = 0.1
    """Share of the transcripts kept for evaluation where no other file is, by speaker."""
    validate_every: PositiveInt = 250
