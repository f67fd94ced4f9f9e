"""Targets: the cache, whole files against crops, precomputing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill import windows as windows_module
from distill.cache import TargetCache
from distill.targets import Targets
from distill.teacher import load
from enhance.data.clip_store import ClipStore
from enhance.data.manifest import Clip
from enhance.data.mixing import Piece
from enhance.errors import EnhanceError


def store_of(folder: Path, lengths: list[int], seed: int = 0) -> ClipStore:
    """Clips of coloured noise that swells and fades, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    clips = []
    for i, n in enumerate(lengths):
        wave = np.convolve(rng.standard_normal(n + 31), np.hanning(32), "valid")[:n]
        wave *= 0.03 * (1.2 + np.sin(np.arange(n) / 700))
        path = folder / f"{seed}-{i}.wav"
        soundfile.write(path, wave.astype(np.float32), 16000, "PCM_16")
        clips.append(Clip(path, n / 16000, 16000, "speech"))
    return ClipStore(clips, 16000, quiet=True)


@pytest.fixture
def bound(make_teacher, tmp_path: Path) -> Targets:
    """Targets of a group-norm teacher (every frame depends on the whole file), three clips."""
    targets = Targets(load(make_teacher("hubert", "group")), "last", tmp_path / "cache")
    targets.bind(store_of(tmp_path, [9000, 5000, 16000]))
    return targets


def direct(targets: Targets, index: int) -> torch.Tensor:
    """What the teacher says of a whole clip, layer-normalised by hand."""
    wave = torch.from_numpy(targets._bound().whole(index))[None]
    x = targets.teacher(wave, torch.tensor([wave.shape[1]]))[0][-1, 0]
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


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
    half = 2**-11 * values.abs() + 1e-4  # of half precision, and float32 rounding
    assert ((values[0, :10] - zero[2:12]).abs() <= half[0, :10]).all()
    assert ((values[0, 13:25] - one[0:12]).abs() <= half[0, 13:25]).all()
    assert ((values[1] - two[10:35]).abs() <= half[1]).all()
    assert ((values[2, 10:16] - two[0:6]).abs() <= half[2, 10:16]).all()
    assert not values[~valid].any()


def test_embedding_of_a_crop_is_not_the_crop_of_the_embedding(bound: Targets) -> None:
    """Why the whole file is heard: a crop alone gives something else."""
    wave = bound._bound().whole(2)
    crop = bound.embed(wave[3200:11200])
    assert np.abs(crop - direct(bound, 2)[10:35].numpy()).mean() > 0.02


def test_half_precision_is_enough(bound: Targets) -> None:
    exact = bound.embed(bound._bound().whole(2))
    kept = np.array(bound.clip(2), np.float32)
    assert np.abs(kept).max() < 24**0.5  # layer norm bounds the values, far below 65504
    assert (np.abs(kept - exact) <= 2**-11 * np.abs(exact) + 1e-7).all()
    guess = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
    loss, loss_kept = np.abs(guess - exact).mean(), np.abs(guess - kept).mean()
    assert abs(loss_kept - loss) < 1e-4 * loss


def test_hits_are_counted_and_nothing_depends_on_them(bound: Targets) -> None:
    args = torch.zeros(1, 8000), [[Piece(2, 0, 0, 8000)]], [False]
    first, _ = bound.batch(*args)
    assert (bound.cache.hits, bound.cache.misses) == (0, 1)
    second, _ = bound.batch(*args)
    assert (bound.cache.hits, bound.cache.misses) == (1, 1)
    assert bound.log()["target_hit_rate"] == 0.5
    assert torch.equal(first, second)  # made or found: the same bits
    files = list(bound.cache.folder.rglob("*.npy"))
    assert len(files) == 1
    assert bound.log()["target_cache_mb"] * 1e6 == files[0].stat().st_size == 50 * 24 * 2 + 128
    full = Targets(bound.teacher, "last", bound.cache.folder.parent / "other", limit_bytes=10)
    full.bind(bound._bound())
    for _ in range(2):
        assert torch.equal(full.batch(*args)[0], first)  # nothing kept, nothing changed
    assert full.cache.refused == 2
    assert not list(full.cache.folder.rglob("*.npy"))


