"""A head start for the convolutions: they learn the units of single frames, without a transformer.

Inside the whole model the front end learns slowly, since masked frames tell it little and the
transformer takes four fifths of the time of a step. Alone it sees four times the audio in the same
time, and every frame counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.ssl.families.config import SslConfig
from distill.ssl.families.family import Work
from distill.ssl.families.transformer import Architecture
from distill.ssl.losses.masked_units import MaskedUnitLoss
from distill.ssl.units import kmeans
from distill.ssl.units.kmeans import Units
from enhance.config.checked import NonNegativeInt, PositiveFloat, checked
from enhance.progress import tracked

log = logging.getLogger("enhance")


@checked
class FrontEndConfig(SslConfig):
    """What decides the weights of a transformer, apart from its objective."""

    architecture: Architecture = field(default_factory=Architecture)
    """Size of the model."""
    front_end_steps: NonNegativeInt = 0
    """Steps before the first iteration in which the convolutions alone learn to tell the units of
    the (visible) frames, of MFCC: four times as fast a step, since there is no transformer. The
    papers have no such thing: they need days instead."""
    front_end_rate: PositiveFloat = 2e-3
    """Learning rate of these steps, after a warm-up over the first 40."""


def units_of(
    work: Work, what: str, make: Callable[[np.ndarray], np.ndarray], count: int, seed: int
) -> Units | None:
    """k-means units of features of all files of a corpus; None if interrupted.

    Parameters
    ----------
    work
        Files and interrupt.
    what
        Name of the features.
    make
        Features (T, D) of a whole wave.
    count, seed
        As in `distill.ssl.units.kmeans.cluster`.
    """
    speech, features = work.data.speech, []
    clips = range(len(speech))
    for clip in tracked(clips, f"{what} for units", len(clips), quiet=work.quiet):
        if work.interrupt.caught:
            return None
        features.append(make(speech.whole(clip)))
    return kmeans.cluster(features, work.data.train, count, seed)


def warm_up(
    model: Any,
    units: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: FrontEndConfig,
    work: Work,
) -> bool:
    """Train ``feature_extractor`` and ``feature_projection`` to tell the unit of every frame.

    Parameters
    ----------
    model
        Changed in place; the transformer stays as it is.
    units
        K.
    batches
        Waves (B, N) and units (B, T); no more than ``front_end_steps`` are taken.
    config
        Steps, rates, and the seed of the head that is thrown away afterwards.
    work
        Its interrupt is looked at before each step.

    Returns
    -------
    bool
        False if interrupted.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 500)
        head = MaskedUnitLoss(model.config.hidden_size, units)
    modules = (model.feature_extractor, model.feature_projection, head)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    correct, frames, steps = 0, 0, config.front_end_steps
    heard = zip(range(steps), batches, strict=False)
    for step, (waves, wanted) in tracked(heard, "front end", steps, quiet=work.quiet):
        if work.interrupt.caught:
            return False
        for group in optimizer.param_groups:
            group["lr"] = config.front_end_rate * min(1.0, (step + 1) / 40)
        local = model.feature_extractor(waves).transpose(1, 2)  # (B, T, C)
        states, _ = model.feature_projection(local)  # (B, T, D)
        found = head(states, wanted, torch.ones_like(wanted, dtype=torch.bool))
        optimizer.zero_grad(set_to_none=True)
        found.masked_loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        correct, frames = correct + found.correct, frames + found.masked
        if (step + 1) % config.log_every == 0:
            log.info("front end, step %d: %.3f right", step + 1, correct / frames)
            correct = frames = 0
    return True
