"""Training with and without the adversary on buzzes: resumption, folder, evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

from benchmarks.analysis.dann import _ends, evaluate, fresh, recipes
from benchmarks.analysis.parts.work import Work
from distill.backbones.find import SHIPPED, load
from distill.dann import train as training
from distill.dann.config import (
    Adversary,
    BackboneConfig,
    DannConfig,
    Discriminator,
    LambdaSchedule,
)
from enhance.cli.app import app
from enhance.config.settings import to_dict
from enhance.data.corpus.manifest import Clip, read_manifest, write_manifest
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors

KINDS = ("low", "high", "all")


def write_task(folder: Path, speakers: range) -> Path:
    """Buzzes, clear (bona fide) or hoarse (spoof); a domain is a tilt of the spectrum."""
    folder.mkdir()
    clips = []
    for speaker in speakers:
        rng = np.random.default_rng(speaker)
        for i in range(12):
            t = np.arange(6400) / 16000
            wave = np.sign(
                np.sin(2 * np.pi * (90 + 9 * (5 * speaker % 12) + rng.uniform(0, 3)) * t)
            )
            wave = 0.1 * wave + 0.02 * rng.standard_normal(6400)
            label, kind = ("bonafide", "spoof")[i % 2], KINDS[i // 2 % 3]
            if label == "spoof":
                wave += 0.3 * rng.standard_normal(6400)
            if kind != "all":
                taps = [0.5, 0.5] if kind == "low" else [0.5, -0.5]
                wave = np.convolve(wave, taps, "same")
            path = folder / f"{speaker}-{i}.wav"
            soundfile.write(path, wave, 16000)
            labels = {"label": label, "codec": kind}
            clips.append(Clip(path, 0.4, 16000, "speech", "made here", f"s{speaker}", labels))
    write_manifest(folder / "manifest.jsonl", clips)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Manifests to train and to evaluate on."""
    folder = tmp_path_factory.mktemp("task")
    return write_task(folder / "train", range(8)), write_task(folder / "other", range(8, 12))


