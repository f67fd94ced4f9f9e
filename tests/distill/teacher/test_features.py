"""Features of whole clips: shared by training and analysis, equal to the live teacher."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stores import Counting, by_hand, store_of, wave_of

from distill.backbones.find import load
from distill.modes.targets import Targets
from distill.teacher.features import FeatureCache, Features
from enhance.cache import IN_USE_SECONDS, STAMP
from enhance.data.mixing.recipe import Piece
from enhance.errors import EnhanceError

HALF = 2**-11  # relative error of half precision


@pytest.fixture
def teacher(make_teacher) -> Counting:
    """Group norm: every frame depends on the whole clip."""
    return Counting(load(make_teacher("hubert", "group")))


def hidden(teacher: Counting, wave: np.ndarray) -> torch.Tensor:
    """All raw states of a clip, (L + 1, T', D), asked of the model behind the counter."""
    return teacher.inner(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][:, 0]


@pytest.mark.parametrize("layers", ["last", "single:0", "first_k:2", "weighted"])
def test_made_or_found_it_is_the_live_teacher(teacher, tmp_path: Path, layers: str) -> None:
    wave = wave_of(9000)
    chosen = {"last": [2], "single:0": [0], "first_k:2": [0, 1], "weighted": [0, 1, 2]}[layers]
    states = by_hand(hidden(teacher, wave)[chosen])
    exact = (states[0] if len(chosen) == 1 else by_hand(states.mean(0))).numpy()
    made = Features(teacher, layers, tmp_path).of(wave)
    found = Features(teacher, layers, tmp_path).of(wave)
    assert teacher.calls == 1
    assert made.dtype == found.dtype == np.float32 and made.shape == (28, 24)
    assert np.array_equal(made, found)
    # Rounding the raw values to half precision moves a frame's mean and deviation as well.
    assert np.abs(made - exact).max() <= 3 * HALF * np.abs(exact).max()
    assert np.abs(made.mean(1)).max() < 1e-3 and np.abs(made.std(1) - 1).max() < 2e-3


def test_several_states_take_one_pass(teacher, tmp_path: Path) -> None:
    wave = wave_of(9000)
    features = Features(teacher, "weighted", tmp_path)
    states = features.states(wave)
    assert teacher.calls == 1
    for state, exact in zip(states, hidden(teacher, wave).numpy(), strict=True):
        assert state.dtype == np.float16
        assert (np.abs(state - exact) <= HALF * np.abs(exact) + 1e-7).all()
    again = Features(teacher, "weighted", tmp_path).states(wave)
    assert teacher.calls == 1
    assert all(np.array_equal(a, b) for a, b in zip(states, again, strict=True))
    assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_what_is_missing_is_made_in_one_pass(teacher, tmp_path: Path) -> None:
    wave = wave_of(9000)
    known = Features(teacher, "single:1", tmp_path).states(wave)[0]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    states = Features(teacher, "weighted", tmp_path).states(wave)
    assert teacher.calls == 2 and np.array_equal(states[1], known)
    assert all(path.stat().st_mtime_ns == then for path, then in files.items())  # not rewritten


def test_ctrl_c_loses_nothing(teacher, tmp_path: Path, monkeypatch) -> None:
    wave, puts = wave_of(9000), []
    put = FeatureCache.put

    def interrupted(self: FeatureCache, *args: Any) -> np.ndarray:
        puts.append(self.name)
        if len(puts) == 2:
            monkeypatch.setattr(np.lib.format, "write_array_header_1_0", stop)  # while writing
        return put(self, *args)

    def stop(file: Any, *args: Any, **more: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Features(teacher, "weighted", tmp_path).states(wave)
    monkeypatch.undo()
    assert [
        path.suffix for path in tmp_path.rglob("*") if path.is_file() and path.name != STAMP
    ] == [".npy"]
    features = Features(teacher, "weighted", tmp_path)
    assert [s.shape for s in features.states(wave)] == [(28, 24)] * 3
    assert [features._cache(f"state-{i}").hits for i in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1.0, 1e4])
def test_half_precision_serves_states_of_any_scale(teacher, tmp_path: Path, scale: float) -> None:
    """Layer norm adds 1e-5 to the variance: what half precision loses below 6e-8 is nothing."""
    raw = (scale * np.random.default_rng(0).standard_normal((50, 24))).astype(np.float32)
    features = Features(teacher, "last", tmp_path)
    error = np.abs(features.normalized(raw.astype(np.float16)) - features.normalized(raw))
    assert 0 < error.max() < 2e-3


def test_names_of_the_same_states_share_their_files(teacher, tmp_path: Path) -> None:
    wave = wave_of(5000)
    of = {name: Features(teacher, name, tmp_path).of(wave) for name in ("last", "single:2")}
    of["last_k:1"] = Features(teacher, "last_k:1", tmp_path).of(wave)
    Features(teacher, "last", tmp_path).states(wave)
    assert teacher.calls == 1
    assert all(np.array_equal(values, of["last"]) for values in of.values())
    assert np.array_equal(
        Features(teacher, "weighted", tmp_path).of(wave),
        Features(teacher, "first_k:3", tmp_path).of(wave),
    )
    assert teacher.calls == 2  # the mean of all three; no state is stored for it
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_training_and_analysis_share_a_clip(teacher, tmp_path: Path) -> None:
    store = store_of(tmp_path, [9000, 16000])
    targets = Targets(Features(teacher, "last", tmp_path / "cache"))
    targets.bind(store)
    analysis = Features(teacher, "last", tmp_path / "cache")
    heard = analysis.of(store.whole(1))
    values, valid = targets.batch(torch.zeros(1, 8000), [[Piece(1, 0, 0, 8000)]], [False])
    assert (teacher.calls, targets.features.cache.hits) == (1, 1)
    assert valid.all() and np.array_equal(values[0].numpy(), heard[:25])
    targets.batch(torch.zeros(1, 8000), [[Piece(0, 0, 0, 8000)]], [False])
    probe = Features(teacher, "weighted", tmp_path / "cache")
    assert len(probe.states(store.whole(0))) == 3
    assert teacher.calls == 3  # states 0 and 1 were missing, 2 was there
    assert (probe.cache.hits, probe._cache("state-2").hits) == (0, 1)


def test_the_bound_is_over_all_teachers(make_teacher, tmp_path: Path) -> None:
    wave = wave_of(9000)
    size = 28 * 24 * 2 + 132
    first = Features(load(make_teacher(seed=1)), "last", tmp_path, 1.5 * size)
    first.of(wave)
    second = Features(load(make_teacher(seed=2)), "last", tmp_path, 1.5 * size)
    kept = second.of(wave)
    assert (second.cache.refused, first.cache.holds(first.key(wave))) == (1, True)
    then = time.time() - 2 * IN_USE_SECONDS
    os.utime(first.cache.folder / STAMP, (then, then))  # nobody has used it since
    second = Features(second.teacher, "last", tmp_path, 1.5 * size)
    assert np.array_equal(second.of(wave), kept)
    assert second.cache.holds(second.key(wave)) and not first.cache.folder.exists()
    assert np.array_equal(first.of(wave), Features(first.teacher, "last", tmp_path / "b").of(wave))


def test_a_limit_of_zero_keeps_nothing(teacher, tmp_path: Path) -> None:
    features = Features(teacher, "last", tmp_path / "cache", 0)
    assert np.array_equal(features.of(wave_of(5000)), features.of(wave_of(5000)))
    assert teacher.calls == 2
    assert not (tmp_path / "cache").exists()


def test_clips_too_short_for_a_frame_have_none(teacher, tmp_path: Path) -> None:
    features = Features(teacher, "weighted", tmp_path)
    for _ in range(2):
        assert features.of(wave_of(300)).shape == (0, 24)
        assert [state.shape for state in features.states(wave_of(300))] == [(0, 24)] * 3
    assert teacher.calls == 0


def test_states_of_several_widths(tmp_path: Path) -> None:
    from distill.backbones.wav2vec.model import Wav2Vec, Wav2VecConfig
    from distill.backbones.wav2vec.teacher import Wav2VecTeacher

    encoder = ((6, 10, 5), (8, 8, 4), (10, 4, 2), (10, 4, 2), (10, 4, 2))
    config = Wav2VecConfig(encoder=encoder, aggregator=((10, 2, 1), (12, 3, 1)))
    teacher = Wav2VecTeacher(Wav2Vec.build(config, 0), "tiny")
    features = Features(teacher, "weighted", tmp_path)
    for _ in range(2):
        assert [state.shape for state in features.states(wave_of(5000))] == [
            (31, 10), (31, 10), (31, 12),
        ]  # fmt: skip
    with pytest.raises(EnhanceError, match="differ in width"):
        features.of(wave_of(5000))


@pytest.mark.parametrize("wave", [np.zeros((2, 800), np.float32), np.zeros(800, np.int16)])
def test_what_is_no_clip_is_refused(teacher, tmp_path: Path, wave: np.ndarray) -> None:
    with pytest.raises(EnhanceError, match="one channel of floating point"):
        Features(teacher, "last", tmp_path).of(wave)


def test_a_teacher_that_gives_nan_is_refused(teacher, tmp_path: Path) -> None:
    teacher.inner.model.encoder.layer_norm.bias.data[0] = torch.nan
    with pytest.raises(EnhanceError, match="gave NaN"):
        Features(teacher, "last", tmp_path).of(wave_of(5000))
