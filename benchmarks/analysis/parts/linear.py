"""A linear probe on one hidden state, or on a learned weighted sum of several, as in SUPERB.

The head is one linear layer: multinomial logistic regression, or least squares. In front of it the
states are summed under softmax weights that are learned with it and start uniform (Yang et al.,
2021, section 2). Each state is centred, and the sum scaled feature by feature, by the training
units: both are affine, so that the head sees exactly what it could see in the raw sum, and one
learning rate serves every model.

Weights have a Gaussian prior under which a value of variance one is explained, or scores of classes
have variance ten: a penalty of D / M, or a tenth of it, which vanishes where there is much to learn
from. Without it, 80 clips on 192 features are learned by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.teacher.layers import LayerSum
from distill.training.accuracy import interval

PASSES, BATCH, LEAST = 12, 512, 300
RATE, SUM_RATE, FAR = 0.01, 0.05, 600


@dataclass(frozen=True)
class Linear:
    """A fitted probe."""

    shares: np.ndarray
    """Of each state in the sum, (K,); they add up to one."""
    weight: Tensor
    """(C, D), on standardised features."""
    bias: Tensor
    """(C,)."""
    centre: np.ndarray
    """(K, D)."""
    scale: np.ndarray
    """(D,)."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores of the classes (S, C), or the value (S,), of states (K, S, D)."""
        z = np.zeros(states.shape[1:], np.float32)
        for share, state, centre in zip(self.shares, states, self.centre, strict=True):
            z += ((state - centre) / self.scale).astype(np.float32) * np.float32(share)
        found: np.ndarray = F.linear(torch.from_numpy(z), self.weight, self.bias).numpy()
        return found if len(self.weight) > 1 else found[:, 0]

    def embed(self, states: np.ndarray) -> np.ndarray:
        """Scores less those of the mean training unit: an embedding by anchors, (S, C)."""
        return self(states) - self.bias.numpy()


def by_speaker(right: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Share of right answers, (N,) or (N, C), with its 95 % interval over speakers."""
    each = right.reshape(len(right), -1)
    owners = np.unique(speakers, return_inverse=True)[1]
    counts = np.bincount(owners) * each.shape[1]
    return interval(np.bincount(owners, each.sum(axis=1)), counts)


def fit(states: np.ndarray, targets: np.ndarray, classes: int, seed: int) -> Linear:
    """Fit a probe of C classes, or by least squares for 0, to numbers of classes or to values.

    Adam over `PASSES` passes of batches of `BATCH`, at least `LEAST` steps; learning rate 0.01,
    more where there are fewer than `FAR` steps, so that weights come as far, and 0.05 for the
    layer weights; it falls to 0 along a cosine. The seed is that of the order of the units.

    Shape: states (K, M, D), targets (M,)
    """
    centre = states.mean(axis=1)  # (K, D)
    scale = states.mean(axis=0).std(axis=0) + 1e-6
    x = torch.from_numpy(((states - centre[:, None]) / scale).astype(np.float32))
    mean, spread = (0.0, 1.0) if classes else (targets.mean(), targets.std() + 1e-9)
    y = torch.from_numpy(targets.astype(np.int64) if classes else (targets - mean) / spread)
    weight = torch.zeros(classes or 1, x.shape[2], requires_grad=True)
    bias = torch.zeros(classes or 1, requires_grad=True)
    layers = LayerSum(len(x))
    batches = -(-x.shape[1] // BATCH)
    passes = max(PASSES, -(-LEAST // batches))
    rate = RATE * max(1.0, FAR / (passes * batches))
    groups = [
        {"params": [weight, bias], "lr": rate},
        {"params": [layers.scores], "lr": SUM_RATE},
    ]
    optimizer = torch.optim.Adam(groups, fused=True)
    penalty = (0.1 if classes else 1.0) * x.shape[2] / x.shape[1]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, passes * batches)
    rng = np.random.default_rng(seed)
    for _ in range(passes):
        for chosen in np.array_split(rng.permutation(x.shape[1]), batches):
            picked = torch.from_numpy(chosen)
            summed = layers(x[:, picked, None])[:, 0] if len(x) > 1 else x[0, picked]
            scores = F.linear(summed, weight, bias)
            loss = (
                F.cross_entropy(scores, y[picked])
                if classes
                else F.mse_loss(scores[:, 0], y[picked].float()) / 2
            )
            loss = loss + penalty * weight.square().sum() / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Linear(
        shares=layers.weights.detach().numpy(),
        weight=weight.detach() * spread,
        bias=bias.detach() * spread + mean,
        centre=centre,
        scale=scale,
    )
