"""The training loop of everything that is no enhancer: teachers, speaker encoders, decoders.

Steps, learning rate, checkpoints, exact resumption, history, progress. It knows no network: what is
learnt is behind `Learner`. A limit in minutes only decides when the last quarter begins, in which
the learning rate falls to zero, so that a run can be repeated exactly by naming the number of steps
it came to; stopped at any step and resumed, it writes the same history and the same weights.
"""

from __future__ import annotations

import abc
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.training.config import FREE, LoopConfig, total_from
from enhance.errors import EnhanceError
from enhance.progress import progress_bar
from enhance.settings import merge
from enhance.training.history import HISTORY, cut
from enhance.training.interrupt import Interrupt
from enhance.training.state import load_exactly, load_tensors, save_tensors

log = logging.getLogger("enhance")


@dataclass(frozen=True)
class Step:
    """What one batch gave."""

    loss: Tensor
    """Scalar to minimise."""
    audio: float
    """Seconds heard."""
    means: dict[str, float] = field(default_factory=dict)
    """Figures of the step; history.jsonl gets their means over the steps since its last line."""
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Counts such as (right, asked); history.jsonl gets the share of their sums."""
    heard: str = ""
    """What the batch was made of, for the message when the loss is not finite."""


class Learner(abc.ABC):
    """What a loop trains.

    Everything random in a step must be a function of the configuration and the step's number: this
    is what makes a resumed run equal to one never stopped.
    """

    @abc.abstractmethod
    def learnt(self) -> Mapping[str, nn.Module]:
        """Modules by name: all are kept in a checkpoint, and trained where a gradient is asked."""

    @abc.abstractmethod
    def batches(self, step: int) -> Iterator[Any]:
        """Batches without end, the first for the step after ``step`` finished ones."""

    @abc.abstractmethod
    def forward(self, batch: Any, step: int) -> Step:
        """Loss of the step after ``step`` finished ones."""

    def before_update(self, step: int) -> None:  # noqa: B027  (most need none of these three)
        """Change gradients before they are clipped and used."""

    def after_update(self, step: int, total: int | None) -> None:  # noqa: B027
        """Change what follows the weights; ``total`` steps, once known."""

    def validate(self) -> dict[str, Any] | None:
        """Figures on held-back data, or None without any; modes are restored."""
        return None

    def look(self, row: dict[str, Any]) -> None:  # noqa: B027
        """Warn of what a line of training history shows."""


@dataclass
class State:
    """Where a run, or one iteration of it, stands."""

    step: int = 0
    """Finished steps."""
    total: int | None = None
    """Steps in all, once known."""
    seconds: float = 0.0
    """Training time."""
    audio: float = 0.0
    """Seconds of audio heard."""
    means: dict[str, float] = field(default_factory=dict)
    """Sums since the last line of history."""
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The same of counts."""
    count: int = 0
    """Steps since then."""


