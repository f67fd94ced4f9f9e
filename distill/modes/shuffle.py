"""Controls: targets that keep what a teacher's embeddings look like and lose what they tell.

If an encoder gains as much from these as from the real ones, what it gains is no content. ``true``
hands every frame the target of another frame of the batch; ``clips`` hands every clip of a batch
the targets of the next one in it, so that their course over time stays as well, and only whose
speech they tell of is wrong. Mixtures are drawn at random, so that the next one is any other.

Both are pure functions of the mixtures, which are functions of the run's seed: a resumed run sees
the same control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from enhance.errors import EnhanceError

Shuffle = bool | Literal["clips"]
"""No control, of frames (true), or of clips."""


def shuffled(
    how: Shuffle, target: Tensor, valid: Tensor, index: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Targets of a batch, and which frames have one, under a control.

    Shape: target (B, T, D), valid (B, T), index: (epoch, index) of each item -> the first two

    Raises
    ------
    EnhanceError
        If a clip has no other beside it.
    """
    if how == "clips":
        if len(target) < 2:
            raise EnhanceError(
                "objective.shuffle_targets clips: a batch of one has no other clip; set "
                "training.batch_size to 2 or more (for each process)"
            )
        return target.roll(1, 0), valid.roll(1, 0)
    return (shuffle(target, valid, index) if how else target), valid


def shuffle(target: Tensor, valid: Tensor, index: Sequence[Sequence[int]]) -> Tensor:
    """Permute the targets of all valid frames of a batch, over items and time together.

    The set of target vectors, and with it every marginal statistic and the scale of the loss, stays
    the same; which frame gets which tells nothing about the speech any more, whatever the batch
    size, and nothing is left of what all items share at the same time.

    Shape: target (B, T, D), valid (B, T), index: (epoch, index) of each item -> (B, T, D)
    """
    flat = [int(number) & 0xFFFFFFFF for pair in index for number in pair]
    rng = np.random.default_rng(np.random.SeedSequence(flat))
    order = torch.from_numpy(rng.permutation(int(valid.sum()))).to(target.device)
    shuffled = target.clone()
    shuffled[valid] = target[valid][order]
    return shuffled
