"""Mode `distill`: the loss, its gradient, the control, exactness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill.backbones.find import load
from distill.modes.choose import make_objective
from distill.modes.distill import Distillation, DistillConfig
from distill.modes.imitation import shuffle
from distill.teacher.contract import Teacher
from enhance.config import (
    GcrnConfig,
    LossConfig,
    MixingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from enhance.config.settings import parse
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.loader import collate
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.recipe import Piece
from enhance.errors import EnhanceError
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS

TINY = GcrnConfig(channels=(4, 4, 6, 6, 8), hidden=16)
MODEL = ModelConfig(gcrn=TINY)


def clips(folder: Path, kind: str, lengths: list[int], seed: int) -> ClipStore:
    """Coloured noise; for speech, a tenth of a second each of hums, hisses and clicks."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, n in enumerate(lengths):
        wave = 0.1 * np.convolve(rng.standard_normal(n + 7), np.hanning(8), "valid")[:n]
        if kind == "speech":
            angle = 2 * np.pi * np.arange(1600) / 16000
            parts = []
            for sound in rng.integers(4, size=n // 1600 + 1):
                hertz = rng.uniform(100, 300) if sound == 0 else rng.uniform(2000, 4000)
                hiss, clicks = 0.2 * rng.standard_normal(1600), 0.8 * (rng.random(1600) > 0.99)
                parts.append((0.3 * np.sin(hertz * angle), hiss, clicks)[max(sound - 1, 0)])
            wave = 0.01 * wave + np.concatenate(parts)[:n]
        path = folder / f"{kind}-{i}.wav"
        soundfile.write(path, wave.astype(np.float32), 16000, "PCM_16")
        rows.append(Clip(path, n / 16000, 16000, kind))
    return ClipStore(rows, 16000, quiet=True)


@pytest.fixture
def speech(tmp_path: Path) -> ClipStore:
    return clips(tmp_path, "speech", [17000, 9000, 30000], 0)


@pytest.fixture
def mixer(speech: ClipStore, tmp_path: Path) -> Mixer:
    noise = clips(tmp_path, "noise", [40000], 1)
    return Mixer(speech, noise, MixingConfig(segment_seconds=1.0), seed=3)


@pytest.fixture
def teacher(make_teacher) -> Teacher:
    """Layer norm, kernel 1 in the positions: state 0 says what is in the frame, and no more."""
    return load(make_teacher(num_conv_pos_embeddings=1))


def objective(
    teacher: Teacher, speech: ClipStore, folder: Path, model: ModelConfig = MODEL, **config: Any
) -> Distillation:
    config = {"layers": "single:0", "weight": 1.0, "cache": str(folder / "cache"), **config}
    result = Distillation(DistillConfig(**config), LossConfig(), model, teacher=teacher, quiet=True)
    result.prepare(speech)
    return result


def network(model: ModelConfig = MODEL) -> WaveformModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WaveformModel(model).train()


def batch_of(mixer: Mixer, *keys: int) -> dict[str, Any]:
    return collate([mixer(0, key) for key in keys])


@pytest.mark.parametrize("framing", ["25-20", "32-16", "20-10"])
def test_the_loss_by_hand(teacher, speech, mixer, tmp_path: Path, framing: str) -> None:
    """Sample by sample: which teacher frame owns a sample, which samples a student frame owns."""
    model = ModelConfig(FRAMINGS[framing], TINY)
    distill, net = objective(teacher, speech, tmp_path, model), network(model)
    batch = batch_of(mixer, 0, 1, 2, 3, 4, 5)
    assert {len(row) for row in batch["pieces"]} > {1}
    assert not any(batch["altered"])
    losses = distill(net, batch)
    hop, overlap = model.stft.hop_length, model.stft.overlap
    with torch.no_grad():
        noisy = net.pad(batch["noisy"])
        spec, _ = net.stft.analyze(noisy)
        predicted = distill.projection(net.network.forward_with_encoding(spec)[2]).numpy()
    total, count = 0.0, 0
    margin = 1000
    for b, row in enumerate(batch["pieces"]):
        # (2 * samples, D), half samples: the target that owns each, NaN where there is none
        owner = np.full((2 * (margin + 16000 + margin), 24), np.nan, np.float32)
        for piece in row:
            wave = torch.from_numpy(speech.whole(piece.clip))[None]
            state = teacher(wave, torch.tensor([wave.shape[1]]))[0][0, 0].numpy()
            state = state - state.mean(-1, keepdims=True)
            state = state / np.sqrt((state**2).mean(-1, keepdims=True) + 1e-5)
            for t, vector in enumerate(state):
                centre = -80 + 320 * t + 200 - piece.clip_start + piece.segment_start
                inside = piece.segment_start <= centre < piece.segment_start + piece.length
                if inside and centre < 16000:
                    at = 2 * (margin + centre - 160)
                    owner[at : at + 640] = vector
        for t in range(predicted.shape[1]):
            start = 2 * (margin + t * hop - overlap) + model.stft.window_length - hop
            cell = owner[start : start + 2 * hop]
            heard = ~np.isnan(cell[:, 0])
            if len(cell) == 2 * hop and heard.mean() >= 0.5:
                total += np.abs(predicted[b, t] - cell[heard].mean(0)).mean()
                count += 1
    assert count > 0.6 * predicted.shape[0] * predicted.shape[1]
    every = predicted.shape[0] * predicted.shape[1]
    assert losses["distill"].item() == pytest.approx(total / every, rel=1e-3)
    assert set(losses) == {"complex", "magnitude", "si_sdr", "distill"}


def test_the_l1_term_alone_moves_the_encoder(teacher, speech, mixer, tmp_path: Path) -> None:
    distill, net = objective(teacher, speech, tmp_path), network()
    distill(net, batch_of(mixer, 0, 1))["distill"].backward()
    # A bias ahead of a batch norm acts through the gate, so that every parameter counts.
    for name, parameter in net.network.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 1e-7, name
    assert distill.projection.weight.grad.abs().sum() > 0
    beyond = [*net.network.rnns.parameters(), *net.network.decoders.parameters()]
    assert all(p.grad is None or not p.grad.any() for p in beyond)


def test_scale_of_the_loss(teacher, speech, mixer, tmp_path: Path) -> None:
    """A zero guess scores E|x| of the layer-normalised states, about that of a Gaussian."""
    for layers in ("last", "single:0", "weighted"):
        distill = objective(teacher, speech, tmp_path, layers=layers, weight=0.5)
        torch.nn.init.zeros_(distill.projection.weight)
        torch.nn.init.zeros_(distill.projection.bias)
        batch = batch_of(mixer, 0, 1)
        batch["pieces"] = [[Piece(2, 0, 0, 16000)]] * 2  # a target in all frames but the last
        loss = distill(network(), batch)["distill"].item() * 51 / 50
        assert 0.5 * 0.65 < loss < 0.5 * 0.9


def test_a_batch_in_two_parts_is_the_same_loss(teacher, speech, mixer, tmp_path: Path) -> None:
    """As two processes take it; items differ in how many frames have a target."""
    distill, net = objective(teacher, speech, tmp_path), network().eval()
    keys = range(10, 16)
    whole = distill(net, batch_of(mixer, *keys))["distill"]
    parts = [distill(net, batch_of(mixer, *part))["distill"] for part in (keys[:3], keys[3:])]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
    heard = [distill.targets.batch(b["clean"], b["pieces"], b["altered"])[1].sum().item()
             for b in (batch_of(mixer, key) for key in keys)]  # fmt: skip
    assert len(set(heard)) > 1


def test_only_the_projection_is_trained_and_saved(teacher, speech, tmp_path: Path) -> None:
    distill = objective(teacher, speech, tmp_path)
    assert set(distill.state_dict()) == {"projection.weight", "projection.bias"}
    assert distill.projection.weight.shape == (24, 40)
    state = torch.get_rng_state()
    same = objective(teacher, speech, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(distill.projection.weight, same.projection.weight)
    about = distill.describe()
    assert about["mode"] == "distill"
    assert about["teacher_fingerprint"] == teacher.fingerprint


def test_nothing_heard_is_no_loss(teacher, speech, mixer, tmp_path: Path) -> None:
    distill, net = objective(teacher, speech, tmp_path), network()
    batch = batch_of(mixer, 0, 1)
    batch["pieces"] = [[], [Piece(1, 0, 0, 100)]]  # too short for the centre of a frame
    losses = distill(net, batch)
    assert losses["distill"].item() == 0
    sum(losses.values()).backward()  # every parameter has a gradient: several processes need it
    gradient = distill.projection.weight.grad
    assert gradient is not None and not gradient.any()


def test_shuffle_keeps_the_targets_and_destroys_their_places() -> None:
    target = torch.arange(3 * 40).view(3, 40, 1).float()
    valid = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) > 0.3
    index = [(0, 4), (0, 5), (0, 6)]
    shuffled = shuffle(target, valid, index)
    assert torch.equal(shuffled[~valid], target[~valid])
    assert torch.equal(shuffled[valid].sort(0).values, target[valid].sort(0).values)
    assert (shuffled[valid] == target[valid]).float().mean() < 0.1
    assert torch.equal(shuffled, shuffle(target, valid, index))  # a function of the indices
    assert not torch.equal(shuffled, shuffle(target, valid, [(0, 4), (0, 5), (1, 6)]))
    one = shuffle(target[:1], valid[:1], index[:1])  # a batch of one is shuffled in time
    assert (one[valid[:1]] == target[:1][valid[:1]]).float().mean() < 0.2


def trained(distill: Distillation, net: WaveformModel, batches: list[dict[str, Any]]) -> list:
    """Train encoder and projection on the L1 term alone; the losses on the way."""
    parameters = [*net.network.encoder.parameters(), *distill.projection.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    history = []
    for batch in batches:
        spec, _ = net.stft.analyze(net.pad(batch["noisy"]))
        encoding = net.network.encode(spec)[0][-1].transpose(1, 2).flatten(2)  # (B, T, C F')
        loss = distill.distance(encoding, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def test_the_control_learns_less(teacher, speech, mixer, tmp_path: Path) -> None:
    """Same start, same mixtures: real targets can be predicted; of shuffled ones no more than
    their median, which is a constant."""
    mixer = Mixer(speech, mixer.noise, MixingConfig((20.0, 20.0), segment_seconds=1.0), seed=3)
    batches = [batch_of(mixer, 2 * step, 2 * step + 1) for step in range(80)]
    runs, constant = {}, 0.0
    for shuffled in (False, True):
        distill, net = objective(teacher, speech, tmp_path, shuffle_targets=shuffled), network()
        runs[shuffled] = trained(distill, net, batches)
        late = [distill.targets.batch(b["clean"], b["pieces"], b["altered"]) for b in batches[-8:]]
        heard = torch.cat([values[valid] for values, valid in late])
        share = len(heard) / (8 * 2 * 51)  # of the frames; the others count as zero
        constant = (heard - heard.median(0).values).abs().mean().item() * share
    assert runs[False][0] != runs[True][0]
    real, control = (np.mean(runs[key][-8:]) for key in (False, True))
    assert real < 0.8 * constant < 0.8 * control


def test_gradients_of_the_control_differ(teacher, speech, mixer, tmp_path: Path) -> None:
    grads = []
    for shuffled in (False, True):
        distill, net = objective(teacher, speech, tmp_path, shuffle_targets=shuffled), network()
        distill(net, batch_of(mixer, 0, 1))["distill"].backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.network.encoder.parameters()]))
    cosine = torch.nn.functional.cosine_similarity(*grads, dim=0)
    assert cosine < 0.9


