"""wav2vec: contrastive prediction of the frames to come.

Source: Schneider et al. 2019. The network is `distill.backbones.wav2vec.model`, the loss
`distill.ssl.losses.future`. As published, waves are not normalised.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.backbones.wav2vec.model import Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.teacher import save
from distill.ssl.data.crops import Crop, SslData
from distill.ssl.families.family import Family, Losses, SslConfig
from distill.ssl.losses.future import FuturePrediction, shared_hits
from distill.training.accuracy import Tally, evaluating
from enhance.config.checked import PositiveInt, checked


@checked
class FutureConfig(SslConfig):
    """What decides the weights of a wav2vec."""

    family: str = "wav2vec"
    """`wav2vec`."""
    architecture: Wav2VecConfig = field(default_factory=Wav2VecConfig.small)
    """Layers of encoder and aggregator."""
    prediction_steps: PositiveInt = 12
    """K, frames to predict, the first as far ahead as a field is long."""
    negatives: PositiveInt = 10
    """False frames beside each true one, from the same clip."""
    infonce: bool = False
    """Softmax over true and false frames in place of the logistic loss."""


class Future(Family):
    """The model and its predictor; see `distill.ssl.families.family.Family`."""

    def __init__(self, config: FutureConfig, model: Wav2Vec | None = None) -> None:
        self.config = config
        self.model: Any = model or Wav2Vec.build(config.architecture, config.seed)
        architecture = config.architecture
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1000)
            self.head = FuturePrediction(
                architecture.context_width,
                architecture.width,
                architecture.prediction_offset,
                steps=config.prediction_steps,
                negatives=config.negatives,
                infonce=config.infonce,
            )

    def batch(self, crops: list[Crop], data: SslData, rng: np.random.Generator) -> Tensor:
        """Waves (B, N)."""
        return torch.from_numpy(data.waves(crops))

    def targets(self, z: Tensor) -> tuple[Tensor, Tensor | None, dict[str, float], Tensor | None]:
        """What is predicted of z and read by the aggregator (B, T, C), here z itself; a loss of its
        own or None; figures for the history; codes (B, T, G) or None.
        """
        return z, None, {}, None

    def losses(self, batch: Tensor, step: int) -> Losses:
        """Contrastive loss over all steps ahead, and the quantiser's own."""
        values, extra, means, _ = self.targets(self.model.features(batch))
        found = self.head(values, self.model.aggregate(values))
        loss = found.loss if extra is None else found.loss + extra
        return Losses(loss, found.correct, found.total, {"loss": found.loss.item(), **means})

    def facts(self) -> dict[str, Any]:
        """What is told from what."""
        config = self.config
        return {"negatives": config.negatives, "prediction_steps": config.prediction_steps}

    def measure(self, data: SslData) -> tuple[Tally, dict[str, Any]]:
        """Hits by file.

        The guess ``present_frame`` needs no prediction: it takes the candidate of the largest
        cosine similarity with the frame from which it would be predicted.
        """
        model, head, seed = self.model, self.head, self.config.seed
        tally = Tally(0.0, ("present_frame",))
        seen = []
        batches, rng = data.measured(seed)
        with evaluating(model, head):
            for number, crops in enumerate(batches):
                values, _, _, codes = self.targets(model.features(self.batch(crops, data, rng)))
                if codes is not None:
                    seen.append(codes)
                seeds = [torch.Generator().manual_seed(1000 * seed + number) for _ in range(2)]
                found = head(values, model.aggregate(values), seeds[0])
                copied = present_frame_hits(head, values, seeds[1])
                tally.chance += float(found.blind.sum())
                tally.loss += float(found.loss) * found.total
                for b, crop in enumerate(crops):
                    count = int(found.counts[b].sum())
                    tally.add(crop.clip, count, float(found.hits[b].sum()), float(copied[b]))
        tally.chance /= tally.counted
        return tally, self.usage(seen)

    def usage(self, codes: list[Tensor]) -> dict[str, Any]:
        """What the record tells of the codes of all batches; there are none here."""
        return {}

    def save(self, folder: Path) -> None:
        """Write encoder, quantiser and aggregator, without the predictor."""
        save(self.model, folder)


def present_frame_hits(
    head: FuturePrediction, values: Tensor, generator: torch.Generator
) -> Tensor:
    """What a guess gets that the future frame is the candidate most like the present one.

    Candidates that tie share the hit, as in `distill.ssl.losses.future`.

    Shape: (B, T, C) to (B,), hits over all steps.
    """
    items, frames, _ = values.shape
    drawn = head.draw(items, frames, generator)  # (n, B, T)
    unit = F.normalize(values, dim=-1)
    others = unit.flatten(0, 1)[drawn.flatten()].unflatten(0, drawn.shape)  # (n, B, T, C)
    hits = torch.zeros(items)
    for ahead in range(head.offset, min(head.offset + head.steps, frames)):
        now, true, wrong = unit[:, : frames - ahead], unit[:, ahead:], others[:, :, ahead:]
        scores = torch.cat([
            (now * true).sum(-1)[..., None],
            torch.einsum("btc,nbtc->btn", now, wrong),
        ], dim=-1)  # fmt: skip
        copies = (wrong == true).all(-1).permute(1, 2, 0)  # (B, T - ahead, n)
        hits += shared_hits(scores, copies).sum(-1)
    return hits


FAMILY = (FutureConfig, Future)
