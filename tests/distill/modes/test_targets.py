"""Targets: the cache, whole files against crops, precomputing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stores import Counting, by_hand, store_of

from distill.backbones.find import load
from distill.modes.distill import Distillation, DistillConfig
from distill.modes.targets import Targets
from distill.teacher.features import Features
from enhance.config import LossConfig, ModelConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.recipe import Piece
from enhance.errors import EnhanceError
from enhance.files import cache_folder
from enhance.stft import StftConfig

SIZES = {n: 2 * 24 * (n // 320) + 132 for n in (5000, 9000, 16000)}  # bytes on disk


def targets_of(teacher: object, folder: Path, layers: str = "last", **more: float) -> Targets:
    return Targets(Features(teacher, layers, folder, **more))


@pytest.fixture
def bound(make_teacher, tmp_path: Path) -> Targets:
    """Targets of a group-norm teacher (every frame depends on the whole file), three clips."""
    targets = targets_of(load(make_teacher("hubert", "group")), tmp_path / "cache")
    targets.bind(store_of(tmp_path, [9000, 5000, 16000]))
    return targets


def direct(targets: Targets, index: int) -> torch.Tensor:
    """What the teacher says of a whole clip, layer-normalised by hand."""
    wave = torch.from_numpy(targets._bound().whole(index))[None]
    return by_hand(targets.teacher(wave, torch.tensor([wave.shape[1]]))[0][-1, 0])


def test_cached_slices_are_the_whole_files_frames(bound: Targets) -> None:
    # Item 0: two pieces and a gap; item 1: a crop; item 2: a clip that starts before the segment.
    pieces = [
        [Piece(0, 640, 0, 3200), Piece(1, 0, 4160, 3840)],
        [Piece(2, 3200, 0, 8000)],
        [Piece(2, 0, 3200, 2000)],
    ]
    values, valid = bound.batch(torch.zeros(3, 8000), pieces, [False] * 3)
    assert values.shape == (3, 25, 24)
    assert values.dtype == torch.float32
    # Frame t's centre is sample 320 t + 120.
    expected = torch.zeros(3, 25, dtype=torch.bool)
    expected[0, 0:10] = expected[0, 13:25] = expected[1, :] = expected[2, 10:16] = True
    assert torch.equal(valid, expected)
    zero, one, two = (direct(bound, i) for i in range(3))
    half = 2**-11 * (values.abs() + 3)  # raw values are rounded: a frame's mean moves as well
    assert ((values[0, :10] - zero[2:12]).abs() <= half[0, :10]).all()
    assert ((values[0, 13:25] - one[0:12]).abs() <= half[0, 13:25]).all()
    assert ((values[1] - two[10:35]).abs() <= half[1]).all()
    assert ((values[2, 10:16] - two[0:6]).abs() <= half[2, 10:16]).all()
    assert not values[~valid].any()


def test_embedding_of_a_crop_is_not_the_crop_of_the_embedding(bound: Targets) -> None:
    """Why the whole file is heard: a crop alone gives something else."""
    wave = bound._bound().whole(2)
    crop = bound.features.of(wave[3200:11200])
    assert np.abs(crop - direct(bound, 2)[10:35].numpy()).mean() > 0.02


def test_half_precision_is_enough(bound: Targets) -> None:
    exact = direct(bound, 2).numpy()
    kept = bound.features.normalized(bound.clip(2))
    assert 0 < np.abs(kept - exact).max() <= 3 * 2**-11 * np.abs(exact).max()
    guess = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
    loss, loss_kept = np.abs(guess - exact).mean(), np.abs(guess - kept).mean()
    assert abs(loss_kept - loss) < 1e-4 * loss


def test_hits_are_counted_and_nothing_depends_on_them(bound: Targets) -> None:
    args = torch.zeros(1, 8000), [[Piece(2, 0, 0, 8000)]], [False]
    first, _ = bound.batch(*args)
    assert (bound.features.cache.hits, bound.features.cache.misses) == (0, 1)
    second, _ = bound.batch(*args)
    assert (bound.features.cache.hits, bound.features.cache.misses) == (1, 1)
    assert bound.log()["target_hit_rate"] == 0.5
    assert torch.equal(first, second)  # made or found: the same bits
    files = list(bound.features.cache.folder.rglob("*.npy"))
    assert len(files) == 1
    assert bound.log()["target_cache_mb"] * 1e6 == files[0].stat().st_size == SIZES[16000]
    full = targets_of(bound.teacher, bound.features.cache.folder / "other", limit_bytes=10)
    full.bind(bound._bound())
    for _ in range(2):
        assert torch.equal(full.batch(*args)[0], first)  # nothing kept, nothing changed
    assert full.features.cache.refused == 2
    assert not list(full.features.cache.folder.rglob("*.npy"))


def test_a_new_run_finds_the_old_targets(bound: Targets, make_teacher, tmp_path: Path) -> None:
    bound.clip(0)
    again = targets_of(bound.teacher, tmp_path / "cache")
    again.bind(bound._bound())
    assert again.features.cache.size_bytes == bound.features.cache.size_bytes > 0
    again.clip(0)
    assert (again.features.cache.hits, again.features.cache.misses) == (1, 0)


@pytest.mark.parametrize("change", ["layers", "teacher", "audio", "padding"])
def test_whatever_changes_the_target_changes_the_key(
    bound: Targets, make_teacher, tmp_path: Path, change: str
) -> None:
    bound.clip(0)
    teacher, layers, store = bound.teacher, "last", bound._bound()
    if change == "layers":
        layers = "single:1"
    elif change == "teacher":
        teacher = load(make_teacher("hubert", "group", seed=5))
    elif change == "padding":
        teacher = load(make_teacher("hubert", "group"), left_pad=0)
    else:
        store = store_of(tmp_path, [9000], seed=1)
    other = targets_of(teacher, tmp_path / "cache", layers)
    other.bind(store)
    other.clip(0)
    assert (other.features.cache.hits, other.features.cache.misses) == (0, 1)


def test_damaged_files_are_made_anew(bound: Targets) -> None:
    good = np.array(bound.clip(0))
    file = next(bound.features.cache.folder.rglob("*.npy"))
    for damage in (b"", b"\x93NUMPY", file.read_bytes()[:-10]):
        file.write_bytes(damage)
        assert np.array_equal(bound.clip(0), good)
    np.save(file, np.zeros((3, 24), np.float16))
    assert np.array_equal(bound.clip(0), good)
    assert (bound.features.cache.hits, bound.features.cache.misses) == (0, 5)


def test_altered_speech_asks_the_live_teacher(bound: Targets) -> None:
    clean = torch.randn(2, 8000, generator=torch.Generator().manual_seed(3))
    pieces = [[Piece(0, 0, 0, 3200)], [Piece(2, 0, 0, 8000)]]
    values, valid = bound.batch(clean, pieces, [True, False])
    x = bound.teacher(clean[:1], torch.tensor([8000]))[0][-1, 0]
    assert valid[0].tolist() == [True] * 10 + [False] * 15
    torch.testing.assert_close(values[0, :10], by_hand(x)[:10], atol=1e-4, rtol=0)
    assert not values[0, 10:].any()
    assert valid[1].all()
    assert bound.live == 1
    assert bound.log()["target_live"] == 0.5


def test_a_piece_off_the_stride_is_refused(bound: Targets) -> None:
    with pytest.raises(EnhanceError, match="alignment=320"):
        bound.batch(torch.zeros(1, 8000), [[Piece(0, 100, 0, 8000)]], [False])
    with pytest.raises(EnhanceError, match="call bind"):
        Targets(bound.features).clip(0)


def test_another_sample_rate_is_refused(bound: Targets, tmp_path: Path) -> None:
    store = ClipStore(bound._bound().clips, 8000, quiet=True)
    with pytest.raises(EnhanceError, match=r"16000 Hz.*8000 Hz"):
        bound.bind(store)


@pytest.fixture
def from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling starts with clip 0, where it would start anywhere."""
    monkeypatch.setattr("distill.modes.targets.secrets.randbelow", lambda count: 0)


