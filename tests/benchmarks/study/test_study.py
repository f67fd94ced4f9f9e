"""Study files: what they mean, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study.file import digest, read_study
from benchmarks.study.report import group_tables, page
from benchmarks.study.results import study_rows
from benchmarks.study.trial import read_record, set_aside
from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.measure.metrics import METRICS


def test_a_study_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("seed: 5\ntraining: {steps: 9, batch_size: 2}\n")
    (tmp_path / "pesq.yaml").write_text("loss: {pesq: 0.5, si_sdr: 7}\n")
    path = tmp_path / "study.yaml"
    path.write_text("""
base: {include: common.yaml, training.steps: 10, model.preset: gcrn-tiny}
seeds: [3, 4]
baseline: b
runs:
  a: {model: {gcrn.hidden: 120}, why: small}
  b: {}
  c: {extends: a, model.gcrn.cell: gru}
  d: {extends: c, baseline: b, include: pesq.yaml, loss.si_sdr: 1}
""")
    study = read_study(path, ["data.corpus=here"])
    assert [run.key for run in study.trials] == [f"{n}-s{s}" for s in (3, 4) for n in "abcd"]
    assert [run.baseline for run in study.trials[:4]] == ["b", "", "a", "b"]
    assert [run.why for run in study.trials[:4]] == ["small", "", "", ""]
    d = study.trial("d", 4).config
    assert (d.seed, d.training.steps, d.training.batch_size) == (4, 10, 2)
    assert (d.model.gcrn.hidden, d.model.gcrn.cell) == (120, "gru")
    assert (d.loss.si_sdr, d.loss.pesq) == (1.0, 0.5)
    assert d.data.corpus == "here"
    assert study.trial("b", 3).config.model.gcrn.hidden == 240
    assert digest(d) == digest(study.trial("d", 3).config) != digest(study.trial("c", 4).config)
    assert [run.key for run in study.select(["a", "d-s4"])] == ["a-s3", "a-s4", "d-s4"]
    with pytest.raises(EnhanceError, match="--only e: no such run"):
        study.select(["e"])
    with pytest.raises(EnhanceError, match=r"^--base data: expected KEY"):
        read_study(path, ["data"])


BASE = "base: {training: {steps: 10}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "not YAML"),
        ("", "names no runs"),
        ("run: {a: {}}", "unknown key 'run'; did you mean 'runs'"),
        ("runs: {a: {}, a: {}}", "line 1: key 'a' stands twice"),
        ("runs: {a: }", "runs.a: expected keys and values, found None"),
        ("runs: {a/b: {}}", "'a/b' cannot name a folder"),
        ("runs: {a: {loss.sisdr: 1}}", "runs.a: loss: unknown key 'sisdr'; did you mean 'si_sdr'"),
        ("runs: {a: {whi: x}}", "runs.a: unknown key 'whi'; did you mean 'why'"),
        ("runs: {a: {seed: 1}}", "runs.a: seed: seeds belong to the study"),
        ("runs: {a: {mode: dream}}", "runs.a: mode: no mode 'dream'; known: base, distill"),
        ("runs: {a: {objective: {weight: 1}}}", "runs.a: objective: mode base has no settings"),
        ("runs: {a: {model.gcrn.groups: 3}}", "runs.a: groups 3: must divide"),
        ("runs: {a: {}, b: {baseline: c}}", "runs.b: baseline: no run 'c'; there are a, b"),
        ("runs: {a: {}, b: {baseline: b}}", "cannot be compared with itself"),
        ("runs: {a: {extends: b}, b: {extends: a}}", "extends"),
        ("runs: {a: {}, b: {extends: [a]}}", "runs.b: extends: no run ['a']; there are a, b"),
        ("baseline: c\nruns: {a: {}}", "baseline: no run 'c'"),
        ("seeds: [1, 1]\nruns: {a: {}}", "seeds [1, 1]: need different numbers"),
        ("seeds: []\nruns: {a: {}}", "seeds []"),
        ("runs: {a: {training.minutes: 5}}", "runs.a: training.minutes 5: a study's budget"),
        ("runs: {a: {}, b: {training.steps: 9}}", "runs.b: hears 0.12 h (9 steps x 16 x 3 s)"),
        ("runs: {a: {}, b: {training: {schedule: wsd, steps: 0}}}", "runs.b: has no end"),
        ("runs: {a: {include: none.yaml}}", "runs.a: include: "),
        ("budget: time\nruns: {a: {}}", "budget"),
        ("runs: {a: {loss..x: 1}}", "key 'loss..x': expected KEY.KEY"),
    ],
)
def test_bad_studies_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text if text.startswith("base") else text + "\n" + BASE)
    with pytest.raises(EnhanceError) as caught:
        read_study(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_budget_of_cpu_time_leaves_steps_to_the_runs_and_says_what_they_took(
    tmp_path: Path,
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("budget: cpu\nruns: {a: {}, b: {training.steps: 9}, c: {}}\n" + BASE)
    study = read_study(path)
    assert [trial.config.training.steps for trial in study.trials] == [10, 9, 10]
    rows = study_rows(study, tmp_path / "none", "a set", "00")
    for row, seconds in zip(rows[1:], (60.0, 64.0, 90.0), strict=True):
        row |= {"metrics": {m: {"mean": 1, "low": 0, "high": 2} for m in METRICS}}
        row |= {"train_cpu_seconds": seconds, "parameters": 1, "hours_heard": 1.0}
    told = page(rows)
    assert "One budget: about the same CPU time" in told
    assert "- c: its training took 1.50 of the CPU time of a" in told
    assert "- b: its training took" not in told


def test_a_record_that_lacks_something_is_one_line(tmp_path: Path) -> None:
    whole = {"format": 1, "name": "a", "seed": 0, "config_hash": "00", "config": {}, "stints": []}
    path = tmp_path / "trial.json"
    write_json(path, whole)
    assert read_record(tmp_path) == whole
    for key in ("config", "config_hash", "stints"):
        write_json(path, {k: v for k, v in whole.items() if k != key})
        with pytest.raises(EnhanceError, match=rf"trial\.json: is damaged: it has no {key};"):
            read_record(tmp_path)


def test_groups_get_no_star_however_clear_they_are() -> None:
    entry = {"mean": 1.0, "low": 0.9, "high": 1.1, "verdict": "higher", "p": 1e-9}
    row = {"kind": "trial", "name": "a", "baseline": "b", "metrics": {"stoi": {}}}
    row["group_difference"] = {"sex": {"female": dict.fromkeys(METRICS, entry)}}
    pesq, si_sdr = group_tables([row])
    assert pesq.rows == [["a - b", "+1.000 ±0.100"]] and si_sdr.rows == [["a - b", "+1.00 ±0.10"]]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(-0.04, -0.01, "worse"), (-0.02, 0.01, "no better"), (0.01, 0.02, "better")],
)
def test_a_page_of_modes_says_what_its_study_covers(
    tmp_path: Path, low: float, high: float, told: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("base: {training.steps: 5000}\nmodes: {}\n")
    rows = study_rows(read_study(path), tmp_path / "none", "a set", "00")
    rows[0]["teachers"] = {
        "t": {"over": "MFCC", "mean": (low + high) / 2, "low": low, "high": high}
    }
    text = page(rows)
    assert f"What this covers: `t`, {told} than MFCC at telling phones (" in text
    assert "h of mixtures; this set. A stronger teacher, another student or a longer" in text


def test_a_run_is_set_aside_however_often_it_was_before(tmp_path: Path) -> None:
    old = [f"a-s0-00{end}" for end in ("", *(f"-{i}" for i in range(2, 1001)))]
    for name in old:
        (tmp_path / "old" / name).mkdir(parents=True)
    (tmp_path / "a-s0").mkdir()
    (tmp_path / "a-s0" / "trial.json").touch()
    set_aside(tmp_path / "a-s0", {"config_hash": "00"})
    assert (tmp_path / "old" / "a-s0-00-1001" / "trial.json").is_file()
