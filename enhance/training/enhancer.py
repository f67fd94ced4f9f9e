"""The learner of `fit`: an enhancer, its objective, the average of its weights, its record."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from torch import nn

from enhance import __version__
from enhance.config import ModelConfig, TrainingConfig
from enhance.config.settings import to_dict
from enhance.data.mixing.loader import batches
from enhance.data.mixing.rooms import bank
from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.measure.timing import processor_name
from enhance.network.checkpoint import WEIGHTS, CheckpointInfo, save_model, start_from
from enhance.network.waveform_model import WaveformModel
from enhance.training.data import TrainingData
from enhance.training.engine.engine import seed_everything
from enhance.training.engine.learner import Learner, Plan, State, Step, adamw
from enhance.training.engine.processes import collect, on_first, precision_of
from enhance.training.objective import Objective
from enhance.training.optim.ema import Ema
from enhance.training.optim.muon import Muon
from enhance.training.optim.schedule import learning_rate, progress, since
from enhance.training.run.run_folder import origin
from enhance.training.validation import SEED, Validation

TOLD = (
    "steps",
    "minutes",
    "batch_size",
    "optimizer",
    "learning_rate",
    "matrix_rate",
    "weight_decay",
    "ema_decay",
)
"""Settings of training that the kept model's record names."""

SETTLING = 64
"""Mixtures that the averaged weights hear before they are measured or kept, see `Ema.settle`."""


class EnhancerPlan(Plan):
    """`TrainingConfig` as the engine sees it.

    A limit in minutes bends the schedule by the clock: such a run cannot be repeated.
    """

    closes = True

    def __init__(
        self, training: TrainingConfig, seed: int = 0, branch: Mapping[str, Any] | None = None
    ) -> None:
        self.branch, self.seed = branch, seed
        c = self.training = training
        self.clip_norm = c.clip_norm
        self.log_every, self.validate_every = c.log_every, c.validate_every

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        c = self.training
        if c.optimizer == "adamw":
            return adamw(module, c.learning_rate, c.weight_decay)
        return Muon(
            module, lr=c.learning_rate, matrix_rate=c.matrix_rate, weight_decay=c.weight_decay
        )

    def used(self, state: State) -> float:
        """Fraction of the budget that is used."""
        return progress(self.training, *since(self.branch, state.step, state.seconds))

    def rate(self, state: State) -> float:
        return learning_rate(self.training, state.step, self.used(state))

    def expected(self, state: State) -> float | None:
        """As many more as the share of the budget that is left."""
        steps, _ = since(self.branch, state.step, 0.0)
        used = self.used(state)
        return state.step - steps + steps / used if used else None

    def over(self, state: State) -> bool:
        return self.used(state) >= 1

    def saves(self, state: State, saved: float) -> bool:
        return state.step % self.training.checkpoint_every == 0


