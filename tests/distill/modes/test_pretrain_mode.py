"""Mode `pretrain`: the first phase by hand, and that what a phase does not train stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_modes as tiny
import torch
from torch import Tensor

from distill.backbones.find import load
from distill.modes.choose import make_objective
from distill.modes.distill import Distillation, DistillConfig
from distill.modes.imitation import distance
from distill.modes.pretrain import PretrainConfig, Pretraining
from distill.teacher.contract import Teacher
from enhance.config import LossConfig, RunConfig
from enhance.data.mixing.loader import collate
from enhance.data.mixing.mixer import Mixer
from enhance.network.waveform_model import WaveformModel
from enhance.training.engine.processes import finds_unused
from enhance.training.loop import fit
from enhance.training.objective import Enhancement

MODEL = tiny.tiny.TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def place(make_teacher) -> Path:
    return make_teacher("hubert", "group")


@pytest.fixture
def teacher(place: Path) -> Teacher:
    return load(place)


@pytest.fixture
def mixer(data: Path) -> Mixer:
    return tiny.tiny.heard(tiny.tiny.config(data)).mixer


def objective(teacher: Teacher, mixer: Mixer, cache: Path, **config: Any) -> Pretraining:
    config = {"pretrain_steps": 3, "cache": str(cache), **config}
    result = Pretraining(
        PretrainConfig(**config), MODEL, Enhancement(LossConfig()), teacher=teacher, quiet=True
    )
    result.prepare(mixer.speech)
    return result


def network() -> WaveformModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WaveformModel(MODEL).train()


def encoded(net: WaveformModel, noisy: Tensor) -> Tensor:
    spec, _ = net.stft.analyze(net.pad(noisy))
    return net.network.forward_with_encoding(spec)[2]


@pytest.mark.parametrize("kind", ["l1", "cosine"])
def test_noisy_targets_by_hand(teacher, mixer, tmp_path: Path, kind: str) -> None:
    pretrain = objective(teacher, mixer, tmp_path, layers="single:1", distance=kind)
    net = network()
    batch = collate([mixer(0, i) for i in range(3)])
    pretrain.begin_step(0, net)
    losses = pretrain(net, batch)
    assert set(losses) == {"pretrain"}
    net = network()
    with torch.no_grad():
        predicted = pretrain.projection(encoded(net, batch["noisy"])).double().numpy()
    total = 0.0
    for b in range(3):
        state = teacher(batch["noisy"][b : b + 1], torch.tensor([8000]))[0][1, 0].double().numpy()
        state = (state - state.mean(-1, keepdims=True)) / np.sqrt(state.var(-1, keepdims=True))
        for t in range(len(state)):  # 25/20: frame t of the one is frame t of the other
            x, y = predicted[b, t], state[t]
            total += (
                np.abs(x - y).mean()
                if kind == "l1"
                else 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            )
    assert losses["pretrain"].item() == pytest.approx(total / (3 * 26), rel=1e-3)


def test_clean_targets_are_those_of_distill(
    teacher, mixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain = objective(teacher, mixer, tmp_path, target="clean")
    config = DistillConfig(cache=str(tmp_path))
    distill = Distillation(config, LossConfig(), MODEL, teacher=teacher, quiet=True)
    distill.prepare(mixer.speech)
    distill.load_state_dict(pretrain.projection.state_dict(prefix="projection."))
    batch = collate([mixer(0, i) for i in range(3)])
    net = network()
    encoding = encoded(network(), batch["noisy"])
    pretrain.begin_step(0, net)
    found = pretrain(net, batch)["pretrain"]
    assert found.item() == pytest.approx(distill.distance(encoding, batch).item(), rel=1e-5)
    assert list(tmp_path.rglob("*.npy"))
    assert pretrain.log()["target_cache_mb"] > 0
    monkeypatch.setattr(pretrain.inner, "log", lambda: {"target_live": 0.25})
    assert pretrain.log()["target_live"] != 0.25  # the first phase's own
    pretrain.begin_step(pretrain.config.pretrain_steps, net)
    assert pretrain.log()["target_live"] == 0.25 and pretrain.log()["target_cache_mb"] > 0
    noisy = objective(teacher, mixer, tmp_path / "none")
    assert noisy(network(), batch)["pretrain"].item() != pytest.approx(found.item(), rel=1e-3)
    assert not (tmp_path / "none").exists()


def test_the_first_phase_can_be_learned(teacher, mixer, tmp_path: Path) -> None:
    pretrain, net = objective(teacher, mixer, tmp_path, layers="single:0"), network()
    optimizer = torch.optim.Adam([*net.parameters(), *pretrain.parameters()], 1e-2)
    batch = collate([mixer(0, i) for i in range(4)])
    pretrain.begin_step(0, net)
    losses = []
    for _ in range(40):
        loss = pretrain(net, batch)["pretrain"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    values, valid = pretrain.target(batch, 26)
    constant = distance("l1", values[valid].median(0).values, values[valid]).mean() * 25 / 26
    assert losses[-1] < 0.9 * constant.item() < losses[0]


class Watching(tiny.Stopping):
    """Keeps all tensors of model and objective as they are before each step."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.seen: list[dict[str, Tensor]] = []

    def begin_step(self, step: int, model: WaveformModel) -> None:
        super().begin_step(step, model)
        self.seen.append({n: t.clone() for n, t in model.state_dict().items()})
        own = self.inner.state_dict()
        self.seen[-1] |= {f"objective.{n}": t.clone() for n, t in own.items()}


