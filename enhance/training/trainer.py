"""One training step, and the state that it changes.

A step is a function of the weights, the optimiser's state and (seed, step): mixtures follow from
(seed, epoch, index), random generators are seeded in every step, the learning rate follows from
the step. So a run that goes on from a checkpoint repeats, on a CPU, exactly what a run never
stopped does. Only a limit in minutes, which bends the schedule by the clock, cannot be repeated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from enhance.config import RunConfig, TrainingConfig
from enhance.files import sha256
from enhance.network.checkpoint import WEIGHTS, start_from
from enhance.network.waveform_model import WaveformModel
from enhance.settings import to_dict
from enhance.training import bad_batch
from enhance.training import state as trainer_state
from enhance.training.batchnorm import share_batch_norms
from enhance.training.ema import Ema
from enhance.training.muon import Muon
from enhance.training.objective import Objective
from enhance.training.processes import collect, on_first, share
from enhance.training.schedule import learning_rate, progress, since

_OTHER = ("gradient_norm", "learning_rate")
"""What is averaged beside the losses."""


class Sealed:
    """A batch that Fabric's precision plugins do not look into.

    They would round the audio to bfloat16, and refuse frozen dataclasses among the plain data.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch


class TrainStep(nn.Module):
    """Model and objective as one module, so that one wrapper sees all parameters."""

    def __init__(self, model: WaveformModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Sealed | dict[str, Any]) -> dict[str, Tensor]:
        """Named losses of a batch."""
        return self.objective(self.model, batch.batch if isinstance(batch, Sealed) else batch)


def seed_everything(seed: int, *more: int) -> None:
    """Seed torch, numpy and Python from any number of integers."""
    words = np.random.SeedSequence([seed, *more]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 for what libraries draw
    random.seed(int(words[2]))


def make_optimizer(config: TrainingConfig, module: nn.Module) -> torch.optim.AdamW:
    """The optimiser of a configuration; it decays matrices and kernels, not vectors."""
    if config.optimizer == "muon":
        return Muon(
            module,
            lr=config.learning_rate,
            matrix_rate=config.matrix_rate,
            weight_decay=config.weight_decay,
        )
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)


