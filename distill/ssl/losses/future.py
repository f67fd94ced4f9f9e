"""Contrastive future prediction: the pre-training loss of wav2vec and vq-wav2vec.

Source: Schneider et al., "wav2vec", 2019, section 3.2 and equation 2: from the context c_i an
affine map h_k per step k predicts z_{i+k}; the true frame is told from negatives of the same clip
by the logistic loss, or, as in vq-wav2vec's ``infonce`` option, by a softmax over both. As in the
public fairseq code the first target lies ``offset`` frames ahead (the receptive field in strides),
one set of negatives is drawn for each target frame and used by all steps, and the bias of the
affine map is shared by the steps.

One thing differs on purpose. The public code means to keep the true frame out of its own
negatives, but lays out its table of times in another order than the table it compares with, so
that about 1 in T negatives is the positive itself. Here a negative is never the positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.errors import EnhanceError


@dataclass(frozen=True)
class Future:
    """What `FuturePrediction` found in one batch."""

    loss: Tensor
    """Nats per prediction: logistic losses of a true frame and its negatives summed, then the
    mean over all true frames; or the mean cross-entropy (``infonce``). Scalar."""
    hits: Tensor
    """Predictions whose true frame scores above all of its negatives, float32 (B, K). A tie with
    n of them, as between equal codewords, counts 1 / (1 + n): what a coin would score."""
    counts: Tensor
    """Predictions of each item at each step, int64 (B, K); less at later steps."""
    blind: Tensor
    """Hits to expect of a ranking of the candidates drawn blindly, float32 (B, K). Negatives are
    drawn with replacement, and codewords repeat: with d different frames among the negatives
    and n copies of the true one it scores 1 / ((1 + d) (1 + n)), which for z in clips of a
    second is near 0.095 for 10 negatives, not 1 / 11."""

    @property
    def correct(self) -> float:
        """Number of hits; whole where there are no ties."""
        return float(self.hits.sum())

    @property
    def chance(self) -> float:
        """Share of hits of a blind ranking."""
        return float(self.blind.sum()) / max(self.total, 1)

    @property
    def total(self) -> int:
        """Number of predictions. Those of one clip overlap in time and are not independent:
        an interval should go over clips (rows of ``hits``), not over predictions."""
        return int(self.counts.sum())


class FuturePrediction(nn.Module):
    """Predict ``steps`` K frames of the targets, z or its quantised form, from the context c.

    Parameters
    ----------
    offset
        Frames from the context to the first target (`Wav2VecConfig.prediction_offset`).
    negatives
        Negatives per target from its own clip.
    infonce
        Softmax over the true frame and its negatives instead of the logistic loss.
    """

    def __init__(
        self,
        context_width: int,
        target_width: int,
        offset: int,
        *,
        steps: int = 12,
        negatives: int = 10,
        infonce: bool = False,
    ) -> None:
        super().__init__()
        if min(steps, negatives) < 1 or offset < 0:
            raise EnhanceError(
                f"future prediction of {steps} steps, {negatives} negatives, offset {offset}: "
                "needs a step and a negative at least, and no negative offset"
            )
        self.offset, self.steps = offset, steps
        self.negatives, self.infonce = negatives, infonce
        # One affine map per step is a transposed convolution that unfolds an axis of steps.
        self.project = nn.ConvTranspose2d(context_width, target_width, (1, steps))

    def predictions(self, context: Tensor) -> Tensor:
        """Predicted frame of every step.

        Shape: (B, T, C of c) to (B, T, K, C of z).
        """
        weight = self.project.weight[:, :, 0].permute(2, 1, 0)  # (K, C of z, C of c)
        bias = self.project.bias
        assert bias is not None
        return F.linear(context, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2]) + bias

    def draw(self, items: int, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the negatives of every frame: indices into the flattened frames of the batch, int64
        (negatives, B, T), of the same clip. None is the frame itself.

        An `EnhanceError` if there is no other frame to draw from.
        """
        if frames < 2:
            raise EnhanceError("future prediction: clips of one frame leave no negative to draw")
        here = torch.arange(items * frames).view(items, frames)
        time = torch.arange(frames)
        own = torch.randint(frames - 1, (self.negatives, items, frames), generator=generator)
        own += own >= time  # skips the frame itself
        return own + (here - time)

    def scores(
        self, targets: Tensor, context: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scalar product of each prediction with its true frame and that frame's negatives.

        Scores, float32 (B, T, K, 1 + negatives), are by the time of the TRUE frame, which is the
        first of the last axis; step k of K counts from ``offset + k`` frames on and is zero before.
        Then come which negatives equal the true frame, as codewords do, bool (B, T, negatives),
        and the hits to expect of a blind ranking, float32 (B, T).
        """
        items, frames, width = targets.shape
        drawn = self.draw(items, frames, generator).to(targets.device).permute(1, 2, 0)
        others = targets.reshape(-1, width)[drawn]  # (B, T, negatives, C)
        choices = torch.cat([targets[:, :, None], others], dim=2)
        predicted = self.predictions(context).unbind(2)  # K x (B, T, C)
        ahead = [self.offset + k for k in range(min(self.steps, frames - self.offset))]
        moved = torch.stack(
            [F.pad(predicted[k][:, : frames - a], (0, 0, a, 0)) for k, a in enumerate(ahead)], dim=2
        )  # (B, T, K, C): the predictions of one frame side by side
        copies, blind = _repeats(targets.detach(), drawn)
        return (moved @ choices.transpose(2, 3)).float(), copies, blind

    def forward(
        self, targets: Tensor, context: Tensor, generator: torch.Generator | None = None
    ) -> Future:
        """Loss and hits of whole clips of one length.

        Shape: targets (B, T, C of z), context (B, T, C of c).

        An `EnhanceError` if the clips are too short for a prediction.
        """
        items, frames = targets.shape[:2]
        if frames <= self.offset:
            raise EnhanceError(
                f"future prediction: clips of {frames} frames are too short for a target "
                f"{self.offset} frames ahead; take longer crops"
            )
        scores, copies, blind = self.scores(targets, context, generator)
        steps = self.offset + torch.arange(scores.shape[2], device=scores.device)
        valid = torch.arange(frames, device=scores.device)[:, None] >= steps  # (T, K)
        with torch.no_grad():
            hits = (shared_hits(scores, copies[:, :, None]) * valid).sum(1)
        return Future(
            self._loss(scores[:, valid].flatten(0, 1)),
            hits,
            valid.sum(0).expand(items, -1),
            (blind[:, :, None] * valid).sum(1),
        )

    def _loss(self, logits: Tensor) -> Tensor:
        """Shape: (predictions, 1 + negatives) to ()."""
        if self.infonce:
            truth = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            return F.cross_entropy(logits, truth)
        # -log sigmoid(x) = softplus(-x) for the true frame, -log sigmoid(-x) for the others
        return (F.softplus(-logits[:, 0]) + F.softplus(logits[:, 1:]).sum(1)).mean()


def _repeats(targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of the true frame and expected blind hits.

    Shape: (B, T, C) and (B, T, negatives) to (B, T, negatives) and (B, T).
    """
    _, kind = targets.flatten(0, 1).unique(dim=0, return_inverse=True)  # equal frames, one number
    others, true = kind[drawn], kind.view(*targets.shape[:2], 1)
    copies = others == true
    ordered = torch.where(copies, -1, others).sort(-1).values  # copies of the true frame first
    fresh = torch.cat([ordered[..., :1] >= 0, ordered[..., 1:] != ordered[..., :-1]], dim=-1)
    return copies, 1 / ((1 + fresh.sum(-1)) * (1 + copies.sum(-1)))


def shared_hits(scores: Tensor, copies: Tensor) -> Tensor:
    """Hits where the true candidate, first of the last axis, scores above all others.

    A tie with n of them counts 1 / (1 + n); `copies` are equal to it, whatever rounding says.

    Shape: (..., 1 + negatives) and (..., negatives) to (...).
    """
    true, others = scores[..., :1], scores[..., 1:]
    ties = copies | (others == true)  # scores of equal frames may differ by rounding
    best = (ties | (true > others)).all(-1)
    return best / (1 + ties.sum(-1))
