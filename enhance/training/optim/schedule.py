"""Learning rate over a run limited by steps, by minutes, by both, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from enhance.config import TrainingConfig


def progress(config: TrainingConfig, step: int, seconds: float) -> float:
    """Fraction of the budget that is used after ``step`` steps and ``seconds`` of training.

    The larger of both fractions, at most 1; 0 for ever without a limit. Without a limit in minutes
    it is a function of the step alone, and then a resumed run repeats the rates of one never
    stopped.
    """
    used = step / config.steps if config.steps else 0.0
    if config.minutes:
        used = max(used, seconds / (60 * config.minutes))
    return min(used, 1.0)


def since(branch: Mapping[str, Any] | None, step: int, seconds: float) -> tuple[int, float]:
    """Steps and seconds since a run branched off another, if it did."""
    return (step - branch["step"], seconds - branch["seconds"]) if branch else (step, seconds)


def learning_rate(config: TrainingConfig, step: int, used: float) -> float:
    """Rate of the step after ``step`` finished ones: peak times linear warm-up times decay.

    ``peak * min(1, (step + 1) / warmup) * (f + (1 - f) * shape(used))`` with
    f = `TrainingConfig.final_rate`. The product, unlike a decay that begins after the warm-up,
    needs no number of steps, which a run limited by minutes does not know.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = config.final_rate + (1 - config.final_rate) * _shape(config, used)
    return config.learning_rate * warm * decay


def is_stable(config: TrainingConfig, used: float) -> bool:
    """Whether the rate is the same up to here, whatever the budget is."""
    return config.schedule == "wsd" and used <= 1 - config.decay_share


def _shape(config: TrainingConfig, used: float) -> float:
    """From 1 to 0: a cosine, or 1 and then one minus a square root.

    The root is the best of the decays compared by Haegele et al., "Scaling laws and compute-optimal
    training beyond fixed training durations", NeurIPS 2024.
    """
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * used)) / 2
    decayed = max(0.0, used - (1 - config.decay_share)) / config.decay_share
    return 1 - math.sqrt(min(1.0, decayed))
