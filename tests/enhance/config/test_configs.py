"""Every configuration that ships is one: its keys exist, its values fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_parses(path: Path) -> None:
    pytest.importorskip("torch")
    if "base" in yaml.safe_load(path.read_text("utf-8")):
        from benchmarks.study.file import read_study

        study = read_study(path)
        assert study.trials and all(trial.config.training.steps for trial in study.trials)
    else:
        from enhance.config.settings import load_run

        training = load_run(path, []).training
        assert training.steps > 0 or training.schedule == "wsd"


def test_there_are_some() -> None:
    assert {"base", "modes", "widths", "trials", "default"} <= {path.stem for path in CONFIGS}
