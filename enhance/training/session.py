"""What the first process of a run does alone: validation, files, and the screen."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from enhance import __version__
from enhance.data.mixing import bank
from enhance.errors import EnhanceError
from enhance.measure.timing import processor_name
from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.settings import to_dict
from enhance.training.console import Console
from enhance.training.data import TrainingData
from enhance.training.history import History
from enhance.training.trainer import Trainer
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


def device_name(device: torch.device) -> str:
    """What a device is called by its maker."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


class Session:
    """Keeps the record of a run from its start, or from where it goes on.

    Parameters
    ----------
    trainer
        With its state restored.
    data
        Of the run.
    describe
        The objective's `describe()`.
    resumed
        Whether the run goes on.
    console
        The screen.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        describe: dict[str, Any],
        resumed: bool,
        console: Console,
    ) -> None:
        self.trainer = trainer
        self.console = console
        config = trainer.config
        training = to_dict(config.training)
        self.training = {
            **describe,
            "producer": f"enhance {__version__}",
            "seed": config.seed,
            **{name: training[name] for name in TOLD},
            "snr": list(config.mixing.snr),
            "hours": data.hours(),
            "precision": trainer.precision,
            "device": device_name(trainer.fabric.device),
            **({"init": trainer.init} if trainer.init else {}),
            **({"branch": trainer.branch} if trainer.branch else {}),
        }
        self._data = data.fingerprint
        self._validation = None
        if config.training.validate_every:
            rate = config.model.stft.sample_rate
            responses = bank(config.mixing, config.data.rirs, SEED, rate, quiet=True)
            self._validation = Validation(*data.held_back(), config, responses)
        self.history = History(trainer.run, trainer.step)
        self.history.event("resume" if resumed else "start", trainer.step)
        self._mark = (time.monotonic(), trainer.step)
        self._speed = 0.0
        samples = round(config.mixing.segment_seconds * config.model.stft.sample_rate)
        self._step_seconds = config.training.batch_size * samples / config.model.stft.sample_rate

    def show(self, loss: float) -> None:
        """Move the progress bar."""
        t = self.trainer
        begin, step = self._mark
        passed = time.monotonic() - begin
        if passed > 0 and t.step > step:
            self._speed = (t.step - step) * self._step_seconds / passed
        self.console.update(t.step, t.last_step, loss, self._speed)

    def log(self, row: dict[str, Any]) -> None:
        """Write averages of the last steps."""
        clock = {
            "seconds": round(self.trainer.seconds, 3),
            "audio_seconds_per_second": round(self._speed, 2),
            **self.trainer.objective.log(),
        }
        self.history.train(self.trainer.step, row, clock)
        self._mark = (time.monotonic(), self.trainer.step)

    def validate(self) -> None:
        """Measure the averaged weights, and keep them if they are the best so far.

        Raises
        ------
        EnhanceError
            If their output is not finite.
        """
        t = self.trainer
        assert self._validation is not None
        begin = time.monotonic()
        result = self._validation.measure(t.average.model, t.config.training.batch_size)
        if not math.isfinite(result["si_sdr"]):
            raise EnhanceError(f"step {t.step}: the output on the validation set is not finite")
        better = t.best is None or result["si_sdr"] > t.best["si_sdr"]
        if better:
            t.best = {"step": t.step, **result}
            self.keep(t.best)
        passed = time.monotonic() - begin
        self.history.validation(t.step, {**result, "best": better}, {"seconds": round(passed, 3)})
        quality = "" if result["pesq_wb"] is None else f", PESQ-WB {result['pesq_wb']:.3f}"
        self.console.say(
            f"step {t.step}: validation SI-SDR {result['si_sdr']:.2f} dB "
            f"({result['si_sdr_gain']:+.2f}){quality}{'  best so far' if better else ''}"
        )
        # Validation is no part of the speed of training.
        self._mark = (self._mark[0] + passed, self._mark[1])

    def keep(self, score: dict[str, Any]) -> None:
        """Write the averaged weights as the run's model."""
        t = self.trainer
        info = CheckpointInfo(t.config.model, self.training, score)
        save_model(t.run, t.average.model, info)

    def save(self, *, last: bool) -> None:
        """Write the state for resuming, and a model where none was kept by validation.

        No model is kept while the objective trains no enhancer.
        """
        t = self.trainer
        if t.objective.trains_enhancer(t.step):
            if self._validation is None:
                t.best = {"step": t.step}
            if self._validation is None or (last and t.best is None):
                self.keep({"step": t.step})
        t.save(self._data)

    def end(self, stopped: str) -> dict[str, Any]:
        """Note the end, tell what came out, and return it; see `enhance.training.loop.fit`."""
        t = self.trainer
        self.history.event("stop", t.step, reason=stopped, seconds=round(t.seconds, 3))
        if stopped == "finished" and not t.objective.trains_enhancer(t.step):
            raise EnhanceError(
                f"{t.run}: the budget ended at step {t.step}, before a step that trains the "
                "enhancer: no model was kept; raise training.minutes and --resume"
            )
        if stopped == "finished":
            self.console.say(f"{t.run}: {t.step} steps in {t.seconds / 60:.1f} min")
        else:
            last = t.config.training.steps + (t.branch["step"] if t.branch else 0)
            end = f" of {last}" if t.config.training.steps else ""
            self.console.say(
                f"{t.run}: {stopped}, stopped and saved at step {t.step}{end}; "
                "the same command with --resume goes on"
            )
        return {
            "run": str(t.run),
            "step": t.step,
            "stopped": stopped,
            "best": t.best or {"step": t.step},
            "seconds": t.seconds,
        }
