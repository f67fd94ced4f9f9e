"""A run of seconds in any mode: tiny teacher, tiny network, and a way to stop it at a step."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny_training as tiny
import torch
from torch import Tensor

from distill.modes.choose import make_objective
from distill.modes.wrapper import Around
from enhance.config import RunConfig
from enhance.network.tensors import load_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.training.loop import fit

PHASES = {"pretrain_steps": 3, "freeze_steps": 2}


def settings(data: Path, mode: str, teacher: Path, steps: int = 8, **training: Any) -> RunConfig:
    """A run of ``mode``: validated every 2 steps, 3 of them pre-training, 2 more frozen."""
    own: dict[str, dict[str, Any]] = {
        "concat": {"teacher": str(teacher), "size": 5},
        "distill": {"teacher": str(teacher), "cache": str(data / "cache")},
        "pretrain": {"teacher": str(teacher), **PHASES},
    }
    names = mode.split("+")
    objective = own.get(mode) if len(names) == 1 else {name: own[name] for name in names}
    run = tiny.config(data, steps=steps, **{"batch_size": 2, "validate_every": 2, **training})
    return replace(run, mode=mode, objective=objective or {})


class Stopping(Around):
    """The objective inside, and Ctrl-C in one of its steps."""

    def __init__(self, inner: Any, stop_step: int = -1) -> None:
        super().__init__(inner)
        self.calls, self.stop_step = 0, stop_step

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.stop_step:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner(model, batch)

    def about(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


def train(config: RunConfig, run: Path, stop_step: int = -1, **more: Any) -> dict[str, Any]:
    objective = Stopping(make_objective(config, True), stop_step)
    with tiny.little_settling():
        return fit(config, objective, run, quiet=True, **more)


def same(a: Path, b: Path) -> None:
    """Histories equal to the byte, all tensors of trainer and model to the bit."""
    assert (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes()
    for name, tag in (("trainer", "enhance-trainer-1"), ("model", "enhance-model-1")):
        ours, header = load_tensors(a / f"{name}.safetensors", tag)
        theirs, other = load_tensors(b / f"{name}.safetensors", tag)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        for key in ("step", "best", "sums", "counts", "score"):
            assert header.get(key) == other.get(key)
