"""How well a model predicts the units of masked frames it never trained on, and what guesses get.

The guesses need no model: one unit in K at random (chance), the most frequent unit of the training
files (majority), and the unit of the nearest frame that is not masked (nearest visible), which is
the strongest thing that can be had without knowing speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distill.ssl.data.corpus import SslData
from distill.ssl.data.crops import Disturbance, disturb, normalize
from distill.ssl.losses.masked_units import MaskedUnitLoss, span_mask
from distill.ssl.units.kmeans import Units
from distill.training.accuracy import Tally, evaluating
from enhance.data.mixing.rooms import Response


def nearest_visible(mask: np.ndarray) -> np.ndarray:
    """Number of the nearest frame that is not masked, the earlier one of two.

    Shape: (T,) bool to (T,); -1 where everything is masked.
    """
    visible = np.flatnonzero(~mask)
    if len(visible) == 0:
        return np.full(len(mask), -1)
    distance = np.abs(np.arange(len(mask))[:, None] - visible)  # (T, V)
    return visible[distance.argmin(axis=1)]


def evaluate(
    model: Any,
    head: MaskedUnitLoss,
    data: SslData,
    targets: Units,
    seed: int,
    mix: Disturbance | None = None,
    rooms: Sequence[Response] = (),
) -> Tally:
    """Predict masked units of the held-back files; the same crops and masks at every call.

    Parameters
    ----------
    model, head
        What is measured; their mode is restored.
    data, targets
        Files and their units.
    seed
        Of crops and masks.
    mix
        Lay held-back noise and other held-back speech over the input; None for clean input.
    rooms
        Room impulse responses for ``mix``.
    """
    seen = np.concatenate([targets.labels[i] for i in data.train])
    common = int(np.bincount(seen, minlength=targets.count).argmax())
    tally = Tally(1.0 / targets.count, ("majority", "nearest_visible"))
    batches, rng = data.measured(seed)
    for crops in batches:
        waves = np.stack([crop.read(data.speech) for crop in crops])
        mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
        if mix is not None:
            waves = disturb(waves, data.noise, data.held_noise, mix, rng, rooms)
        wanted = targets.of(crops)
        with evaluating(model):
            heard = model(
                torch.from_numpy(normalize(waves)), mask_time_indices=torch.from_numpy(mask)
            )
            logits = head.logits(heard.last_hidden_state.float())  # (B, T, K)
        picked = logits.log_softmax(dim=-1).gather(2, torch.from_numpy(wanted)[..., None])[..., 0]
        tally.loss -= float(picked[torch.from_numpy(mask)].sum())
        guess = logits.argmax(dim=-1).numpy()
        for b, crop in enumerate(crops):
            m, y = mask[b], wanted[b]
            near = nearest_visible(m)
            guesses = (guess[b], np.full_like(y, common), np.where(near < 0, -1, y[near]))
            tally.add(crop.clip, int(m.sum()), *(int(((x == y) & m).sum()) for x in guesses))
    return tally
