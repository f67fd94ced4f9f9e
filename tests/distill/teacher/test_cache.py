"""The disk cache: what is stored, what is refused, and the bound over the whole folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from distill.teacher.features import NAMES, FeatureCache
from enhance import cache as bounded
from enhance.cache import IN_USE_SECONDS, STAMP, BoundedFolder
from enhance.errors import EnhanceError

SHAPE = (10, 24)
SIZE = 10 * 24 * 2 + 128 + 4


def name(number: int, what: str = "state-2") -> str:
    return f"{what}-{number:016x}"


def cache(folder: Path, number: int = 1, limit: float = 1e9) -> FeatureCache:
    """As another process would open it: with a count of its own."""
    return FeatureCache(BoundedFolder(folder, limit, NAMES), name(number))


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def unused(folder: Path, number: int, seconds: float) -> None:
    """Make a subfolder look unused for so long."""
    then = time.time() - seconds
    os.utime(folder / name(number) / STAMP, (then, then))


def test_what_is_stored_is_found_by_others_to_the_bit(tmp_path: Path) -> None:
    one, other = cache(tmp_path), cache(tmp_path)
    assert one.get("ab12", SHAPE) is None
    stored = one.put("ab12", values())
    found = other.get("ab12", SHAPE)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    assert found.dtype == stored.dtype == np.float16
    assert np.array_equal(found, stored) and np.array_equal(found, values().astype(np.float16))
    assert (one.hits, one.misses, other.hits, other.misses) == (0, 1, 1, 0)
    assert one.size_bytes == one.path("ab12").stat().st_size == SIZE
    assert other.get("ab12", (9, 24)) is None


def test_values_past_half_precision_are_kept_in_single(tmp_path: Path) -> None:
    """An outlier channel, as large transformers have them: the others keep their meaning."""
    loud = values()
    loud[3, 7] = -123456.78
    one = cache(tmp_path)
    assert np.array_equal(one.put("ab", loud), loud)
    found = one.get("ab", SHAPE)
    assert found is not None and found.dtype == np.float32 and np.array_equal(found, loud)
    loud[3, 7] = 65000.0  # the last step of half precision is 65504
    assert one.put("cd", loud).dtype == np.float16


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(EnhanceError, match="not finite"):
        cache(tmp_path).put("ab", np.array([[1.0, bad]], np.float32))
    assert not list(tmp_path.rglob("*.npy"))


def test_damaged_files_are_misses(tmp_path: Path) -> None:
    stored = cache(tmp_path).put("ab12", values())
    path = cache(tmp_path).path("ab12")
    good = path.read_bytes()
    hole = good[:200] + bytes(32) + good[232:]  # the right length, as after a power failure
    for damage in (b"", good[:6], good[:-10], good[:-1], hole, good + b"x"):
        path.write_bytes(damage)
        reader = cache(tmp_path)
        assert reader.get("ab12", SHAPE) is None
        reader.put("ab12", values())
        found = reader.get("ab12", SHAPE)
        assert found is not None and np.array_equal(found, stored)
    np.save(path, np.zeros(SHAPE))
    assert cache(tmp_path).get("ab12", SHAPE) is None
    assert not path.exists()  # its room is for the new one
    path.mkdir()
    assert cache(tmp_path).get("ab12", SHAPE) is None


def test_a_full_disk_ends_storing_and_not_the_run(tmp_path: Path, caplog) -> None:
    (tmp_path / name(1)).write_text("no folder can be made here")
    one = cache(tmp_path)
    for key in ("ab", "cd"):
        assert np.array_equal(one.put(key, values()), values().astype(np.float16))
    assert one.refused == 2
    assert caplog.text.count("made anew") == 1


def test_the_bound_holds_for_all_subfolders_together(tmp_path: Path) -> None:
    limit = 3.5 * SIZE
    one, two = cache(tmp_path, 1, limit), cache(tmp_path, 2, limit)
    assert [c.put(k, values()).dtype for c, k in ((one, "aa"), (two, "bb"), (one, "cc"))]
    two.put("dd", values())  # would be the fourth
    assert (one.refused, two.refused) == (0, 1)
    assert not two.holds("dd")
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.npy")) <= limit
    tight = cache(tmp_path, 3, SIZE - 1)
    tight.put("aa", values())
    assert tight.refused == 1 and one.holds("aa")


def test_two_processes_hardly_pass_the_bound(tmp_path: Path) -> None:
    both = [cache(tmp_path, number, 64 * SIZE) for number in (1, 2)]
    for key in range(100):
        for one in both:
            one.put(f"{key:04x}", values())
    held = sum(p.stat().st_size for p in tmp_path.rglob("*.npy"))
    assert 64 * SIZE <= held <= 66 * SIZE
    assert all(one.refused for one in both)


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        cache(tmp_path, number).put("aa", values())
    unused(tmp_path, 1, 2 * IN_USE_SECONDS)
    unused(tmp_path, 2, 3 * IN_USE_SECONDS)
    new = cache(tmp_path, 4, 3.5 * SIZE)
    new.put("aa", values())
    assert [(tmp_path / name(n)).exists() for n in (1, 2, 3, 4)] == [True, False, True, True]
    new.put("bb", values())
    assert [(tmp_path / name(n)).exists() for n in (1, 2, 3, 4)] == [False, False, True, True]
    new.put("cc", values())  # 3 was used just now
    assert cache(tmp_path, 3).holds("aa") and not new.holds("cc")
    assert new.refused == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [name(3), name(4)]


def test_opening_and_asking_keep_a_subfolder(tmp_path: Path, monkeypatch) -> None:
    for number in (1, 2):
        cache(tmp_path, number).put("aa", values())
    asked = cache(tmp_path, 2)
    for number in (1, 2):
        unused(tmp_path, number, 2 * IN_USE_SECONDS)
    cache(tmp_path, 1)  # opened by a process that has not asked yet
    monkeypatch.setattr(bounded, "_TOUCH_SECONDS", 0.0)
    assert np.array_equal(asked.get("aa", SHAPE), values().astype(np.float16))
    new = cache(tmp_path, 3, 2.5 * SIZE)
    new.put("aa", values())
    assert new.refused == 1
    assert cache(tmp_path, 1).holds("aa") and cache(tmp_path, 2).holds("aa")


def test_a_process_never_removes_what_it_has_open(tmp_path: Path) -> None:
    bound = BoundedFolder(tmp_path, 1.5 * SIZE, NAMES)
    one, two = FeatureCache(bound, name(1)), FeatureCache(bound, name(2))
    one.put("aa", values())
    unused(tmp_path, 1, 2 * IN_USE_SECONDS)
    two.put("aa", values())
    assert one.holds("aa") and two.refused == 1


def test_nothing_is_removed_in_vain_nor_for_a_run_without_cache(tmp_path: Path) -> None:
    for number in (1, 2):
        cache(tmp_path, number).put("aa", values())
        unused(tmp_path, number, 2 * IN_USE_SECONDS)
    cache(tmp_path, 3).put("aa", values())
    for limit in (0, 1.5 * SIZE):  # 3 is in use: with a new file there would be two
        new = cache(tmp_path, 4, limit)
        new.put("aa", values())
        assert new.refused == 1
        assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_only_what_is_ours_is_counted_and_removed(tmp_path: Path) -> None:
    """The cache folder may be one that holds other things as well."""
    photos = tmp_path / name(7, "photo")
    others = [tmp_path / "notes.npy", tmp_path / "mean" / "ab" / "x.npy", photos / "z.npy"]
    for path in others:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(bytes(10 * SIZE))
    (photos / STAMP).touch()
    bare = tmp_path / name(8) / "ab" / "y.npy"  # our name, no stamp
    bare.parent.mkdir(parents=True)
    bare.write_bytes(bytes(SIZE))
    os.utime(photos / STAMP, (0, 0))
    new = cache(tmp_path, 1, 2.5 * SIZE)
    new.put("aa", values())
    new.put("bb", values())
    assert new.refused == 1  # of ours there are two files' worth
    assert all(path.exists() for path in [*others, bare])


def test_a_reader_outlives_the_removal_of_its_folder(tmp_path: Path) -> None:
    """It slept for hours: what it mapped stays valid, and it stores anew what it asks for."""
    sleeper = cache(tmp_path, 1)
    sleeper.put("aa", values())
    mapped = sleeper.get("aa", SHAPE)
    unused(tmp_path, 1, 2 * IN_USE_SECONDS)
    cache(tmp_path, 2, 1.5 * SIZE).put("aa", values(1))
    assert not (tmp_path / name(1)).exists()
    assert mapped is not None and np.array_equal(mapped, values().astype(np.float16))
    assert sleeper.get("aa", SHAPE) is None
    sleeper.put("aa", values())
    assert np.array_equal(sleeper.get("aa", SHAPE), values().astype(np.float16))
    assert (tmp_path / name(1) / STAMP).exists()


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    cache(tmp_path).put("ab", values())
    half = tmp_path / name(1) / "ab" / ".abcd.1234.part.npy"
    fresh = half.with_name(".abce.1234.part.npy")
    gone = tmp_path / f".{name(2)}.12ab34cd.gone"
    for path in (half, fresh):
        path.write_bytes(b"x")
    os.utime(half, (0, 0))
    (gone / "ab").mkdir(parents=True)
    assert cache(tmp_path).size_bytes > 0
    assert not half.exists() and not gone.exists() and fresh.exists()


def test_a_full_folder_is_not_counted_for_every_clip(tmp_path: Path, monkeypatch) -> None:
    new = cache(tmp_path, 1, 1.5 * SIZE)
    new.put("aa", values())
    new.put("bb", values())
    counted: list[Path] = []
    monkeypatch.setattr(bounded, "_bytes", lambda path: counted.append(path) or 0)
    for key in ("cc", "dd", "ee"):
        new.put(key, values())
    assert new.refused == 4 and not counted
