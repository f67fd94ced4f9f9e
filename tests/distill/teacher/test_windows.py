"""Long recordings in windows: exact where only convolutions are, near elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stores import wave_of
from torch import nn

from distill.backbones.find import load
from distill.backbones.hf import HfTeacher
from distill.backbones.wav2vec.model import Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.teacher import Wav2VecTeacher
from distill.teacher import windows
from distill.teacher.features import Features
from distill.teacher.windows import hear, spans

PARTS = ("encoder", "aggregator")
ENCODER = ((6, 10, 5), (8, 8, 4), (10, 4, 2), (10, 4, 2), (10, 4, 2))


def wav2vec(**config: Any) -> Wav2VecTeacher:
    """A tiny wav2vec: stride 160, field 465."""
    config = {"encoder": ENCODER, "aggregator": ((10, 2, 1), (12, 3, 1)), **config}
    return Wav2VecTeacher(Wav2Vec.build(Wav2VecConfig(**config), 0), "tiny")


def local(teacher: Wav2VecTeacher) -> Wav2VecTeacher:
    """Its convolutions alone: no norm over time."""
    for layer in [*teacher.model.encoder, *teacher.model.aggregator]:
        layer.norm = nn.Identity()
    return teacher


def states(teacher: Any, wave: np.ndarray) -> torch.Tensor:
    """(L + 1, T', D) in windows, as set."""
    return hear(teacher, torch.from_numpy(wave)[None], lambda hidden: hidden[:, 0])


def whole(teacher: Any, wave: np.ndarray) -> torch.Tensor:
    """The same, heard at once."""
    return teacher(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][:, 0]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of 1 s and no context but what a teacher asks for; collects samples heard."""
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.0)
    return []


def test_the_context_of_each_family(make_teacher, monkeypatch) -> None:
    from distill.backbones.ecapa_model import EcapaConfig

    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.0)
    positions = load(make_teacher(num_conv_pos_embeddings=128))
    assert (positions.reach_frames, spans(positions)) == (64, (1500, 64 + 2))
    rows = {part: tuple((2, k, s) for _, k, s in getattr(Wav2VecConfig(), part)) for part in PARTS}
    large = wav2vec(**rows)  # thin, with the kernels of the published one
    assert (large.reach_frames, spans(large)) == (78, (3000, 78 + 3))
    assert max(EcapaConfig().context_frames) == 65
    monkeypatch.undo()  # 4 s are more than any of them reaches
    assert spans(positions) == (1500, 200) and spans(large) == (3000, 400)
    far = wav2vec(aggregator=((10, 2, 1), (12, 1001, 1)))
    assert spans(far) == (4 * 1004, 1004)  # more than 4 s, and the window grows with it


@pytest.mark.parametrize(
    "changes", [{}, {"zero_pad": True}, {"aggregator": ((10, 2, 1), (12, 40, 1))}]
)
def test_convolutions_come_out_as_from_the_whole(short, changes: dict[str, Any]) -> None:
    teacher, wave = local(wav2vec(**changes)), 100 * wave_of(61234)
    _, context = spans(teacher)
    assert context == teacher.reach_frames + 3
    expected = whole(teacher, wave)
    assert expected.shape[1] > 2 * spans(teacher)[0]
    for state, right in zip(states(teacher, wave), expected, strict=True):
        assert right.std() > 0.01
        torch.testing.assert_close(state, right, atol=1e-6, rtol=1e-6)


def test_with_less_context_they_would_not(short, monkeypatch) -> None:
    teacher, wave = local(wav2vec(aggregator=((10, 2, 1), (12, 40, 1)))), 100 * wave_of(61234)
    monkeypatch.setattr(teacher, "reach_frames", 30)
    error = (states(teacher, wave) - whole(teacher, wave)).abs().amax((1, 2))
    assert error[0] < 1e-6 < 1e-3 < error[2]


def test_state_0_of_a_layer_norm_transformer_is_exact(make_teacher, short) -> None:
    teacher, wave = load(make_teacher(num_conv_pos_embeddings=16)), wave_of(61234)
    found, right = states(teacher, wave), whole(teacher, wave)
    torch.testing.assert_close(found[0], right[0], atol=1e-5, rtol=0)
    assert (found[1] - right[1]).abs().max() > 1e-3  # attention hears the window


def test_convolutions_of_ecapa_come_out_as_from_the_whole(short, monkeypatch) -> None:
    """Without what it takes over the clip: mean spectrum, decibel floor, squeeze-excitation."""
    pytest.importorskip("speechbrain")
    from distill.backbones.ecapa import EcapaTeacher
    from distill.backbones.ecapa_model import CENTRE, EcapaConfig

    config = EcapaConfig(channels=(16, 16, 16, 16, 24), res2net_scale=2, se_channels=8)
    model = config.build(0).eval()
    teacher, wave = EcapaTeacher(model, "tiny"), wave_of(61234)
    assert teacher.reach_frames == max(config.context_frames) > 5
    # What the clip as a whole decides is near, and not the same.
    error = (states(teacher, wave) - whole(teacher, wave)).abs().mean((1, 2))
    assert (error > 1e-4).all() and (error < 0.1 * whole(teacher, wave).std()).all()
    for block in list(model.network.blocks)[1:]:
        monkeypatch.setattr(block.se_block, "forward", lambda x, lengths=None: x)
    model.fbank.compute_fbanks.top_db = 500.0
    pad = nn.functional.pad
    monkeypatch.setattr(
        model, "features", lambda x, left_pad=CENTRE: model.fbank(pad(x, (left_pad, CENTRE)))
    )
    right = whole(teacher, wave)
    torch.testing.assert_close(states(teacher, wave), right, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(teacher, "reach_frames", 2)
    assert (states(teacher, wave) - right).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["wav2vec", "group", "normalize", "attention"])
def test_statistics_over_time_are_those_of_a_window(make_teacher, monkeypatch, family) -> None:
    """Up to the length of a window nothing differs; beyond it, the frames are near."""
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 2.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.4)
    teacher: Any = {
        "wav2vec": wav2vec,
        "group": lambda: load(make_teacher("hubert", "group")),
        "normalize": lambda: load(make_teacher(normalize=True)),
        "attention": lambda: load(make_teacher()),
    }[family]()
    assert torch.equal(states(teacher, wave_of(32000)), whole(teacher, wave_of(32000)))
    wave = wave_of(80000)
    error = (states(teacher, wave) - whole(teacher, wave)).abs().mean((1, 2))
    scale = whole(teacher, wave).std((1, 2))
    assert (error > 0).all() and (error < 0.15 * scale).all(), (error / scale).tolist()


def test_features_hear_in_windows(make_teacher, tmp_path: Path, monkeypatch) -> None:
    wave, asked = wave_of(40000), []  # 125 frames
    teacher = load(make_teacher(num_conv_pos_embeddings=1))  # state 0 is local in time
    expected = Features(teacher, "single:0", tmp_path / "whole").of(wave)
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 1.0)  # 50 frames
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.2)  # 10 frames
    forward = HfTeacher.forward
    monkeypatch.setattr(
        HfTeacher, "forward", lambda self, w, n: asked.append(w.shape[1]) or forward(self, w, n)
    )
    cut = Features(teacher, "single:0", tmp_path / "cut")
    np.testing.assert_allclose(cut.of(wave), expected, atol=4e-3)  # of half precision
    # Windows from frames 0, 30, 60, 90: each starts 2 contexts before the end of the one before.
    assert asked == [16000, 16000, 16000, 40000 - 90 * 320]
    # Other windows, other features: they are never taken for each other.
    before = Features(teacher, "single:0", tmp_path / "whole").cache
    assert not before.holds(cut.key(wave))
