"""The engine: trains any `Learner` by any `Plan` over Lightning Fabric.

A step is a function of the weights, the optimiser's state and (seed, step): batches follow from
the step, random generators are seeded in every step, the learning rate follows from the step. So a
run that goes on from its state repeats, on a CPU, exactly what a run never stopped does. Where the
budget is a time, see `Plan`.

A loss or a gradient that is not finite ends the run before it reaches weights or state.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from enhance.network.tensors import save_tensors
from enhance.training.engine import state as files
from enhance.training.engine.batchnorm import share_batch_norms
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import RATES, Learner, Plan, State, Step
from enhance.training.engine.memory import keep_heap
from enhance.training.engine.processes import on_first, precision_of, share, together
from enhance.training.engine.record import Record


class Sealed:
    """A batch that Fabric's precision plugins do not look into.

    They would round the audio to bfloat16, and refuse frozen dataclasses among the plain data.
    """

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class TrainStep(nn.Module):
    """All that is trained as one module, so that one wrapper sees all parameters."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        for name, module in learner.learnt().items():
            self.add_module(name, module)
        self._forward = learner.forward
        self.found: Step

    def forward(self, batch: Sealed, step: int) -> Tensor:
        """The loss; what else the step gave is in ``found``."""
        self.found = self._forward(batch.batch, step)
        return self.found.loss


