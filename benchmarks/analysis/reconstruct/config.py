"""What decides the weights of a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from distill.training.config import LoopConfig
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class DecoderConfig(LoopConfig):
    """Network, data, budget. Every source gets the same."""

    source: str = ""
    """`Source.key` of the features; filled in for each decoder."""
    corpus: str = ""
    """Digest of the clips; filled in."""
    noisy: bool = False
    """Features of noisy speech, the target stays clean."""
    snr: tuple[float, float] = (-5.0, 5.0)
    """Of the mixtures where ``noisy``, dB, uniform, drawn once for each clip."""
    hours: float = 1.0
    """Of speech trained on; 0 for all there is."""
    held_back: float = 0.1
    """Share of the speech kept for validation, by speaker."""
    steps: int = 1000
    """Number of steps."""
    batch: int = 16
    """Crops of a step."""
    crop_frames: int = 125
    """Frames of a crop, 8 ms each."""
    width: int = 160
    """Channels of the residual path."""
    blocks: int = 3
    """Residual blocks."""
    kernel: int = 7
    """Frames that a block's convolution sees."""
    minutes: float = 0.0
    """Limit of time for each decoder; 0 for none."""
    learning_rate: float = 2e-3
    """Peak."""
    warmup_steps: int = 50
    """Linear rise of the learning rate."""
    validate_every: int = 250
    """Steps between measurements on held-back clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hours < 0 or not 0 < self.held_back < 1:
            raise EnhanceError("--hours must not be negative, held_back must lie between 0 and 1")
        if min(self.steps, self.batch, self.crop_frames, self.width, self.blocks) < 1:
            raise EnhanceError("--steps, batch, crop_frames, width and blocks must be 1 or more")
        if self.kernel % 2 == 0:
            raise EnhanceError(f"kernel {self.kernel}: must be odd, or frames would move")
