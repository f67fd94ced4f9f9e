"""wav2vec 2.0: contrastive prediction of masked, quantised frames, with a diversity loss.

Source: Baevski et al. 2020. The network and its product quantiser are those of transformers'
`Wav2Vec2ForPreTraining`; losses, distractors and accuracy are `distill.ssl.losses.contrastive`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from distill.backbones.wav2vec.quantizer import diversity_loss
from distill.ssl.data.crops import Crop, SslData, normalize
from distill.ssl.data.units import mfcc_with_deltas
from distill.ssl.families import transformer
from distill.ssl.families.family import Family, Losses, Work
from distill.ssl.families.transformer import FrontEndConfig, units_of, warm_up
from distill.ssl.losses.contrastive import (
    Codes,
    Contrast,
    contrast,
    draw_distinct,
    draw_distractors,
    quantize,
    temperature_at,
)
from distill.ssl.losses.masked_units import nearest_visible, span_mask
from distill.training.accuracy import Tally, code_usage, evaluating, perplexity
from enhance.config.checked import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    checked,
)


@checked
class Wav2Vec2Config(FrontEndConfig):
    """What decides the weights of a wav2vec 2.0."""

    family: str = "wav2vec2"
    """`wav2vec2`."""
    mask_probability: Part = 0.065
    """Share of the frames that start a masked span."""
    mask_length: Annotated[int, Field(ge=2)] = 10
    """Frames of a span."""
    groups: PositiveInt = 2
    """G, codebooks of the product quantiser."""
    entries: Annotated[int, Field(ge=2)] = 320
    """V, entries of each."""
    code_width: PositiveInt = 128
    """Width of the quantised frame, all groups together."""
    projection: PositiveInt = 128
    """Width in which context and targets are compared."""
    distractors: PositiveInt = 100
    """K, of each masked frame."""
    similarity_temperature: PositiveFloat = 0.1
    """Divisor of the cosine similarities."""
    diversity_weight: NonNegativeFloat = 0.1
    """Weight of the diversity loss."""
    front_end_units: Annotated[int, Field(ge=2, le=2**15)] = 100
    """Number of the units that the convolutions learn first."""
    visible_weight: NonNegativeFloat = 0.0
    """Weight of the same loss over the frames that are not masked, told from other visible frames;
    the paper's is 0. It teaches the front end directly, but what tells a frame from all others
    need not be what its neighbours foretell."""
    gumbel: tuple[PositiveFloat, PositiveFloat] = (2.0, 0.5)
    """Temperature of the Gumbel softmax, first and last."""
    gumbel_steps: NonNegativeInt = 2000
    """Steps from the first to the last temperature, by a constant factor each (the paper's factor
    0.999995 takes 277,000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_width % self.groups:
            raise ValueError(
                f"code_width {self.code_width}: must be a multiple of groups {self.groups}"
            )
        if self.gumbel[1] > self.gumbel[0]:
            raise ValueError(f"gumbel {self.gumbel}: must fall")


class Wav2Vec2(Family):
    """The model and its losses; see `distill.ssl.families.family.Family`."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        self.config = config
        self.model: Any = config.architecture.build(
            config.seed,
            "wav2vec2",
            {
                "num_codevector_groups": config.groups,
                "num_codevectors_per_group": config.entries,
                "codevector_dim": config.code_width,
                "proj_codevector_dim": config.projection,
                "num_negatives": config.distractors,
                "contrastive_logits_temperature": config.similarity_temperature,
                "diversity_loss_weight": config.diversity_weight,
                "feat_quantizer_dropout": 0.0,
            },
        )

    def prepare(self, work: Work) -> str:
        """A head start for the convolutions, if one is asked for."""
        config = self.config
        if not config.front_end_steps or work.begun:
            return ""
        made = units_of(work, "MFCC", mfcc_with_deltas, config.front_end_units, config.seed)
        what = "the head start of the front end"
        if made is None:
            return what
        batches = ((batch[0], torch.from_numpy(made.of(crops))) for crops, batch in work.batches())
        done = warm_up(transformer.base(self.model), made.count, batches, config, work)
        return "" if done else what

    def batch(
        self, crops: list[Crop], data: SslData, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Waves (B, N), mask (B, T), distractors of masked (M, K) and visible frames (V, K)."""
        config = self.config
        spans = (config.mask_probability, config.mask_length)
        mask = np.stack([span_mask(crop.frames, rng, *spans) for crop in crops])
        drawn = [draw_distractors(frames, config.distractors, rng) for frames in (mask, ~mask)]
        masked, visible = map(torch.from_numpy, drawn)
        return (
            torch.from_numpy(normalize(data.waves(crops))),
            torch.from_numpy(mask),
            masked,
            visible,
        )

    def losses(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: int) -> Losses:
        """Contrastive loss over masked and, by their weight, visible frames; diversity loss."""
        config = self.config
        temperature = temperature_at(step, *config.gumbel, config.gumbel_steps)
        waves, mask, drawn, drawn_visible = batch
        context, features = self._network(waves, mask)

        def told(frames: Tensor, distractors: Tensor) -> tuple[Contrast, Codes]:
            made = quantize(self.model.quantizer, features[frames], temperature)
            targets = self.model.project_q(made.vectors)
            tau = config.similarity_temperature
            return contrast(context[frames], targets, made.codes, distractors, tau), made

        found, made = told(mask, drawn)
        diversity = diversity_loss(made.soft)
        used = perplexity(made.soft.detach().mean(0))
        means = {
            "loss": found.loss.item(),
            "diversity": diversity.item(),
            "perplexity": float(used.mean()),
            "rivals": found.rivals,
            "temperature": temperature,
        }
        loss = found.loss + config.diversity_weight * diversity
        if config.visible_weight:
            visible = told(~mask, drawn_visible)[0].loss
            loss = loss + config.visible_weight * visible
            means["visible_loss"] = visible.item()
        return Losses(loss, float(found.hits.sum()), len(found.hits), means)

    def _network(self, waves: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Projected context of the masked input (B, T, D), unmasked local features (B, T, C)."""
        out = self.model.wav2vec2(waves, mask_time_indices=mask)
        return self.model.project_hid(out.last_hidden_state), out.extract_features

    def facts(self) -> dict[str, Any]:
        """Up to K + 1 candidates."""
        return {"distractors": self.config.distractors}

    def measure(self, data: SslData) -> tuple[Tally, dict[str, Any]]:
        """Hits by file, use of the codebooks at the held-back frames, distinct distractors."""
        config, model = self.config, self.model
        temperature = config.similarity_temperature
        batches, rng = data.measured(config.seed)
        tally = Tally(0.0, ("nearest_visible",))
        use, rivals = np.zeros((config.groups, config.entries), np.int64), 0.0
        with evaluating(model):
            for crops in batches:
                waves, mask, _, _ = self.batch(crops, data, rng)
                context, features = self._network(waves, mask)
                whole = quantize(model.quantizer, features.flatten(0, 1), None)
                projected = model.project_q(whole.vectors).unflatten(0, mask.shape)  # (B, T, D)
                codes = whole.codes.unflatten(0, mask.shape)  # (B, T, G)
                copied = _nearest(projected, mask)
                for g in range(config.groups):
                    use[g] += np.bincount(whole.codes[:, g].numpy(), minlength=config.entries)
                for b, crop in enumerate(crops):
                    here = mask[b]
                    count = int(here.sum())
                    drawn = torch.from_numpy(draw_distinct(count, config.distractors, rng))
                    asked = (projected[b, here], codes[b, here], drawn, temperature)
                    found, guess = (contrast(x[b, here], *asked) for x in (context, copied))
                    tally.add(crop.clip, count, float(found.hits.sum()), float(guess.hits.sum()))
                    tally.loss += float(found.loss) * count
                    tally.chance += count / (1 + drawn.shape[1])
                    rivals += found.rivals * count
        tally.chance /= tally.counted
        codes = [code_usage(counts) for counts in use]
        return tally, {"codes": codes, "rivals": round(rivals / tally.counted, 2)}

    def save(self, folder: Path) -> None:
        """Write the model with its quantiser and projections, as transformers do."""
        transformer.save(self.model, folder)


def _nearest(values: Tensor, mask: Tensor) -> Tensor:
    """Each frame's value at the nearest frame that is not masked; zero where all are.

    Shape: (B, T, D), (B, T) to (B, T, D).
    """
    near = torch.stack([torch.from_numpy(nearest_visible(row)) for row in mask.numpy()])  # (B, T)
    found = values.gather(1, near.clamp_min(0)[..., None].expand_as(values))
    return found * (near >= 0)[..., None]


FAMILY = (Wav2Vec2Config, Wav2Vec2)
