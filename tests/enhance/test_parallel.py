"""Work in this process, in local ones and on a Dask cluster: the same results, and dead workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from enhance.errors import EnhanceError
from enhance.parallel import DEATHS, run


def square(x: int) -> int:
    return x * x


def die_at_two(mark: Path, deaths: int, x: int) -> int:
    """Kills its process at item 2, so many times."""
    if x == 2 and (number := len(list(mark.iterdir()))) < deaths:
        (mark / str(number)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def die_alone(mark: Path, parent: int, x: int) -> int:
    """Kills its process at item 1 when item 0 has long been returned."""
    if os.getpid() == parent:
        raise AssertionError("the item that kills processes came to this one")
    if x == 1 and not (mark / "died").exists():
        time.sleep(1)
        (mark / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def where(x: int) -> tuple[str, int]:
    return str(Path.cwd()), os.getpid()


SQUARES = [(i, i * i) for i in range(5)]


def test_here_and_in_processes() -> None:
    assert list(run(square, range(5), jobs=1)) == SQUARES
    assert sorted(run(square, range(5), jobs=2)) == SQUARES


def test_workers_follow_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """joblib keeps its workers for the next work, which may be in another folder."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found = [place for _, (place, _) in run(where, range(4), jobs=2)]
        assert found == [str(tmp_path / name)] * 4


def test_a_dead_worker_costs_only_time_and_many_end_the_work(tmp_path: Path) -> None:
    work = partial(die_at_two, tmp_path, 1)
    assert sorted(run(work, range(5), jobs=2)) == SQUARES
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(EnhanceError, match=f"{DEATHS} worker processes died .* fewer --jobs"):
        list(run(partial(die_at_two, tmp_path, 99), range(5), jobs=2))
    assert len(list(tmp_path.iterdir())) == 1 + DEATHS


def test_a_single_item_left_by_a_dead_worker_stays_out_of_this_process(tmp_path: Path) -> None:
    work = partial(die_alone, tmp_path, os.getpid())
    assert sorted(run(work, range(2), jobs=2)) == SQUARES[:2]
    assert (tmp_path / "died").exists()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
    ) as made:
        yield made.scheduler_address


@pytest.mark.slow
def test_on_a_cluster(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(run(square, range(5), jobs=1, cluster=cluster)) == SQUARES
    # One item goes there too, and finds itself where the command was given.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ((_, (folder, process)),) = run(where, [0], jobs=1, cluster=cluster)
    assert (folder, process != os.getpid()) == (str(tmp_path / "here"), True)
    marks = tmp_path / "marks"
    marks.mkdir()
    work = partial(die_at_two, marks, 1)
    assert sorted(run(work, range(5), jobs=1, cluster=cluster, batch=1)) == SQUARES
    with pytest.raises(EnhanceError, match="died"):
        list(run(partial(die_at_two, marks, 99), range(5), jobs=1, cluster=cluster, batch=1))


def test_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("enhance.parallel._WAIT_SECONDS", 1)
    with pytest.raises(EnhanceError, match=r"^--cluster tcp://127\.0\.0\.1:1: no Dask scheduler"):
        list(run(square, range(3), jobs=1, cluster="tcp://127.0.0.1:1"))
    with pytest.raises(EnhanceError, match="--cluster nonsense: no Dask scheduler"):
        list(run(square, range(3), jobs=1, cluster="nonsense"))
