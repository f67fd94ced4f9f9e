"""Controls behind the teacher contract: log-mel, the enhancer's own states, random twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.backbones import find
from distill.backbones.baselines import Encoder, LogMel
from distill.teacher.features import Features
from enhance.config import ModelConfig
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CheckpointInfo, save_model
from enhance.network.waveform_model import WaveformModel


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = ModelConfig()
    save_model(tmp_path / "tiny", WaveformModel(config), CheckpointInfo(config))
    return tmp_path / "tiny"


@pytest.mark.parametrize("name", ["log-mel", "log-mel:320", "log-mel:200"])
def test_a_frame_of_log_mel_sees_its_field_alone(name: str, tmp_path: Path) -> None:
    teacher = find.load(name)
    features = Features(teacher, "weighted", tmp_path)
    wave = noise(8000)
    (before,) = features.states(wave)
    assert before.shape == (teacher.frames(8000), 80)
    # An impulse and its opposite leave the level: frames that see neither stay as they were.
    touched = wave.copy()
    touched[4000] *= -1
    (after,) = features.states(touched)
    changed = np.flatnonzero(np.abs(before - after).max(axis=1) > 1e-3)
    first = np.array(range(len(before))) * teacher.stride_samples + teacher.offset_samples
    sees = np.flatnonzero((first <= 4000) & (first + teacher.field_samples > 4000))
    assert set(changed) <= set(sees) and len(changed) >= len(sees) - 2  # a window ends in zeros


def test_states_of_an_encoder_are_the_networks_own_and_never_look_ahead(
    checkpoint: Path, tmp_path: Path
) -> None:
    teacher = find.load(f"encoder:{checkpoint}")
    assert isinstance(teacher, Encoder) and teacher.causal
    model = teacher.model
    wave = noise(16000)
    states = Features(teacher, "weighted", tmp_path / "cache").states(wave)
    hop = model.config.stft.hop_length
    spec, _ = model.stft.analyze(torch.from_numpy(wave)[None, : 16000 // hop * hop])
    with torch.no_grad():
        encoded = model.network.forward_with_encoding(spec)[2][0].numpy()
    assert len(states) == teacher.num_layers + 1 == len(model.config.gcrn.channels) + 1
    np.testing.assert_allclose(states[-2], encoded, atol=2e-3)  # kept in half precision
    later = wave.copy()
    later[9000:] += noise(7000, 1)
    seen = (9000 - teacher.offset_samples - teacher.field_samples) // hop + 1
    for one, other in zip(
        states, Features(teacher, "weighted", tmp_path).states(later), strict=True
    ):
        np.testing.assert_allclose(one[:seen], other[:seen], atol=1e-5)
        assert np.abs(one[seen:] - other[seen:]).max() > 1e-4


def test_a_twin_has_the_geometry_and_other_weights(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("mini-wavlm", f"encoder:{checkpoint}"):
        teacher, twin, again = (find.load(n) for n in (name, *[f"random:{name}:1"] * 2))
        assert twin.fingerprint == again.fingerprint != teacher.fingerprint
        assert find.load(f"random:{name}").fingerprint != twin.fingerprint
        assert (twin.widths, twin.offset_samples) == (teacher.widths, teacher.offset_samples)
        ours, theirs, same = (
            Features(t, "last", tmp_path / "c").of(noise(8000)) for t in (teacher, twin, again)
        )
        assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() > 0.1
        np.testing.assert_array_equal(theirs, same)


def test_what_is_no_control_is_refused(checkpoint: Path) -> None:
    for name, why in (
        ("log-mel:0", "write log-mel"),
        ("log-mel:x", "write log-mel"),
        ("random:log-mel", "no weights to draw"),
        ("random:nothing", "no teacher of this name"),
        (f"random:mini-wavlm:{2**64}", "the seed must be below"),
        ("encoder:nowhere", "nowhere"),
    ):
        with pytest.raises(EnhanceError, match=why):
            find.load(name)
    with pytest.raises(EnhanceError, match="begin"):
        find.load(f"encoder:{checkpoint}", left_pad=0)


def test_a_folder_below_the_home_and_what_tables_call_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert find.load("encoder:~/tiny").fingerprint == find.load(f"encoder:{checkpoint}").fingerprint
    assert find.label("~/tiny") == "tiny" and find.resolve("~/tiny") == checkpoint
    with pytest.raises(EnhanceError, match=r"^~no-user/x: is in no home folder known here"):
        find.resolve("~no-user/x")
    assert find.label(checkpoint) == "tiny" and find.label("mini-wavlm") == "mini-wavlm"
    assert find.label(f"encoder:{checkpoint}") == "encoder:tiny"
    assert LogMel(320).name == find.label("log-mel:320") == "log-mel:320"
