"""What every training by `distill.training.loop` is set by, and how its learning rate runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

from enhance.config.checked import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    checked,
)
from enhance.config.settings import merge, override, parse, to_dict
from enhance.errors import EnhanceError

C = TypeVar("C", bound="LoopConfig")

FREE = ("minutes", "checkpoint_seconds")
"""What a resumed run may have otherwise: the clock decides only where a training ends."""


@checked
class LoopConfig:
    """Budget, learning rate, records."""

    seed: Seed = 0
    """Of everything random."""
    minutes: NonNegativeFloat = 30.0
    """Wall time of training; 0 for no limit."""
    learning_rate: PositiveFloat = 1e-3
    """Peak: after the warm-up, until the last quarter of the steps, in which it falls to 0."""
    warmup_steps: NonNegativeInt = 150
    """Linear rise of the learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's, on matrices only."""
    clip_norm: PositiveFloat = 1.0
    """Bound on the norm of all gradients."""
    log_every: PositiveInt = 50
    """Steps between lines of history.jsonl."""
    validate_every: PositiveInt = 400
    """Steps between measurements on held-back files."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """Wall time between saved states."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """What the network computes in; see `TrainingConfig.precision`."""
    threads: PositiveInt = 1
    """CPU threads of torch; the weights are repeatable for the same number."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)
    """AdamW's momenta."""
    epsilon: ClassVar[float] = 1e-6
    """AdamW's."""

    def __post_init__(self) -> None:
        if not self.minutes and not getattr(self, "steps", True):
            raise EnhanceError("--minutes or --steps: one of them must be positive")

    def rate(self, step: int, total: int | None) -> float:
        """Learning rate of the step after ``step`` finished ones: rise, plateau, last quarter."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warm * (1.0 - last_quarter(step, total))


def last_quarter(step: int, total: int | None) -> float:
    """How much of the last quarter of ``total`` steps is over: 0 before it, 1 at the end."""
    if total is None or step < total - total // 4:
        return 0.0
    return 1 - (total - step) / (total // 4)


def total_from(step: int) -> int:
    """Number of steps of a run whose last quarter begins at ``step``."""
    return max(4 * step // 3, step + 1)


def configure(
    kind: type[C], given: Mapping[str, Any], assignments: Sequence[str], begun: Mapping[str, Any]
) -> C:
    """The configuration of a run, from a command line.

    ``given`` are values of options, None for those that were not given, ``assignments`` such as
    ``dino.outputs=16``, from ``--set``; ``begun`` is the configuration of a run to be resumed, over
    which both are set, empty for a new one. An `EnhanceError` for an unknown key or a value that
    does not fit.
    """
    named = override({k: v for k, v in given.items() if v is not None}, list(assignments), kind)
    whole = to_dict(parse(kind, dict(begun), "the run to be resumed"))
    return parse(kind, merge(whole, named), "--set")
