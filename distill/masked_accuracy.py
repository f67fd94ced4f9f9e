"""How well a model predicts the units of masked frames it never trained on, and what guesses get.

The guesses need no model: one unit in K at random (chance), the most frequent unit of the training
files (majority), and the unit of the nearest frame that is not masked (nearest visible), which is
the strongest thing that can be had without knowing speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WavLMModel

from distill.crops import Disturbance, disturb, normalize, plan
from distill.objectives import MaskedUnitLoss, span_mask
from distill.ssl_data import SslData
from distill.units import Units

_BATCH, _CROP = 1200, 250  # frames


@dataclass(frozen=True)
class MaskedAccuracy:
    """Counts for each held-back crop."""

    loss: float
    """Mean cross-entropy over the masked frames, nats."""
    units: int
    """K."""
    masked: np.ndarray
    """Masked frames of each crop, (n,)."""
    correct: np.ndarray
    """Hits of the model, (n,)."""
    majority: np.ndarray
    """Hits of the majority guess, (n,)."""
    nearest: np.ndarray
    """Hits of the nearest visible frame, (n,)."""

    def brief(self) -> dict[str, Any]:
        """Loss and accuracy."""
        return {"loss": self.loss, "accuracy": float(self.correct.sum() / self.masked.sum())}

    def full(self) -> dict[str, Any]:
        """Everything, with 95 % intervals."""
        return {
            "loss": self.loss,
            "crops": len(self.masked),
            "masked_frames": int(self.masked.sum()),
            "accuracy": interval(self.correct, self.masked),
            "chance": 1.0 / self.units,
            "majority": interval(self.majority, self.masked),
            "nearest_visible": interval(self.nearest, self.masked),
        }


def interval(hits: np.ndarray, counts: np.ndarray, draws: int = 2000) -> dict[str, float]:
    """Share of hits with a 95 % interval by bootstrap over whole clusters.

    Frames of one clip are alike, so clips are drawn with replacement, not frames: the 2.5th and
    97.5th percentile of the pooled share over ``draws`` resamplings (seed 0).

    Parameters
    ----------
    hits, counts
        Of each cluster, (n,).
    draws
        Resamplings.
    """
    chosen = np.random.default_rng(0).integers(len(hits), size=(draws, len(hits)))
    shares = hits[chosen].sum(axis=1) / np.maximum(counts[chosen].sum(axis=1), 1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return {
        "mean": round(float(hits.sum() / counts.sum()), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
    }


def nearest_visible(units: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Guess each frame by the nearest frame that is not masked, the earlier one of two.

    Shape: (T,), (T,) bool to (T,); -1 where everything is masked.
    """
    visible = np.flatnonzero(~mask)
    if len(visible) == 0:
        return np.full(len(units), -1, units.dtype)
    distance = np.abs(np.arange(len(units))[:, None] - visible)  # (T, V)
    return units[visible[distance.argmin(axis=1)]]


@torch.no_grad()
def evaluate(
    model: WavLMModel,
    head: MaskedUnitLoss,
    data: SslData,
    targets: Units,
    seed: int,
    mix: Disturbance | None = None,
) -> MaskedAccuracy:
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
    """
    training = model.training
    model.eval()
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    seen = np.concatenate([targets.labels[i] for i in data.train])
    common = int(np.bincount(seen, minlength=targets.count).argmax())
    loss, rows = 0.0, []
    for crops in plan(data.speech, data.held, _BATCH, _CROP, rng):
        waves = np.stack([crop.read(data.speech) for crop in crops])
        mask = np.stack([span_mask(crop.frames, rng) for crop in crops])
        if mix is not None:
            waves, _ = disturb(waves, data.noise, data.held_noise, mix, rng)
        wanted = np.stack(
            [targets.labels[c.clip][c.start : c.start + c.frames] for c in crops]
        ).astype(np.int64)
        states = model(
            torch.from_numpy(normalize(waves)), mask_time_indices=torch.from_numpy(mask)
        ).last_hidden_state
        logits = head.logits(states.float())  # (B, T, K)
        picked = logits.log_softmax(dim=-1).gather(2, torch.from_numpy(wanted)[..., None])[..., 0]
        loss -= float(picked[torch.from_numpy(mask)].sum())
        guess = logits.argmax(dim=-1).numpy()
        for b in range(len(crops)):
            m, y = mask[b], wanted[b]
            guesses = (guess[b], np.full_like(y, common), nearest_visible(y, m))
            rows.append([m.sum(), *(((x == y) & m).sum() for x in guesses)])
    model.train(training)
    counts = np.array(rows, np.int64)  # (n, 4)
    return MaskedAccuracy(loss / int(counts[:, 0].sum()), targets.count, *counts.T)
