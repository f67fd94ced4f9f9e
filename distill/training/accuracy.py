"""Right answers counted by file: the held-back figure of every family, with its interval.

Frames of one file are alike, so the file is the independent unit: intervals are Student's t over
files. A guess that needs no model stands beside the model's figure where there is one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def interval(hits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Share of hits with a 95 % interval over whole clusters: clips are independent, not frames.

    Student's t of a ratio of sums (Cochran, "Sampling techniques", 1977, section 6.3): what each
    cluster has more hits than its part of the share. A percentile bootstrap, which does the same,
    is far too narrow where clusters are few. One cluster shows nothing: a whole to either side.

    Shape: hits (n,) and counts (n,) of each cluster
    """
    from scipy.stats import t

    n, whole = len(hits), counts.sum()
    share = float(hits.sum() / whole)
    half = 1.0
    if n > 1:
        rest = hits - share * counts
        error = math.sqrt(n / (n - 1) * float(rest @ rest)) / whole
        half = float(t.ppf(0.975, n - 1)) * error
    limits = {"mean": share, "low": share - half, "high": share + half}
    return {key: round(float(value), 5) for key, value in limits.items()}


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's mode comes back afterwards."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


@dataclass
class Tally:
    """Answers of the model and of guesses, added up by file."""

    chance: float
    """Share of hits of a blind choice."""
    guesses: tuple[str, ...] = ()
    """Names of what stands beside the model."""
    loss: float = 0.0
    """Sum over the questions, nats."""
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    """For each file: questions, hits of the model, hits of each guess."""

    def add(self, file: int, count: int, *hits: float) -> None:
        """Add one crop's questions and hits to its file."""
        row = np.array([count, *hits], np.float64)
        if len(row) != 2 + len(self.guesses):
            raise ValueError(f"{len(hits)} kinds of hits, need {1 + len(self.guesses)}")
        self.rows[file] = self.rows.get(file, np.zeros(len(row))) + row

    @property
    def counted(self) -> int:
        """Questions in all."""
        return int(sum(row[0] for row in self.rows.values()))

    def brief(self) -> dict[str, Any]:
        """Loss and accuracy."""
        hits = sum(row[1] for row in self.rows.values())
        return {"loss": self.loss / self.counted, "accuracy": float(hits / self.counted)}

    def full(self) -> dict[str, Any]:
        """Everything, with 95 % intervals; ``gains`` are paired, file by file, over each guess."""
        table = np.array([self.rows[file] for file in sorted(self.rows)])  # (n, 2 + guesses)
        counts, right = table[:, 0], table[:, 1]
        guesses = list(zip(self.guesses, table[:, 2:].T, strict=True))
        return {
            "loss": self.loss / self.counted,
            "files": len(table),
            "frames": self.counted,
            "accuracy": interval(right, counts),
            "chance": self.chance,
            **{name: interval(hits, counts) for name, hits in guesses},
            "gains": {name: interval(right - hits, counts) for name, hits in guesses},
        }


def code_usage(counts: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Size, used entries and perplexity of one codebook, of how often each entry was taken (V,)."""
    taken = torch.as_tensor(counts, dtype=torch.float64)
    share = taken / taken.sum().clamp_min(1)
    spread = perplexity(share).item() if taken.any() else 0.0
    return {"size": len(taken), "used": int((taken > 0).sum()), "perplexity": round(spread, 3)}


def perplexity(shares: Tensor) -> Tensor:
    """exp of the entropy (nats) of distributions.

    V if all of V entries are taken alike, 1 if one is taken always. Differentiable.

    Shape: (..., V) to (...).
    """
    # A floor: where an entry is never taken the logarithm, and xlogy's gradient, would be infinite.
    floor = torch.finfo(shares.dtype).tiny
    return torch.exp(-(shares * shares.clamp_min(floor).log()).sum(-1))
