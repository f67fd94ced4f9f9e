"""`fit`: train a model for an objective, from the start or from where a run stopped."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric

from enhance.config import RunConfig
from enhance.data.loader import batches
from enhance.errors import EnhanceError
from enhance.network.checkpoint import start_from
from enhance.network.waveform_model import WaveformModel
from enhance.settings import to_dict
from enhance.training import branch as branches
from enhance.training import run_folder
from enhance.training import state as trainer_state
from enhance.training.console import Console
from enhance.training.data import TrainingData
from enhance.training.interrupt import Interrupt
from enhance.training.objective import Objective
from enhance.training.processes import (
    end_others,
    finds_unused,
    in_turn,
    launch,
    on_first,
    together,
)
from enhance.training.session import Session
from enhance.training.trainer import Trainer, seed_everything

__all__ = ["fit", "seed_everything"]


def fit(
    config: RunConfig,
    objective: Objective,
    run: Path | str,
    *,
    resume: bool = False,
    devices: int = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    accelerator: str = "cpu",
    init: Path | str | None = None,
    branch: Path | str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a model.

    Parameters
    ----------
    config
        The whole configuration; written beside the results, with what the objective decides about
        the model (`Objective.model_config`).
    objective
        What is minimised. Call `seed_everything(config.seed)` before making one with weights.
    run
        Folder of the run. Holds afterwards the best weights (model.safetensors, config.json), the
        state for resuming (trainer.safetensors), config.yaml, history.jsonl, timing.jsonl,
        heard.jsonl and tensorboard/.
    resume
        Go on from the folder's state.
    devices, strategy, num_nodes, accelerator
        As in Lightning Fabric. With several devices the calling command is run again for each;
        those processes end inside this call, and several nodes must share the run folder.
    init
        Checkpoint whose weights a new run starts from; a resumed run has its own.
    branch
        Run folder from whose whole state a new run goes on, see `enhance.training.branch`.
    quiet
        Print nothing.

    Returns
    -------
    dict
        ``run``, ``step``, ``stopped`` ("finished", "SIGINT" or "SIGTERM"), ``best`` (scores of the
        kept weights), ``seconds``.

    Raises
    ------
    EnhanceError
        If the folder holds another run, a setting or a file is at fault, or the loss is not
        finite.
    """
    world = devices * num_nodes
    if config.training.batch_size % world:
        raise EnhanceError(
            f"training.batch_size {config.training.batch_size}: no multiple of {world} processes"
        )
    config = replace(config, model=objective.model_config(config.model))
    if world > 1 and objective.partial:
        strategy = finds_unused(strategy)
    fabric = launch(accelerator, devices, strategy, num_nodes, config.training.precision)
    run = Path(fabric.broadcast(str(run)))  # a name made from the clock differs between processes
    quiet = quiet or not fabric.is_global_zero
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    describe = to_dict(objective.describe())

    def check() -> list[str]:
        if branch is not None:
            branches.check(run, Path(branch), config, describe)
            return []
        if init is not None and not resume:
            beside = copy.deepcopy(objective.companion())
            start_from(WaveformModel(config.model, beside), config.model, init)
        return run_folder.prepare(run, config, describe, resume)

    notes = on_first(fabric, check) or []
    go_on = bool(fabric.broadcast(resume and (run / trainer_state.FILE).exists()))
    data = in_turn(fabric, lambda: TrainingData(config, objective.alignment, quiet))
    if branch is not None:
        source = Path(branch)
        found = data.fingerprint
        notes = on_first(fabric, lambda: branches.begin(run, source, config, found)) or []
        on_first(fabric, lambda: run_folder.prepare(run, config, describe, True))
        go_on = True
    if go_on:
        on_first(fabric, lambda: run_folder.check_data(run, data.fingerprint))
    on_first(fabric, lambda: run_folder.write_heard(run, data.parts, keep=go_on, quiet=quiet))
    objective.to(fabric.device)
    together(fabric, lambda: objective.prepare(data.mixer.speech))
    trainer = Trainer(fabric, config, objective, run, None if go_on else init)
    if go_on:
        trainer.restore()
    with Interrupt() as interrupt, Console(trainer.step, quiet) as console:
        for note in notes:
            console.say(note)
        session = on_first(fabric, lambda: Session(trainer, data, describe, go_on, console))
        with contextlib.closing(session.history) if session else contextlib.nullcontext():
            stopped = _loop(fabric, trainer, data, session, interrupt)
            summary = on_first(fabric, lambda: session.end(stopped) if session else None)
    end_others(fabric)
    assert summary is not None
    return summary


def _loop(
    fabric: Fabric,
    trainer: Trainer,
    data: TrainingData,
    session: Session | None,
    interrupt: Interrupt,
) -> str:
    """Steps until the budget is used or a signal comes; why it ended."""
    c = trainer.config.training
    begin = time.monotonic() - trainer.seconds
    stream = cast(
        Generator[dict[str, Any], None, None],
        batches(
            data.mixer,
            c.batch_size,
            c.epoch_size,
            trainer.step,
            rank=fabric.global_rank,
            world=fabric.world_size,
            workers=trainer.config.data.workers,
            mixing_of=data.mixing_of,
        ),
    )
    stop = False
    with contextlib.closing(stream):
        while trainer.used < 1 and not stop:
            batch = to_device(together(fabric, lambda: next(stream)), fabric.device)
            stop = trainer.advance(batch, lambda: time.monotonic() - begin, bool(interrupt.caught))
            if fabric.world_size == 1:
                stop = bool(interrupt.caught)
            done = trainer.used >= 1
            if session:
                session.show(trainer.loss)
            if trainer.step % c.log_every == 0 or done:
                row = trainer.averages()
                if session:
                    session.log(row)
            enhances = trainer.objective.trains_enhancer(trainer.step)
            if c.validate_every and enhances and (trainer.step % c.validate_every == 0 or done):
                on_first(fabric, session.validate if session else _nothing)
            if trainer.step % c.checkpoint_every == 0 or done or stop:
                on_first(fabric, partial(session.save, last=done or stop) if session else _nothing)
    if trainer.used >= 1:
        return "finished"
    return interrupt.caught or "SIGTERM"


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on ``device``; plain data stay."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def _nothing() -> None:
    """What the other processes do meanwhile."""
