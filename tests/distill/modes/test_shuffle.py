"""Controls of the modes: targets of another clip, and teachers that are none or from packages."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_modes as tiny
import torch

from distill.modes.choose import check_mode, make_objective
from distill.modes.imitation import shuffled
from enhance.config import RunConfig
from enhance.data.mixing.loader import collate
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.network.waveform_model import WaveformModel
from enhance.training.loop import fit
from enhance.training.objective import encode_batch

MODES = ("concat", "distill", "pretrain")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny.make_clips(tmp_path_factory.mktemp("clips"))


def settings(data: Path, mode: str, teacher: Any, **own: Any) -> RunConfig:
    config = tiny.settings(data, mode, teacher)
    return replace(config, objective=config.objective | own)


def test_clips_take_the_targets_of_the_next_clip() -> None:
    target, valid = torch.randn(3, 7, 2), torch.rand(3, 7) > 0.4
    other, there = shuffled("clips", target, valid, [(0, 0), (0, 1), (0, 2)])
    for b in range(3):  # whole, in order, none its own
        assert torch.equal(other[b], target[b - 1]) and torch.equal(there[b], valid[b - 1])
    kept, same = shuffled(False, target, valid, [])
    assert kept is target and same is valid
    with pytest.raises(EnhanceError, match="batch of one"):
        shuffled("clips", target[:1], valid[:1], [(0, 0)])


@torch.no_grad()
@pytest.mark.parametrize(
    ("mode", "own"),
    [("distill", {"weight": 1.0}), ("pretrain", {}), ("pretrain", {"target": "clean"})],
)
def test_the_loss_is_the_distance_to_the_next_clips_targets(
    make_teacher, data: Path, mode: str, own: dict[str, Any]
) -> None:
    own = {"shuffle_targets": "clips", "cache": str(data / "cache"), **own}
    config = settings(data, mode, make_teacher(), **own)
    mixer = tiny.tiny.heard(config).mixer
    batch = collate([mixer(0, i) for i in range(3)])
    objective: Any = make_objective(config, True)
    objective.prepare(mixer.speech)
    net = WaveformModel(config.model).eval()
    objective.projection.weight.normal_()  # fresh, it hardly tells frames apart
    predicted = objective.projection(encode_batch(net, batch["noisy"]))  # (3, T, D)
    frames = predicted.shape[1]
    target = objective.target if mode == "pretrain" else objective.cached
    values, valid = target(batch, frames)
    expected = sum(
        ((predicted[b] - values[b - 1]).abs().mean(-1) * valid[b - 1]).sum() for b in range(3)
    ) / (3 * frames)
    straight = ((predicted - values).abs().mean(-1) * valid).mean()
    found = objective(net, batch)[mode].item()
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(straight), rel=1e-4)


@pytest.mark.parametrize("mode", ["distill", "pretrain"])
def test_a_stopped_control_goes_on_to_the_bit(make_teacher, data, tmp_path, mode: str) -> None:
    config = settings(data, mode, make_teacher(), shuffle_targets="clips")
    tiny.train(config, tmp_path / "whole")
    tiny.train(config, tmp_path / "parted", stop_step=3)
    tiny.train(config, tmp_path / "parted", resume=True)
    tiny.same(tmp_path / "whole", tmp_path / "parted")


class _Broken(tiny.Stopping):
    """The objective inside, whose third step is no number."""

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        losses = super().forward(model, batch)
        return {n: x * float("nan") for n, x in losses.items()} if self.calls == 3 else losses


def test_a_loss_that_is_no_number_is_told_of_a_control_too(make_teacher, data, tmp_path) -> None:
    """Alone no clip of the batch has a target: the batch is told all the same."""
    config = settings(data, "distill", make_teacher(), shuffle_targets="clips")
    objective = _Broken(make_objective(config, True))
    with pytest.raises(EnhanceError, match="step 3: the loss or its gradient is not finite"):
        fit(config, objective, tmp_path / "run", quiet=True)
    record = json.loads((tmp_path / "run/bad_batch.json").read_text())
    assert [row["index"] for row in record["clips"]] == [4, 5]


def teachers() -> list[Any]:
    found: list[Any] = ["log-mel:320"]
    for name in ("distillmos", "resemblyzer"):
        missing = importlib.util.find_spec(name) is None
        why = f"NO REAL TEACHER: {name} is not installed"
        found.append(pytest.param(name, marks=pytest.mark.skipif(missing, reason=why)))
    found.append(pytest.param("random:resemblyzer:1", marks=found[-1].marks))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("teacher", teachers())
def test_every_mode_trains_with_the_teachers_of_the_controls(
    data: Path, tmp_path: Path, mode: str, teacher: str
) -> None:
    """At the student's framing, which none of them shares but log-mel:320."""
    config = replace(settings(data, mode, teacher, layers="last"), seed=1)
    config = replace(config, training=replace(config.training, steps=4))
    check_mode(config)
    assert tiny.train(config, tmp_path / "run")["step"] == 4
    rows = read_jsonl(tmp_path / "run/history.jsonl")
    losses = {key: value for row in rows for key, value in row.get("losses", {}).items()}
    assert mode == "concat" or losses[mode] > 0
    assert losses and np.isfinite(list(losses.values())).all()


def test_states_of_several_widths_are_refused_where_they_must_be_one(data: Path) -> None:
    if importlib.util.find_spec("distillmos") is None:
        pytest.skip("NO REAL TEACHER: distillmos is not installed")
    with pytest.raises(EnhanceError, match="differ in width"):
        make_objective(settings(data, "concat", "distillmos", layers="weighted"), True)
