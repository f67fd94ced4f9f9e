"""How long, how fast and how carefully to train. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enhance.errors import EnhanceError


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of `enhance.training.loop.fit`."""

    steps: int = 20000
    """Optimiser steps at most; 0 for no limit."""
    minutes: float = 0.0
    """Wall-clock minutes at most, validation included; 0 for no limit. The learning rate then
    follows whichever of steps and minutes is nearer its end."""
    batch_size: int = 16
    """Mixtures per step, over all processes."""
    epoch_size: int = 10000
    """Mixtures in one epoch. Each is a function of (seed, epoch, index): never the same twice."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`adamw`, or `muon`: `enhance.training.muon.Muon` for matrices and kernels, AdamW for the
    rest."""
    learning_rate: float = 2e-3
    """Peak of AdamW's learning rate."""
    matrix_rate: float = 0.02
    """Peak of Muon's learning rate."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` decays from the first step to the last. `wsd` (warm-up, stable, decay) keeps its
    peak until the last `decay_share`, so that a run need not know its end: without a limit it
    stays at the peak until it is stopped, and `--branch` decays from any state of it."""
    decay_share: float = 0.2
    """Share of the budget, at its end, in which `wsd` decays; 1 for nothing but a decay."""
    final_rate: float = 0.02
    """The decay ends at this fraction of the peak."""
    warmup_steps: int = 200
    """Steps of linear rise at the start."""
    weight_decay: float = 0.03
    """Decoupled decay of matrices and kernels, times their rate; vectors (biases, norms) are left
    alone. Muon's steps have one size whatever the gradient, so that weights grow with the square
    root of their number: with 1e-4 a `gcrn-tiny` came apart after 4000 steps at 0.02."""
    clip_norm: float = 5.0
    """Largest norm of the gradient of all weights; longer ones are scaled down. 0 for no limit."""
    ema_decay: float = 0.999
    """Decay per step of the averaged weights, which are the ones validated and kept. In step n
    (from 1) at most n / (n + 9), so that short runs forget their start."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` runs the network in bfloat16; transforms, losses and weights stay in float32. `auto`
    is `bf16` where the device multiplies in it (GPUs since Ampere, CPUs with AVX512-BF16 or AMX),
    else `fp32`."""
    validate_every: int = 1000
    """Steps between validations; 0 for none: then the last weights are kept, not the best."""
    validation_clips: int = 24
    """Mixtures of held-back speakers and noises, the same in every run."""
    validation_snr: float | None = None
    """SNR of the validation mixtures in dB; unset for the middle of `mixing.snr`."""
    checkpoint_every: int = 500
    """Steps between writings of the state from which `--resume` continues."""
    log_every: int = 50
    """Steps averaged into one line of history.jsonl."""
    threads: int = 0
    """Torch threads per process; 0 for torch's own choice."""

    def __post_init__(self) -> None:
        positive = ("batch_size", "epoch_size", "learning_rate", "matrix_rate")
        for name in (*positive, "checkpoint_every", "log_every"):
            if not getattr(self, name) > 0:
                raise EnhanceError(f"training.{name} {getattr(self, name)}: must be positive")
        for name in (
            "steps",
            "minutes",
            "warmup_steps",
            "weight_decay",
            "clip_norm",
            "validate_every",
        ):
            if getattr(self, name) < 0:
                raise EnhanceError(f"training.{name} {getattr(self, name)}: must not be negative")
        if self.schedule == "cosine" and not (self.steps or self.minutes):
            raise EnhanceError(
                "training.steps 0: a cosine has an end; set steps or minutes, or schedule: wsd"
            )
        if not 0 < self.decay_share <= 1:
            raise EnhanceError(f"training.decay_share {self.decay_share}: must be in (0, 1]")
        if not 0 <= self.final_rate <= 1:
            raise EnhanceError(f"training.final_rate {self.final_rate}: must be in [0, 1]")
        if not 0 <= self.ema_decay < 1:
            raise EnhanceError(f"training.ema_decay {self.ema_decay}: must be in [0, 1)")
        if self.validate_every and self.validation_clips < 1:
            raise EnhanceError(
                f"training.validation_clips {self.validation_clips}: must be positive; "
                "validate_every: 0 turns validation off"
            )
        if self.threads < 0:
            raise EnhanceError(f"training.threads {self.threads}: must not be negative")
