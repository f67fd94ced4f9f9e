"""`enhance compare` over the four modes, with the teacher that ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_study import Place
from tiny_training import little_settling

from benchmarks.study import compare
from benchmarks.study.grid import PAPER
from enhance.errors import EnhanceError
from enhance.network.checkpoint import read_info

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(
    material: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.setattr("benchmarks.figures.plots.quality_plot", lambda *_: False)
    monkeypatch.setattr(compare, "cores", lambda: 1)
    with little_settling():
        yield Place(tmp_path, *material)


def test_four_modes_in_one_command(place: Place) -> None:
    cache = {"cache": str(place.folder / "targets")}
    settings = {"distill": cache, "concat": {"size": 8}, "pretrain": {"pretrain_steps": 2}}
    grid = {"objective": settings}
    place.study({"other": {"training.learning_rate": 0.05}}, modes=grid)
    place.run()
    modes = ("base", "distill", "concat", "pretrain")
    assert place.states() == {f"{name}-s0": "done" for name in (*modes, "other")}
    rows = {row["name"]: row for row in place.rows("trial")}
    for mode in modes:
        record = read_info(place.out / f"{mode}-s0").training
        assert record["mode"] == mode
        assert rows[mode]["baseline"] == (None if mode == "base" else "base")
        assert rows[mode]["steps"] == 4
    # The networks differ where they should: concat's has its own hash, and no time as a stream.
    timed = {mode: rows[mode]["cpu"] for mode in modes}
    assert "features beside the audio" in timed["concat"]["refused"]
    assert timed["base"]["timed"] == timed["pretrain"]["timed"] == "base-s0"
    assert (
        rows["concat"]["parameters"] > rows["base"]["parameters"] == rows["distill"]["parameters"]
    )
    # Every mode learnt something of its own.
    scores = {rows[name]["metrics"]["si_sdr"]["mean"] for name in rows}
    assert len(scores) == len(rows)
    report = place.report()
    assert PAPER in report
    assert "| concat - base | mode base → concat" in report
    assert (place.out / "differences.png").read_bytes().startswith(b"\x89PNG")
    place.run(report=True, clips=None)  # nothing is trained again
    assert place.report() == report


def test_every_control_of_the_shipped_study_trains_something_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """modes-controls.yaml as it is, but for the budget, one seed and the teacher that ships."""
    monkeypatch.setattr(compare, "time_networks", lambda *_, **__: {})
    text = (ROOT / "configs/modes-controls.yaml").read_text("utf-8")
    study = yaml.safe_load(text.replace("distillmos", "mini-wavlm"))
    settings = study["modes"]["objective"]
    settings["pretrain"]["pretrain_steps"] = 2
    settings["distill"] = {"cache": str(place.folder / "targets")}
    place.study(study["runs"], modes=study["modes"])
    only = ["concat", "base-wide", "concat-random", "concat-log-mel"]
    only += ["distill", "distill-shuffled"]
    place.run(only=only)
    rows = {row["name"]: row for row in place.rows("trial") if row["metrics"]}
    assert set(rows) == set(only)
    assert len({row["metrics"]["si_sdr"]["mean"] for row in rows.values()}) == len(only)
    assert rows["base-wide"]["baseline"] == rows["concat-random"]["baseline"] == "concat"
    assert "| concat-random - concat | objective.teacher mini-wavlm →" in place.report()


def test_a_teacher_that_is_not_there_ends_its_runs_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "time_networks", lambda *_, **__: {})
    place.study({}, modes={"names": ["base", "distill"], "teachers": ["nowhere-at-all"]})
    with pytest.raises(EnhanceError, match=r"1 of 2 runs failed, first distill-s0: nowhere-at-all"):
        place.run()
    assert place.states() == {"base-s0": "done", "distill-s0": "failed"}
