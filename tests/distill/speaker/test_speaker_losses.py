"""AAM-softmax and DINO against plain loops."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.backbones.ecapa_model import EcapaConfig
from distill.speaker.config import AamConfig, DinoConfig, SpeakerConfig
from distill.speaker.dino import Dino, DinoHead, dino_loss, entropies
from distill.training.config import last_quarter

TINY = EcapaConfig(
    channels=(8, 8, 8, 8, 16), attention_channels=8, res2net_scale=4, se_channels=8, embedding=12
)
needs_speechbrain = pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="needs the extra `speaker`"
)
SMALL_DINO = DinoConfig(
    global_seconds=0.4,
    local_seconds=0.2,
    teacher_momentum=0.99,
    outputs=16,
    hidden=12,
    bottleneck=6,
    frozen_steps=2,
)


def config(objective: str) -> SpeakerConfig:
    return SpeakerConfig(
        objective=objective,
        preset="",
        architecture=TINY,
        steps=8,
        minutes=0,
        batch=4,
        aam=AamConfig(crop_seconds=0.3),
        dino=SMALL_DINO,
    )


def aam_by_loops(x: np.ndarray, w: np.ndarray, speakers: list[int], m: float, s: float) -> float:
    """Angles, the margin on the own one, cross-entropy: one number at a time."""
    total = 0.0
    for row, own in zip(x, speakers, strict=True):
        logits = []
        for j, weight in enumerate(w):
            cosine = row @ weight / math.sqrt((row @ row) * (weight @ weight))
            angle = math.acos(max(-1.0, min(1.0, cosine)))
            if j == own:
                past = angle > math.pi - m
                cosine = cosine - m * math.sin(m) if past else math.cos(angle + m)
            logits.append(s * cosine)
        top = max(logits)
        total += top + math.log(sum(math.exp(v - top) for v in logits)) - logits[own]
    return total / len(speakers)


@needs_speechbrain
def test_aam_softmax() -> None:
    from distill.speaker.aam import Aam

    learner = Aam(config("aam"), 5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 12))
    w = rng.normal(size=(5, 12))
    speakers = [0, 1, 2, 3, 4, 0, 1]
    x[0] = 0.98 * w[0] + 0.01 * x[0]  # nearly right
    x[5] = -w[0] + 0.05 * x[5]  # nearly opposite: past pi - m
    with torch.no_grad():
        learner.classifier.weight.copy_(torch.from_numpy(w))
        cosines = learner.classifier(torch.from_numpy(x).float()[:, None])
        found = learner.criterion(cosines, torch.tensor(speakers)[:, None])
    assert found.item() == pytest.approx(aam_by_loops(x, w, speakers, 0.2, 30.0), rel=1e-5)
    without = aam_by_loops(x, w, speakers, 0.0, 30.0)
    assert abs(found.item() - without) > 0.1  # the margin counts


@needs_speechbrain
def test_aam_learner_tells_loss_and_accuracy() -> None:
    from distill.speaker.aam import Aam

    learner = Aam(config("aam"), 3).eval()
    waves = 0.1 * torch.randn(4, 4800, generator=torch.Generator().manual_seed(0))
    speakers = torch.tensor([0, 1, 2, 1])
    loss, told = learner([waves], speakers, 0)
    x = learner.encoder(waves).detach().double().numpy()
    w = learner.classifier.weight.detach().double().numpy()
    assert (
        told["loss"]
        == loss.item()
        == pytest.approx(aam_by_loops(x, w, speakers.tolist(), 0.2, 30.0), rel=1e-4)
    )
    norm = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, w)]
    assert told["accuracy"] == np.mean((norm[0] @ norm[1].T).argmax(1) == speakers.numpy())


def test_dino_loss() -> None:
    rng = np.random.default_rng(1)
    student = rng.normal(size=(6, 3, 5))  # views, clips, outputs
    teacher = rng.normal(size=(2, 3, 5))
    centre = rng.normal(size=5)

    def softmax(v: list[float]) -> list[float]:
        top = max(v)
        powers = [math.exp(a - top) for a in v]
        return [a / sum(powers) for a in powers]

    total, pairs = 0.0, 0
    for i in range(2):
        for j in range(6):
            if i == j:
                continue
            pairs += 1
            for b in range(3):
                p = softmax([(teacher[i, b, k] - centre[k]) / 0.05 for k in range(5)])
                q = softmax([student[j, b, k] / 0.1 for k in range(5)])
                total -= sum(p[k] * math.log(q[k]) for k in range(5)) / 3
    views = [torch.tensor(v, requires_grad=True) for v in student]
    targets = [torch.tensor(v, requires_grad=True) for v in teacher]
    found = dino_loss(views, targets, torch.tensor(centre), 0.1, 0.05)
    assert found.item() == pytest.approx(total / pairs, rel=1e-9) and pairs == 10
    found.backward()
    assert all(v.grad is not None and v.grad.any() for v in views)
    assert all(t.grad is None for t in targets)


def test_entropies_tell_both_collapses() -> None:
    zero = torch.zeros(8)
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(1, 8, generator=generator).repeat(40, 1)
    each, together = entropies(same, zero, 0.01)
    assert each < 0.1 and together < 0.1  # one answer to everything
    each, together = entropies(torch.zeros(40, 8), zero, 0.1)
    assert each == pytest.approx(1.0) and together == pytest.approx(1.0)  # no answer
    each, together = entropies(torch.eye(8).repeat(5, 1), zero, 0.01)
    assert each < 0.1 and together == pytest.approx(1.0)  # what is wanted
    # Against numbers: p = softmax of (1, 0) and of (0, 0)
    each, together = entropies(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2), 1.0)
    p = math.e / (math.e + 1)
    h = [-sum(v * math.log(v) for v in (a, 1 - a)) / math.log(2) for a in (p, 0.5, (p + 0.5) / 2)]
    assert each == pytest.approx((h[0] + h[1]) / 2) and together == pytest.approx(h[2])


def test_head_gives_cosines_to_unit_vectors() -> None:
    head = DinoHead(12, SMALL_DINO)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    out = head(x)
    hidden = head.layers(x).detach().numpy()
    weight = head.last.parametrizations.weight.original1.detach().numpy()
    for i in range(5):
        for k in range(16):
            a, b = hidden[i], weight[k]
            assert out[i, k].item() == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), abs=1e-5)
    assert not head.last.parametrizations.weight.original0.requires_grad


@needs_speechbrain
def test_dino_teacher_is_a_moving_average_and_the_centre_moves() -> None:
    learner = Dino(config("dino")).train()
    generator = torch.Generator().manual_seed(0)
    views = [0.1 * torch.randn(4, 6400, generator=generator) for _ in range(2)]
    views += [0.1 * torch.randn(4, 3200, generator=generator) for _ in range(4)]
    before = {n: p.clone() for n, p in learner.named_parameters()}
    loss, told = learner(views, torch.zeros(4, dtype=torch.long), 0)
    assert told["loss"] == loss.item()
    # The teacher's BN is in training mode: its outputs are those of this batch alone
    with torch.no_grad():
        outputs = learner.encoder_head(learner.encoder(torch.cat(views[:2])))
    torch.testing.assert_close(learner.centre, 0.1 * outputs.mean(0))
    loss.backward()
    frozen = learner.student_head.last.parametrizations.weight.original1
    assert frozen.grad.abs().sum() > 0
    learner.before_update(1)
    assert frozen.grad is None  # while step < frozen_steps
    with torch.no_grad():
        for p in learner.student.parameters():
            p += 0.5
    learner.after_update(0, 100)
    for name, p in learner.encoder.named_parameters():
        old, new = before[f"encoder.{name}"], before[f"student.{name}"] + 0.5
        torch.testing.assert_close(p, 0.99 * old + 0.01 * new)
        assert not p.requires_grad and p.grad is None
    learner.after_update(99, 100)  # nearly at the end: the teacher hardly moves any more
    for name, p in learner.encoder.named_parameters():
        old = 0.99 * before[f"encoder.{name}"] + 0.01 * (before[f"student.{name}"] + 0.5)
        torch.testing.assert_close(p, old, atol=1e-4, rtol=0)


def _moved(rank: int, processes: int, folder: Path) -> None:
    """One step on a process's own batch; what becomes of the centre stands in a file."""
    if processes > 1:
        place = f"file://{folder / 'meet'}"
        torch.distributed.init_process_group("gloo", place, world_size=processes, rank=rank)
    learner = Dino(config("dino")).train()
    generator = torch.Generator().manual_seed(rank)
    views = [0.1 * torch.randn(4, n, generator=generator) for n in (6400, 6400, *[3200] * 4)]
    learner(views, torch.zeros(4, dtype=torch.long), 0)
    np.save(folder / f"{processes}-{rank}.npy", learner.centre.numpy())


