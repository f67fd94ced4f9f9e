"""Every mode from its name: trained, resumed, validated, saved, loaded, evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_modes as tiny
import torch
from typer.testing import CliRunner

from benchmarks.quality.candidates import load, resolve
from distill.modes import choose
from distill.modes.choose import MODES, check_mode, load_model, make_objective, parts
from enhance.cli.app import app
from enhance.config import RunConfig, TrainingConfig
from enhance.config.settings import dump_yaml, parse
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.measure.metrics import si_sdr
from enhance.network.checkpoint import read_info
from enhance.network.tensors import load_tensors
from enhance.training.loop import fit

ALL = ("concat", "pretrain", "concat+distill", "pretrain+distill", "concat+pretrain+distill")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def teacher(make_teacher) -> Path:
    return make_teacher("hubert", "group")


@pytest.fixture(scope="module")
def runs(data: Path, teacher: Path, tmp_path_factory) -> dict[str, Path]:
    """One undisturbed run of each mode."""
    folder = tmp_path_factory.mktemp("runs")
    for mode in ALL:
        summary = tiny.train(tiny.settings(data, mode, teacher), folder / mode)
        assert (summary["stopped"], summary["step"]) == ("finished", 8)
    return {mode: folder / mode for mode in ALL}


@pytest.mark.parametrize("mode", ALL)
def test_history_names_the_losses_of_each_phase(runs: dict[str, Path], mode: str) -> None:
    rows = tiny.tiny.rows(runs[mode], "train")
    enhancing = {"complex", "magnitude", "si_sdr"} | ({"distill"} if "distill" in mode else set())
    first = 3 if "pretrain" in mode else 0
    for row in rows:
        assert set(row["losses"]) == ({"pretrain"} if row["step"] <= first else enhancing)
        assert row["loss"] == pytest.approx(sum(row["losses"].values()), rel=1e-12)
        assert row["gradient_norm"] > 0
    steps = [row["step"] for row in tiny.tiny.rows(runs[mode], "validation")]
    assert steps == [step for step in (2, 4, 6, 8) if step > first]


@pytest.mark.parametrize("mode", ALL)
def test_the_kept_model_is_the_trained_average(
    runs: dict[str, Path], mode: str, teacher: Path
) -> None:
    """Loaded, it scores what validation wrote, and config.json tells how to run it."""
    run = runs[mode]
    model, info = load_model(run)
    assert info.training["mode"] == "+".join(parts(mode))
    assert info.score["step"] > (3 if "pretrain" in mode else 0)
    record = json.loads((run / "config.json").read_text("utf-8"))
    tensors, _ = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    names = {key.removeprefix("average.") for key in tensors if key.startswith("average.")}
    assert names == set(model.state_dict())
    companion = {name for name in names if name.startswith("companion.")}
    if "concat" in mode:
        assert companion == {
            "companion.sum.scores", "companion.projection.weight", "companion.projection.bias"
        }  # fmt: skip
        assert record["companion"]["place"] == str(teacher)
        assert record["model"]["gcrn"]["extra_features"] == record["companion"]["size"] == 5
    else:
        assert not companion and "companion" not in record
        assert record["model"]["gcrn"]["extra_features"] == 0
    best = next(
        row for row in tiny.tiny.rows(run, "validation") if row["step"] == info.score["step"]
    )
    assert best["best"] and best["si_sdr"] == info.score["si_sdr"]


def test_validation_hears_the_teacher(runs: dict[str, Path], data: Path, teacher: Path) -> None:
    """The score of a concat run, computed from its kept model on the same mixtures."""
    from enhance.data.mixing.mixer import Mixer
    from enhance.training.validation import SEED

    settings = tiny.settings(data, "concat", teacher)
    model, info = load_model(runs["concat"])
    mixing = settings.mixing.for_validation(0.0)
    mixer = Mixer(*tiny.tiny.heard(settings).held_back(), mixing, SEED, False)
    scores, without = [], []
    for index in range(settings.training.validation_clips):
        mixture = mixer(0, index)
        wave = torch.from_numpy(mixture.noisy)[None]
        with torch.no_grad():
            scores.append(si_sdr(mixture.clean, model.enhance(wave)[0].numpy()))
            silent = model._run(model.pad(wave), None, torch.zeros(1, model.frames(8000), 5))[0]
            without.append(si_sdr(mixture.clean, silent[0, 80:8080].numpy()))
    assert np.mean(scores) == pytest.approx(info.score["si_sdr"], abs=1e-3)
    assert abs(np.mean(without) - info.score["si_sdr"]) > 1e-3  # the features do count


@pytest.mark.parametrize(
    ("mode", "stop_step"),
    [
        ("concat", 5),
        ("pretrain", 2),  # in the first phase
        ("pretrain", 3),  # at its end
        ("pretrain", 5),  # where the encoder is set free
        ("concat+pretrain+distill", 4),  # frozen
    ],
)
def test_stopped_and_resumed_is_the_same_to_the_bit(
    runs: dict[str, Path], data: Path, teacher: Path, tmp_path: Path, mode: str, stop_step: int
) -> None:
    config, run = tiny.settings(data, mode, teacher), tmp_path / "run"
    first = tiny.train(config, run, stop_step)
    assert (first["stopped"], first["step"]) == ("SIGINT", stop_step)
    assert (run / "model.safetensors").exists() == ("pretrain" not in mode or stop_step > 3)
    torch.rand(5)  # nothing may hang on the state that the process happens to have
    tiny.train(config, run, resume=True)
    tiny.same(runs[mode], run)


def test_log_lines_over_a_border_average_what_there_was(
    runs: dict[str, Path], data: Path, teacher: Path, tmp_path: Path
) -> None:
    config = tiny.settings(data, "pretrain", teacher, log_every=4)
    tiny.train(config, tmp_path / "run")
    fine = tiny.tiny.rows(runs["pretrain"], "train")[:4]
    row = tiny.tiny.rows(tmp_path / "run", "train")[0]
    assert row["losses"]["pretrain"] == pytest.approx(
        np.mean([r["losses"]["pretrain"] for r in fine[:3]]), rel=1e-9
    )
    assert row["losses"]["complex"] == pytest.approx(fine[3]["losses"]["complex"], rel=1e-9)
    assert row["loss"] == pytest.approx(np.mean([r["loss"] for r in fine]), rel=1e-9)


@pytest.mark.parametrize("mode", ["concat", "pretrain"])
def test_evaluated_on_clips(runs: dict[str, Path], data: Path, mode: str, tmp_path: Path) -> None:
    from benchmarks.quality.evaluate import evaluate

    for part in ("clean", "noisy"):
        (tmp_path / "set" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    enhance = load(resolve(runs[mode]))
    scores = []
    for i in range(2):
        clean, _ = soundfile.read(data / "speech" / f"{i}.wav", dtype="float32")
        noise = rng.standard_normal(len(clean)).astype(np.float32)
        noise *= np.sqrt((clean**2).sum() / (noise**2).sum())
        soundfile.write(tmp_path / "set/clean" / f"{i}.wav", clean, 16000, "FLOAT")
        soundfile.write(tmp_path / "set/noisy" / f"{i}.wav", clean + noise, 16000, "FLOAT")
        scores.append(si_sdr(clean, enhance(clean + noise)))
    model, _ = load_model(runs[mode])
    with torch.no_grad():
        expected = model.enhance(torch.from_numpy(clean)[None])[0].numpy()
    np.testing.assert_allclose(enhance(clean), expected, atol=1e-6)
    found = evaluate(runs[mode], tmp_path / "set", 0.0, tmp_path / "report", 1, quiet=True)
    row = found.models[1]
    assert row["metrics"]["si_sdr"]["n"] == 2
    assert row["metrics"]["si_sdr"]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)


def test_parameters_of_a_concat_model_are_told(runs: dict[str, Path]) -> None:
    from enhance.cli.info import _facts

    facts = _facts(str(runs["concat"]), "25-20")
    assert "offline only" in facts["needs"] and "teacher" in facts["needs"]
    assert "needs" not in _facts(str(runs["pretrain"]), "25-20")
    assert read_info(runs["pretrain"]).companion is None


def test_one_teacher_for_two_modes_is_loaded_once(data: Path, teacher: Path, monkeypatch) -> None:
    asked = []
    original = choose.load
    monkeypatch.setattr(choose, "load", lambda name: asked.append(name) or original(name))
    make_objective(tiny.settings(data, "concat+pretrain+distill", teacher), True)
    assert asked == [str(teacher)]


def test_init_from_another_mode(runs: dict[str, Path], data: Path, teacher: Path, tmp_path) -> None:
    """A pretrain model starts a base run, a concat model a concat run, and nothing else."""
    base = tiny.settings(data, "base", teacher, steps=2)
    tiny.train(base, tmp_path / "base", init=runs["pretrain"])
    concat = tiny.settings(data, "concat", teacher, steps=1, validate_every=0, ema_decay=0.0)
    concat = replace(
        concat, training=replace(concat.training, learning_rate=1e-12, matrix_rate=1e-12)
    )
    tiny.train(concat, tmp_path / "concat", init=runs["concat"])
    old, new = load_model(runs["concat"])[0], load_model(tmp_path / "concat")[0]
    torch.testing.assert_close(
        new.companion.projection.weight, old.companion.projection.weight, atol=1e-6, rtol=0
    )
    with pytest.raises(EnhanceError, match="another model"):
        tiny.train(base, tmp_path / "b", init=runs["concat"])
    with pytest.raises(EnhanceError, match="another model"):
        tiny.train(concat, tmp_path / "c", init=runs["pretrain"])
    other = replace(concat, objective={**concat.objective, "layers": "last"})
    with pytest.raises(EnhanceError, match=r"companion\.layers is 'weighted' there, 'last' here"):
        tiny.train(other, tmp_path / "d", init=runs["concat"])
    assert not (tmp_path / "b").exists()


def test_names_of_modes() -> None:
    assert parts("base") == ()
    assert [parts(mode) for mode in MODES[1:]] == [(mode,) for mode in MODES[1:]]
    assert parts("distill+concat+pretrain") == ("pretrain", "concat", "distill")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "dream"}, "mode: no mode 'dream'; known: base, distill, concat, pretrain"),
        ({"mode": "concat+"}, "mode: no mode ''"),
        ({"mode": "concat+concat"}, "twice"),
        ({"mode": "base+concat"}, "base is the mode without a teacher"),
        ({"objective": {"weight": 1}}, "mode base has no settings"),
        ({"model": {"gcrn": {"extra_features": 4}}}, "mode base has no features"),
        ({"mode": "concat", "objective": {"wieght": 1}}, "unknown key 'wieght'"),
        ({"mode": "concat", "objective": {"size": 0}}, "objective: size: expected more than 0"),
        ({"mode": "concat", "objective": {"size": 4}, "model": {"gcrn": {"extra_features": 5}}},
         "mode concat makes 4 features"),
        ({"mode": "distill", "objective": {"distance": "l2"}}, "'correlation', found 'l2'"),
        ({"mode": "pretrain", "objective": {"target": "dirty"}}, "'clean', found 'dirty'"),
        ({"mode": "pretrain", "objective": {"pretrain_steps": 0}}, "steps: expected more than 0"),
        ({"mode": "pretrain", "objective": {"pretrain_steps": 100}}, "leaves nothing of training"),
        ({"mode": "pretrain", "objective": {"pretrain_steps": 9, "freeze_steps": -2}}, "freeze"),
        ({"mode": "concat+distill", "objective": {"layers": "last"}}, "'layers': mode concat+dis"),
        ({"mode": "concat+distill", "objective": {"pretrain": {}}}, "'pretrain': mode concat+dis"),
        ({"mode": "concat+distill", "objective": {"concat": 3}}, "'concat': mode concat+distill"),
        ({"mode": "concat+distill", "objective": {"concat": {"weight": 1}}},
         "objective.concat: unknown key 'weight'"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_anything_is_loaded(settings: dict, message: str) -> None:
    run = parse(RunConfig, {"training": {"steps": 100}, **settings}, "test")
    with pytest.raises(EnhanceError) as caught:
        check_mode(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_combinations_reach_their_mode() -> None:
    from distill.modes.choose import read_objective

    run = RunConfig(
        mode="distill+concat",
        objective={"concat": {"size": 7}, "distill": {"weight": 0.25}},
        training=TrainingConfig(steps=10),
    )
    check_mode(run)
    found = read_objective(run.mode, run.objective)
    assert (found["concat"].size, found["distill"].weight) == (7, 0.25)
    assert read_objective(run.mode, {})["concat"].size == 64


def test_nothing_is_kept_of_a_budget_that_ends_early(
    data: Path, teacher: Path, tmp_path: Path
) -> None:
    """Minutes may end the run in its first phase: said so, nothing kept, and it goes on."""
    config = tiny.settings(data, "pretrain", teacher, minutes=1e-6)
    with pytest.raises(EnhanceError, match="no model was kept; raise"):
        tiny.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    more = replace(config, training=replace(config.training, minutes=60.0))
    assert tiny.train(more, tmp_path / "run", resume=True)["step"] == 8
    assert read_jsonl(tmp_path / "run" / "timing.jsonl")[-1]["type"] == "stop"


def test_a_branch_may_be_shorter_than_the_first_phase_before_it(
    data: Path, teacher: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(dump_yaml(tiny.settings(data, "pretrain", teacher, steps=2)), "utf-8")
    command = ["train", "-c", str(file), "--quiet", "--accelerator", "cpu"]
    result = CliRunner().invoke(app, [*command, "--run", str(tmp_path / "new")])
    assert "leaves nothing of training.steps 2" in str(result.exception)
    more = ["--run", str(tmp_path / "branch"), "--branch", str(tmp_path / "long")]
    long = tiny.settings(data, "pretrain", teacher)
    with tiny.tiny.little_settling():
        fit(long, make_objective(long, True), tmp_path / "long", quiet=True)
        result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 0, result.exception
    assert read_info(tmp_path / "branch").score["step"] == 10
    result = CliRunner().invoke(app, [*command, "--resume", "--run", str(tmp_path / "branch")])
    assert "has used its budget (2 steps" in str(result.exception)


@pytest.mark.parametrize("mode", ["distill", "concat+distill"])
def test_a_stopped_run_may_go_on_with_another_cache(
    data: Path, teacher: Path, tmp_path: Path, mode: str
) -> None:
    config = tiny.settings(data, mode, teacher)
    tiny.train(config, tmp_path / "run", stop_step=3)
    objective = dict(config.objective)
    own = dict(objective.get("distill", objective), cache_gb=0.0)
    objective = {**objective, "distill": own} if "distill" in objective else own
    heavier = dict(own, weight=0.5)
    other = {**objective, "distill": heavier} if "distill" in objective else heavier
    with pytest.raises(EnhanceError, match=r"weight was .*, is 0\.5"):
        tiny.train(replace(config, objective=other), tmp_path / "run", resume=True)
    tiny.train(replace(config, objective=objective), tmp_path / "run", resume=True)
    tiny.train(config, tmp_path / "whole")
    ours, theirs = (read_jsonl(tmp_path / x / "history.jsonl") for x in ("run", "whole"))
    assert ours == theirs
