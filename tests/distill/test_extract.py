"""Features made in advance, by one process or several: the same files, found by training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clip_stores import Counting, store_of

from distill.backbones.find import load
from distill.extract import Wanted, extract
from distill.modes.targets import Targets
from distill.teacher.features import Features
from enhance.errors import EnhanceError
from enhance.parallel import Workers

WORKERS = Workers(quiet=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.npy")}


def test_processes_make_what_one_makes_and_training_finds_it(make_teacher, tmp_path: Path) -> None:
    place = str(make_teacher())
    store = store_of(tmp_path, [9000, 12000, 7000])
    one, two = tmp_path / "one", tmp_path / "two"
    first = extract(store.clips, Wanted(place, "last", one), WORKERS)
    assert (first.made, first.found) == (3, 0)
    again = extract(store.clips, Wanted(place, "last", one), WORKERS)
    assert (again.made, again.found) == (0, 3)
    extract(store.clips, Wanted(place, "last", two), Workers(jobs=2, quiet=True))
    assert len(files(one)) == 3
    assert files(one) == files(two)
    teacher = Counting(load(place))
    targets = Targets(Features(teacher, "last", one))
    targets.bind(store)
    assert all(np.isfinite(targets.clip(index)).all() for index in range(3))
    assert teacher.calls == 0


def test_a_full_cache_and_a_wrong_name_are_told(make_teacher, tmp_path: Path) -> None:
    store = store_of(tmp_path, [9000])
    with pytest.raises(EnhanceError, match="the cache is full at 1e-06 GB"):
        extract(store.clips, Wanted(str(make_teacher()), "last", tmp_path / "c", 1e-6), WORKERS)
    (tmp_path / "file").touch()
    with pytest.raises(EnhanceError, match="file: is a file; name a folder"):
        extract(store.clips, Wanted(str(make_teacher()), "last", tmp_path / "file"), WORKERS)
    with pytest.raises(EnhanceError, match="nobody"):
        extract(store.clips, Wanted(str(tmp_path / "nobody"), "last", tmp_path / "c"), WORKERS)
