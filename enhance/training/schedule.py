"""Learning rate over a run limited by steps, by minutes, or by both."""

from __future__ import annotations

import math

from enhance.training.config import TrainingConfig


def progress(config: TrainingConfig, step: int, seconds: float) -> float:
    """Fraction of the budget that is used after ``step`` steps and ``seconds`` of training.

    The larger of both fractions, at most 1. Without a limit in minutes it is a function of the
    step alone, and then a resumed run repeats the rates of one never stopped.
    """
    used = step / config.steps
    if config.minutes:
        used = max(used, seconds / (60 * config.minutes))
    return min(used, 1.0)


def learning_rate(config: TrainingConfig, step: int, used: float) -> float:
    """Rate of the step after ``step`` finished ones: linear warm-up times cosine decay.

    ``peak * min(1, (step + 1) / warmup) * (f + (1 - f) * (1 + cos(pi * used)) / 2)`` with
    f = `TrainingConfig.final_rate`. The product, unlike a decay that begins after the warm-up,
    needs no number of steps, which a run limited by minutes does not know.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * used)) / 2
    return config.learning_rate * warm * decay
