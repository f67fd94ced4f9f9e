"""Branches: the whole state of a run goes on elsewhere, and the run does not notice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from enhance.config import RunConfig
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors
from enhance.training.loop import fit

DECAY = {"schedule": "wsd", "decay_share": 1.0}


@pytest.fixture(scope="module", autouse=True)
def _soon_settled() -> Iterator[None]:
    with tiny.little_settling():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def long_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """Four steps of a run at its peak."""
    settings = tiny.config(data, steps=40, schedule="wsd", validate_every=0)
    run = tmp_path_factory.mktemp("long") / "run"
    train(settings, run, stop=4)
    return settings, run


def train(settings: RunConfig, run: Path, stop: int = 0, **options: Any) -> dict[str, Any]:
    return fit(settings, tiny.Stopping(settings, stop), run, quiet=True, **options)


def changed(settings: RunConfig, **training: Any) -> RunConfig:
    return replace(settings, training=replace(settings.training, **training))


def state(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_tensors(run / "trainer.safetensors", "enhance-trainer-1")


def same_state(a: Path, b: Path) -> None:
    ours, theirs = state(a)[0], state(b)[0]
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_decay_from_a_run_that_goes_on(long_run: tuple[RunConfig, Path], tmp_path: Path) -> None:
    settings, run = long_run
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    decay = changed(settings, steps=5, validate_every=3, **DECAY)
    summary = train(decay, tmp_path / "ship", branch=run)
    assert (summary["step"], summary["stopped"]) == (9, "finished")
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    rows = tiny.rows(tmp_path / "ship", "train")
    assert [row["step"] for row in rows] == [5, 6, 7, 8, 9]
    peak = settings.training.learning_rate
    expected = [peak * (0.02 + 0.98 * (1 - math.sqrt(i / 5))) for i in range(5)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert rows[-1]["used"] == 1.0
    source = state(tmp_path / "ship")[1]["branch"]
    assert (source["checkpoint"], source["step"]) == (run.name, 4)
    # The first step of the branch, at the peak still, is the next step of the run.
    longer = changed(settings, validate_every=0)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in before.items():
        (copy / name).write_bytes(content)
    train(longer, copy, stop=1, resume=True)
    assert tiny.rows(copy, "train")[-1]["losses"] == rows[0]["losses"]


def test_a_branch_resumes_to_the_bit(long_run: tuple[RunConfig, Path], tmp_path: Path) -> None:
    settings, run = long_run
    decay = changed(settings, steps=5, checkpoint_every=100, **DECAY)
    train(decay, tmp_path / "whole", branch=run)
    first = train(decay, tmp_path / "broken", stop=2, branch=run)
    assert (first["stopped"], first["step"]) == ("SIGINT", 6)
    train(decay, tmp_path / "broken", resume=True)
    same_state(tmp_path / "whole", tmp_path / "broken")
    histories = [(tmp_path / n / "history.jsonl").read_bytes() for n in ("whole", "broken")]
    assert histories[0] == histories[1]


def test_other_losses_and_mixtures_go_on_from_the_same_state(
    long_run: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    settings, run = long_run
    other = replace(
        changed(settings, steps=1),
        loss=replace(settings.loss, level_invariant=True),
        mixing=replace(settings.mixing, easy_probability=0.5),
    )
    assert train(other, tmp_path / "other", branch=run)["step"] == 5


def test_other_files_are_told_of(
    long_run: tuple[RunConfig, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run = long_run
    fewer = replace(changed(settings, steps=2), data=replace(settings.data, held_back=0.5))
    fit(fewer, tiny.Stopping(fewer, 1), tmp_path / "new", branch=run)
    assert "trains on other files than" in capsys.readouterr().err
    assert train(fewer, tmp_path / "new", resume=True)["step"] == 6


def test_refused_with_nothing_written(long_run: tuple[RunConfig, Path], tmp_path: Path) -> None:
    settings, run = long_run
    new = tmp_path / "new"
    gcrn = replace(settings.model.gcrn, hidden=20)
    wider = replace(settings, model=replace(settings.model, gcrn=gcrn))
    with pytest.raises(EnhanceError, match=r"model.gcrn.hidden is 16 there, 20 here"):
        train(wider, new, branch=run)
    with pytest.raises(EnhanceError, match=r"training.optimizer is 'muon' there, 'adamw' here"):
        train(changed(settings, optimizer="adamw"), new, branch=run)
    with pytest.raises(EnhanceError, match=r"has no trainer.safetensors to branch from"):
        train(settings, new, branch=tmp_path)
    assert not new.exists()
    with pytest.raises(EnhanceError, match="holds a run already"):
        train(settings, run, branch=run)


def test_the_command(long_run: tuple[RunConfig, Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from enhance.cli.app import app

    _, run = long_run
    new = tmp_path / "ship"
    options = ["train", "--branch", str(run), "--run", str(new), "--accelerator", "cpu", "-q"]
    for setting in ("decay_share=1", "steps=2"):
        options += ["--set", f"training.{setting}"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert [row["step"] for row in tiny.rows(new, "train")] == [5, 6]
    assert (new / "model.safetensors").is_file()
    refused = CliRunner().invoke(app, [*options, "--resume"])
    assert "leave --resume and --init out" in str(refused.exception)


def test_no_end_and_a_longer_budget_in_the_stable_part(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = tiny.config(data, steps=0, schedule="wsd", validate_every=0)
    first = fit(endless, tiny.Stopping(endless, 3), tmp_path / "run")
    assert (first["stopped"], first["step"]) == ("SIGINT", 3)
    assert "stopped and saved at step 3; the same command" in capsys.readouterr().err
    longer = changed(endless, steps=20)
    fit(longer, tiny.Stopping(longer, 2), tmp_path / "run", resume=True)
    assert "training.steps was" not in capsys.readouterr().err
    train(changed(endless, steps=20), tmp_path / "straight", stop=5)
    same_state(tmp_path / "run", tmp_path / "straight")
    # What comes after the stable part does follow the budget, and says so.
    fit(changed(endless, steps=6), tiny.Stopping(endless, 0), tmp_path / "run", resume=True)
    assert "training.steps was 20, is 6" in capsys.readouterr().err
