"""The grid of modes: which runs it spans, what they are compared with, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.study.file import read_study
from benchmarks.study.grid import PAPER, ModesGrid, expand
from benchmarks.study.report import page
from benchmarks.study.results import study_rows
from enhance.errors import EnhanceError
from enhance.network.waveform_model import WaveformModel

ROOT = Path(__file__).resolve().parents[3]


def test_the_four_modes(tmp_path: Path) -> None:
    path = tmp_path / "modes.yaml"
    path.write_text("""
base: {model.preset: gcrn-tiny, training.steps: 50}
seeds: [0, 1, 2]
modes: {objective: {pretrain: {pretrain_steps: 10}, concat: {size: 24}}}
""")
    study = read_study(path)
    assert study.names == ["base", "distill", "concat", "pretrain"]
    assert study.baseline == "base"
    assert len(study.trials) == 12
    for trial in study.trials:
        assert trial.baseline == ("" if trial.name == "base" else "base")
        assert trial.config.mode == trial.name
        assert trial.hours == study.trials[0].hours
        teacher = {} if trial.name == "base" else {"teacher": "mini-wavlm"}
        own = {"pretrain": {"pretrain_steps": 10}, "concat": {"size": 24}}.get(trial.name, {})
        assert trial.config.objective == teacher | own
        # Known before the teacher is loaded: another network has another time per frame.
        assert trial.config.model.gcrn.extra_features == (24 if trial.name == "concat" else 0)


def test_teachers_widths_and_combinations() -> None:
    grid = ModesGrid(
        names=["base", "distill", "concat+distill"],
        teachers=["mini-wavlm", "models/WavLM Basé.pt"],
        presets=["gcrn-tiny", "gcrn-small"],
        objective={
            "distill": {"weight": 0.3},
            "concat+distill": {"distill": {"weight": 0.1}, "concat": {"size": 8}},
        },
    )
    runs = expand(grid, "here")
    tiny = [name for name in runs if name.endswith("gcrn-tiny")]
    assert tiny == [
        "base-gcrn-tiny",
        "distill-mini-wavlm-gcrn-tiny",
        "concat+distill-mini-wavlm-gcrn-tiny",
        "distill-WavLM_Bas_-gcrn-tiny",
        "concat+distill-WavLM_Bas_-gcrn-tiny",
    ]
    assert len(runs) == 10
    run = runs["concat+distill-WavLM_Bas_-gcrn-small"]
    assert run == {
        "mode": "concat+distill",
        "objective": {
            "concat": {"teacher": "models/WavLM Basé.pt", "size": 8},
            "distill": {"teacher": "models/WavLM Basé.pt", "weight": 0.1},
        },
        "baseline": "base-gcrn-small",
        "model.preset": "gcrn-small",
    }
    assert runs["base-gcrn-small"]["baseline"] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [base, dream]", "no mode 'dream'"),
        ("names: []", "modes.names: is empty"),
        ("teachers: [a/x, b/x]", "modes.teachers: 'x' stands twice"),
        ("names: [base]\n  objective: {distill: {}}", "'distill' is no mode of this grid"),
        ("objective: {distill: {wait: 1}}", "unknown key 'wait'"),
        ("objective: {pretrain: {pretrain_steps: 10}}", "leaves nothing of training.steps"),
        ("teacher: [x]", "unknown key 'teacher'; did you mean 'teachers'"),
    ],
)
def test_bad_grids_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "modes.yaml"
    path.write_text(f"base: {{training.steps: 9}}\nmodes:\n  {text}\n")
    with pytest.raises(EnhanceError) as caught:
        read_study(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_may_not_bear_a_name_of_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "modes.yaml"
    path.write_text("base: {training.steps: 5000}\nmodes: {}\nruns: {distill: {}}\n")
    with pytest.raises(EnhanceError, match=r"runs\.distill: is a run of the grid"):
        read_study(path)
    path.write_text(
        "base: {training.steps: 5000}\nmodes: {}\nruns: {gru: {model.gcrn.cell: gru}}\n"
    )
    assert read_study(path).trial("gru", 0).baseline == "base"


def test_the_papers_figures_are_named_as_the_papers(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text, there in (("modes: {}", True), ("runs: {a: {}}", False)):
        path.write_text(f"base: {{training.steps: 5000}}\n{text}\n")
        study = read_study(path)
        told = page(study_rows(study, tmp_path / "none", "a set", "00"))
        assert (PAPER in told) == there
        assert ("neither checked nor reproduced" in told) == there


def test_the_study_with_controls_is_one_budget_and_as_many_parameters() -> None:
    """The file that is shipped: what each run replaces, and base as wide as concat is heavy."""
    study = read_study(ROOT / "configs/modes-controls.yaml")
    assert study.seeds == (0, 1, 2) and len(study.trials) == 39
    first = {trial.name: trial for trial in study.trials if trial.seed == 0}
    real = ("concat", "distill", "pretrain")
    assert {first[name].baseline for name in real} == {"base"}
    for name in real:
        for control, teacher in (("random", "random:distillmos"), ("log-mel", "log-mel:320")):
            run = first[f"{name}-{control}"]
            assert run.baseline == name and run.config.mode == name
            changed = {"teacher": teacher}
            if (name, control) == ("concat", "log-mel"):
                changed["layers"] = "last"  # it has one state
            assert run.config.objective == first[name].config.objective | changed
    for name in real[1:]:
        own = first[f"{name}-shuffled"].config.objective
        assert own == first[name].config.objective | {"shuffle_targets": "clips"}

    def weights(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in WaveformModel(first[name].config.model).parameters())

    beside = 7 + 200 * 64 + 64  # layer weights and projection of the teacher's features
    assert weights("base-wide") == pytest.approx(weights("concat") + beside, rel=0.005)
    assert weights("concat") > 1.1 * weights("base")
