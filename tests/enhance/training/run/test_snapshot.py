"""A state in half precision: small, and a run goes on from it as if nothing had happened."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from enhance.config import DataConfig, RunConfig
from enhance.config.settings import load_run, load_yaml
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors, save_tensors
from enhance.training.loop import fit
from enhance.training.run.snapshot import snapshot


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "trainer.safetensors", "enhance-trainer-1")[0]


@pytest.fixture(scope="module", autouse=True)
def _soon_settled() -> Iterator[None]:
    with tiny.little_settling():
        yield


@pytest.fixture(scope="module", params=["muon", "adamw"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = tiny.make_clips(folder / "clips")
    settings = tiny.config(data, steps=20, validate_every=0, optimizer=request.param)
    # Small gradients, whose squares float16 does not hold.
    settings = replace(settings, loss=replace(settings.loss, si_sdr=0.0))
    fit(settings, tiny.Stopping(settings, 8), folder / "run", quiet=True)
    return folder / "run"


def settings_of(run: Path, steps: int) -> RunConfig:
    return load_run(run / "config.yaml", [f"training.steps={steps}"])


def test_every_value_comes_back_to_half_precision(run: Path, tmp_path: Path) -> None:
    made = snapshot(run, tmp_path / "next")
    before, after = state(run), state(tmp_path / "next")
    assert list(before) == list(after)
    assert made["bytes"] == sum(path.stat().st_size for path in (tmp_path / "next").iterdir())
    for name, value in before.items():
        if value.ndim < 2 or not value.is_floating_point():
            assert torch.equal(value, after[name]), name
            continue
        assert after[name].element_size() == 2, name
        digits = 2**-8 if name.startswith("optimizer.") else 2**-11
        # Below 6e-5 float16 has fewer digits: half a step of its smallest.
        floor = 0.0 if name.startswith("optimizer.") else 3e-8
        torch.testing.assert_close(after[name].float(), value, rtol=digits, atol=floor, msg=name)


def test_training_goes_on_without_a_jump(run: Path, tmp_path: Path) -> None:
    snapshot(run, tmp_path / "next")
    ways = {"exact": run, "half": tmp_path / "next"}
    settings = settings_of(run, 4)
    for name, parent in ways.items():
        fit(settings, tiny.Stopping(settings), tmp_path / name, branch=parent, quiet=True)
    exact, half = (tiny.rows(tmp_path / name, "train") for name in ways)
    assert [row["step"] for row in half] == [9, 10, 11, 12]
    for a, b in zip(exact, half, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=5e-3)
    assert half[0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-3)
    # What trains is float32 again.
    assert {t.dtype for t in state(tmp_path / "half").values()} <= {torch.float32, torch.int64}


def test_the_folder_names_no_place_and_tells_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "next"
    snapshot(run, out)
    assert load_yaml(out / "config.yaml")["data"]["corpus"] == "DIR"
    text = (out / "README.md").read_text("utf-8")
    assert "step 8" in text
    assert "enhance train --branch next --set data.corpus=DIR --set training.steps=N" in text
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in out.iterdir())
    corpus = load_yaml(run / "config.yaml")["data"]["corpus"]
    assert not any(corpus.encode() in path.read_bytes() for path in out.iterdir())


def test_the_command_names_lists_as_lists(run: Path, tmp_path: Path) -> None:
    tensors, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    places = {"corpus": "", "speech": ["/a/voices", "/b"], "noise": ["/c"], "rirs": "/d"}
    header["config"] = {**header["config"], "data": {**header["config"]["data"], **places}}
    save_tensors(tmp_path / "trainer.safetensors", tensors, header, "enhance-trainer-1")
    snapshot(tmp_path, tmp_path / "next")
    text = (tmp_path / "next" / "README.md").read_text("utf-8")
    named = re.findall(r"--set (data\.\S+)", text.split("```")[1])
    assert load_run(None, named).data == DataConfig(speech=["DIR"], noise=["DIR"], rirs="DIR")


def test_the_place_of_a_cache_stays_here(run: Path, tmp_path: Path) -> None:
    tensors, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    settings = {"weight": 0.5, "distill": {"cache": "/home/me/features", "cache_gb": 2.0}}
    header["config"] = {**header["config"], "objective": settings}
    header["objective"] = {"mode": "concat+distill", **settings}
    save_tensors(tmp_path / "trainer.safetensors", tensors, header, "enhance-trainer-1")
    out = tmp_path / "next"
    snapshot(tmp_path, out)
    assert not any(b"/home/me" in path.read_bytes() for path in out.iterdir())
    kept = load_yaml(out / "config.yaml")["objective"]
    assert kept == {"weight": 0.5, "distill": {"cache": "", "cache_gb": 2.0}}


def test_refused_with_nothing_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "next"
    with pytest.raises(EnhanceError, match="--limit-mb nan: must be more than 0"):
        snapshot(run, out, limit_mb=float("nan"))
    with pytest.raises(EnhanceError, match=r"the limit is 0.001; .*--limit-mb"):
        snapshot(run, out, limit_mb=0.001)
    assert not any(tmp_path.iterdir())
    with pytest.raises(EnhanceError, match="no such file"):
        snapshot(tmp_path, out)
    snapshot(run, out)
    with pytest.raises(EnhanceError, match="exists already"):
        snapshot(run, out)
    snapshot(run, out, force=True)


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from enhance.cli.app import app

    result = CliRunner().invoke(app, ["snapshot", str(run), "-o", str(tmp_path / "next")])
    assert result.exit_code == 0, result.output
    assert "step 8" in result.output
    assert (tmp_path / "next" / "README.md").is_file()
    here = shutil.copytree(run, tmp_path / "here")
    monkeypatch.chdir(here)
    assert CliRunner().invoke(app, ["snapshot", "."]).exit_code == 0
    assert (tmp_path / "here-snapshot" / "README.md").is_file()