class Enhancer(Learner):
    """A model and its objective, which is on its device and prepared.

    The folder ``run`` keeps the model; ``init`` is a checkpoint to start from. ``header`` is that
    of the state to go on from, empty for a new run; ``record`` is the run's configuration as plain
    data, for the header of its own state.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: ModelConfig,
        plan: EnhancerPlan,
        objective: Objective,
        data: TrainingData,
        run: Path,
        init: Path | str | None,
        header: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> None:
        self.fabric, self.config, self.plan, self.run = fabric, config, plan, run
        self.record = record
        self.objective, self.data = objective, data
        seed_everything(plan.seed)
        self.model = WaveformModel(config, objective.companion())
        self.best: dict[str, Any] | None = header.get("best")
        self.init: dict[str, str] | None = header.get("init")
        if init is not None:
            self.init = origin(start_from(self.model, config, init).folder, WEIGHTS)
        self.average = Ema(self.model, plan.training.ema_decay)
        self.describe = to_dict(objective.describe())
        self.step = int(header.get("step", 0))
        self.validation = on_first(fabric, self._validation)

    def _validation(self) -> Validation | None:
        c, data, mixing = self.plan.training, self.data.config, self.data.mixing
        if not c.validate_every:
            return None
        responses = bank(mixing, data.rirs, SEED, self.config.stft.sample_rate, quiet=True)
        snr = sum(mixing.snr) / 2 if c.validation_snr is None else c.validation_snr
        mixing = mixing.for_validation(snr)
        held_back = self.data.held_back()
        return Validation(*held_back, mixing, c.validation_clips, data.balance, responses)

    def learnt(self) -> Mapping[str, nn.Module]:
        return {"model": self.model, "objective": self.objective}

    def beside(self) -> Mapping[str, nn.Module]:
        return {"average": self.average.model}

    def batches(self, rank: int, world: int, step: int) -> Iterator[dict[str, Any]]:
        return self._mixed(step, rank=rank, world=world, workers=self.data.config.workers)

    def _mixed(self, step: int, **where: int) -> Generator[dict[str, Any], None, None]:
        c = self.plan.training
        mixing = self.data.mixing_of
        return batches(self.data.mixer, c.batch_size, c.epoch_size, step, mixing_of=mixing, **where)

    def _settle(self) -> None:
        """Fit the average's batch norms on the mixtures that come next."""
        count = -(-SETTLING // self.plan.training.batch_size)
        with contextlib.closing(self._mixed(self.step)) as found:
            waves = (batch["noisy"].to(self.fabric.device) for batch in islice(found, count))
            self.average.settle(self.model, WaveformModel.enhance, waves)

    def before_step(self, step: int) -> None:
        self.objective.begin_step(step, self.model)

    def forward(self, batch: dict[str, Any], step: int) -> Step:
        losses = self.objective(self.model, batch)
        noisy = batch["noisy"]
        seconds = noisy.numel() / self.config.stft.sample_rate
        return Step(torch.stack(list(losses.values())).sum(), seconds, losses)

    def after_update(self, step: int, total: int | None) -> None:
        self.step = step + 1
        self.average.update(self.model, self.step)

    def row(self, state: State) -> dict[str, Any]:
        """The losses by name, and the rest.

        A loss that only some of the steps had is averaged over those; ``loss`` is the mean of the
        steps' sums.
        """
        losses = state.means()
        other = {name: losses.pop(name) for name in ("gradient_norm", "learning_rate")}
        steps = state.counts["learning_rate"]
        total = sum(value * (state.counts[n] / steps) for n, value in losses.items())
        return {"loss": total, "losses": losses, **other, "used": self.plan.used(state)}

    def clock(self) -> dict[str, float]:
        return self.objective.log()

    def validate(self) -> dict[str, Any] | None:
        """Measure the averaged weights, and keep them if `TrainingConfig.keep` says so.

        An `EnhanceError` if their output is not finite.
        """
        if self.validation is None or not self.objective.trains_enhancer(self.step):
            return None
        self._settle()
        result = self.validation.measure(self.average.model, self.plan.training.batch_size)
        if not math.isfinite(result["si_sdr"]):
            raise EnhanceError(f"step {self.step}: the output on the validation set is not finite")
        last = self.plan.training.keep == "last"
        better = not last and (self.best is None or result["si_sdr"] > self.best["si_sdr"])
        if better or last:
            self.best = {"step": self.step, **result}
            self._keep(self.best)
        return {**result, "best": better}

    def tell(self, row: dict[str, Any], seconds: float) -> str:
        if row["type"] != "validation":
            return ""
        quality = "" if row["pesq_wb"] is None else f", PESQ-WB {row['pesq_wb']:.3f}"
        return (
            f"step {row['step']}: validation SI-SDR {row['si_sdr']:.2f} dB "
            f"({row['si_sdr_gain']:+.2f}){quality}{'  best so far' if row['best'] else ''}"
        )

    def before_save(self, last: bool) -> None:
        """Write a model where none was kept by validation, and the objective trains an enhancer."""
        if not self.step or not self.objective.trains_enhancer(self.step):
            return
        if self.validation is None:
            self.best = {"step": self.step}
        if self.validation is None or (last and self.best is None):
            self._settle()
            self._keep({"step": self.step})

    def _keep(self, score: dict[str, Any]) -> None:
        device = self.fabric.device
        training = to_dict(self.plan.training)
        cuda = device.type == "cuda"
        record = {
            **self.describe,
            "producer": f"enhance {__version__}",
            "seed": self.plan.seed,
            **{name: training[name] for name in TOLD},
            "snr": list(self.data.mixing.snr),
            "hours": self.data.hours(),
            "precision": precision_of(self.fabric),
            "device": torch.cuda.get_device_name(device) if cuda else processor_name(),
            **({"init": self.init} if self.init else {}),
            **({"branch": self.plan.branch} if self.plan.branch else {}),
        }
        save_model(self.run, self.average.model, CheckpointInfo(self.config, record, score))

    def header(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "config": self.record,
            "objective": self.describe,
            "init": self.init,
            "branch": self.plan.branch,
            "data": self.data.fingerprint,
            "groups": self.data.groups,
        }

    def fail(
        self, batch: Any, found: Step, at: tuple[int, int], loss: float, figures: dict[str, float]
    ) -> NoReturn:
        """Name the clips whose losses are bad, here and in bad_batch.json."""
        everyone = [row for rows in collect(self.fabric, self._suspects(batch)) for row in rows]
        on_first(self.fabric, lambda: _report(self.run, at[1], figures, everyone))
        raise AssertionError  # the line above has raised

    @torch.no_grad()
    def _suspects(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row for each clip of a batch, with the losses of the clip alone.

        ``seed``, ``epoch`` and ``index`` make the mixture again; it is ``bad`` if its samples or
        its losses are not finite, with the weights before the bad step.
        """
        rows = []
        for i, (epoch, index) in enumerate(batch["index"]):
            clip = {key: value[i : i + 1] for key, value in batch.items()}
            losses: dict[str, float] = {}
            with contextlib.suppress(EnhanceError):  # a control may refuse one clip alone
                losses = {n: float(x) for n, x in self.objective(self.model, clip).items()}
            finite = all(bool(clip[name].isfinite().all()) for name in ("noisy", "clean"))
            row: dict[str, Any] = {"seed": self.plan.seed, "epoch": int(epoch), "index": int(index)}
            row["files"] = [str(path) for path in batch["files"][i]]
            row["losses"] = {name: f"{value:.4g}" for name, value in losses.items()}
            row["bad"] = not (finite and all(map(math.isfinite, losses.values())))
            rows.append(row)
        return rows


def _report(run: Path, step: int, losses: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Write bad_batch.json and stop: an `EnhanceError` names the step, the losses, the clips, and
    where training can go on.
    """
    named = {name: f"{value:.4g}" for name, value in losses.items()}
    file = run / "bad_batch.json"
    write_json(file, {"step": step, "losses": named, "clips": rows})
    bad = [row for row in rows if row["bad"]] or rows
    first = bad[0]
    more = f", and {len(bad) - 1} more clips" if len(bad) > 1 else ""
    values = ", ".join(f"{name} {value}" for name, value in named.items())
    kept = f"with --init {run} and" if (run / WEIGHTS).exists() else "with"
    raise EnhanceError(
        f"step {step}: the loss or its gradient is not finite ({values}) in the mixture of "
        f"{' and '.join(first['files'])} (seed {first['seed']}, epoch {first['epoch']}, index "
        f"{first['index']}{more}; the batch is in {file}); the last checkpoint is untouched: "
        f"mend or leave out the files, or start a new run {kept} a lower training.learning_rate"
    )