@pytest.mark.parametrize("shuffled", [False, True, "clips"])
def test_resumed_is_the_same_to_the_bit(teacher, speech, mixer, tmp_path, shuffled) -> None:
    """A new objective with the saved weights and a cold cache goes on where the old one was."""
    state = torch.get_rng_state()
    distill, net = objective(teacher, speech, tmp_path, shuffle_targets=shuffled), network()
    trained(distill, net, [batch_of(mixer, 0, 1), batch_of(mixer, 2, 3)])
    again = objective(teacher, speech, tmp_path / "cold", shuffle_targets=shuffled)
    again.load_state_dict(distill.state_dict())
    batch = batch_of(mixer, 7, 8)
    net.eval()
    with torch.no_grad():
        a, b = distill(net, batch)["distill"], again(net, batch)["distill"]
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)  # no random number was drawn


def test_hit_rate_and_altered_speech(teacher, speech, tmp_path: Path) -> None:
    noise = clips(tmp_path, "noise", [40000], 1)
    room = MixingConfig(segment_seconds=1.0, equaliser_probability=0.5)
    mixer = Mixer(speech, noise, room, seed=3)
    distill, net = objective(teacher, speech, tmp_path, precompute="always"), network()
    batch = batch_of(mixer, *range(8))
    changed = sum(batch["altered"])
    assert 0 < changed < 8
    distill(net, batch)
    pieces = [(len(row), alt) for row, alt in zip(batch["pieces"], batch["altered"], strict=True)]
    live, total = sum(n for n, alt in pieces if alt), sum(n for n, _ in pieces)
    log = distill.log()
    assert log["target_live"] == live / total
    assert log["target_hit_rate"] == (total - live) / total
    assert log["target_cache_mb"] > 0


