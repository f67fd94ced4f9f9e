"""What every family's pre-training run is set by.

Each family refines `SslConfig` with its architecture and its objective
(`distill.ssl.families.family`). A run has one or more iterations: HuBERT and WavLM make new units
and train on them in each, the other families have one.
"""

from __future__ import annotations

from typing import Any

from distill.training.config import LoopConfig
from enhance.config.checked import NonNegativeFloat, Part, PositiveFloat, PositiveInt, checked
from enhance.errors import EnhanceError


@checked
class SslConfig(LoopConfig):
    """What decides the weights, apart from the family's own settings."""

    family: str = ""
    """Kind of model and loss."""
    minutes: NonNegativeFloat = 48.0
    """Wall time of training over all iterations, units not counted; 0 for no limit."""
    steps: tuple[PositiveInt, ...] = ()
    """Steps of each iteration; one number is for all iterations together; empty for no limit."""
    batch_seconds: PositiveFloat = 16.0
    """Audio of one step."""
    crop_seconds: PositiveFloat = 5.0
    """Longest crop."""
    held_back: Part = 0.05
    """Share of speech (by speaker, where known) and noise kept out of training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rounds = self.rounds
        if self.steps and len(self.steps) not in (1, rounds):
            counts = f"the {rounds} iterations" if rounds > 1 else "the one iteration"
            raise EnhanceError(
                f"--steps {','.join(map(str, self.steps))}: give one positive number, or one for "
                f"each of {counts}"
            )

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


PRESETS: dict[str, dict[str, Any]] = {
    "wav2vec": {"family": "wav2vec"},
    "vq-wav2vec": {"family": "vq-wav2vec"},
    # Departs from the paper where a few hundred steps on one CPU core learnt nothing: the front
    # end learns units of MFCC first, and the diversity loss counts five times as much.
    "wav2vec2": {"family": "wav2vec2", "front_end_steps": 600, "diversity_weight": 0.5},
    "hubert": {
        "family": "hubert",
        "disturbance": {"noise_probability": 0.0, "speech_probability": 0.0},
    },
    "wavlm": {
        "family": "wavlm",
        "disturbance": {
            "noise_probability": 0.25,
            "noise_snr": [-5.0, 20.0],
            "speech_probability": 0.15,
            "speech_overlap": [0.25, 0.75],
            "reverberation_probability": 0.2,
        },
    },
    # The recipe of the teacher that ships in distill/models/mini-wavlm, step by step.
    "mini-wavlm": {"family": "wavlm", "minutes": 0.0, "steps": [2065, 3785], "units": [100, 200]},
}
"""Named settings, over the defaults of the family's configuration class; the preset named like a
family is its default."""
