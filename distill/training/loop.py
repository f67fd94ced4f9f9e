"""One run in one folder of everything that is no enhancer: teachers, speaker encoders, decoders.

The training is `enhance.training.engine.engine`. Here is the folder (begun, resumed, refused),
what the owner keeps in its state, and the plan: a limit in minutes only decides when the last
quarter begins, in which the learning rate falls to zero, so that a run can be repeated exactly by
naming the number of steps it came to.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from distill.training.config import FREE, LoopConfig, total_from
from enhance.config.settings import merge, to_dict
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.network.checkpoint import WEIGHTS
from enhance.network.tensors import load_exactly, load_tensors, save_tensors
from enhance.parallel import torch_threads
from enhance.training.engine.engine import Engine
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Plan, State, adamw
from enhance.training.engine.processes import Hardware, end_others, on_first, precision_of
from enhance.training.engine.record import HISTORY
from enhance.training.engine.state import below, gather
from enhance.training.run import run_folder

log = logging.getLogger("enhance")


class LoopPlan(Plan):
    """`LoopConfig` as the engine sees it, of one training of so many minutes (0: no limit)."""

    def __init__(self, config: LoopConfig, minutes: float) -> None:
        self.config, self.limit = config, 60 * minutes
        self.seed, self.clip_norm = config.seed, config.clip_norm
        self.log_every, self.validate_every = config.log_every, config.validate_every

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        c = self.config
        return adamw(module, c.learning_rate, c.weight_decay, betas=c.betas, eps=c.epsilon)

    def rate(self, state: State) -> float:
        return self.config.rate(state.step, state.total)

    def expected(self, state: State) -> float:
        """The number of steps, or as many as the minutes will allow."""
        return state.total or state.step * self.limit / max(state.seconds, 1e-9)

    def over(self, state: State) -> bool:
        """Whether all steps are done; three quarters of the minutes say how many there are."""
        if self.limit and state.seconds >= 0.75 * self.limit:
            total = total_from(state.step)
            state.total = total if state.total is None else min(total, state.total)
            self.limit = 0.0
        return state.total is not None and state.step >= state.total

    def saves(self, state: State, saved: float) -> bool:
        return state.seconds - saved > self.config.checkpoint_seconds


class Place(TypedDict, total=False):
    """How a run is run: the last arguments of every training."""

    resume: bool
    """Go on from ``state/`` of the folder; repeats an unstopped run exactly when limited by
    steps."""
    hardware: Hardware
    """Where to train. With several processes each takes batches of its own, so that a step hears
    as many times the audio."""
    quiet: bool
    """Show nothing."""


class Loop(contextlib.ExitStack):
    """One run in one folder: a context manager that keeps other processes from it.

    ``output`` gets ``history.jsonl``, ``timing.jsonl`` and ``tensorboard/``, and to go on from
    ``state/trainer.safetensors``, whose format ``tag`` is checked on resumption. For the rest see
    `Place`.

    An `EnhanceError` if the folder holds a run and ``resume`` is not set, or the other way round,
    holds results without their state, is in use, or the run was begun with other settings.
    """

    def __init__(
        self,
        config: LoopConfig,
        output: Path,
        tag: str,
        *,
        resume: bool = False,
        hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
        quiet: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.tag, self.quiet = config, tag, quiet
        self.plain = to_dict(config)
        self.state = State()
        self.kept: dict[str, Any] = {}
        """What the owner wants beside the state in the file; JSON."""
        self.resumed: dict[str, Tensor] = {}
        if resume:
            self._resume(begun(output, tag), output)
        asked = (config.precision, resume, hardware.accelerator)
        precision, notes = run_folder.precision(state_file(output), tag, *asked)
        self.fabric = hardware.launch(precision, partial=True)
        self.output = Path(self.fabric.broadcast(str(output)))  # may be named by the clock
        self.file = state_file(self.output)
        self.quiet = quiet or not self.fabric.is_global_zero
        self.begun, self._locked = resume, False
        if not resume:
            on_first(self.fabric, self._check_empty)
        run_folder.tell(notes, not self.fabric.is_global_zero)  # warnings, whoever is quiet
        self.enter_context(torch_threads(config.threads))

    def lock(self) -> None:
        """Make the folder, and keep other processes from it until the end.

        An `EnhanceError` if another is at it, or was.
        """
        if self._locked:
            return
        self._locked = True
        on_first(self.fabric, lambda: self.enter_context(run_folder.locked(self.file.parent)))
        if not self.begun:  # another may have come while files were read
            on_first(self.fabric, self._check_empty)

    def _check_empty(self) -> None:
        if self.file.exists():
            raise EnhanceError(
                f"{self.output}: holds a run already; --resume goes on with it, or choose another "
                "folder"
            )
        present = [n for n in (WEIGHTS, HISTORY, "record.json") if (self.output / n).exists()]
        if present:
            raise EnhanceError(
                f"{self.output}: holds {present[0]} already, but not {self.file.name}, without "
                "which it cannot go on; choose another folder"
            )

    def _resume(self, header: dict[str, Any], output: Path) -> None:
        # A field that is newer than the run has the default, which does what the run did.
        old = merge(to_dict(type(self.config)()), header["config"])
        differ = [k for k in self.plain if k not in FREE and old.get(k) != self.plain[k]]
        if differ:
            raise EnhanceError(
                f"{output}: was begun with another {', '.join(differ)} (such as "
                f"{old.get(differ[0])}); give the same or choose another folder"
            )
        self.resumed, _ = load_tensors(state_file(output), self.tag)
        self.state, self.kept = State.read(header), header["kept"]

    def bind(self, name: str, identity: str, what: str) -> None:
        """Keep what a run is made of.

        An `EnhanceError` if a resumed run was begun with another; ``what`` says of what.
        """
        if self.kept.setdefault(name, identity) != identity:
            raise EnhanceError(
                f"{self.output}: was begun with other {what}; give the same or choose another "
                "folder"
            )

    def train(
        self,
        learner: Learner,
        interrupt: Interrupt,
        *,
        steps: int | None,
        minutes: float,
        before: int = 0,
        place: Mapping[str, Any] | None = None,
        plan: Callable[[Any, float], LoopPlan] = LoopPlan,
    ) -> bool:
        """Train to the end (True) or until interrupted (False); the state is saved then.

        The learner is restored first where the run is a resumed one. Afterwards what was trained is
        on the CPU, in evaluation mode; where interrupted, all processes but the first end here.

        ``steps`` is None where the clock decides, ``minutes`` 0 for no limit; ``plan`` is made of
        configuration and limit, for an optimiser of one's own. The rest, and errors, are those of
        `Engine.train`.
        """
        self.lock()
        if self.state.total is None:
            self.state.total = steps
        resumed, self.resumed = self.resumed if self.state.step else {}, {}
        place_of_state = (self.file, self.tag, self._header)
        made = plan(self.config, minutes)
        engine = Engine(self.fabric, learner, made, *place_of_state, self.state, resumed)
        stopped = engine.train(interrupt, self.output, before=before, place=place, quiet=self.quiet)
        for module in engine.modules.values():
            module.eval().to("cpu")
        if stopped != "finished":
            self.end_others()
        return stopped == "finished"

    def stopped(self, where: str = "") -> dict[str, Any]:
        """What a training gives that was interrupted, with a word on how to go on."""
        where += f"step {self.state.step}"
        log.warning("stopped at %s; --resume goes on", where)
        return {"stopped": where}

    def spent(self) -> dict[str, int]:
        """Steps, seconds of training, seconds of audio, for the record."""
        state = self.state
        return {
            "steps": state.step,
            "seconds": round(state.seconds),
            "audio_seconds": round(state.audio),
        }

    def curve(self) -> list[dict[str, Any]]:
        """Measurements on held-back files, for the record; a short run has none."""
        path = self.output / HISTORY
        return [
            {k: v for k, v in row.items() if k != "type"}
            for row in (read_jsonl(path) if path.exists() else ())
            if row["type"] == "validation"
        ]

    def end_others(self) -> None:
        """End all processes but the first, which measures and writes what is left."""
        end_others(self.fabric)

    def save(self, modules: Mapping[str, nn.Module]) -> None:
        """Write a state between trainings: modules, counters, and what the owner keeps."""
        header = {**asdict(self.state), "precision": precision_of(self.fabric), **self._header()}
        on_first(self.fabric, lambda: save_tensors(self.file, gather(modules), header, self.tag))

    def _header(self) -> dict[str, Any]:
        return {"config": self.plain, "kept": self.kept}

    def restore(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the tensors of a resumed run into modules.

        An `EnhanceError` if they are not those of the file.
        """
        for name, module in modules.items():
            load_exactly(module, below(self.resumed, name), f"{self.file}: {name}")


def state_file(output: Path | str) -> Path:
    """Where a run keeps what it needs to go on."""
    return Path(output) / "state" / "trainer.safetensors"


def begun(output: Path | str, tag: str) -> dict[str, Any]:
    """Header of the run that stands in a folder: `State`, ``config``, ``kept``.

    An `EnhanceError` if there is none.
    """
    file = state_file(output)
    if not file.exists():
        raise EnhanceError(f"{output}: no run to go on with ({file} is missing)")
    header: dict[str, Any] = load_tensors(file, tag, tensors=False)[1]
    return header
