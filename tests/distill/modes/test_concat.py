"""Mode `concat`: what stands beside the recurrent output, and how a saved model finds it again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.backbones.find import load
from distill.modes.choose import load_model
from distill.modes.concat import ConcatConfig, Concatenation, TeacherFeatures
from distill.teacher import windows
from distill.teacher.contract import Teacher
from enhance.config import GcrnConfig, LossConfig, ModelConfig
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.network.checkpoint import load_model as load_bare
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS, StftConfig
from enhance.training.objective import Enhancement

TINY = GcrnConfig(channels=(4, 4, 6), hidden=16)


@pytest.fixture
def teacher(make_teacher) -> Teacher:
    return load(make_teacher("hubert", "group"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def objective(teacher: Teacher, framing: str = "25-20", **config: Any) -> Concatenation:
    model = ModelConfig(FRAMINGS[framing], TINY)
    return Concatenation(
        ConcatConfig(**{"size": 5, **config}), model, Enhancement(LossConfig()), teacher=teacher
    )


def network(concat: Concatenation, framing: str = "25-20") -> WaveformModel:
    config = concat.model_config(ModelConfig(FRAMINGS[framing], TINY))
    torch.manual_seed(0)
    return WaveformModel(config, concat.companion())


class Impulse:
    """A teacher of three features whose one state is a one in one frame."""

    name, fingerprint, sample_rate, num_layers, widths = "impulse", "0", 16000, 0, (3,)
    reach_frames, causal = 0, True

    def __init__(self, frame: int, offset: int, stride: int, field: int) -> None:
        self.frame = frame
        self.offset_samples, self.stride_samples, self.field_samples = offset, stride, field

    def frames(self, samples: int) -> int:
        return max(
            (samples - self.offset_samples - self.field_samples) // self.stride_samples + 1, 0
        )

    def to(self, device: Any) -> Any:
        return self

    def __call__(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        count = self.frames(waves.shape[1])
        hidden = torch.zeros(1, len(waves), count, 3)
        hidden[:, :, self.frame] = torch.tensor([1.0, 0.0, -1.0])
        return hidden, torch.full((len(waves),), count)


@pytest.mark.parametrize("grid", [(-80, 320, 400), (0, 320, 400), (-305, 160, 465)])
@pytest.mark.parametrize("framing", ["25-20", "32-16", "20-10"])
@pytest.mark.parametrize("frame", [0, 7])
def test_an_impulse_lands_in_the_frames_that_own_its_samples(
    grid: tuple[int, int, int], framing: str, frame: int
) -> None:
    stft = FRAMINGS[framing]
    features = TeacherFeatures(Impulse(frame, *grid), "last", 1, stft)
    with torch.no_grad():
        features.projection.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        features.projection.bias.zero_()
        frames = WaveformModel(ModelConfig(stft, TINY)).frames(8000)
        got = features(torch.zeros(1, 8000), frames)[0, :, 0].numpy()
    # Half sample by half sample: whose centred stride is it, and how much of my own stride?
    offset, stride, field = grid
    start = 2 * (offset + frame * stride) + field - stride
    owned = set(range(start, start + 2 * stride))
    teacher_start = 2 * offset + field - stride  # where the teacher's first frame begins to own
    for t in range(frames):
        mine = 2 * (t * stft.hop_length - stft.overlap) + stft.window_length - stft.hop_length
        cell = range(mine, mine + 2 * stft.hop_length)
        last = teacher_start + 2 * stride * features.teacher.frames(8000)
        heard = sum(teacher_start <= s < last for s in cell)
        expected = sum(s in owned for s in cell) / heard if heard else 0.0
        # The layer norm of (1, 0, -1) is sqrt(3 / 2) times that.
        assert got[t] == pytest.approx(1.5**0.5 * expected, abs=1e-4), t
    assert got.max() > 0.1


def test_features_by_hand(teacher) -> None:
    """The states, one by one in numpy: normalised, weighted, projected, frame by frame."""
    concat = objective(teacher)
    features = concat.companion()
    with torch.no_grad():
        features.sum.scores.copy_(torch.tensor([0.5, -0.5, 1.0]))
    wave = noise(2, 8000)
    with torch.no_grad():
        got = features(wave, 26).numpy()
    shares = np.exp([0.5, -0.5, 1.0]) / np.exp([0.5, -0.5, 1.0]).sum()
    weight, bias = (p.detach().numpy() for p in features.projection.parameters())
    for b in range(2):
        hidden = teacher(wave[b : b + 1], torch.tensor([8000]))[0][:, 0].numpy()  # alone
        for t in range(25):
            total = np.zeros(24)
            for share, state in zip(shares, hidden[:, t], strict=True):
                total += share * (state - state.mean()) / np.sqrt(state.var() + 1e-5)
            np.testing.assert_allclose(got[b, t], weight @ total + bias, atol=2e-4)
        np.testing.assert_allclose(got[b, 25], bias, atol=1e-6)  # past the teacher's last frame


def test_gradients_and_what_stays(teacher) -> None:
    """Layer weights and projection learn; the teacher does not, and belongs to nobody."""
    concat = objective(teacher)
    model = network(concat).train()
    before = {name: p.clone() for name, p in teacher.model.state_dict().items()}
    batch = {"noisy": noise(2, 8000), "clean": noise(2, 8000, seed=1)}
    losses = concat(model, batch)
    assert set(losses) == {"complex", "magnitude", "si_sdr"}
    sum(losses.values()).backward()
    own = dict(model.companion.named_parameters())
    assert set(own) == {"sum.scores", "projection.weight", "projection.bias"}
    for name, parameter in own.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name
    assert not list(concat.parameters())  # they are the model's, and there once
    torch.optim.SGD(model.parameters(), 1.0, weight_decay=0.1).step()
    after = teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in teacher.parameters())
    average = copy.deepcopy(model)
    assert average.companion.teacher is teacher
    assert average.companion.sum.scores is not model.companion.sum.scores
    with torch.no_grad():
        model.companion.sum.scores.copy_(torch.tensor([0.0, 0.7, 0.1]))
    told = concat.log()
    shares = np.exp([0.0, 0.7, 0.1]) / np.exp([0.0, 0.7, 0.1]).sum()
    assert told["layer_mean"] == pytest.approx(shares[1] + 2 * shares[2])
    assert (told["layer_top"], told["layer_top_weight"]) == (1, pytest.approx(shares[1]))


@pytest.mark.parametrize(("layers", "count"), [("last", 1), ("first_k:2", 2), ("weighted", 3)])
def test_layers_are_counted(teacher, layers: str, count: int) -> None:
    assert len(objective(teacher, layers=layers).companion().sum.scores) == count
    with pytest.raises(EnhanceError, match=r"single:9"):
        objective(teacher, layers="single:9")


def test_features_change_the_output_and_nothing_else_does(teacher) -> None:
    concat = objective(teacher)
    model = network(concat).eval()
    wave = noise(2, 8000)
    with torch.no_grad():
        out = model.enhance(wave)
        assert out.shape == wave.shape
        torch.testing.assert_close(model.enhance(wave[:1]), out[:1])  # no item sees the others
        model.companion.projection.bias += 1
        assert (model.enhance(wave) - out).abs().max() > 1e-4


def test_bf16(teacher) -> None:
    concat = objective(teacher)
    model = network(concat).train()
    batch = {"noisy": noise(2, 8000), "clean": noise(2, 8000, seed=1)}
    exact = sum(concat(model, batch).values())
    with torch.autocast("cpu", torch.bfloat16):
        rough = sum(concat(model, batch).values())
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    rough.backward()
    assert model.companion.sum.scores.grad.isfinite().all()


def test_long_signals_are_heard_in_windows(teacher, monkeypatch) -> None:
    asked: list[int] = []
    original = type(teacher).forward

    def forward(self: Any, waves: Tensor, lengths: Tensor) -> Any:
        asked.append(waves.shape[1])
        return original(self, waves, lengths)

    monkeypatch.setattr(type(teacher), "forward", forward)
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.2)
    features = objective(teacher).companion()
    with torch.no_grad():
        out = features(noise(2, 40000), 126)
    assert asked == [16000, 16000, 16000, 40000 - 90 * 320]
    assert out.shape == (2, 126, 5)
    assert (out[:, :125] - features.projection.bias).abs().amin(0).amax(-1).min() > 0  # no gap


def test_it_cannot_stream(teacher) -> None:
    model = network(objective(teacher))
    with pytest.raises(EnhanceError, match="cannot stream"):
        model(torch.zeros(1, 320))
    bare = WaveformModel(model.config)
    with pytest.raises(EnhanceError, match="nothing makes these"):
        bare.enhance(torch.zeros(1, 320))
    with pytest.raises(EnhanceError, match="5 wide"):
        WaveformModel(ModelConfig(gcrn=TINY), model.companion)


def test_refusals(teacher) -> None:
    slow = ModelConfig(StftConfig(8000, 400, 320, 400), TINY)
    with pytest.raises(EnhanceError, match="16000 Hz, the model 8000 Hz"):
        TeacherFeatures(teacher, "last", 4, slow.stft)
    wide = ModelConfig(gcrn=GcrnConfig(channels=(4, 4, 6), hidden=16, extra_features=3))
    with pytest.raises(EnhanceError, match="extra_features 3"):
        Concatenation(ConcatConfig(size=5), wide, Enhancement(LossConfig()), teacher=teacher)


@pytest.fixture
def saved(make_teacher, tmp_path: Path) -> tuple[Path, Path, WaveformModel]:
    """A checkpoint, the folder of its teacher, and the model."""
    place = make_teacher("wavlm", "layer")
    concat = objective(load(place))
    model = network(concat).eval()
    with torch.no_grad():
        model.companion.sum.scores.copy_(torch.tensor([0.1, 0.2, 0.9]))
    save_model(tmp_path / "m", model, CheckpointInfo(model.config, concat.describe()))
    return tmp_path / "m", place, model


def test_loaded_again_it_is_the_same(saved) -> None:
    folder, place, model = saved
    again, info = load_model(folder)
    assert info.companion["place"] == str(place)
    assert info.companion["fingerprint"] == model.companion.teacher.fingerprint
    wave = noise(1, 5000)
    with torch.no_grad():
        assert torch.equal(again.enhance(wave), model.enhance(wave))
    size = (folder / "model.safetensors").stat().st_size
    assert size < 1e5 + sum(4 * p.numel() for p in model.parameters())  # the teacher is not in it
    with pytest.raises(EnhanceError, match=r"needs the hidden states of teacher.*load_model"):
        load_bare(folder)


def edit(folder: Path, **companion: Any) -> None:
    record = json.loads((folder / "config.json").read_text("utf-8"))
    record["companion"].update(companion)
    (folder / "config.json").write_text(json.dumps(record), "utf-8")


def test_another_teacher_is_refused(saved, make_teacher) -> None:
    folder, place, _ = saved
    edit(folder, place=str(make_teacher("wavlm", "layer", seed=3)))
    with pytest.raises(
        EnhanceError, match=r"found another one \(fingerprint was .*companion\.place"
    ):
        load_model(folder)
    edit(folder, place=str(place.with_name("nowhere")))
    with pytest.raises(EnhanceError, match=r"nowhere.*companion\.place"):
        load_model(folder)
    edit(folder, place=str(place))
    load_model(folder)


def test_a_record_that_somebody_cut_is_refused(saved) -> None:
    folder, _, _ = saved
    record = json.loads((folder / "config.json").read_text("utf-8"))
    del record["companion"]["place"]
    for companion, told in ((record["companion"], r"companion\.place"), ("x", "belong together")):
        (folder / "config.json").write_text(json.dumps({**record, "companion": companion}))
        with pytest.raises(EnhanceError, match=told):
            load_model(folder)


def test_a_teacher_that_moved_is_named_anew(saved) -> None:
    folder, place, model = saved
    moved = folder.parent / "moved"
    moved.symlink_to(place)
    edit(folder, place=str(moved))
    wave = noise(1, 3000)
    with torch.no_grad():
        assert torch.equal(load_model(folder)[0].enhance(wave), model.enhance(wave))


@pytest.mark.parametrize("change", [{"layers": "last"}, {"size": 4}, {"fingerprint": "0"}])
def test_a_config_of_another_model_is_refused(saved, change: dict[str, Any]) -> None:
    folder, _, _ = saved
    edit(folder, **change)
    with pytest.raises(EnhanceError, match="do not belong together"):
        load_model(folder)
