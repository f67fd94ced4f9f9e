"""A head start for the convolutions: they learn the units of single frames, without a transformer.

Inside the whole model the front end learns slowly, since masked frames tell it little and the
transformer takes four fifths of the time of a step. Alone it sees four times the audio in the same
time, and every frame counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.objectives import MaskedUnitLoss
from enhance.progress import progress_bar
from enhance.training.interrupt import Interrupt

if TYPE_CHECKING:
    from distill.families.masked_units import MaskedUnitsConfig

log = logging.getLogger("enhance")


def warm_up(
    model: Any,
    units: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: MaskedUnitsConfig,
    interrupt: Interrupt,
    *,
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
        Waves (B, N) and units (B, T); no more than ``config.front_end_steps`` are taken.
    config
        Steps, rate, seed of the head that is thrown away afterwards.
    interrupt
        Looked at before each step.
    quiet
        No progress bar.

    Returns
    -------
    bool
        False if interrupted.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 500)
        head = MaskedUnitLoss(config.architecture.hidden, units)
    modules = (model.feature_extractor, model.feature_projection, head)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    total, correct, frames = config.front_end_steps, 0, 0
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("front end", total=total, speed="")
        for step, (waves, wanted) in zip(range(total), batches, strict=False):
            if interrupt.caught:
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
            bar.update(task, advance=1)
            if (step + 1) % config.log_every == 0:
                log.info("front end, step %d: %.3f right", step + 1, correct / frames)
                correct = frames = 0
    return True
