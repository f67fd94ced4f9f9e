"""`enhance compare`: tiny networks, a few steps, four generated clips."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import t as student
from tiny_study import RUNS, Place
from tiny_training import little_settling
from torch import Tensor

from benchmarks.figures.seeds import claims
from benchmarks.quality import clips
from benchmarks.study import compare, networks, trial
from enhance.cli import app as cli
from enhance.config import RunConfig
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.measure.metrics import METRICS, measure
from enhance.network.checkpoint import load_model
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Enhancement


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """No plots, no pool of processes for four clips, and averages that settle soon."""
    with pytest.MonkeyPatch.context() as patch, little_settling():
        patch.setattr("benchmarks.figures.plots.quality_plot", lambda *_: False)
        patch.setattr(compare, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def finished(material: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study of three seeds that nothing disturbed. Not to be changed."""
    place = Place(tmp_path_factory.mktemp("finished"), *material)
    place.study(seeds=(0, 1, 2), title="Three")
    assert place.run().stopped == ""
    return place


@pytest.fixture
def place(material: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place for a study of its own, without timing."""
    monkeypatch.setattr(compare, "time_networks", lambda *_, **__: {})
    return Place(tmp_path, *material)


@pytest.fixture
def copied(place: Place, finished: Place) -> Place:
    """A copy of the finished study; it writes one of its first seed only where a test asks."""
    shutil.copytree(finished.out, place.out)
    shutil.copy(finished.file, place.file)
    return place


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trial, "fit", refuse)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_model(folder)[0].state_dict()


def scores(out: Path, key: str, metric: str) -> np.ndarray:
    """Values of the four clips, from the rows of the run's evaluation."""
    rows = read_jsonl(out / key / "evaluation" / "clips.jsonl")
    own = {r["clip"]: r["metrics"][metric] for r in rows if r["model"] == key}
    assert sorted(own) == ["0", "1", "2", "3"]
    return np.array([own[clip] for clip in sorted(own)])


def half_width(values: np.ndarray) -> float:
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def test_every_run_is_trained_and_its_own_weights_are_measured(finished: Place) -> None:
    trials = {row["run"]: row for row in finished.rows("trial")}
    assert list(trials) == [f"{name}-s{seed}" for seed in range(3) for name in RUNS]
    for key, row in trials.items():
        model, info = load_model(finished.out / key)
        assert info.training["seed"] == row["seed"]
        values = []
        for i in range(4):
            clean, noisy = (
                soundfile.read(finished.evaluation / part / f"{i}.wav", dtype="float32")[0]
                for part in ("clean", "noisy")
            )
            with torch.inference_mode():
                estimate = model.enhance(torch.from_numpy(noisy)[None])[0].numpy()
            values.append(measure(clean, estimate, 16000, ["si_sdr"])["si_sdr"])
        assert row["metrics"]["si_sdr"]["mean"] == pytest.approx(np.mean(values), abs=1e-4)
        assert row["metrics"]["si_sdr"]["n"] == 4
        assert row["steps"] == 4
        assert row["hours_heard"] == pytest.approx(4 * 4 * 0.5 / 3600, rel=1e-12)
        assert 0 < row["train_seconds"] < 60 and 0 < row["train_cpu_seconds"] < 60
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
    means = {row["metrics"]["si_sdr"]["mean"] for row in trials.values()}
    assert len(means) == 6


def test_differences_are_those_of_an_independent_computation(finished: Place) -> None:
    out = finished.out
    for row in finished.rows("trial"):
        for metric in METRICS:
            if row["baseline"] is None:
                assert row["difference"] is None
                continue
            base = scores(out, f"{row['baseline']}-s{row['seed']}", metric)
            d = scores(out, row["run"], metric) - base
            found = row["difference"][metric]
            assert found["mean"] == pytest.approx(d.mean(), abs=1e-12)
            assert found["high"] - found["mean"] == pytest.approx(half_width(d), abs=1e-12)
            odd = row["group_difference"]["speech_group"]["odd"][metric]
            assert odd["mean"] == pytest.approx(d[[1, 3]].mean(), abs=1e-12)
    plain, fast = finished.rows("trial-mean")
    assert (plain["baseline"], fast["baseline"]) == (None, "plain")
    for metric in METRICS:
        own, base = (
            np.stack([scores(out, f"{name}-s{seed}", metric) for seed in range(3)], axis=1)
            for name in ("fast", "plain")
        )
        d = own - base  # (clips, seeds)
        half = np.hypot(half_width(d.mean(1)), half_width(d.mean(0)))
        found = fast["difference"][metric]
        assert found["mean"] == pytest.approx(d.mean(), abs=1e-12)
        assert found["high"] - found["low"] == pytest.approx(2 * half, abs=1e-12)
        higher, lower = d.mean() > half, d.mean() < -half
        expected = "higher" if higher else "lower" if lower else "undecided"
        assert found["verdict"] == expected
        digits = 2 if metric == "si_sdr" else 3
        cell = f"{d.mean():+.{digits}f} ±{half:.{digits}f}"
        star = " *" if ("fast", metric) in claims([plain, fast]) else ""
        assert f"| {cell}{star} |" in finished.report()
    noisy = finished.rows("noisy")[0]["metrics"]["si_sdr"]
    assert noisy["mean"] == pytest.approx(-5, abs=0.1)  # speech and noise correlate a little


def test_report(finished: Place) -> None:
    text = finished.report()
    head = finished.rows("study")[0]
    assert text.startswith("# Three\n")
    assert head["set_hash"][:16] in text
    assert "Set: dev at -5 dB, 4 clips" in text
    assert "| fast - plain | training.learning_rate 0.002 → 0.05 | 0, 1, 2 |" in text
    assert "Asked: is faster better." in text
    assert text.count("The intervals hold for new clips and new seeds (3 seeds).") == 1
    assert str(finished.folder) not in text
    # One network for six runs: timed once, the same figure for all.
    assert len(list((finished.out / "networks").iterdir())) == 1
    times = {row["cpu_ms_p50"] for row in finished.rows("trial")}
    assert len(times) == 1 and 0 < times.pop() < 20
    assert {row["cpu"]["timed"] for row in finished.rows("trial")} == {"plain-s0"}


def test_nothing_finished_is_done_again(
    finished: Place, no_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "measure_pair", None)
    monkeypatch.setattr(networks, "bench", None)
    before = (finished.out / "results.jsonl").read_bytes()
    finished.run()
    assert (finished.out / "results.jsonl").read_bytes() == before


def test_the_command_writes_the_tables_anew(
    finished: Place,
    no_training: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    report = finished.out / "RESULTS.md"
    expected = report.read_text()
    report.unlink()
    table = tmp_path / "TABLE.md"
    options = ["-o", finished.out, "--report", "--table", table]
    monkeypatch.setattr(sys, "argv", ["enhance", "compare", *map(str, [finished.file, *options])])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert report.read_text() == table.read_text() == expected
    assert "fast - plain" in capsys.readouterr().out


class Interrupting(Enhancement):
    """Sends a signal in one step."""

    def __init__(self, config: RunConfig, step: int) -> None:
        super().__init__(config.loss)
        self.left = step

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(model, batch)


def test_a_stopped_study_goes_on(
    finished: Place, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.study()
    with monkeypatch.context() as patch:
        patch.setattr(trial, "make_objective", lambda config, quiet: Interrupting(config, 3))
        assert place.run().stopped == "SIGINT"
    record = json.loads((place.out / "plain-s0" / "trial.json").read_text())
    assert [stint["steps"] for stint in record["stints"]] == [3]
    assert not (place.out / "fast-s0").exists()
    assert [row["state"] for row in place.rows("trial")] == ["not finished"] * 2
    # Then Ctrl-C while the second run is evaluated.
    real, calls = clips.measure_pair, []

    def interrupt(pair: clips.Pair, candidate: Any, *rest: Any) -> clips.Row:
        calls.append((candidate.name, pair.name))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(pair, candidate, *rest)

    monkeypatch.setattr(clips, "measure_pair", interrupt)
    assert place.run().stopped == "SIGINT"
    assert calls[-1] == ("fast-s0", "1")
    assert [row["state"] for row in place.rows("trial")] == ["done", "not finished"]
    assert place.run().stopped == ""
    measured = [name for name, _ in calls]
    assert measured.count("fast-s0") == 5  # four clips, one of them begun twice
    assert measured.count("plain-s0") == 4
    assert measured.count("noisy") == 0  # measured once for the whole study, before
    for name in RUNS:
        own, straight = (weights(p.out / f"{name}-s0") for p in (place, finished))
        assert all(torch.equal(own[key], straight[key]) for key in straight)
    trials = place.rows("trial")
    assert [row["steps"] for row in trials] == [4, 4]
    text = place.report()
    assert text.count("one seed: no claim.") == 1
    assert "| 0 (one seed: no claim) |" in text
    assert " *" not in text.split("## Paired differences")[1].split("## What")[0].split("\n", 1)[1]
    assert trials[1]["difference"]["si_sdr"]["verdict"] == "no claim"
    assert not list((place.out / "locks").glob("stop-*"))


def test_two_processes_share_a_study(
    copied: Place,
    hold: Callable[[Path], subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(copied.out / "plain-s0")
    other = hold(copied.out / "locks" / "plain-s0.lock")
    copied.run(quiet=False)
    # The other one has it: this one left it alone, and said so.
    assert "plain-s0: left alone, another process works on it" in capsys.readouterr().err
    assert copied.states()["plain-s0"] == "not finished"
    assert copied.states()["fast-s0"] == "done"
    assert not (copied.out / "plain-s0").exists()
    assert "`plain-s0` has no figures: it has not begun." in copied.report()
    assert "learning_rate 0.002 → 0.05 | 1, 2 (two seeds: no claim) |" in copied.report()
    other.kill()  # without a word: its lock goes with it
    other.wait()
    copied.run()
    assert set(copied.states().values()) == {"done"}


def test_weights_without_their_state_are_left_alone(copied: Place, finished: Place) -> None:
    lost = copied.out / "fast-s0"
    for name in ("trainer.safetensors", "trial.json"):
        (lost / name).unlink()
    with pytest.raises(EnhanceError, match=r"1 of 6 runs failed, .*but no trainer\.safetensors"):
        copied.run()
    assert copied.states()["fast-s0"] == "failed"
    for name in ("model.safetensors", "history.jsonl"):
        assert (lost / name).read_bytes() == (finished.out / "fast-s0" / name).read_bytes()


def test_a_run_without_its_record_is_not_taken_for_another(copied: Place) -> None:
    """Trained to its end: its own settings lie in its folder, and must be those of the study."""
    (copied.out / "plain-s0" / "trial.json").unlink()
    copied.study(RUNS | {"plain": {"training.learning_rate": 0.02}})
    with pytest.raises(EnhanceError, match=r"other settings.*learning_rate"):
        copied.run()
    assert copied.states()["plain-s0"] != "done"
    copied.study()
    assert copied.run().rows
    assert copied.states()["plain-s0"] == "done"


def test_a_changed_run_is_refused_or_done_anew(copied: Place, finished: Place) -> None:
    # What weights do not depend on may change, and a setting newer than the record may appear.
    path = copied.out / "fast-s0" / "trial.json"
    record = json.loads(path.read_text())
    del record["config"]["loss"]["waveform"]
    path.write_text(json.dumps(record))
    copied.study({**RUNS, "plain": {"data.workers": 1, "training.checkpoint_every": 1}})
    copied.run()
    older = "fast-s0: was trained before these settings existed, which count as their defaults: "
    assert f"{older}loss.waveform" in copied.report()
    copied.study({**RUNS, "fast": {"training.learning_rate": 0.01}})
    with pytest.raises(
        EnhanceError, match=r"fast-s0: .*training\.learning_rate was 0\.05, is 0\.01.*--force"
    ):
        copied.run()
    copied.run(only=["plain"])  # the other is left out of the tables, and told
    assert copied.states() == {"plain-s0": "done", "fast-s0": "stale"}
    assert "other settings than the study has now" in copied.report()
    copied.run(force=True)
    assert copied.states() == {"plain-s0": "done", "fast-s0": "done"}
    (old,) = (copied.out / "old").iterdir()
    before, now = weights(finished.out / "fast-s0"), weights(copied.out / "fast-s0")
    assert all(torch.equal(before[key], value) for key, value in weights(old).items())
    assert any(not torch.equal(before[key], now[key]) for key in now)


def test_a_refused_set_leaves_nothing_behind(place: Place) -> None:
    place.study()
    with pytest.raises(EnhanceError, match="are not at 0 dB"):
        place.run(snr=0.0)
    assert not place.out.exists()


def test_what_a_report_leaves_out_is_told(
    copied: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.out / "plain-s0" / "trial.json").unlink()
    copied.study({**RUNS, "fast": {"training.learning_rate": 0.01}}, seeds=(0, 1))
    compare.show_comparison(copied.run(clips=None, report=True))
    stale = "was trained with other settings than the study has now (training.learning_rate was"
    shown, page = capsys.readouterr().out, copied.report()
    assert f"left out: fast-s0, fast-s1: {stale}" in shown
    assert "left out: plain-s0: has no trial.json, though it was trained" in shown
    assert "plain-s1:" not in shown
    assert f"`fast-s1` has no figures: it {stale}" in page
    assert "`plain-s0` has no figures: it has no trial.json, though it was trained" in page


def test_scores_that_are_no_numbers_are_refused_by_their_file(copied: Place) -> None:
    path = copied.out / "fast-s1" / "evaluation" / "clips.jsonl"
    whole = path.read_text()
    for old, new in (('"pesq_wb": ', '"pesq_wb": "x", "was": '), ('"labels": ', '"was": ')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(EnhanceError, match=r"fast-s1/evaluation/clips\.jsonl: is damaged"):
            copied.run(clips=None, report=True)


def test_groups_are_those_that_the_set_tells_now(copied: Place, finished: Place) -> None:
    """Labels are no part of the set's hash: a run stays measured where its manifest has grown."""
    path = copied.out / "fast-s1" / "evaluation" / "clips.jsonl"
    older = [{**row, "labels": {}} for row in read_jsonl(path)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in older))
    copied.run(clips=None, report=True)
    for kind in ("trial", "trial-mean"):
        assert copied.rows(kind) == finished.rows(kind)


def test_a_run_that_fails_does_not_end_the_study(
    copied: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"bad": {"loss.si_sdr": 0.3}, "worse": {"loss.si_sdr": 0.4}}
    copied.study({**bad, **RUNS}, baseline="plain")
    real = trial.make_objective

    def objective(config: RunConfig, quiet: bool) -> Any:
        if config.loss.si_sdr == 0.3:
            raise EnhanceError("the teacher is away")
        if config.loss.si_sdr == 0.4:
            raise RuntimeError("out of memory")
        return real(config, quiet)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "make_objective", objective)
        with pytest.raises(EnhanceError, match="2 of 4 runs failed, first bad-s0: the teacher is"):
            copied.run()
    failed = {"bad-s0": "failed", "worse-s0": "failed"}
    assert copied.states() == {**failed, "plain-s0": "done", "fast-s0": "done"}
    assert "`bad-s0` has no figures: it failed: the teacher is away." in copied.report()
    assert "`worse-s0` has no figures: it failed: RuntimeError: out of memory." in copied.report()
    copied.run()  # tried again
    assert set(copied.states().values()) == {"done"}


def test_another_set_is_evaluated_without_training(
    copied: Place, no_training: None, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    for part in ("clean", "noisy"):
        (short / part).mkdir(parents=True)
        shutil.copy(copied.evaluation / part / "2.wav", short / part)
    copied.study()
    copied.run(clips=short, snr="any")
    assert "Set: short, each pair at its own SNR, 1 clips" in copied.report()
    row = copied.rows("trial")[0]
    with pytest.raises(EnhanceError, match="--report: --set"):
        copied.run(report=True)
    value = scores(copied.out, "plain-s0", "si_sdr")[2]
    assert (row["metrics"]["si_sdr"]["mean"], row["metrics"]["si_sdr"]["n"]) == (value, 1)
    assert copied.rows("study")[0]["clips"] == 1