def config(places: tuple[Path, Path], **changes: object) -> DannConfig:
    plain = DannConfig(
        train=str(places[0]),
        seconds=0.4,
        epochs=6,
        batch=16,
        embedding=16,
        held_back=0.3,
        backbone=BackboneConfig(name="log-mel:320"),
        dann=Adversary(discriminator=Discriminator(hidden_dim=32)),
        optimizer="adamw",
        learning_rate=0.003,
        log_every=2,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def strength(start: float, end: float) -> Adversary:
    schedule = LambdaSchedule(start=start, end=end)
    return Adversary(lambda_schedule=schedule, discriminator=Discriminator(hidden_dim=32))


@pytest.fixture(scope="module")
def runs(task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings that were never stopped."""
    folder = tmp_path_factory.mktemp("runs")
    for name, adversary in (("erm", strength(0, 0)), ("dann", strength(0, 1))):
        training.train(
            config(task, dann=adversary), folder / name, cache=folder / "cache", quiet=True
        )
    return {name: folder / name for name in ("erm", "dann")}


def test_the_folder(runs: dict[str, Path]) -> None:
    run = training.load(runs["dann"])
    record = run.record
    assert record["classes"] == ["spoof", "bonafide"] and record["domains"] == sorted(KINDS)
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert record["best"] == min(record["epochs"], key=lambda row: row["eer"])
    assert record["layer_weights"] == {"0": 1.0}
    history = [json.loads(x) for x in (runs["dann"] / "history.jsonl").read_text().splitlines()]
    strengths = [row["lambda"] for row in history if "lambda" in row]
    assert strengths == sorted(strengths) and strengths[0] < 0.5 < strengths[-1] < 1
    assert run.config == config_of(runs["dann"]) and run.network.teacher is None


def test_another_backbone_of_the_same_name_is_refused(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_teacher", lambda name: load("log-mel:160"))
    with pytest.raises(EnhanceError, match="trained on another log-mel:320 than is there now"):
        training.load(runs["dann"])


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="name a finished run of enhance dann train"):
        training.load(tmp_path)


def config_of(run: Path) -> DannConfig:
    return training.parse(DannConfig, json.loads((run / "record.json").read_text())["config"], "")


@pytest.mark.parametrize("step", [2, 9])
def test_a_stopped_run_goes_on_exactly(
    task: tuple[Path, Path],
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    forward = training.DannLearner.forward

    def disturbed(self: training.DannLearner, batch: dict, at: int) -> object:
        if at == step:
            signal.raise_signal(signal.SIGINT)
        return forward(self, batch, at)

    monkeypatch.setattr(training.DannLearner, "forward", disturbed)
    settings = config(task, dann=strength(0, 1))
    more = {"cache": runs["dann"].parent / "cache", "quiet": True}
    assert training.train(settings, tmp_path, **more) == {"stopped": f"step {step + 1}"}
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    training.train(settings, tmp_path, resume=True, **more)
    whole, gone_on = runs["dann"], tmp_path
    assert (whole / "history.jsonl").read_bytes() == (gone_on / "history.jsonl").read_bytes()
    (was, told), (now, retold) = (
        load_tensors(folder / training.MODEL, training.FORMAT) for folder in (whole, gone_on)
    )
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert told["epochs"] == retold["epochs"] and told["best"] == retold["best"]
    (tmp_path / "state" / "trainer.safetensors").unlink()
    before = (tmp_path / training.MODEL).read_bytes()
    for resume, refusal in ((False, f"holds {training.MODEL} already"), (True, "no run to go on")):
        with pytest.raises(EnhanceError, match=refusal):
            training.train(settings, tmp_path, resume=resume, **more)
    assert (tmp_path / training.MODEL).read_bytes() == before


def test_a_run_goes_on_with_its_own_clips_only(
    task: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    """A manifest that says something else under the same name, another model in the same folder."""
    places = shutil.copytree(task[0].parent, tmp_path / "train") / task[0].name, task[1]
    teacher = shutil.copytree(SHIPPED / "mini-wavlm", tmp_path / "teacher")
    settings = config(places, epochs=1, backbone=BackboneConfig(name=str(teacher)))
    more = {"cache": tmp_path / "cache", "quiet": True}
    training.train(settings, tmp_path / "run", **more)
    was = teacher / "preprocessor_config.json"
    was.write_text(was.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    with pytest.raises(EnhanceError, match="was begun with other weights of the backbone"):
        training.train(settings, tmp_path / "run", resume=True, **more)
    was.write_text(was.read_text().replace('"do_normalize": false', '"do_normalize": true'))
    turned = [
        dataclasses.replace(c, labels={**c.labels, "codec": KINDS[i % 3]})
        for i, c in enumerate(read_manifest(places[0]))
    ]
    write_manifest(places[0], turned)
    with pytest.raises(EnhanceError, match="was begun with other clips, answers or domains"):
        training.train(settings, tmp_path / "run", resume=True, **more)


def test_evaluation(task: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path) -> None:
    cache = runs["dann"].parent / "cache"
    record = evaluate([*runs.values()], task[1], tmp_path, Work(features=cache, quiet=True))
    rows = record["rows"]
    errors = {(r["run"], r["group"]): r for r in rows if r["kind"] == "errors"}
    assert set(errors) == {(n, g) for n in runs for g in ("pooled", *KINDS)}
    for row in errors.values():
        assert row["low"] <= row["mean"] <= row["high"] and row["wanted"] * 2 == row["trials"]
    assert errors["erm", "pooled"]["trials"] == 48 and errors["erm", "low"]["trials"] == 16
    assert errors["erm", "pooled"]["mean"] < 0.25  # a task that can be learnt
    told = {(r["run"], r["who"]): r for r in rows if r["kind"] == "domain"}
    assert len(told) == 6 and {round(r["chance"], 4) for r in told.values()} == {0.3333}
    assert told["erm", "fresh linear probe"]["mean"] > 0.6  # nobody told it to forget
    assert [r["weight"] for r in rows if r["kind"] == "layer"] == [1.0, 1.0]
    assert len([r for r in rows if r["kind"] == "epoch"]) == 12
    (apart,) = (r for r in rows if r["kind"] == "difference")
    want = errors["dann", "pooled"]["mean"] - errors["erm", "pooled"]["mean"]
    assert (apart["recipe"], apart["over"], apart["seeds"]) == ("dann", "erm", 1)
    assert apart["mean"] == pytest.approx(want)
    assert json.loads((tmp_path / "dann.json").read_text())["rows"] == rows
    page = (tmp_path / "dann.md").read_text()
    assert "| pooled |" in page and "fresh deep probe" in page and "1 (no claim)" in page
    assert (tmp_path / "dann-training.svg").read_text().startswith("<svg")
    with pytest.raises(EnhanceError, match=r"8 speakers were trained on \(first: made here/s0\)"):
        evaluate([runs["erm"]], task[0], tmp_path, Work(features=cache, quiet=True))


def test_seeds_of_one_recipe_are_put_together(
    task: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    """Their mean; an interval that holds both."""
    cache = runs["dann"].parent / "cache"
    one, two = (tmp_path / f"erm-s{seed}" for seed in (0, 7))
    shutil.copytree(runs["erm"], one)
    training.train(config(task, dann=strength(0, 0), seed=7), two, cache=cache, quiet=True)
    work = Work(features=cache, quiet=True)
    record = evaluate([one, two, runs["dann"]], task[1], tmp_path, work)
    assert record["about"]["recipes"] == {"erm": ["erm-s0", "erm-s7"], "dann": ["dann"]}
    rows = [r for r in record["rows"] if r.get("group") == "pooled"]
    each = [r["mean"] for r in rows if r["kind"] == "errors"][:2]
    faster = {"erm-s0": config(task), "erm-s1": config(task, seed=1, learning_rate=0.1)}
    assert recipes(faster) == {"erm-s0": ["erm-s0"], "erm-s1": ["erm-s1"]}
    mean = next(r for r in rows if r.get("recipe") == "erm")
    assert mean["mean"] == pytest.approx(np.mean(each)) and mean["seeds"] == 2
    assert mean["low"] <= min(each) and mean["high"] >= max(each)


@pytest.mark.parametrize("speakers", [0.0, 1.0])
def test_an_interval_over_three_seeds_covers(speakers: float) -> None:
    """What speakers and what a seed do to a mean error of 0 vary by so much, and by 1."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        drawn = speakers * (rng.standard_normal() + rng.standard_normal(500))
        ends = _ends(rng.standard_normal((3, 1)) / np.sqrt(1 / 3) + drawn, 0)
        hits += ends["low"] <= 0 <= ends["high"]
    # 380 are expected, the standard deviation is 4; seeds drawn with replacement give 293.
    assert 364 <= hits <= 398


def test_clips_of_one_kind_have_no_errors_and_no_difference(
    task: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    clips = [c for c in read_manifest(task[1]) if c.labels["label"] == "bonafide"]
    write_manifest(tmp_path / "one.jsonl", clips)
    work = Work(features=runs["erm"].parent / "cache", quiet=True)
    found = evaluate(list(runs.values()), tmp_path / "one.jsonl", tmp_path, work)["rows"]
    assert {row["mean"] for row in found if row["kind"] == "errors"} == {None}
    kinds = {row["kind"] for row in found}
    assert "domain" in kinds and not kinds & {"recipe", "difference"}


def test_a_fresh_probe_finds_what_there_is() -> None:
    """Of an exclusive or, the deep one all and the linear one less; of chance, neither."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1600, 2))
    answers = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    train, test = slice(None, 1200), slice(1200, None)

    def accuracy(labels: np.ndarray, hidden: tuple[int, ...]) -> float:
        said = fresh(x[train], labels[train], x[test], hidden, 0)
        return float((said == labels[test]).mean())

    assert accuracy(answers, (32, 32)) > 0.9
    assert accuracy(answers, ()) < 0.76  # a line through a corner
    assert accuracy(rng.permutation(answers), (32, 32)) == pytest.approx(0.5, abs=0.12)
    assert accuracy((x[:, 0] > 0).astype(int), ()) > 0.97


def test_speakers_are_verified(task: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(task, task="speaker", epochs=3, held_back=0.4)
    record = training.train(settings, tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    assert len(record["classes"]) + 3 == len(record["speakers"]) == 8
    work = Work(features=tmp_path / "cache", quiet=True)
    found = evaluate([tmp_path / "run"], task[1], tmp_path, work)["rows"]
    pooled = next(r for r in found if r.get("group") == "pooled")
    assert (pooled["trials"], pooled["wanted"]) == (24 * 23 // 2, 4 * 15)
    assert pooled["mean"] < 0.45
    low = next(r for r in found if r.get("group") == "low")
    assert (low["trials"], low["wanted"]) == (8 * 7 // 2, 4)


def test_what_cannot_be_measured_is_told_before_training(
    task: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = read_manifest(task[1])
    place = tmp_path / "some.jsonl"
    more = {"cache": tmp_path / "cache", "quiet": True}
    for kind, chosen in (
        ("spoof", [c for c in clips if c.labels["label"] == "bonafide"]),
        (
            "speaker",
            list({c.speaker: c for c in clips if c.labels["label"] == "bonafide"}.values()),
        ),
    ):
        write_manifest(place, chosen)
        settings = config(task, task=kind, validation=str(place), epochs=1)
        with pytest.raises(
            EnhanceError, match=f"^validation: no error rate of these {len(chosen)}"
        ):
            training.train(settings, tmp_path / kind, **more)
        assert not (tmp_path / kind / "history.jsonl").exists()
    # Domains that were not trained on: nothing can be said of the discriminator.
    new = [dataclasses.replace(c, labels={**c.labels, "codec": "new"}) for c in clips]
    assert not caplog.text
    heard = read_manifest(task[0])[0].speaker
    write_manifest(place, [*new, dataclasses.replace(new[0], speaker=heard)])
    training.train(config(task, validation=str(place), epochs=1), tmp_path / "run", **more)
    assert f"1 of its speakers are in train too ({heard})" in caplog.text
    record = json.loads((tmp_path / "run/record.json").read_text(), parse_constant=pytest.fail)
    assert record["best"]["domain_accuracy"] is None


def test_a_backbone_that_learns(task: tuple[Path, Path], tmp_path: Path) -> None:
    backbone = BackboneConfig(freeze=False, freeze_layers=(0, 1, 2, 3, 4))
    settings = config(task, backbone=backbone, epochs=1, held_back=0.6)
    training.train(settings, tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    run, shipped = training.load(tmp_path / "run"), load("mini-wavlm")
    assert run.teacher.fingerprint != shipped.fingerprint
    moved = {
        name.split(".")[3]
        for name, value in run.network.teacher.state_dict().items()
        if not torch.equal(value, shipped.state_dict()[name])
    }
    assert moved == {"5"}
    assert not (tmp_path / "cache").exists()  # nothing that it says is worth keeping


def test_commands(task: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path) -> None:
    file, cache = tmp_path / "mine.yaml", str(runs["erm"].parent / "cache")
    file.write_text(yaml.safe_dump(to_dict(config(task, epochs=1))))
    words = ["dann", "train", str(file), "-o", str(tmp_path / "run"), "-q", "--cache", cache]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "% after epoch 1, held back" in done.output, done.output
    again = CliRunner().invoke(app, words)
    assert "holds a run already; --resume" in str(again.exception)
    words = ["dann", "evaluate", str(tmp_path / "run"), "--eval", str(task[1]), "-q"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--cache", cache])
    assert done.exit_code == 0 and "EER in %" in done.output, done.output
    for change, told in (
        ("epochs=0", "epochs: expected more than 0"),
        ("dann.lambda=1", "mine.yaml: dann: unknown key 'lambda'; known: lambda_schedule"),
        ("train=", "train: name a manifest or an ASVspoof protocol"),
        ("backbone.layer_selection.method=first_k", "layers 'first_k:0'"),
    ):
        other = ["dann", "train", str(file), "-o", str(tmp_path / "no"), "-q", "--set", change]
        refused = CliRunner().invoke(app, other)
        assert told in str(refused.exception), refused.exception