def watched(config: RunConfig, run: Path) -> Watching:
    """What a run was after each of its steps."""
    watch = Watching(make_objective(config, True))
    with tiny.tiny.little_settling():
        fit(config, watch, run, quiet=True)
    return watch


def moved(watch: Watching, step: int, prefix: str) -> set[str]:
    """Tensors of a prefix that step number ``step`` (from 0) changed."""
    before, after = watch.seen[step], watch.seen[step + 1]
    return {n for n in before if n.startswith(prefix) and not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("freeze", [0, 2, -1])
def test_each_phase_moves_its_own_weights_only(
    data: Path, place: Path, tmp_path: Path, optimizer: str, freeze: int
) -> None:
    """To the bit, under strong decay: parameters and the statistics of batch norms."""
    config = tiny.settings(data, "pretrain", place, optimizer=optimizer, weight_decay=0.5)
    config = replace(config, objective={**config.objective, "freeze_steps": freeze})
    watch = watched(config, tmp_path / "run")
    encoder = {n for n in watch.seen[0] if n.startswith("network.encoder.")}
    rest = {n for n in watch.seen[0] if n.startswith("network.")} - encoder
    assert any("running_mean" in n for n in encoder) and any("running_mean" in n for n in rest)
    for step in range(7):
        frozen = step >= 3 and (freeze < 0 or step < 3 + freeze)
        own, projection = moved(watch, step, "network."), moved(watch, step, "objective.")
        if step < 3:
            assert own == encoder
            assert projection == {"objective.projection.weight", "objective.projection.bias"}
        else:
            assert own == (rest if frozen else encoder | rest), step
            assert not projection


def test_a_frozen_encoder_is_frozen_in_the_kept_model(
    data: Path, place: Path, tmp_path: Path
) -> None:
    from enhance.network.checkpoint import load_model

    config = tiny.settings(data, "pretrain", place, ema_decay=0.0)
    config = replace(config, objective={**config.objective, "freeze_steps": -1})
    watch = watched(config, tmp_path / "run")
    kept = load_model(tmp_path / "run")[0].state_dict()
    for name, tensor in watch.seen[3].items():
        if name.startswith("network.encoder."):
            assert torch.equal(kept[name], tensor), name


def test_several_processes_look_for_what_has_no_gradient(teacher, mixer, tmp_path: Path) -> None:
    from enhance.errors import EnhanceError

    assert objective(teacher, mixer, tmp_path).partial
    assert not Enhancement(LossConfig()).partial
    assert finds_unused("auto") == "ddp_find_unused_parameters_true"
    with pytest.raises(EnhanceError, match="in turn"):
        finds_unused("ddp")
