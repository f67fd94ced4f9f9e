"""HuBERT and WavLM: masked prediction of k-means units.

HuBERT's recipe (Hsu et al. 2021): units by k-means of MFCC, masked prediction of them; then units
of an inner layer of the model so made, and again. WavLM (Chen et al. 2022) is the same with a gated
relative position bias and a mixed input, the units being those of the clean one. Every later
iteration goes on from the weights of the one before (the papers start anew, with days of computing
time).
"""

from __future__ import annotations

import logging
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from distill.ssl.data.crops import Crop, Disturbance, SslData, disturb, normalize
from distill.ssl.data.units import Units, mfcc_with_deltas
from distill.ssl.families import transformer
from distill.ssl.families.family import Family, Losses, Work
from distill.ssl.families.transformer import FrontEndConfig, units_of, warm_up
from distill.ssl.losses.masked_units import MaskedUnitLoss, evaluate, span_mask
from distill.training.accuracy import Tally, code_usage
from enhance.config.checked import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveInt,
    checked,
)
from enhance.data.mixing.rooms import Response, simulated_bank
from enhance.errors import EnhanceError

log = logging.getLogger("enhance")


@checked
class MaskedUnitsConfig(FrontEndConfig):
    """What decides the weights of a HuBERT or WavLM; the defaults are the mini teacher's."""

    family: str = "wavlm"
    """`wavlm`, or `hubert`, which has no gated relative position bias."""
    iterations: PositiveInt = 2
    """Rounds of making units and training on them."""
    units: Annotated[tuple[Annotated[int, Field(ge=2, le=2**15)], ...], Field(min_length=1)] = (
        100,
        200,
    )
    """Number K of units in each iteration; the last one holds for later iterations too."""
    unit_layer: NonNegativeInt = 4
    """Hidden state whose k-means makes the units from the second iteration on."""
    first_share: Part = 0.4
    """Share of minutes or steps that the first iteration gets; the others share the rest."""
    disturbance: Disturbance = field(default_factory=Disturbance)
    """Noise, other speech and rooms in the input."""
    visible_weight: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (1.0, 0.5)
    """Weight of the loss over visible frames beside that over masked ones, in each iteration; the
    last holds for later ones. HuBERT prefers 0; but a loss over visible frames teaches the
    front end directly, and without it nothing was learnt in the first minutes of a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit_layer > self.architecture.layers:
            raise EnhanceError(f"unit_layer {self.unit_layer}: not a hidden state of the model")

    @property
    def rounds(self) -> int:
        """Iterations of the run."""
        return self.iterations

    def share(self, iteration: int) -> float:
        """Fraction of the whole budget for one iteration."""
        if self.iterations == 1:
            return 1.0
        rest = (1.0 - self.first_share) / (self.iterations - 1)
        return rest if iteration else self.first_share

    def units_of(self, iteration: int) -> int:
        """K of one iteration."""
        return self.units[min(iteration, len(self.units) - 1)]

    def visible_weight_of(self, iteration: int) -> float:
        """Weight of the visible frames in one iteration."""
        return self.visible_weight[min(iteration, len(self.visible_weight) - 1)]


class MaskedUnits(Family):
    """The model, its units and its head; see `distill.ssl.families.family.Family`."""

    def __init__(self, config: MaskedUnitsConfig) -> None:
        self.config = config
        self.model: Any = config.architecture.build(config.seed, config.family)
        self.targets: Units
        self.iteration = 0
        self.rooms: list[Response] = []
        self.held_rooms: list[Response] = []

    def prepare(self, work: Work) -> str:
        """Rooms, units, a head start for the convolutions, and a fresh head."""
        config, self.iteration = self.config, work.iteration
        mix = config.disturbance
        if mix.reverberation_probability > 0 and not self.rooms:
            rooms = simulated_bank(
                mix.reverberation_rooms, config.seed, rt60=mix.reverberation_rt60, quiet=work.quiet
            )
            held = max(1, len(rooms) // 8)
            self.rooms, self.held_rooms = rooms[held:], rooms[:held]
        made = self._units(work)
        if made is None:
            return f"the units of iteration {work.iteration + 1}"
        self.targets = made
        if config.front_end_steps and not work.iteration and not work.begun:
            batches = ((waves, wanted) for _, (waves, wanted, _) in work.batches())
            if not warm_up(self.model, made.count, batches, config, work):
                return "the head start of the front end"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1000 * (work.iteration + 1))
            self.head = MaskedUnitLoss(config.architecture.hidden, made.count)
        return ""

    def _units(self, work: Work) -> Units | None:
        """Units of this iteration, or None if interrupted."""
        i, config = work.iteration, self.config
        path = work.state / f"units-{i + 1}.safetensors"
        if work.begun or (path.exists() and work.reuse):
            return Units.load(path)
        what, make = ("features", self._inner) if i else ("MFCC", mfcc_with_deltas)
        made = units_of(work, what, make, config.units_of(i), config.seed)
        if made is None:
            return None
        made.save(path)
        log.info("iteration %d: %d units of %d files", i + 1, made.count, len(work.data.speech))
        return made

    def _inner(self, wave: np.ndarray) -> np.ndarray:
        """A hidden state of the model as it is."""
        states = transformer.hidden_states(self.model, wave)
        return states[self.config.unit_layer].astype(np.float16)

    def batch(
        self, crops: list[Crop], data: SslData, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Waves (B, N), mixed; units (B, T) of the clean ones; mask (B, T)."""
        clean = np.stack([crop.read(data.speech) for crop in crops])
        mix = self.config.disturbance
        mixed = disturb(clean, data.noise, data.train_noise, mix, rng, self.rooms)
        mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
        return (
            torch.from_numpy(normalize(mixed)),
            torch.from_numpy(self.targets.of(crops)),
            torch.from_numpy(mask),
        )

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> Losses:
        """Cross-entropy over masked frames, and over visible ones by their weight."""
        waves, wanted, mask = batch
        weight = self.config.visible_weight_of(self.iteration)
        states = self.model(waves, mask_time_indices=mask).last_hidden_state  # (B, T, D)
        found = self.head(states, wanted, mask, visible=weight > 0)
        loss = found.masked_loss
        if found.visible_loss is not None:
            loss = loss + weight * found.visible_loss
        return Losses(loss, found.correct, found.masked, {"loss": found.masked_loss.item()})

    def measure(self, data: SslData) -> tuple[Tally, dict[str, Any]]:
        """Masked units of clean held-back files."""
        return evaluate(self.model, self.head, data, self.targets, self.config.seed), {}

    def facts(self) -> dict[str, Any]:
        """Units, and what they were made of."""
        source = f"hidden state {self.config.unit_layer}" if self.iteration else "MFCC, deltas"
        return {"units": self.targets.count, "features": source}

    def report(self, data: SslData) -> dict[str, Any]:
        """And the same on disturbed files, and how often each unit stands in them."""
        row, mix, targets = super().report(data), self.config.disturbance, self.targets
        if not data.held:
            return row
        if mix.noise_probability + mix.speech_probability + mix.reverberation_probability > 0:
            found = evaluate(
                self.model, self.head, data, targets, self.config.seed, mix, self.held_rooms
            )
            row["disturbed"] = found.full()
        labels = np.concatenate([targets.labels[i] for i in data.held])
        row["codes"] = [code_usage(np.bincount(labels, minlength=targets.count))]
        return row

    def save(self, folder: Path) -> None:
        """Write the model without its head, as transformers do."""
        transformer.save(self.model, folder)


FAMILY = (MaskedUnitsConfig, MaskedUnits)
