"""A head start for the convolutions: they learn the units of single frames, without a transformer.

Inside the whole model the front end learns slowly, since masked frames tell it little and the
transformer takes four fifths of the time of a step. Alone it sees four times the audio in the same
time, and every frame counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distill.ssl.data.corpus import SslData
from distill.ssl.families.config import PretrainConfig
from distill.ssl.losses.masked_units import MaskedUnitLoss
from distill.ssl.units import kmeans
from distill.ssl.units.kmeans import Units
from distill.ssl.units.mfcc import mfcc_with_deltas
from enhance.progress import progress_bar
from enhance.training.engine.interrupt import Interrupt

log = logging.getLogger("enhance")


def mfcc_units(
    data: SslData, count: int, seed: int, interrupt: Interrupt, *, quiet: bool = False
) -> Units | None:
    """k-means units of MFCC with deltas, of all files of a corpus; None if interrupted."""
    features = []
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("MFCC for units", total=len(data.speech), speed="")
        for clip in range(len(data.speech)):
            if interrupt.caught:
                return None
            features.append(mfcc_with_deltas(data.speech.whole(clip)))
            bar.update(task, advance=1)
    return kmeans.cluster(features, data.train, count, seed)


def warm_up(
    model: Any,
    units: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: PretrainConfig,
    interrupt: Interrupt,
    *,
    steps: int,
    rate: float,
    quiet: bool = False,
) -> bool:
    """Train ``feature_extractor`` and ``feature_projection`` to tell the unit of every frame.

    Parameters
    ----------
    model
        Changed in place; the transformer stays as it is.
    units
        K.
    batches
        Waves (B, N) and units (B, T); no more than ``steps`` are taken.
    config
        Weight decay, and the seed of the head that is thrown away afterwards.
    interrupt
        Looked at before each step.
    steps
        How many.
    rate
        Learning rate, after a rise over the first 40 steps.
    quiet
        No progress bar.

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
    correct = frames = 0
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("front end", total=steps, speed="")
        for step, (waves, wanted) in zip(range(steps), batches, strict=False):
            if interrupt.caught:
                return False
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 40)
            local = model.feature_extractor(waves).transpose(1, 2)  # (B, T, C)
            states, _ = model.feature_projection(local)  # (B, T, D)
            found = head(states, wanted, torch.ones_like(wanted, dtype=torch.bool))
            optimizer.zero_grad(set_to_none=True)
            found.masked_loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            correct, frames = correct + found.correct, frames + found.masked
            bar.update(task, advance=1)
            if (step + 1) % config.log_every == 0:
                log.info("front end, step %d: %.3f right", step + 1, correct / frames)
                correct = frames = 0
    return True