def test_a_new_run_finds_the_old_targets(bound: Targets, make_teacher, tmp_path: Path) -> None:
    bound.clip(0)
    again = Targets(bound.teacher, "last", tmp_path / "cache")
    again.bind(bound._bound())
    assert again.cache.size_bytes == bound.cache.size_bytes > 0
    again.clip(0)
    assert (again.cache.hits, again.cache.misses) == (1, 0)


@pytest.mark.parametrize("change", ["layers", "teacher", "audio", "padding"])
def test_whatever_changes_the_target_changes_the_key(
    bound: Targets, make_teacher, tmp_path: Path, change: str
) -> None:
    bound.clip(0)
    teacher, layers, store = bound.teacher, "last", bound._bound()
    if change == "layers":
        layers = "single:2"  # the same state by another name: still another key, never a wrong one
    elif change == "teacher":
        teacher = load(make_teacher("hubert", "group", seed=5))
    elif change == "padding":
        teacher = load(make_teacher("hubert", "group"), left_pad=0)
    else:
        store = store_of(tmp_path, [9000], seed=1)
    other = Targets(teacher, layers, tmp_path / "cache")
    other.bind(store)
    other.clip(0)
    assert (other.cache.hits, other.cache.misses) == (0, 1)


def test_damaged_files_are_made_anew(bound: Targets) -> None:
    good = np.array(bound.clip(0))
    file = next(bound.cache.folder.rglob("*.npy"))
    for damage in (b"", b"\x93NUMPY", file.read_bytes()[:-10]):
        file.write_bytes(damage)
        assert np.array_equal(bound.clip(0), good)
    np.save(file, np.zeros((3, 24), np.float16))
    assert np.array_equal(bound.clip(0), good)
    assert (bound.cache.hits, bound.cache.misses) == (0, 5)


def test_targets_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    cache = TargetCache(tmp_path)
    with pytest.raises(EnhanceError, match="not finite"):
        cache.put("ab", np.array([[1.0, np.nan]]))
    assert not list(tmp_path.rglob("*.npy"))


def test_altered_speech_asks_the_live_teacher(bound: Targets) -> None:
    clean = torch.randn(2, 8000, generator=torch.Generator().manual_seed(3))
    pieces = [[Piece(0, 0, 0, 3200)], [Piece(2, 0, 0, 8000)]]
    values, valid = bound.batch(clean, pieces, [True, False])
    x = bound.teacher(clean[:1], torch.tensor([8000]))[0][-1, 0]
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert valid[0].tolist() == [True] * 10 + [False] * 15
    torch.testing.assert_close(values[0, :10], x[:10], atol=1e-4, rtol=0)
    assert not values[0, 10:].any()
    assert valid[1].all()
    assert bound.live == 1
    assert bound.log()["target_live"] == 0.5


def test_a_piece_off_the_stride_is_refused(bound: Targets) -> None:
    with pytest.raises(EnhanceError, match="alignment=320"):
        bound.batch(torch.zeros(1, 8000), [[Piece(0, 100, 0, 8000)]], [False])
    with pytest.raises(EnhanceError, match="bind"):
        Targets(bound.teacher, "last", bound.cache.folder).clip(0)


def test_another_sample_rate_is_refused(bound: Targets, tmp_path: Path) -> None:
    store = ClipStore(bound._bound().clips, 8000, quiet=True)
    with pytest.raises(EnhanceError, match=r"16000 Hz.*8000 Hz"):
        bound.bind(store)