@needs_speechbrain
def test_dino_has_one_centre_in_all_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_moved, (2, tmp_path), nprocs=2)
    for rank in range(2):
        _moved(rank, 1, tmp_path)
    first, second, *alone = (np.load(tmp_path / f"{n}-{r}.npy") for n in (2, 1) for r in (0, 1))
    assert np.array_equal(first, second) and not np.allclose(*alone)
    np.testing.assert_allclose(first, np.mean(alone, 0), rtol=1e-5, atol=1e-7)


@needs_speechbrain
def test_dino_in_bf16() -> None:
    """What the network gives is of half precision; the centre and the loss are not."""
    learner = Dino(config("dino")).train()
    generator = torch.Generator().manual_seed(0)
    views = [0.1 * torch.randn(4, 6400, generator=generator) for _ in range(2)]
    views += [0.1 * torch.randn(4, 3200, generator=generator) for _ in range(4)]
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = learner(views, torch.zeros(4, dtype=torch.long), 0)
    loss.backward()
    assert loss.dtype == learner.centre.dtype == torch.float32
    assert torch.isfinite(loss) and learner.centre.any()


@needs_speechbrain
def test_dino_pairs_views_of_the_same_clip() -> None:
    """The whole forward pass against `dino_loss` of views run one after the other."""
    learner = Dino(config("dino")).eval()
    generator = torch.Generator().manual_seed(0)
    views = [0.1 * torch.randn(3, n, generator=generator) for n in (6400, 6400, *[3200] * 4)]
    student = [learner.student_head(learner.student(v)) for v in views]
    teacher = [learner.encoder_head(learner.encoder(v)) for v in views[:2]]
    expected = dino_loss(student, teacher, torch.zeros(16), 0.1, 0.04)
    loss, _ = learner(views, torch.zeros(3, dtype=torch.long), 0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@needs_speechbrain
def test_teacher_temperature() -> None:
    settings = config("dino")
    rising = dataclasses.replace(settings.dino, teacher_temperature=(0.04, 0.07))
    learner = Dino(dataclasses.replace(settings, dino=rising))
    assert [learner.temperature(step) for step in (0, 100, 200, 900)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )


def test_schedule() -> None:
    settings = config("aam")
    assert [last_quarter(s, 8) for s in (0, 5, 6, 7, 8)] == [0, 0, 0, 0.5, 1.0]
    assert last_quarter(1000, None) == 0.0
    rates = [settings.rate(s, None) for s in (0, 14, 29, 500)]
    assert rates == pytest.approx([2e-3 / 30, 1e-3, 2e-3, 2e-3])
    assert settings.rate(99, 100) == pytest.approx(2e-3 / 25)