class Trainer:
    """State of one run in one process, and the steps that change it."""

    def __init__(
        self,
        fabric: Fabric,
        config: RunConfig,
        objective: Objective,
        run: Path,
        init: Path | str | None,
    ) -> None:
        self.fabric = fabric
        self.precision = (
            "bf16" if fabric.strategy.precision.precision.startswith("bf16") else "fp32"
        )
        self.config = config
        self.run = run
        seed_everything(config.seed)
        self.model = WaveformModel(config.model, objective.companion())
        self.init: dict[str, str] | None = None
        if init is not None:
            folder = start_from(self.model, config.model, init).folder
            # Where it lay on this machine is nobody's business, unless it was named from here.
            name = folder.name if folder.is_absolute() else folder.as_posix()
            self.init = {"checkpoint": name, "sha256": sha256(folder / WEIGHTS)}
        self.objective = objective
        if fabric.world_size > 1:
            share_batch_norms(self.model)
        self.train_step = TrainStep(self.model, objective).train()
        self.optimizer = make_optimizer(config.training, self.train_step)
        self.wrapped, self.wrapped_optimizer = fabric.setup(self.train_step, self.optimizer)
        self.average = Ema(self.model, config.training.ema_decay)
        self.branch: dict[str, Any] | None = None
        self.step = 0
        self.seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.loss = math.nan

    @property
    def used(self) -> float:
        """Fraction of the budget that is used."""
        return progress(self.config.training, *since(self.branch, self.step, self.seconds))

    @property
    def last_step(self) -> int | None:
        """The step at which the budget will end, as far as is known now; None without an end."""
        steps, _ = since(self.branch, self.step, 0.0)
        return self.step - steps + max(steps, round(steps / self.used)) if self.used else None

    def restore(self) -> None:
        """Continue from the run's trainer.safetensors."""
        path = self.run / trainer_state.FILE
        tensors, header = trainer_state.load_tensors(path, trainer_state.FORMAT)
        trainer_state.scatter(
            tensors, self.model, self.average.model, self.objective, self.optimizer, path
        )
        self.step, self.seconds = header["step"], header["seconds"]
        self.best, self.sums = header["best"], header["sums"]
        # States written before losses could differ between phases have one count for all.
        self.counts = header.get("counts") or dict.fromkeys(self.sums, header.get("summed", 0))
        self.branch = header.get("branch")
        self.init = header.get("init")  # states written before there was one have none

    def save(self, data: str) -> None:
        """Write trainer.safetensors.

        Parameters
        ----------
        data
            Fingerprint of the files that the run draws from.
        """
        header = {
            "step": self.step,
            "epoch": self.step * self.config.training.batch_size // self.config.training.epoch_size,
            "seconds": self.seconds,
            "used": self.used,
            "best": self.best,
            "sums": self.sums,
            "counts": self.counts,
            "config": to_dict(self.config),
            "objective": to_dict(self.objective.describe()),
            "init": self.init,
            "branch": self.branch,
            "data": data,
        }
        tensors = trainer_state.gather(
            self.model, self.average.model, self.objective, self.optimizer
        )
        trainer_state.save_tensors(
            self.run / trainer_state.FILE, tensors, header, trainer_state.FORMAT
        )

    def advance(self, batch: dict[str, Any], clock: Callable[[], float], stop: bool) -> bool:
        """One optimiser step.

        Parameters
        ----------
        batch
            This process's part of it, on the device.
        clock
            Tells the seconds of training so far.
        stop
            Whether this process was asked to stop.

        Returns
        -------
        bool
            Whether any process was asked to stop.

        Raises
        ------
        EnhanceError
            If the loss or its gradient is not finite; weights and averages are left as they were.
        """
        c = self.config.training
        rate = learning_rate(c, self.step, self.used)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        seed_everything(self.config.seed, self.step, self.fabric.global_rank)
        self.objective.begin_step(self.step, self.model)
        losses = self.wrapped(Sealed(batch))
        self.wrapped_optimizer.zero_grad()
        self.fabric.backward(torch.stack(list(losses.values())).sum())
        norm = self.fabric.clip_gradients(
            self.wrapped,
            self.wrapped_optimizer,
            max_norm=c.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        assert isinstance(norm, Tensor)
        mine = torch.stack([*(v.detach().float() for v in losses.values()), norm]).tolist()
        shared = share(self.fabric, [clock(), float(stop), *mine])
        values = [sum(column) / len(shared) for column in zip(*shared, strict=True)]
        named = dict(zip(losses, values[2:-1], strict=True))
        if not all(math.isfinite(v) for v in values):
            self._fail(batch, {**named, "gradient_norm": values[-1]})
        self.wrapped_optimizer.step()
        self.step += 1
        self.average.update(self.model, self.step)
        self.seconds = max(row[0] for row in shared)
        self.loss = sum(named.values())
        row = {**named, "gradient_norm": values[-1], "learning_rate": rate}
        for name, value in row.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        return any(r[1] for r in shared)

    def averages(self) -> dict[str, Any]:
        """Means over the steps since the last call: the losses by name, and the rest.

        A loss that only some of the steps had is averaged over those; ``loss`` is the mean of the
        steps' sums.
        """
        row = {name: value / self.counts[name] for name, value in self.sums.items()}
        steps = self.counts["learning_rate"]
        total = sum(row[n] * (self.counts[n] / steps) for n in row if n not in _OTHER)
        self.sums, self.counts = {}, {}
        other = {name: row.pop(name) for name in _OTHER}
        return {"loss": total, "losses": row, **other, "used": self.used}

    def _fail(self, batch: dict[str, Any], losses: dict[str, float]) -> None:
        rows = bad_batch.suspects(self.train_step, batch, self.config.seed)
        everyone = [row for rows in collect(self.fabric, rows) for row in rows]
        step = self.step + 1
        on_first(self.fabric, lambda: bad_batch.report(self.run, step, losses, everyone))