def test_precompute_goes_on_after_ctrl_c(make_teacher, tmp_path: Path, from_the_first) -> None:
    store = store_of(tmp_path, [4000, 5000, 6000, 300])
    teacher = Counting(load(make_teacher()), stop_after=2)
    targets = targets_of(teacher, tmp_path / "cache")
    targets.bind(store)
    with pytest.raises(KeyboardInterrupt):
        targets.precompute(quiet=True)
    files = list(targets.features.cache.folder.rglob("*"))
    assert len([f for f in files if f.suffix == ".npy"]) == 2
    assert not [f for f in files if ".part" in f.name]
    teacher = Counting(load(make_teacher()))
    targets = targets_of(teacher, tmp_path / "cache")
    targets.bind(store)
    # The clip of 300 samples has no frame: nothing to ask, an empty target to keep.
    assert (targets.precompute(quiet=True), teacher.calls) == (2, 1)
    assert targets.precompute(quiet=True) == 0
    assert [targets.clip(i).shape[0] for i in range(4)] == [12, 15, 18, 0]
    cache = targets.features.cache
    assert (cache.hits, cache.misses, teacher.calls) == (4, 0, 1)


def test_processes_share_the_work(make_teacher, tmp_path: Path) -> None:
    store = store_of(tmp_path, [2000] * 4)
    teachers = [Counting(load(make_teacher()), stop_after=2) for _ in range(2)]
    for rank, teacher in enumerate(teachers):  # each is stopped when its own share is done
        targets = targets_of(teacher, tmp_path / "cache")
        targets.bind(store)
        if rank == 0:
            with pytest.raises(KeyboardInterrupt):
                targets.precompute(rank=0, world=2, quiet=True)
        else:
            assert targets.precompute(rank=1, world=2, quiet=True) == 2


