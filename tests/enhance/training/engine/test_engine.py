"""The engine on a learner of two weights, whose every step is known in closed form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from enhance.config import TrainingConfig
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors
from enhance.training.engine.engine import Engine
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Plan, State, Step, adamw
from enhance.training.engine.processes import Hardware
from enhance.training.enhancer import EnhancerPlan

RATES = [0.1, 0.3, 0.2, 0.05]


class Line(Learner):
    """Minimises slope * w for two weights: the gradient is the batch, whatever the weights."""

    def __init__(self, slopes: list[list[float]]) -> None:
        self.module = nn.Linear(2, 1, bias=False).double()
        nn.init.zeros_(self.module.weight)
        self.slopes = torch.tensor(slopes, dtype=torch.float64)
        self.seen: list[float] = []

    def learnt(self) -> Mapping[str, nn.Module]:
        return {"line": self.module}

    def batches(self, rank: int, world: int, step: int) -> Iterator[Tensor]:
        return iter(self.slopes[step:])

    def forward(self, batch: Tensor, step: int) -> Step:
        self.seen.append(float(torch.rand(1)))
        loss = self.module(batch).sum()
        shares = {"even": (float(step % 2 == 0), 1.0)}
        return Step(loss, 1.5, {"loss": loss.item()} if step % 2 else {}, shares)

    def validate(self) -> dict[str, Any]:
        return {"sum": self.module.weight.sum().item()}


class Descent(Plan):
    """Plain gradient descent at `RATES`, one group at three times the rate."""

    seed, log_every, validate_every = 0, 2, 3

    def __init__(self, clip_norm: float = 0.0) -> None:
        self.clip_norm = clip_norm

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": list(module.parameters()), "scale": 3.0}], lr=99.0)

    def rate(self, state: State) -> float:
        return RATES[state.step]

    def expected(self, state: State) -> float:
        return len(RATES)

    def over(self, state: State) -> bool:
        return state.step == len(RATES)

    def saves(self, state: State, saved: float) -> bool:
        return False


def engine(learner: Learner, plan: Plan, folder: Path, **more: Any) -> Engine:
    fabric = Hardware().launch()
    return Engine(fabric, learner, plan, folder / "state.safetensors", "toy", dict, **more)


def test_every_step_has_its_rate_its_scale_and_its_bound(tmp_path: Path) -> None:
    slopes = [[3.0, 4.0], [0.0, 0.5], [-6.0, 8.0], [1.0, 0.0]]
    learner = Line(slopes)
    stopped = engine(learner, Descent(clip_norm=2.0), tmp_path).train(
        Interrupt(), tmp_path, quiet=True
    )
    assert stopped == "finished"
    expected = torch.zeros(2, dtype=torch.float64)
    for rate, slope in zip(RATES, slopes, strict=True):
        gradient = torch.tensor(slope, dtype=torch.float64)
        gradient *= min(1.0, 2.0 / float(gradient.norm()))
        expected -= 3 * rate * gradient
    torch.testing.assert_close(learner.module.weight.detach()[0], expected, rtol=0, atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(r["type"], r["step"]) for r in rows] == [
        ("train", 2), ("validation", 3), ("train", 4),
    ]  # fmt: skip
    # Step 2 alone has the figure; the share is of both steps.
    before = -3 * RATES[0] * 0.4 * torch.tensor(slopes[0])  # of norm 5, cut to 2
    assert rows[0] == {
        "type": "train", "step": 2, "loss": pytest.approx(float(before[1]) * 0.5), "even": 0.5,
    }  # fmt: skip
    _, header = load_tensors(tmp_path / "state.safetensors", "toy")
    assert (header["step"], header["audio"], header["sums"]) == (4, 6.0, {})


def test_no_bound_and_steps_that_draw_the_same_numbers(tmp_path: Path) -> None:
    slopes = [[30.0, 40.0]] * 4
    first, second = Line(slopes), Line(slopes)
    engine(first, Descent(), tmp_path / "a").train(Interrupt(), tmp_path / "a", quiet=True)
    total = 3 * sum(RATES) * torch.tensor(slopes[0], dtype=torch.float64)
    torch.testing.assert_close(first.module.weight.detach()[0], -total)
    torch.manual_seed(99)
    made = engine(second, Descent(), tmp_path / "b")
    made.train(Interrupt(), tmp_path / "b", quiet=True)
    assert first.seen == second.seen and len(set(first.seen)) == 4


def test_a_finite_loss_of_an_infinite_gradient_reaches_nothing(tmp_path: Path) -> None:
    class Root(Line):
        def forward(self, batch: Tensor, step: int) -> Step:
            found = super().forward(batch, step)
            if step < 2:
                return found
            bad = (self.module.weight.sum() * 0).abs().sqrt()  # 0, its gradient 0 / 0
            return Step(found.loss + bad, 1.5, heard="clip 7")

    learner = Root([[1.0, 2.0]] * 4)
    made = engine(learner, Descent(), tmp_path)
    with pytest.raises(EnhanceError, match=r"training, step 3: the loss is .* gradient nan \(seed"):
        made.train(Interrupt(), tmp_path, quiet=True)
    assert learner.module.weight.isfinite().all()
    tensors, header = load_tensors(tmp_path / "state.safetensors", "toy")
    assert header["step"] == 0 and all(t.isfinite().all() for t in tensors.values())


def test_decay_is_that_of_the_configuration() -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
    for name in ("adamw", "muon"):
        training = TrainingConfig(optimizer=name, weight_decay=0.5, learning_rate=1.0)  # type: ignore[arg-type]
        optimizer = EnhancerPlan(training).optimizer(module)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        before = [p.detach().clone() for p in module.parameters()]
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        for p, old in zip(module.parameters(), before, strict=True):
            expected = old * (1 - 0.1 * 0.5) if p.ndim > 1 else old
            torch.testing.assert_close(p.detach(), expected)


def test_groups_without_parameters_are_left_out() -> None:
    assert len(adamw(nn.LayerNorm(4), 1.0, 0.1).param_groups) == 1
