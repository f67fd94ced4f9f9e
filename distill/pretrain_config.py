"""What decides the weights of a pre-trained model, and how its learning rate runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.crops import Disturbance
from distill.mini_wavlm import FAMILIES, Architecture
from enhance.errors import EnhanceError


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the weights."""

    family: str = "wavlm"
    """Kind of model and loss; `wavlm` is the only one."""
    seed: int = 0
    """Of the weights, the split, the k-means, the order, the masks and the mixing."""
    minutes: float = 48.0
    """Wall time of training over all iterations, units not counted; 0 for no limit."""
    steps: tuple[int, ...] = ()
    """Steps of each iteration; one number is for all iterations together; empty for no limit."""
    iterations: int = 2
    """Rounds of making units and training on them."""
    units: tuple[int, ...] = (100, 200)
    """Number K of units in each iteration; the last one holds for later iterations too."""
    unit_layer: int = 4
    """Hidden state whose k-means makes the units from the second iteration on."""
    first_share: float = 0.4
    """Share of minutes or steps that the first iteration gets; the others share the rest."""
    architecture: Architecture = field(default_factory=Architecture)
    """Size of the model."""
    disturbance: Disturbance = field(default_factory=Disturbance)
    """Noise and other speech laid over the input."""
    front_end_steps: int = 0
    """Steps before the first iteration in which the convolutions alone learn to tell the units of
    the (visible) frames: four times as fast a step, since there is no transformer."""
    front_end_rate: float = 2e-3
    """Learning rate of these steps, after a warm-up over the first 40."""
    visible_weight: tuple[float, ...] = (1.0, 0.5)
    """Weight of the loss over visible frames beside that over masked ones, in each iteration; the
    last holds for later ones. HuBERT prefers 0; but a loss over visible frames teaches the
    front end directly, and without it nothing was learnt in the first minutes of a CPU."""
    batch_seconds: float = 16.0
    """Audio of one step."""
    crop_seconds: float = 5.0
    """Longest crop."""
    learning_rate: float = 1e-3
    """Peak."""
    warmup_steps: int = 150
    """Of each iteration."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only."""
    clip_norm: float = 1.0
    """Bound on the norm of all gradients."""
    held_back: float = 0.05
    """Share of speech (by speaker, where known) and noise kept out of training."""
    log_every: int = 50
    """Steps between lines of history.jsonl."""
    validate_every: int = 400
    """Steps between measurements on held-back files."""
    checkpoint_seconds: float = 60.0
    """Wall time between saved states."""
    threads: int = 1
    """CPU threads of torch; the weights are repeatable for the same number."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise EnhanceError(f"--family {self.family}: unknown; there is {', '.join(FAMILIES)}")
        if self.iterations < 1 or not self.units or min(self.units) < 2:
            raise EnhanceError("--iterations and --units: need one iteration and two units or more")
        if self.minutes < 0 or (not self.minutes and not self.steps):
            raise EnhanceError("--minutes or --steps: one of them must be positive")
        if self.steps and (len(self.steps) not in (1, self.iterations) or min(self.steps) < 1):
            raise EnhanceError(
                f"--steps {','.join(map(str, self.steps))}: give one positive number, or one for "
                f"each of the {self.iterations} iterations"
            )
        if not 0 <= self.unit_layer <= self.architecture.layers:
            raise EnhanceError(f"unit_layer {self.unit_layer}: not a hidden state of the model")

    def share(self, iteration: int) -> float:
        """Fraction of the whole budget for one iteration."""
        if self.iterations == 1:
            return 1.0
        rest = (1.0 - self.first_share) / (self.iterations - 1)
        return rest if iteration else self.first_share

    def steps_of(self, iteration: int) -> int | None:
        """Steps of one iteration, None where only the clock limits them."""
        if len(self.steps) == self.iterations:
            return self.steps[iteration]
        return max(1, round(self.steps[0] * self.share(iteration))) if self.steps else None

    def units_of(self, iteration: int) -> int:
        """K of one iteration."""
        return self.units[min(iteration, len(self.units) - 1)]

    def visible_weight_of(self, iteration: int) -> float:
        """Weight of the visible frames in one iteration."""
        return self.visible_weight[min(iteration, len(self.visible_weight) - 1)]


def rate(config: PretrainConfig, step: int, total: int | None) -> float:
    """Learning rate of the step after ``step`` finished ones: warm-up, plateau, last quarter."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = 1.0
    if total is not None and step >= total - total // 4:
        decay = (total - step) / (total // 4)
    return config.learning_rate * warm * decay


def total_from(step: int) -> int:
    """Number of steps of a run whose last quarter begins at ``step``."""
    return max(4 * step // 3, step + 1)