def test_runs_that_know_nothing_of_each_other_share_it_too(
    make_teacher, tmp_path: Path, monkeypatch
) -> None:
    store = store_of(tmp_path, [2000] * 4)
    for start in (0, 2):
        monkeypatch.setattr("distill.modes.targets.secrets.randbelow", lambda count, s=start: s)
        targets = targets_of(Counting(load(make_teacher()), stop_after=2), tmp_path / "cache")
        targets.bind(store)
        if start == 0:
            with pytest.raises(KeyboardInterrupt):
                targets.precompute(quiet=True)
    assert targets.precompute(quiet=True) == 2


def test_precompute_gives_the_same_bits_as_training_would(bound: Targets, tmp_path: Path) -> None:
    bound.precompute(quiet=True)
    lazy = targets_of(bound.teacher, tmp_path / "lazy")
    lazy.bind(bound._bound())
    for i in range(3):
        assert np.array_equal(bound.clip(i), lazy.clip(i))


def test_a_full_cache_ends_precomputing(
    bound: Targets, tmp_path: Path, caplog, from_the_first
) -> None:
    limit = SIZES[9000] + SIZES[5000] - 1
    small = targets_of(bound.teacher, tmp_path / "small", limit_bytes=limit)
    small.bind(bound._bound())
    assert small.precompute(quiet=True) == 1
    assert small.features.cache.size_bytes == SIZES[9000]
    assert small.features.cache.refused == 1
    assert "1 of 3 clips" in caplog.text
    assert "objective.cache_gb" in caplog.text


def test_without_a_cache_nothing_is_filled(make_teacher, tmp_path: Path, caplog) -> None:
    teacher = Counting(load(make_teacher()))
    targets = targets_of(teacher, tmp_path / "cache", limit_bytes=0)
    targets.prepare(store_of(tmp_path, [5000]), True, "cpu", True)
    assert teacher.calls == 0 and not caplog.text
    targets.clip(0)
    targets.clip(0)
    assert teacher.calls == 2


def test_from_settings(make_teacher, tmp_path: Path) -> None:
    teacher = load(make_teacher())

    def of(model: ModelConfig, **config: Any) -> Targets:
        return Distillation(DistillConfig(**config), LossConfig(), model, teacher=teacher).targets

    targets = of(ModelConfig(), layers="single:1", cache=str(tmp_path), cache_gb=3)
    cache = targets.features.cache
    assert (targets.layers.indices, targets.width) == ((1,), 24)
    assert (cache.bound.folder, cache.bound.limit_bytes) == (tmp_path, 3e9)
    usual = of(ModelConfig())
    assert usual.teacher is teacher  # and not the one that is named
    assert usual.features.cache.bound.folder == cache_folder("features")
    with pytest.raises(EnhanceError, match="16000 Hz, the model 8000 Hz"):
        of(ModelConfig(StftConfig(8000, 400, 320, 400)))


def test_the_record_tells_what_targets_took(bound: Targets) -> None:
    begin = time.perf_counter()
    bound.precompute(quiet=True)
    filled = time.perf_counter() - begin
    log = bound.log()
    assert 0.5 * filled < log["target_filling_seconds"] <= filled + 0.001
    assert log["target_seconds"] == 0
    begin = time.perf_counter()
    bound.batch(torch.zeros(1, 8000), [[Piece(2, 0, 0, 8000)]], [False])
    assert 0 < bound.seconds <= time.perf_counter() - begin
    assert bound.log()["target_seconds"] == round(bound.seconds, 3)
