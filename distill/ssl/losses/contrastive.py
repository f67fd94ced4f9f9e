"""Contrastive prediction of quantised frames: the pre-training loss of wav2vec 2.0.

Source: Baevski et al. 2020, section 3.2. For each masked frame the projected context c must tell
the quantised frame q from K distractors, drawn uniformly from the other masked frames of the same
clip (equation 3: softmax over cosine similarities divided by a temperature). A diversity loss keeps
the codebooks in use (equation 4, in the form of the public code: the share of the G V entries that
the perplexity of the mean softmax leaves unused).

A distractor with the same codes as the target would be a wrong answer that equals the right one;
as in the public code it is left out of the loss. A collapsed codebook then makes the loss zero.
So the accuracy is counted differently: equal candidates share the hit, candidates are drawn without
repetition, and a blind choice gets 1 / (K + 1) whatever the codebooks do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def draw_distractors(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` distractors of every masked frame, with replacement.

    They are places in the list of all M masked frames of the batch, row by row; of the same row as
    the frame, never the frame itself, but where it is alone in its row: `contrast` then leaves it
    out as equal to its target.

    Shape: bool (B, T) to int64 (M, K)
    """
    drawn, first = [], 0
    for row in mask:
        size = int(row.sum())
        own = np.arange(size)[:, None]
        other = rng.integers(max(1, size - 1), size=(size, count))
        other += (other >= own) & (size > 1)  # skips the frame itself, uniform over the others
        drawn.append(first + other)
        first += size
    return np.concatenate(drawn)


def draw_distinct(frames: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Distractors of every frame of one clip without repetition, to measure accuracy.

    Drawn with replacement, some of K distractors are one frame drawn twice, and a blind ranking of
    the frames is right more often than 1 / (K + 1). Here it is right 1 / (K' + 1) of the time,
    also where frames share codes, since each candidate is as likely as any to be the true one.

    Shape: (frames, K') int64 with K' = min(count, frames - 1).
    """
    others = np.tile(np.arange(max(0, frames - 1)), (frames, 1))
    drawn = rng.permuted(others, axis=1)[:, :count]
    drawn += drawn >= np.arange(frames)[:, None]  # skips the frame itself
    return drawn


@dataclass(frozen=True)
class Codes:
    """What a product quantiser made of frames."""

    vectors: Tensor
    """Codewords of the groups laid side by side, (M, D)."""
    codes: Tensor
    """Which codewords, int64 (M, G)."""
    soft: Tensor
    """Softmax of the scores without noise or temperature, (M, G, V)."""


def quantize(quantizer: Any, features: Tensor, temperature: float | None) -> Codes:
    """Codewords of frames, by the weights of transformers' `Wav2Vec2GumbelVectorQuantizer`.

    The same result as its own forward pass, by a product of matrices in place of a broadcast of
    (M, G V, D / G), which takes gigabytes for a batch of Base size. A ``temperature`` is that of
    the Gumbel softmax (hard, straight-through), with noise from torch's global generator; None
    takes the largest score.

    Shape: features (M, C)
    """
    groups, size = quantizer.num_groups, quantizer.num_vars
    scores = quantizer.weight_proj(features).float().unflatten(-1, (groups, size))  # (M, G, V)
    if temperature is None:
        choice = F.one_hot(scores.argmax(dim=-1), size).to(scores)
    else:
        choice = F.gumbel_softmax(scores, tau=temperature, hard=True)
    words = quantizer.codevectors.view(groups, size, -1)  # (G, V, D / G)
    vectors = torch.einsum("mgv,gvd->mgd", choice, words).flatten(1)
    return Codes(vectors, choice.argmax(dim=-1), scores.softmax(dim=-1))


def temperature_at(step: int, start: float, end: float, steps: int) -> float:
    """Gumbel temperature after ``steps`` steps at its end, falling by the same factor each step."""
    return max(end, start * (end / start) ** (step / steps)) if steps else end


@dataclass(frozen=True)
class Contrast:
    """What `contrast` found."""

    loss: Tensor
    """Mean over the masked frames, nats."""
    hits: Tensor
    """Share of a hit of each frame, (M,): 1 / n if the target and n - 1 candidates equal to it
    are the most similar, 0 otherwise."""
    rivals: float
    """Mean number of distractors that differ from their target."""


def contrast(
    context: Tensor, targets: Tensor, codes: Tensor, distractors: Tensor, temperature: float = 0.1
) -> Contrast:
    """Tell each target from its distractors, by cosine similarities divided by the temperature.

    Shape: projected context and projected quantised frames (M, D), codes of the targets (M, G),
    places of the distractors among the targets int64 (M, K)
    """
    similar = F.normalize(context.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T
    right = similar.diagonal()[:, None] / temperature  # (M, 1)
    wrong = similar.gather(1, distractors) / temperature  # (M, K)
    same = (codes[distractors] == codes[:, None]).all(dim=-1)  # (M, K)
    wrong = wrong.masked_fill(same, -torch.inf)
    logits = torch.cat([right, wrong], dim=1)
    truth = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    with torch.no_grad():
        best = wrong.amax(dim=1, keepdim=True)
        ahead = (right > best)[:, 0]
        hits = ahead / (1 + same.sum(dim=1))
        rivals = float((~same).sum(dim=1).float().mean())
    return Contrast(F.cross_entropy(logits, truth), hits, rivals)
