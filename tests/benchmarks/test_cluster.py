"""The same study in one process, in two, and on a Dask cluster of which a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_study import Place

from benchmarks.study import compare
from enhance.files import read_jsonl
from enhance.network.checkpoint import load_model

FOUR: dict[str, Any] = {
    "plain": {},
    "fast": {"training.learning_rate": 0.05},
    "gru": {"model.gcrn.cell": "gru"},
    "flat": {"loss.magnitude": 0.0, "data.workers": 1},  # a nanny forbids them
}
COST = ("train_seconds", "train_cpu_seconds")
"""What differs from try to try."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.figures.plots.quality_plot", lambda *_: False)
    monkeypatch.setattr(compare, "time_networks", lambda *_, **__: {})
    monkeypatch.setattr(compare, "cores", lambda: 2)


def results(out: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(out / "results.jsonl")
    return [{k: v for k, v in row.items() if k not in COST} for row in rows]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{place.name}.{name}": value
        for place in sorted(out.glob("*-s0"))
        for name, value in load_model(place)[0].state_dict().items()
    }


def assert_same(one: Path, other: Path) -> None:
    assert results(one) == results(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_two_processes_give_the_records_of_one(material: tuple[Path, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, *material)
    place.study()
    place.run(tmp_path / "one")
    place.run(tmp_path / "two", jobs=2)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_ctrl_c_reaches_the_workers(material: tuple[Path, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, *material)
    place.study(steps=4000)
    stop = threading.Thread(target=interrupt_when_trained, args=(place.out,), daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stop.start()
        assert place.run(jobs=2).stopped == "SIGINT"
    finally:
        signal.signal(signal.SIGINT, before)
    for key in ("plain-s0", "fast-s0"):
        record = json.loads((place.out / key / "trial.json").read_text())
        (stint,) = record["stints"]  # written by a worker that saved, not by one that was killed
        assert 0 < stint["steps"] < 4000
        assert (place.out / key / "trainer.safetensors").is_file()
    assert not list((place.out / "locks").glob("stop-*"))


def interrupt_when_trained(out: Path) -> None:
    while not all((out / key / "history.jsonl").exists() for key in ("plain-s0", "fast-s0")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A scheduler and two workers, each a process."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
    ) as made:
        yield made


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_records(
    material: tuple[Path, Path], tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, *material)
    place.study(FOUR, steps=80)
    killed: list[tuple[int, int]] = []

    def kill() -> None:
        """The worker that trains `plain`, by its process number."""
        history = tmp_path / "cluster" / "plain-s0" / "history.jsonl"
        while not history.exists() or '"step": 40' not in history.read_text():
            time.sleep(0.02)
        for worker in cluster.workers.values():
            pid = worker.pid
            held = {Path(f).resolve() for f in Path(f"/proc/{pid}/fd").iterdir()}
            if (tmp_path / "cluster" / "locks" / "plain-s0.lock").resolve() in held:
                os.kill(pid, signal.SIGKILL)
                killed.append((pid, sum(1 for _ in history.open())))

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    place.run(tmp_path / "cluster", cluster=cluster.scheduler_address)
    thread.join()
    ((pid, _),) = killed
    assert pid not in [worker.pid for worker in cluster.workers.values()]
    # The killed try left no figure of its cost; what it saved was gone on with.
    record = json.loads((tmp_path / "cluster" / "plain-s0" / "trial.json").read_text())
    assert sum(stint["steps"] for stint in record["stints"]) < 80
    place.run(tmp_path / "one")
    assert_same(tmp_path / "one", tmp_path / "cluster")


@pytest.mark.slow
def test_clips_are_measured_on_a_cluster(
    material: tuple[Path, Path], tmp_path: Path, cluster: Any
) -> None:
    from benchmarks.quality.evaluate import evaluate

    rows = []
    for address in ("", cluster.scheduler_address):
        out = tmp_path / f"out{bool(address)}"
        evaluate("noisy", material[1], -5, out, 1, cluster=address, quiet=True)
        rows.append(read_jsonl(out / "clips.jsonl"))
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_an_analysis_on_a_cluster_finds_the_same(
    material: tuple[Path, Path], tmp_path: Path, cluster: Any
) -> None:
    from benchmarks.analysis.cka import cka
    from benchmarks.analysis.parts.work import Work

    found = [
        cka(
            ["log-mel", "log-mel:320"],
            material[1] / "clean",
            tmp_path / f"out{bool(address)}",
            Work(features=tmp_path / f"cache{bool(address)}", cluster=address, quiet=True),
        )
        for address in ("", cluster.scheduler_address)
    ]
    assert found[0]["rows"] == found[1]["rows"]
