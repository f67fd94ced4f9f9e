"""What decides the weights of a decoder."""

from __future__ import annotations

from typing import Annotated

from distill.training.config import LoopConfig
from enhance.config.checked import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Rising,
    checked,
)
from enhance.errors import EnhanceError


@checked
class DecoderConfig(LoopConfig):
    """Network, data, budget. Every source gets the same."""

    source: str = ""
    """`Source.key` of the features; filled in for each decoder."""
    corpus: str = ""
    """Digest of the clips; filled in."""
    noisy: bool = False
    """Features of noisy speech, the target stays clean."""
    snr: Annotated[tuple[float, float], Rising] = (-5.0, 5.0)
    """Of the mixtures where ``noisy``, dB, uniform, drawn once for each clip."""
    hours: NonNegativeFloat = 1.0
    """Of speech trained on; 0 for all there is."""
    held_back: Part = 0.1
    """Share of the speech kept for validation, by speaker."""
    steps: PositiveInt = 1000
    """Number of steps."""
    batch: PositiveInt = 16
    """Crops of a step."""
    crop_frames: PositiveInt = 125
    """Frames of a crop, 8 ms each."""
    width: PositiveInt = 160
    """Channels of the residual path."""
    blocks: PositiveInt = 3
    """Residual blocks."""
    kernel: PositiveInt = 7
    """Frames that a block's convolution sees."""
    minutes: NonNegativeFloat = 0.0
    """Limit of time for each decoder; 0 for none."""
    learning_rate: PositiveFloat = 2e-3
    """Peak."""
    warmup_steps: NonNegativeInt = 50
    """Linear rise of the learning rate."""
    validate_every: PositiveInt = 250
    """Steps between measurements on held-back clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise EnhanceError(f"kernel {self.kernel}: must be odd, or frames would move")