def seed_everything(seed: int, *more: int) -> None:
    """Seed torch, numpy and Python from any number of integers."""
    words = np.random.SeedSequence([seed, *more]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 for what libraries draw
    random.seed(int(words[2]))


class Engine:
    """A learner on its device, its optimiser, and its state in a file.

    ``tag`` is the format of the state's ``file``, ``header`` what else its header holds, plain
    data. A training that goes on has the ``state`` where it stands, and the file's ``tensors``. An
    `EnhanceError` if the tensors are not the learner's.
    """

    def __init__(
        self,
        fabric: Fabric,
        learner: Learner,
        plan: Plan,
        file: Path,
        tag: str,
        header: Callable[[], dict[str, Any]],
        state: State | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.fabric, self.learner, self.plan = fabric, learner, plan
        self.file, self.tag, self.header = file, tag, header
        self.state = state or State()
        self.modules = {**learner.learnt(), **learner.beside()}
        for module in learner.learnt().values():
            if fabric.world_size > 1:
                share_batch_norms(module)
        self.train_step = TrainStep(learner).train()
        self.optimizer = plan.optimizer(self.train_step)
        self.wrapped, self.wrapped_optimizer = fabric.setup(self.train_step, self.optimizer)
        for module in learner.beside().values():
            module.to(fabric.device)
        if tensors:
            files.scatter(tensors, self.modules, self.optimizer, file)
        self.resumed = bool(tensors)
        self.loss = math.nan
        self._asked = False

    def train(
        self,
        interrupt: Interrupt,
        folder: Path,
        *,
        before: int = 0,
        place: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> str:
        """Train until the budget is used ("finished") or a signal comes (its name).

        Signals are looked at before and after each batch is made. ``folder`` has history.jsonl,
        timing.jsonl and tensorboard/; ``before`` steps of the history lie before this training, and
        each line of it tells ``place`` beside the step. An `EnhanceError` if the loss or its
        gradient is not finite, or a batch cannot be made.
        """
        fabric, plan, state = self.fabric, self.plan, self.state
        if fabric.device.type == "cpu":
            keep_heap()
        if not self.resumed:  # so that a run killed before its first save can go on too
            on_first(fabric, self._write)
        begin, saved = time.monotonic() - state.seconds, state.seconds
        stream = self.learner.batches(fabric.global_rank, fabric.world_size, state.step)
        with contextlib.ExitStack() as stack:
            stack.callback(getattr(stream, "close", _nothing))  # ends workers
            record = on_first(fabric, lambda: Record(self, folder, before, place or {}, quiet))
            stack.enter_context(record or contextlib.nullcontext())
            while not plan.over(state) and not self._stops(interrupt):
                batch = to_device(together(fabric, lambda: next(stream)), fabric.device)
                if self._stops(interrupt):
                    break
                self.advance(batch, lambda: time.monotonic() - begin, bool(interrupt.caught))
                done = plan.over(state)
                closing = done and plan.closes
                if record:
                    record.show()
                if state.step % plan.log_every == 0 or closing:
                    if record:
                        record.train()
                    state.sums, state.counts, state.shares = {}, {}, {}
                if plan.validate_every and (state.step % plan.validate_every == 0 or closing):
                    on_first(fabric, record.validate if record else _nothing)
                if plan.saves(state, saved) and not done:
                    on_first(fabric, self.save)
                    saved = state.seconds
            stopped = "finished" if plan.over(state) else interrupt.caught or "SIGTERM"
            on_first(fabric, partial(self.save, last=True))
            if record:
                record.event("stop", reason=stopped, seconds=round(state.seconds, 3))
        return stopped

    def _stops(self, interrupt: Interrupt) -> bool:
        # Several processes must agree: they ask each other in every step.
        return self._asked or (self.fabric.world_size == 1 and bool(interrupt.caught))

    def advance(self, batch: Any, clock: Callable[[], float], stop: bool) -> None:
        """One optimiser step on this process's batch, which is on the device.

        ``clock`` tells the seconds of training so far, ``stop`` whether this process was asked to
        stop. An `EnhanceError` if the loss or its gradient is not finite; weights and averages are
        left as they were.
        """
        state, plan, learner = self.state, self.plan, self.learner
        rate = plan.rate(state)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        seed_everything(plan.seed, state.step, self.fabric.global_rank)
        learner.before_step(state.step)
        loss = self.wrapped(Sealed(batch), state.step)
        found = self.train_step.found
        self.wrapped_optimizer.zero_grad()
        self.fabric.backward(loss)
        learner.before_update(state.step)
        length = self.fabric.clip_gradients(
            self.wrapped,
            self.wrapped_optimizer,
            max_norm=plan.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        assert isinstance(length, Tensor)
        # One transfer from the device for all; what is a number already keeps its double precision.
        tensors = [loss, length, *(v for v in found.means.values() if isinstance(v, Tensor))]
        numbers = iter(torch.stack([t.detach().float() for t in tensors]).tolist())
        mine = [next(numbers), next(numbers)]
        mine += [next(numbers) if isinstance(v, Tensor) else v for v in found.means.values()]
        counted = [number for pair in found.shares.values() for number in pair]
        rows = share(self.fabric, [clock(), float(stop), found.audio, *mine, *counted])
        sums = [sum(column) for column in zip(*rows, strict=True)]
        means = [value / len(rows) for value in sums[3 : 3 + len(mine)]]
        self.loss, norm = means[:2]
        figures = dict(zip(found.means, means[2:], strict=True))
        if not (math.isfinite(self.loss) and math.isfinite(norm)):
            at = (plan.seed, state.step + 1)
            learner.fail(batch, found, at, self.loss, {**figures, RATES[0]: norm})
        self.wrapped_optimizer.step()
        learner.after_update(state.step, state.total)
        state.step += 1
        state.seconds = max(row[0] for row in rows)
        state.audio += sums[2]
        self._asked = any(row[1] for row in rows) and len(rows) > 1
        for name, value in {**figures, RATES[0]: norm, RATES[1]: rate}.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
            state.counts[name] = state.counts.get(name, 0) + 1
        pairs = iter(sums[3 + len(mine) :])
        for name in found.shares:
            old = state.shares.get(name, (0.0, 0.0))
            state.shares[name] = [old[0] + next(pairs), old[1] + next(pairs)]

    def save(self, *, last: bool = False) -> None:
        """Write the state, and what the learner wants beside it."""
        self.learner.before_save(last)
        self._write()

    def _write(self) -> None:
        header = {**asdict(self.state), "precision": precision_of(self.fabric), **self.header()}
        save_tensors(self.file, files.gather(self.modules, self.optimizer), header, self.tag)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on ``device``; plain data stay."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _nothing() -> None:
    """What the other processes do meanwhile."""