def test_long_files_are_heard_in_windows(make_teacher, tmp_path: Path, monkeypatch) -> None:
    wave = store_of(tmp_path, [40000]).whole(0)  # 125 frames
    local = load(make_teacher(num_conv_pos_embeddings=1))  # state 0 is local in time
    whole = Targets(local, "single:0", tmp_path).embed(wave)
    attends = load(make_teacher())
    long = Targets(attends, "last", tmp_path).embed(wave)
    asked: list[int] = []
    monkeypatch.setattr(windows_module, "WINDOW_SECONDS", 1.0)  # 50 frames
    monkeypatch.setattr(windows_module, "CONTEXT_SECONDS", 0.2)  # 10 frames
    parts = Targets(local, "single:0", tmp_path)
    monkeypatch.setattr(parts, "_ask", lambda w, ask=parts._ask: asked.append(w.shape[1]) or ask(w))
    np.testing.assert_allclose(parts.embed(wave), whole, atol=1e-5)
    # Windows from frames 0, 30, 60, 90: each starts 2 contexts before the end of the one before.
    assert asked == [16000, 16000, 16000, 40000 - 90 * 320]
    # With attention the context matters, but the frames are near.
    error = np.abs(Targets(attends, "last", tmp_path).embed(wave) - long).mean()
    assert 0 < error < 0.1


class Counting:
    """A teacher that counts its calls and may be interrupted."""

    def __init__(self, teacher: object, stop_after: int | None = None) -> None:
        self.inner, self.calls, self.stop_after = teacher, 0, stop_after

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __call__(self, waves: torch.Tensor, lengths: torch.Tensor) -> object:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.inner(waves, lengths)


def test_precompute_goes_on_after_ctrl_c(make_teacher, tmp_path: Path) -> None:
    store = store_of(tmp_path, [4000, 5000, 6000, 300])
    teacher = Counting(load(make_teacher()), stop_after=2)
    targets = Targets(teacher, "last", tmp_path / "cache")
    targets.bind(store)
    with pytest.raises(KeyboardInterrupt):
        targets.precompute(quiet=True)
    files = list(targets.cache.folder.rglob("*"))
    assert len([f for f in files if f.suffix == ".npy"]) == 2
    assert not [f for f in files if ".part" in f.name]
    teacher = Counting(load(make_teacher()))
    targets = Targets(teacher, "last", tmp_path / "cache")
    targets.bind(store)
    # The clip of 300 samples has no frame: nothing to ask, an empty target to keep.
    assert (targets.precompute(quiet=True), teacher.calls) == (2, 1)
    assert targets.precompute(quiet=True) == 0
    assert [targets.clip(i).shape[0] for i in range(4)] == [12, 15, 18, 0]
    assert (targets.cache.hits, targets.cache.misses, teacher.calls) == (4, 0, 1)


def test_processes_share_the_work(make_teacher, tmp_path: Path) -> None:
    store = store_of(tmp_path, [2000] * 4)
    teachers = [Counting(load(make_teacher()), stop_after=2) for _ in range(2)]
    for rank, teacher in enumerate(teachers):  # each is stopped when its own share is done
        targets = Targets(teacher, "last", tmp_path / "cache")
        targets.bind(store)
        if rank == 0:
            with pytest.raises(KeyboardInterrupt):
                targets.precompute(rank=0, world=2, quiet=True)
        else:
            assert targets.precompute(rank=1, world=2, quiet=True) == 2


def test_precompute_gives_the_same_bits_as_training_would(bound: Targets, tmp_path: Path) -> None:
    bound.precompute(quiet=True)
    lazy = Targets(bound.teacher, "last", tmp_path / "lazy")
    lazy.bind(bound._bound())
    for i in range(3):
        assert np.array_equal(bound.clip(i), lazy.clip(i))


def test_a_full_cache_ends_precomputing(bound: Targets, tmp_path: Path, caplog) -> None:
    small = Targets(bound.teacher, "last", tmp_path / "small", limit_bytes=2000)
    small.bind(bound._bound())
    assert small.precompute(quiet=True) == 1  # 1344 + 128 bytes fit, the next do not
    assert small.cache.size_bytes <= 2000
    assert small.cache.refused == 1
    assert "1 of 3 clips" in caplog.text
    assert "objective.cache_gb" in caplog.text