class Loop:
    """One run in one folder.

    Parameters
    ----------
    config
        What decides the weights and how long it may take.
    output
        The run's folder: ``history.jsonl`` there, ``state/trainer.safetensors`` to go on from.
    tag
        Format of that state, checked on resumption.
    resume
        Go on from the state that is there.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If the folder holds a run and ``resume`` is not set, or the other way round, or the run was
        begun with other settings.
    """

    def __init__(
        self, config: LoopConfig, output: Path, tag: str, *, resume: bool, quiet: bool = False
    ) -> None:
        self.config, self.output, self.tag, self.quiet = config, output, tag, quiet
        self.file = state_file(output)
        self.plain = json.loads(json.dumps(asdict(config)))
        self.state = State()
        self.kept: dict[str, Any] = {}
        """What the owner wants beside the state in the file; JSON."""
        self.resumed: dict[str, Tensor] = {}
        if not resume:
            if self.file.exists():
                raise EnhanceError(
                    f"{output}: holds a run already; --resume goes on with it, or choose another "
                    "folder"
                )
            return
        header = begun(output, tag)
        # A field that is newer than the run has the default, which does what the run did.
        old = merge(json.loads(json.dumps(asdict(type(config)()))), header["config"])
        differ = [k for k in self.plain if k not in FREE and old.get(k) != self.plain[k]]
        if differ:
            raise EnhanceError(
                f"{output}: was begun with another {', '.join(differ)} (such as "
                f"{old.get(differ[0])}); give the same or choose another folder"
            )
        self.resumed, _ = load_tensors(self.file, tag)
        self.state, self.kept = State(**header["state"]), header["kept"]

    def train(
        self,
        learner: Learner,
        interrupt: Interrupt,
        *,
        title: str,
        steps: int | None,
        minutes: float,
        before: int = 0,
        place: Mapping[str, Any] | None = None,
    ) -> bool:
        """Train to the end (True) or until interrupted (False); the state is saved then.

        Parameters
        ----------
        learner
            What is trained; restored first where the run is a resumed one.
        interrupt
            Looked at before each step.
        title
            Of the progress bar.
        steps
            Number of steps, None where the clock decides.
        minutes
            Limit of time, 0 for none.
        before
            Steps of the history that lie before this training.
        place
            What each line of history tells beside the step.

        Raises
        ------
        EnhanceError
            If the loss is not finite.
        """
        config, state, modules = self.config, self.state, learner.learnt()
        optimizer, parameters = self._optimizer(modules)
        self.output.mkdir(parents=True, exist_ok=True)
        cut(self.output / HISTORY, before + state.step)
        limit = 60 * minutes
        if state.total is None:
            state.total = steps
        for module in modules.values():
            module.train()
        clock = saved = time.monotonic()
        speed = 0.0
        with (
            progress_bar(quiet=self.quiet) as bar,
            (self.output / HISTORY).open("a", encoding="utf-8") as history,
        ):
            task = bar.add_task(title, total=state.total or limit, speed="")
            for batch in learner.batches(state.step):
                if state.total is not None and state.step >= state.total:
                    break
                if interrupt.caught:
                    self.save(modules, optimizer)
                    return False
                rate = config.rate(state.step, state.total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                found = learner.forward(batch, state.step)
                if not torch.isfinite(found.loss):
                    heard = f", {found.heard}" if found.heard else ""
                    raise EnhanceError(
                        f"{title}, step {state.step + 1}: the loss is {found.loss.item()} (seed "
                        f"{config.seed}{heard}); lower the learning rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                found.loss.backward()
                learner.before_update(state.step)
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                learner.after_update(state.step, state.total)
                self._count(found)
                self._write(learner, history, before, place or {})
                now = time.monotonic()
                state.seconds += now - clock
                heard_now = found.audio / max(now - clock, 1e-9)
                speed = 0.95 * speed + 0.05 * heard_now if speed else heard_now
                clock = now
                if limit and state.seconds >= 0.75 * limit:
                    total = total_from(state.step)
                    state.total = total if state.total is None else min(total, state.total)
                    limit = 0.0
                known = state.total is not None
                bar.update(
                    task,
                    total=state.total if known else limit,
                    completed=state.step if known else state.seconds,
                    speed=f"{speed:.0f} audio-s/s",
                )
                if now - saved > config.checkpoint_seconds:
                    self.save(modules, optimizer)
                    saved = now
        for module in modules.values():
            module.eval()
        return True

    def save(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Write the state: modules, optimiser, counters, and what the owner keeps."""
        tensors = {f"{m}.{n}": t for m, x in modules.items() for n, t in x.state_dict().items()}
        if optimizer is not None:
            for name, parameter in _trained(modules):
                for slot, value in optimizer.state[parameter].items():
                    tensors[f"optimizer.{name}.{slot}"] = torch.as_tensor(value)
        header = {"config": self.plain, "state": asdict(self.state), "kept": self.kept}
        save_tensors(self.file, tensors, header, self.tag)

    def restore(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the tensors of a resumed run into modules.

        Raises
        ------
        EnhanceError
            If they are not those of the file.
        """
        for name, module in modules.items():
            load_exactly(module, below(self.resumed, f"{name}."), f"{self.file}: {name}")

    def _optimizer(
        self, modules: Mapping[str, nn.Module]
    ) -> tuple[torch.optim.AdamW, list[nn.Parameter]]:
        config, named = self.config, _trained(modules)
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon
        )
        if self.resumed and self.state.step:
            self.restore(modules)
            for name, parameter in named:
                slots = below(self.resumed, f"optimizer.{name}.")
                optimizer.state[parameter].update({k: t.clone() for k, t in slots.items()})
        self.resumed = {}
        return optimizer, [p for group in optimizer.param_groups for p in group["params"]]

    def _count(self, found: Step) -> None:
        state = self.state
        state.step += 1
        state.audio += found.audio
        state.count += 1
        for name, value in found.means.items():
            state.means[name] = state.means.get(name, 0.0) + value
        for name, (part, whole) in found.shares.items():
            parts, wholes = state.shares.get(name, (0.0, 0.0))
            state.shares[name] = (parts + part, wholes + whole)

    def _write(self, learner: Learner, file: Any, before: int, place: Mapping[str, Any]) -> None:
        config, state = self.config, self.state
        at = {**place, "step": before + state.step}
        rows: list[dict[str, Any]] = []
        if state.step % config.log_every == 0:
            means = {name: value / state.count for name, value in state.means.items()}
            shares = {name: part / max(whole, 1) for name, (part, whole) in state.shares.items()}
            rows.append({"type": "train", **at, **means, **shares})
            state.means, state.shares, state.count = {}, {}, 0
            learner.look(rows[-1])
        if state.step % config.validate_every == 0:
            figures = learner.validate()
            if figures is not None:
                rows.append({"type": "validation", **at, **figures})
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()
            log.info("%s (%.0f s)", json.dumps(row), state.seconds)


def state_file(output: Path) -> Path:
    """Where a run keeps what it needs to go on."""
    return output / "state" / "trainer.safetensors"


def begun(output: Path | str, tag: str) -> dict[str, Any]:
    """Header of the run that stands in a folder: ``config``, ``state``, ``kept``.

    Raises
    ------
    EnhanceError
        If there is none.
    """
    file = state_file(Path(output))
    if not file.exists():
        raise EnhanceError(f"{output}: no run to go on with ({file} is missing)")
    header: dict[str, Any] = load_tensors(file, tag, tensors=False)[1]
    return header


def below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose name begins so, without that beginning."""
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def with_threads(count: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do work with so many torch threads; the number before comes back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


def _trained(modules: Mapping[str, nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [
        (name, parameter)
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters(prefix)
        if parameter.requires_grad
    ]
