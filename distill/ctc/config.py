"""What a fine-tuning run is set by."""

from __future__ import annotations

from dataclasses import dataclass

from distill.ctc.vocabulary import UNITS
from distill.training.config import LoopConfig
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class CtcConfig(LoopConfig):
    """Everything that decides the weights, apart from the recordings."""

    backbone: str = "mini-wavlm"
    """Where it starts: a name that `distill.backbones.find.load` knows."""
    from_scratch: bool = False
    """Only the backbone's architecture, with random weights: what pre-training is worth. The front
    end is trained too."""
    units: str = "char"
    """`char`: characters, words parted by `|`; `word`: tokens parted by spaces."""
    steps: int = 0
    """Number of steps; 0 where the clock decides."""
    learning_rate: float = 3e-4
    """Peak. Base size takes 1e-4 and less, the mini models up to 1e-3."""
    warmup_steps: int = 100
    """Linear rise of the learning rate."""
    freeze_steps: int = 100
    """Steps at the start in which the head alone is trained."""
    train_front_end: bool = False
    """Train the convolutions as well; the paper leaves them as they are."""
    mask: float = 0.0
    """Share of frames of the front end that start a masked span; 0 masks nothing. The paper has
    0.05 to 0.08, for models that heard hundreds of hours; it masks channels too, which is left
    out here."""
    mask_length: int = 10
    """Frames of a span."""
    dropout: float = 0.1
    """Of states, activations and the head's input."""
    batch_seconds: float = 32.0
    """Audio of one step, padding included; a longer clip is a batch of its own."""
    longest_seconds: float = 60.0
    """Longer clips are refused: attention takes memory with the square of their length."""
    held_back: float = 0.1
    """Share of the transcripts kept for evaluation where no other file is, by speaker."""
    log_every: int = 50
    """Steps between lines of history.jsonl."""
    validate_every: int = 250
    """Steps between measurements on the evaluation clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units not in UNITS:
            raise EnhanceError(f"--units {self.units}: unknown; there is {', '.join(UNITS)}")
        if self.steps < 0 or not (self.minutes or self.steps):
            raise EnhanceError("--minutes or --steps: one of them must be positive")
        if self.freeze_steps < 0:
            raise EnhanceError(f"--freeze-steps {self.freeze_steps}: must not be negative")
        if not 0 <= self.mask <= 0.5 or self.mask_length < 1:
            raise EnhanceError("--mask: a share from 0 to 0.5, in spans of a frame or more")
        if not 0 <= self.dropout < 1:
            raise EnhanceError(f"--dropout {self.dropout}: must lie between 0 and 1")
        if min(self.batch_seconds, self.longest_seconds) <= 0:
            raise EnhanceError("batch_seconds and longest_seconds: must be positive")
        if not 0 < self.held_back < 1:
            raise EnhanceError(f"held_back {self.held_back}: must lie between 0 and 1")