def test_bf16(teacher, speech, mixer, tmp_path: Path) -> None:
    distill, net = objective(teacher, speech, tmp_path), network()
    batch = batch_of(mixer, 0, 1)
    exact = distill(net, batch)["distill"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = distill(net, batch)
    assert losses["distill"].dtype == torch.float32
    assert losses["distill"].item() == pytest.approx(exact.item(), rel=0.02)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in distill.parameters())


def run_config(folder: Path, steps: int = 10, **objective: Any) -> RunConfig:
    return RunConfig(
        model=MODEL,
        mixing=MixingConfig(equaliser_probability=0.5, rir_probability=0.5),
        training=TrainingConfig(steps=steps, batch_size=1),
        mode="distill",
        objective={"cache": str(folder), **objective},
    )


@pytest.mark.parametrize(
    ("steps", "precompute", "filled"),
    [(12, "auto", 3), (11, "auto", 0), (1, "always", 3), (99, "never", 0)],
)
def test_from_run(make_teacher, speech, tmp_path, steps, precompute, filled) -> None:
    """`auto` waits until unaltered mixtures (here one in four) are as many as clips."""
    settings = {"teacher": str(make_teacher()), "weight": 0.3, "precompute": precompute}
    distill = make_objective(run_config(tmp_path, steps, **settings), True)
    assert isinstance(distill, Distillation)
    assert (distill.config.weight, distill.alignment) == (0.3, 320)
    distill.prepare(speech)
    assert len(list(tmp_path.rglob("*.npy"))) == filled


def test_refusals(make_teacher, teacher, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="'wieght'; did you mean 'weight'"):
        make_objective(run_config(tmp_path, wieght=1), True)
    with pytest.raises(EnhanceError, match="objective: weight: expected 0 or more"):
        parse(DistillConfig, {"weight": -1.0}, "objective")
    with pytest.raises(EnhanceError, match="single:7"):
        make_objective(run_config(tmp_path, teacher=str(make_teacher()), layers="single:7"), True)
    other = ModelConfig(FRAMINGS["25-20"].__class__(8000, 400, 320, 400), TINY)
    with pytest.raises(EnhanceError, match="16000 Hz, the model 8000 Hz"):
        Distillation(DistillConfig(), LossConfig(), other, teacher=teacher)


def test_fields_of_the_teacher_and_of_25_20_frames_are_the_same(teacher, tmp_path, speech) -> None:
    distill = objective(teacher, speech, tmp_path)
    assert distill.targets.grid == distill.grid
