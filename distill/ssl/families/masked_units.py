"""HuBERT and WavLM: masked prediction of k-means units.

HuBERT's recipe (Hsu et al. 2021): units by k-means of MFCC, masked prediction of them; then units
of an inner layer of the model so made, and again. WavLM (Chen et al. 2022) is the same with a gated
relative position bias and a mixed input, the units being those of the clean one. Every later
iteration goes on from the weights of the one before (the papers start anew, with days of computing
time).

Beside the units of masked frames that a model never trained on stand guesses that need none: one
unit in K at random (chance), the most frequent unit of the training files (majority), and the unit
of the nearest frame that is not masked (nearest visible), which is the strongest thing that can be
had without knowing speech.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from distill.ssl.data.crops import Crop, Disturbance, SslData, disturb, normalize
from distill.ssl.data.units import Units, mfcc_with_deltas
from distill.ssl.families import transformer
from distill.ssl.families.family import Family, Losses, Work
from distill.ssl.families.transformer import FrontEndConfig, units_of, warm_up
from distill.ssl.losses.masked_units import MaskedUnitLoss, nearest_visible, span_mask
from distill.training.accuracy import Tally, code_usage, evaluating
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

T = TypeVar("T")

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
        made = units_of(work, what, make, _of(i, config.units), config.seed)
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
        mix = self.config.disturbance
        mixed = disturb(data.waves(crops), data.noise, data.train_noise, mix, rng, self.rooms)
        mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
        return (
            torch.from_numpy(normalize(mixed)),
            torch.from_numpy(self.targets.of(crops)),
            torch.from_numpy(mask),
        )

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> Losses:
        """Cross-entropy over masked frames, and over visible ones by their weight."""
        waves, wanted, mask = batch
        weight = _of(self.iteration, self.config.visible_weight)
        states = self.model(waves, mask_time_indices=mask).last_hidden_state  # (B, T, D)
        found = self.head(states, wanted, mask, visible=weight > 0)
        loss = found.masked_loss
        if found.visible_loss is not None:
            loss = loss + weight * found.visible_loss
        return Losses(loss, found.correct, found.masked, {"loss": found.masked_loss.item()})

    def measure(self, data: SslData) -> tuple[Tally, dict[str, Any]]:
        """Masked units of clean held-back files."""
        return self._answers(data), {}

    def _answers(self, data: SslData, mix: Disturbance | None = None) -> Tally:
        """Predictions of masked units of the held-back files; ``mix`` lays held-back noise and
        other held-back speech over the input, through held-back rooms.
        """
        targets = self.targets
        seen = np.concatenate([targets.labels[i] for i in data.train])
        common = int(np.bincount(seen, minlength=targets.count).argmax())
        tally = Tally(1.0 / targets.count, ("majority", "nearest_visible"))
        batches, rng = data.measured(self.config.seed)
        for crops in batches:
            waves = data.waves(crops)
            mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
            if mix is not None:
                waves = disturb(waves, data.noise, data.held_noise, mix, rng, self.held_rooms)
            wanted, masked = targets.of(crops), torch.from_numpy(mask)
            with evaluating(self.model):
                heard = self.model(torch.from_numpy(normalize(waves)), mask_time_indices=masked)
                logits = self.head.logits(heard.last_hidden_state.float())  # (B, T, K)
            scores = logits.log_softmax(dim=-1)
            picked = scores.gather(2, torch.from_numpy(wanted)[..., None])[..., 0]
            tally.loss -= float(picked[masked].sum())
            guess = logits.argmax(dim=-1).numpy()
            for b, crop in enumerate(crops):
                m, y = mask[b], wanted[b]
                near = nearest_visible(m)
                guesses = (guess[b], np.full_like(y, common), np.where(near < 0, -1, y[near]))
                tally.add(crop.clip, int(m.sum()), *(int(((x == y) & m).sum()) for x in guesses))
        return tally

    def facts(self) -> dict[str, Any]:
        """Units, and what they were made of."""
        source = f"hidden state {self.config.unit_layer}" if self.iteration else "MFCC, deltas"
        return {"units": self.targets.count, "features": source}

    def report(self, data: SslData) -> dict[str, Any]:
        """And the same on disturbed files, and how often each unit stands in them."""
        row, mix, targets = super().report(data), self.config.disturbance, self.targets
        if mix.noise_probability + mix.speech_probability + mix.reverberation_probability > 0:
            row["disturbed"] = self._answers(data, mix).full()
        labels = np.concatenate([targets.labels[i] for i in data.held])
        row["codes"] = [code_usage(np.bincount(labels, minlength=targets.count))]
        return row

    def save(self, folder: Path) -> None:
        """Write the model without its head, as transformers do."""
        transformer.save(self.model, folder)


def _of(iteration: int, values: Sequence[T]) -> T:
    """The value for an iteration; the last one holds for later iterations too."""
    return values[min(iteration, len(values) - 1)]


FAMILY = (MaskedUnitsConfig, MaskedUnits)
