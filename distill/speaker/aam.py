"""Supervised speaker training: additive angular margin softmax over the training speakers.

Loss (Deng et al., "ArcFace", 2019, eq. 3; Xiang et al., "Margin matters", 2019): cross-entropy of
s cos(theta_j), with s cos(theta_y + m) for the own speaker y, where theta_j is the angle between
embedding and weight vector j. Past theta_y = pi - m speechbrain goes on with
cos(theta_y) - m sin(m), so that the loss keeps rising. Classifier and loss are speechbrain's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.backbones.ecapa_model import import_speechbrain
from distill.speaker.config import SpeakerConfig


class Aam(nn.Module):
    """Encoder, classifier of so many training speakers, and loss."""

    def __init__(self, config: SpeakerConfig, speakers: int) -> None:
        super().__init__()
        lobe = import_speechbrain("speechbrain.lobes.models.ECAPA_TDNN")
        losses = import_speechbrain("speechbrain.nnet.losses")
        self.encoder = config.sizes.build(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            self.classifier = lobe.Classifier(config.sizes.embedding, out_neurons=speakers)
        self.criterion = losses.LogSoftmaxWrapper(
            losses.AdditiveAngularMargin(config.aam.margin, config.aam.scale)
        )
        self.crops = (config.aam.crop_seconds,)

    def forward(
        self, views: Sequence[Tensor], speakers: Tensor, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch, and what history tells of it.

        Shape: one view (B, N), speakers int64 (B,)
        """
        cosines = self.classifier(self.encoder(views[0])[:, None])  # (B, 1, S)
        loss = self.criterion(cosines, speakers[:, None])
        right = (cosines[:, 0].argmax(1) == speakers).float().mean()
        return loss, {"loss": loss.item(), "accuracy": right.item()}
