"""The network of domain-adversarial training: gradients by hand, pooling, what learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from distill.backbones.find import load
from distill.dann.config import BackboneConfig, DannConfig, LambdaSchedule
from distill.dann.network import Attention, Network, Reversal, Statistics, thaw
from enhance.config.settings import load_yaml, merge, parse
from enhance.errors import EnhanceError

CONFIGS = Path(__file__).parents[3] / "configs" / "dann"

SEED = """
backbone:
  layer_selection:
    method: first_k
    k: 6
---
backbone:
  freeze: false
  freeze_layers: [0, 1, 2, 3, 4, 5, 6, 7]  # Freeze lower 8 layers
---
dann:
  lambda_schedule:
    start: 0.05  # Higher initial lambda
    end: 2.0     # Higher final lambda
---
dann:
  discriminator:
    hidden_dim: 1024
    num_layers: 3
---
pooling:
  method: attention
  heads: 4
"""
"""The five recommendations, as they are written."""


def test_the_gradient_is_reversed_by_hand() -> None:
    """z = w x; loss = (a z - t)^2 + (b R(z) - d)^2 with w 2, x 3, a .5, t 1, b -1, d 4.

    z = 6. The task gives dL/dw = 2 (3 - 1) .5 3 = 6, the domain 2 (-6 - 4) (-1) 3 = 60 before
    reversal; the discriminator's own gradient is 2 (-10) 6 = -120, whatever lambda is.
    """
    for strength in (0.0, 0.25, 1.0):
        w, a, b = (torch.tensor(v, requires_grad=True) for v in (2.0, 0.5, -1.0))
        z = w * 3.0
        reversed_ = Reversal.apply(z, strength)
        assert reversed_.item() == 6.0
        ((a * z - 1.0) ** 2 + (b * reversed_ - 4.0) ** 2).backward()
        assert w.grad.item() == pytest.approx(6 - strength * 60)
        assert a.grad.item() == pytest.approx(2 * 2 * 6)
        assert b.grad.item() == pytest.approx(-120)


def test_schedules() -> None:
    plain = LambdaSchedule()
    assert plain(0) == 0 and plain(1) == pytest.approx(0.9999, abs=1e-4)
    assert plain(0.25) == pytest.approx(2 / (1 + math.exp(-2.5)) - 1)
    asked = LambdaSchedule(start=0.05, end=2.0)
    assert asked(0) == 0.05 and asked(1) == pytest.approx(2.0, abs=1e-3)
    config = DannConfig()
    assert config.rate(0, 100) == 0.01
    assert config.rate(50, 100) == pytest.approx(0.01 / 6**0.75)
    assert config.rate(100, 100) == pytest.approx(0.01 / 11**0.75)


def test_statistics() -> None:
    x = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    got = Statistics(4)(x).numpy()
    want = np.concatenate([x.numpy().mean(1), x.numpy().std(1)], 1)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_each_head_weighs_the_frames_for_itself() -> None:
    x = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    pool = Attention(4, 2)
    torch.testing.assert_close(pool(x), x.mean(1))  # uniform at the start
    with torch.no_grad():
        pool.query[1] = torch.tensor([0.0, 1e4])  # the second head looks at feature 3 only
    got = pool(x)
    torch.testing.assert_close(got[:, :2], x[:, :, :2].mean(1))
    frame = x[:, :, 3].argmax(1)
    torch.testing.assert_close(got[:, 2:], x[torch.arange(2), frame, 2:])
    with pytest.raises(EnhanceError, match=r"pooling.heads 3: 4 features do not part evenly"):
        Attention(4, 3)


def test_what_is_thawed_learns_and_nothing_else() -> None:
    teacher = load("mini-wavlm")
    config = DannConfig(backbone=BackboneConfig(freeze=False, freeze_layers=(0, 1, 2, 4)))
    network = Network(config, teacher, 2, 3)
    waves = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    # It hears what the frozen one hears.
    every = torch.stack(list(load("mini-wavlm").run(list(waves))))
    frozen = Network(DannConfig(), load("mini-wavlm"), 2, 3)
    torch.testing.assert_close(network.embed(waves), frozen.embed(every), atol=1e-4, rtol=1e-4)
    said, judged = network(waves, 1.0)
    assert said.shape == (2, 2) and judged.shape == (2, 3)
    (said.square().sum() + judged.square().sum()).backward()
    touched = {
        name.split("layers.")[1].split(".")[0] if "encoder.layers" in name else "below"
        for name, p in network.named_parameters()
        if name.startswith("teacher.") and p.grad is not None and p.grad.abs().sum() > 0
    }
    assert touched == {"3", "5"}
    assert network.sum.scores.grad.abs().sum() > 0
    assert not network.train().teacher.training  # no dropout: what is heard is repeatable


def test_the_task_and_the_domain_pull_apart() -> None:
    """Below the embedding the gradient is that of task - lambda domain, above it of both."""
    network = Network(DannConfig(embedding=8), load("log-mel:320"), 2, 3)
    heard = torch.randn(1, 4, 20, 80, generator=torch.Generator().manual_seed(0))

    def gradients(task: float, domain: float, strength: float) -> dict[str, torch.Tensor]:
        network.zero_grad()
        said, judged = network(heard, strength)
        (task * said.square().mean() + domain * judged.square().mean()).backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    both, alone = gradients(1, 1, 0.7), gradients(1, 0, 0.7)
    domain = gradients(0, 1, -1.0)  # not reversed
    for name, gradient in both.items():
        want = alone[name] - 0.7 * domain[name] if "domain" not in name else domain[name]
        torch.testing.assert_close(gradient, want, atol=1e-6, rtol=1e-4)


def test_refusals_of_backbones() -> None:
    with pytest.raises(
        EnhanceError, match=r"backbone.freeze_layers 7: mini-wavlm has blocks 0 to 5"
    ):
        thaw(load("mini-wavlm"), (7,))
    with pytest.raises(EnhanceError, match="names every block"):
        thaw(load("mini-wavlm"), tuple(range(6)))
    with pytest.raises(EnhanceError, match="log-mel cannot be trained"):
        thaw(load("log-mel"), ())
    with pytest.raises(EnhanceError, match="freeze_layers: says nothing where freeze is true"):
        BackboneConfig(freeze_layers=(1,))
    with pytest.raises(EnhanceError, match="minutes: the schedules need to know the end"):
        DannConfig(minutes=3.0)


def test_the_recommendations_are_read_as_they_are_written(tmp_path: Path) -> None:
    found = []
    for number, text in enumerate(SEED.split("---")):
        (tmp_path / f"{number}.yaml").write_text(text)
        found.append(parse(DannConfig, load_yaml(tmp_path / f"{number}.yaml"), "here"))
    first, second, third, fourth, fifth = found
    assert first.backbone.layer_selection.text == "first_k:6"
    assert not second.backbone.freeze and second.backbone.freeze_layers == tuple(range(8))
    assert third.dann.lambda_schedule == LambdaSchedule(start=0.05, end=2.0)
    assert (fourth.dann.discriminator.hidden_dim, fourth.dann.discriminator.num_layers) == (1024, 3)
    assert (fifth.pooling.method, fifth.pooling.heads) == ("attention", 4)


def test_the_configurations() -> None:
    """Each sets what its recommendation says, and nothing else."""
    files = sorted(CONFIGS.glob("*.yaml"))
    found = {f.stem: parse(DannConfig, load_yaml(f), str(f)) for f in files}
    assert not found.pop("erm").adversarial
    assert found.pop("base") == found["dann"] and found["dann"].adversarial
    snippets = dict(
        zip(
            ("first-layers", "unfrozen", "stronger", "deeper", "attention"),
            SEED.split("---"),
            strict=True,
        )
    )
    assert set(found) - {"dann"} == set(snippets)
    base = load_yaml(CONFIGS / "dann.yaml")
    for name, text in snippets.items():
        assert found[name] == parse(DannConfig, merge(base, yaml.safe_load(text)), name), name
