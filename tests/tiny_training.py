"""A training run of seconds: clips from formulas, a network of a few thousand weights."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from enhance.config import (
    DataConfig,
    GcrnConfig,
    MixingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from enhance.config.settings import dump_yaml
from enhance.network.tensors import load_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.training import enhancer
from enhance.training.data import TrainingData
from enhance.training.objective import Enhancement, Objective

ROOT = Path(__file__).resolve().parents[1]
TINY = ModelConfig(gcrn=GcrnConfig(channels=(4, 4, 4), hidden=16))


def make_clips(folder: Path, count: int = 6) -> Path:
    """Speech (harmonics that come and go) and noise, ``count`` files of 1.5 s each."""
    rng = np.random.default_rng(7)
    t = np.arange(24000) / 16000
    for i in range(count):
        envelope = 0.05 + np.clip(np.sin(2 * np.pi * (2 + 0.3 * i) * t), 0, None)
        voice = sum(np.sin(2 * np.pi * (110 + 17 * i) * k * t) / k for k in range(1, 12))
        for kind, wave in (("speech", voice * envelope), ("noise", rng.standard_normal(len(t)))):
            path = folder / kind / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * wave / wave.std(), 16000)
    return folder


def config(data: Path, **training: Any) -> RunConfig:
    """A tiny run on the clips below ``data``; keywords change `TrainingConfig`."""
    settings: dict[str, Any] = {
        "steps": 12,
        "batch_size": 4,
        "epoch_size": 30,
        "warmup_steps": 3,
        "validate_every": 5,
        "validation_clips": 2,
        "checkpoint_every": 4,
        "log_every": 1,
        "threads": 1,
        "precision": "fp32",
    }
    return RunConfig(
        model=TINY,
        data=DataConfig(corpus=str(data), held_back=0.2, workers=0),
        mixing=MixingConfig(segment_seconds=0.5),
        training=TrainingConfig(**{**settings, **training}),
    )


def heard(settings: RunConfig, alignment: int = 320) -> TrainingData:
    """The clips of a run."""
    return TrainingData(
        *(settings.data, settings.mixing, settings.curriculum),
        seed=settings.seed,
        alignment=alignment,
        validates=bool(settings.training.validate_every),
        quiet=True,
    )


@contextlib.contextmanager
def little_settling() -> Iterator[None]:
    """The average hears 4 mixtures before it is kept, not 64: most of what a tiny run takes.

    Only in this process. `test_validation_measures_the_average` hears all.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enhancer, "SETTLING", 4)
        yield


class Stopping(Enhancement):
    """Plain enhancement that is stopped, as by Ctrl-C, in its step number ``stop``; 0 for never."""

    def __init__(self, config: RunConfig, stop: int = 0) -> None:
        super().__init__(config.loss)
        self.left = stop

    def begin_step(self, step: int, model: WaveformModel) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def on_workers(settings: RunConfig, workers: int) -> RunConfig:
    """The same run with mixing in other processes."""
    return replace(settings, data=replace(settings.data, workers=workers))


def command(settings: RunConfig, run: Path, *more: str) -> subprocess.Popen[str]:
    """``enhance train`` of these settings in a process group of its own."""
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.parent / f"{run.name}.yaml"
    file.write_text(dump_yaml(settings), "utf-8")
    arguments = ["train", "--config", str(file), "--run", str(run), "--accelerator", "cpu", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "enhance", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of one type of a run's history."""
    lines = (run / "history.jsonl").read_text("utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def same(a: Path, b: Path) -> None:
    """Histories equal to the byte, all tensors of trainer and model to the bit."""
    assert (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes()
    for name, tag in (("trainer", "enhance-trainer-1"), ("model", "enhance-model-1")):
        ours, header = load_tensors(a / f"{name}.safetensors", tag)
        theirs, other = load_tensors(b / f"{name}.safetensors", tag)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        for key in ("step", "best", "sums", "score"):
            assert header.get(key) == other.get(key)


class Sums(Objective):
    """Counts up to a step, then does what a test wants; owns a weight and draws random numbers."""

    def __init__(self, loss: Any, bad_step: int = -1, stop_step: int = -1) -> None:
        super().__init__()
        self.inner = Enhancement(loss)
        self.weight = nn.Parameter(torch.ones(3))
        self.bad_step, self.stop_step = bad_step, stop_step
        self.calls = 0

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.calls += 1
        losses = self.inner(model, batch)
        dropped = nn.functional.dropout(self.weight, 0.5)
        losses["own"] = (dropped - batch["clean"].std()).square().mean()
        if self.calls == self.stop_step:
            os.kill(os.getpid(), signal.SIGINT)
        if self.calls >= self.bad_step > 0 and (0, 3 * 4 + 1) in batch["index"]:
            losses["own"] = losses["own"] * math.nan
        return losses
