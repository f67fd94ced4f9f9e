"""How far a prediction is from its target, frame by frame.

Targets are layer-normalised: zero mean and unit variance over the D features of a frame. The
scales that follow, for a prediction that knows nothing (constant zero, or any direction at random):

* ``l1``: mean absolute difference, 0.80 = E|x| of a unit Gaussian for a zero guess; unbounded
  above. The paper's (arXiv 2403.01369).
* ``cosine``: 1 - cos of the angle between the two vectors: 1; from 0 to 2. The length of the
  prediction is free.
* ``correlation``: 1 - Pearson's r over the D features: 1; from 0 to 2. Length and mean of the
  prediction are free.

The last two reach all their range within the directions, so that one weight means more of them
than of L1 where the prediction is nearly right, and less where it is far off.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Distance = Literal["l1", "cosine", "correlation"]
"""The distances there are."""


def distance(kind: Distance, predicted: Tensor, target: Tensor) -> Tensor:
    """Distance of each frame.

    Shape: predicted, target (B, T, D) -> (B, T)
    """
    if kind == "l1":
        return (predicted - target).abs().mean(-1)
    if kind == "correlation":
        predicted = predicted - predicted.mean(-1, keepdim=True)
        target = target - target.mean(-1, keepdim=True)
    return 1 - F.cosine_similarity(predicted, target, dim=-1)
