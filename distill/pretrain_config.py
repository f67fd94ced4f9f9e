"""What every family's pre-training run is set by, and how its learning rate runs.

Each family refines `PretrainConfig` with its architecture and its objective
(`distill.families`). A run has one or more iterations: HuBERT and WavLM make new units and train on
them in each, the other families have one.
"""

from __future__ import annotations

from dataclasses import dataclass

from enhance.errors import EnhanceError


@dataclass(frozen=True)
class PretrainConfig:
    """What decides the weights, apart from the family's own settings."""

    family: str = ""
    """Kind of model and loss."""
    seed: int = 0
    """Of the weights, the split, the codes, the order, the masks and the mixing."""
    minutes: float = 48.0
    """Wall time of training over all iterations, units not counted; 0 for no limit."""
    steps: tuple[int, ...] = ()
    """Steps of each iteration; one number is for all iterations together; empty for no limit."""
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
        if self.minutes < 0 or (not self.minutes and not self.steps):
            raise EnhanceError("--minutes or --steps: one of them must be positive")
        rounds = self.rounds
        if self.steps and (len(self.steps) not in (1, rounds) or min(self.steps) < 1):
            counts = f"the {rounds} iterations" if rounds > 1 else "the one iteration"
            raise EnhanceError(
                f"--steps {','.join(map(str, self.steps))}: give one positive number, or one for "
                f"each of {counts}"
            )
        if not 0 < self.held_back < 1:
            raise EnhanceError(f"held_back {self.held_back}: must lie between 0 and 1")
        if min(self.batch_seconds, self.crop_seconds, self.learning_rate, self.clip_norm) <= 0:
            raise EnhanceError(
                "batch_seconds, crop_seconds, learning_rate and clip_norm must be positive"
            )
        if min(self.log_every, self.validate_every, self.threads) < 1 or self.warmup_steps < 0:
            raise EnhanceError("log_every, validate_every and threads must be 1 or more")

    @property
    def rounds(self) -> int:
        """Iterations of the run."""
        return 1

    def share(self, iteration: int) -> float:
        """Fraction of the whole budget for one iteration."""
        return 1.0 / self.rounds

    def steps_of(self, iteration: int) -> int | None:
        """Steps of one iteration, None where only the clock limits them."""
        if len(self.steps) == self.rounds:
            return self.steps[iteration]
        return max(1, round(self.steps[0] * self.share(iteration))) if self.steps else None


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
