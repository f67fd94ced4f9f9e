"""`fit`: train a model for an objective, from the start or from where a run stopped."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from enhance.config import RunConfig
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.network.checkpoint import start_from
from enhance.network.tensors import load_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.training.data import TrainingData
from enhance.training.engine import state as files
from enhance.training.engine.engine import Engine
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import State
from enhance.training.engine.processes import Hardware, end_others, in_turn, on_first, together
from enhance.training.enhancer import Enhancer, EnhancerPlan
from enhance.training.objective import Objective
from enhance.training.run import run_folder


def fit(
    config: RunConfig,
    objective: Objective,
    run: Path | str,
    *,
    resume: bool = False,
    hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
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
    hardware
        Where to train.
    init
        Checkpoint whose weights a new run starts from; a resumed run has its own.
    branch
        Run folder from whose whole state a new run goes on, see `enhance.training.run.run_folder`.
    quiet
        Print warnings only.

    Returns
    -------
    dict
        ``run``, ``step``, ``stopped`` ("finished", "SIGINT" or "SIGTERM"), ``best`` (scores of the
        kept weights), ``seconds``.

    Raises
    ------
    EnhanceError
        If the folder holds another run or is in use, a setting or a file is at fault, or the loss
        or its gradient is not finite.
    """
    if config.training.batch_size % hardware.world:
        raise EnhanceError(
            f"training.batch_size {config.training.batch_size}: no multiple of {hardware.world} "
            "processes"
        )
    config = replace(config, model=objective.model_config(config.model))
    asked = config.training.precision
    state_file = (Path(run) / files.FILE, files.FORMAT)
    precision, note = run_folder.precision(*state_file, asked, resume, hardware.accelerator)
    fabric = hardware.launch(precision, partial=objective.partial)
    run = Path(fabric.broadcast(str(run)))  # a name made from the clock differs between processes
    quiet = quiet or not fabric.is_global_zero
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    describe, record = to_dict(objective.describe()), to_dict(config)

    def check() -> list[str]:
        if branch is not None:
            run_folder.check_branch(run, Path(branch), record, describe)
            return note
        if init is not None and not resume:
            beside = copy.deepcopy(objective.companion())
            start_from(WaveformModel(config.model, beside), config.model, init)
        return [*run_folder.check(run, config, describe, resume), *note]

    def hear() -> TrainingData:
        return TrainingData(
            *(config.data, config.mixing, config.curriculum),
            seed=config.seed,
            sample_rate=config.model.stft.sample_rate,
            alignment=objective.alignment,
            validates=bool(config.training.validate_every),
            quiet=quiet,
        )

    def begin() -> bool:
        """Whether there is a state to go on from."""
        stack.enter_context(run_folder.locked(run))
        prints = (data.fingerprint, data.groups)
        if branch is not None:
            run_folder.check_branch(run, Path(branch), record, describe)
            notes.extend(run_folder.begin_branch(run, Path(branch), record, *prints))
        # Another may have come while files were read.
        run_folder.check(run, config, describe, resume or branch is not None)
        go_on = (run / files.FILE).is_file()
        if go_on:
            run_folder.check_data(run, *prints)
            run_folder.forget_moved(run, record)
        run_folder.write(run, config)
        run_folder.write_heard(run, data.parts, keep=go_on, quiet=quiet)
        return go_on

    with contextlib.ExitStack() as stack:
        notes = on_first(fabric, check) or []
        data = in_turn(fabric, hear)
        go_on = fabric.broadcast(on_first(fabric, begin))
        objective.to(fabric.device)
        together(fabric, lambda: objective.prepare(data.mixer.speech))
        tensors, header = load_tensors(run / files.FILE, files.FORMAT) if go_on else ({}, {})
        interrupt = stack.enter_context(Interrupt())
        plan = EnhancerPlan(config.training, config.seed, header.get("branch"))
        start = None if go_on else init
        learner = Enhancer(fabric, config.model, plan, objective, data, run, start, header, record)
        state = State.read(header)
        place = (run / files.FILE, files.FORMAT, learner.header)
        engine = Engine(fabric, learner, plan, *place, state, tensors)
        run_folder.tell(notes, not fabric.is_global_zero)  # warnings, whoever is quiet
        stopped = engine.train(interrupt, run, quiet=quiet)
        last = on_first(fabric, lambda: _last_words(run, learner, state, stopped))
        run_folder.tell([last or ""], quiet)
    end_others(fabric)
    return {
        "run": str(run),
        "step": state.step,
        "stopped": stopped,
        "best": learner.best or {"step": state.step},
        "seconds": state.seconds,
    }


def _last_words(run: Path, learner: Enhancer, state: State, stopped: str) -> str:
    if stopped != "finished":
        steps, source = learner.plan.training.steps, learner.plan.branch
        end = f" of {steps + (source['step'] if source else 0)}" if steps else ""
        return (
            f"{run}: {stopped}, stopped and saved at step {state.step}{end}; "
            "the same command with --resume goes on"
        )
    if learner.objective.trains_enhancer(state.step):
        return f"{run}: {state.step} steps in {state.seconds / 60:.1f} min"
    raise EnhanceError(
        f"{run}: the budget ended at step {state.step}, before a step that trains the "
        "enhancer: no model was kept; raise training.minutes and --resume"
    )
