"""Fine-tuning by CTC on a toy language: it learns, goes on exactly, tells what is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_ctc
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from distill.backbones import find as teacher
from distill.ctc import card, recognizer, score
from distill.ctc.config import CtcConfig
from distill.ctc.data import CtcData, batch_up
from distill.ctc.folder import build, open_backbone
from distill.ctc.train import FORMAT, CtcLearner, finetune
from distill.training.card import share
from enhance.cli.app import app
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors
from enhance.training.engine.learner import Learner

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
    "do_stable_layer_norm": True,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module")
def backbone(make_teacher) -> Path:
    return make_teacher("wavlm", normalize=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("toy")
    counts = {"train": 12, "eval": 4}
    found = {name: tiny_ctc.write(folder, name, n, i) for i, (name, n) in enumerate(counts.items())}
    return found | {"phones": tiny_ctc.write(folder, "phones", 8, 7, "word")}


@pytest.fixture(scope="module")
def whole(backbone, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    finetune(
        tiny_ctc.config(backbone), files["train"], folder, evaluation=files["eval"], quiet=True
    )
    return folder


def test_it_learns_a_toy_language(make_teacher, tmp_path: Path) -> None:
    """Three tones, words of one to three of them: no error on clips it never heard."""
    start = make_teacher("wav2vec2", normalize=True, **SIZE)
    train = tiny_ctc.write(tmp_path, "train", 64, 0)
    unseen = tiny_ctc.write(tmp_path, "eval", 16, 1)
    settings = tiny_ctc.config(
        start,
        steps=110,
        learning_rate=3e-3,
        warmup_steps=10,
        freeze_steps=0,
        train_front_end=True,
        dropout=0.0,
        mask=0.0,
        batch_seconds=8.0,
        validate_every=55,
    )
    record = finetune(settings, train, tmp_path / "m", evaluation=unseen, quiet=True)
    assert record["token_error"]["errors"] == record["word_error"]["errors"] == 0
    assert record["token_error"]["tokens"] > 60
    assert record["constant"]["mean"] > 0.4  # no answer without hearing comes near
    hears = recognizer.load(tmp_path / "m")
    wave = tiny_ctc.say("CAB BA", np.random.default_rng(99))
    assert hears.transcribe(wave) == "CAB BA"
    assert hears.transcribe(tiny_ctc.say("A ACC", np.random.default_rng(98))) == "A ACC"


@pytest.mark.parametrize(("how", "step"), [("ctrl-c", 1), ("kill", 3), ("ctrl-c", 4)])
def test_a_stopped_run_goes_on_exactly(
    backbone, files, whole: Path, tmp_path: Path, monkeypatch, how: str, step: int
) -> None:
    class Killed(BaseException):
        pass

    forward = CtcLearner.forward

    def disturbed(self: CtcLearner, batch: tuple[int, list[int]], at: int) -> Any:
        if at == step - 1 and how == "ctrl-c":
            signal.raise_signal(signal.SIGINT)
        if at == step and how == "kill":
            raise Killed
        return forward(self, batch, at)

    monkeypatch.setattr(CtcLearner, "forward", disturbed)
    torch.manual_seed(1)  # nothing here may depend on it
    settings = tiny_ctc.config(backbone)
    keeps = dataclasses.replace(settings, checkpoint_seconds=0.0)
    more = {"evaluation": files["eval"], "quiet": True}
    if how == "kill":
        with pytest.raises(Killed):
            finetune(keeps, files["train"], tmp_path, **more)
    else:
        stopped = finetune(keeps, files["train"], tmp_path, **more)
        assert stopped == {"stopped": f"step {step}"}
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    torch.manual_seed(2)
    finetune(settings, files["train"], tmp_path, resume=True, **more)
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_goes_on_with_what_it_began_with(
    backbone, make_teacher, files, whole: Path, tmp_path: Path
) -> None:
    def again(settings: CtcConfig, train: Path, **more: Any) -> None:
        finetune(settings, train, whole, evaluation=files["eval"], quiet=True, **more)

    same = tiny_ctc.config(backbone)
    with pytest.raises(EnhanceError, match="holds a run already; --resume"):
        again(same, files["train"])
    lost = shutil.copytree(whole, tmp_path / "lost")
    (lost / "state" / "trainer.safetensors").unlink()
    for resume, told in ((False, "holds model.safetensors already, but not"), (True, "no run to")):
        with pytest.raises(EnhanceError, match=told):
            finetune(same, files["train"], lost, resume=resume, quiet=True)
    weights = "model.safetensors"
    assert (lost / weights).read_bytes() == (whole / weights).read_bytes()
    with pytest.raises(EnhanceError, match="begun with another freeze_steps"):
        again(dataclasses.replace(same, freeze_steps=3), files["train"], resume=True)
    lines = files["train"].read_text().splitlines()
    fewer = files["train"].with_name("fewer.csv")
    fewer.write_text("\n".join(lines[:-1]))
    with pytest.raises(EnhanceError, match="begun with other recordings or texts"):
        again(same, fewer, resume=True)
    before = (backbone / "model.safetensors").read_bytes()
    try:
        other = make_teacher("wavlm", normalize=True, seed=1)
        (backbone / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(EnhanceError, match="begun with other weights to start from"):
            again(same, files["train"], resume=True)
    finally:
        (backbone / "model.safetensors").write_bytes(before)


def test_the_head_is_trained_first_and_the_front_end_not_at_all(
    backbone, files, whole: Path, tmp_path: Path
) -> None:
    start = open_backbone(str(backbone))
    two = tiny_ctc.config(backbone, steps=2)  # the first two steps train the head alone
    more = {"evaluation": files["eval"], "quiet": True}
    finetune(two, files["train"], tmp_path / "two", **more)
    data = CtcData.open(files["train"], files["eval"], two, start.frames, quiet=True)
    first = build(start, data.vocabulary, two).network.state_dict()
    after = {
        "two": load_file(tmp_path / "two" / "model.safetensors"),
        "six": load_file(whole / "model.safetensors"),
    }
    moved = {
        name: {key.split(".")[0] for key, x in tensors.items() if not torch.equal(x, first[key])}
        for name, tensors in after.items()
    }
    assert moved == {"two": {"lm_head"}, "six": {"lm_head", "wavlm"}}
    assert not any(
        "feature_extractor" in key
        for key, x in after["six"].items()
        if not torch.equal(x, first[key])
    )


def test_record_card_and_history(backbone, files, whole: Path) -> None:
    record = json.loads((whole / "record.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [(r["type"], r["step"]) for r in rows] == [
        ("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    assert set(rows[1]) == {"type", "step", "loss", "token_error", "word_error"}
    # The folder on disk says what the model in memory said at the last step
    assert record["token_error"]["mean"] == rows[-1]["token_error"]
    assert record["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    hears = recognizer.load(whole)
    true = [line.split(",") for line in files["eval"].read_text().splitlines()[1:]]
    said = [
        hears.transcribe(soundfile.read(files["eval"].parent / row[0], dtype="float32")[0])
        for row in true
    ]
    again = score.error_rate([list(row[1].replace(" ", "|")) for row in true],
                             [list(text.replace(" ", "|")) for text in said])  # fmt: skip
    assert record["token_error"] == again
    assert record["word_error"]["tokens"] == 8
    assert record["vocabulary"] == ["<pad>", "<unk>", "|", "A", "B", "C"]
    assert record["data"]["shared_speakers"] == [] and record["data"]["unknown_speakers"] == 0
    assert record["parameters"] == sum(
        x.numel() for x in load_file(whole / "model.safetensors").values()
    )
    assert 0 < record["trained_parameters"] < record["parameters"]
    text = (whole / "README.md").read_text("utf-8")
    assert f"| this model | characters | {share(record['token_error'])} | " in text
    assert f"| this model | words | {share(record['word_error'])} | 8 |" in text
    assert f"| {share(record['constant'])} | " in text
    assert "| train | trained on | 12 | " in text and "No speaker stands on both sides." in text
    assert teacher.load(whole).num_layers == 2


def test_the_command_of_the_card_makes_the_same_weights(files, whole: Path, tmp_path: Path) -> None:
    text = (whole / "README.md").read_text("utf-8")
    words = shlex.split(re.search(r"`enhance (teacher finetune-ctc .*?)`", text, re.S)[1])
    places = iter([str(files["train"]), str(files["eval"])])
    words = [next(places) if x == "FILE" else str(tmp_path) if x == "DIR" else x for x in words]
    assert "--set" in words
    result = CliRunner().invoke(app, [*words, "--quiet"])
    assert result.exit_code == 0, result.output
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    before = json.loads((whole / "record.json").read_text("utf-8"))
    differ = {k for k, v in before["config"].items() if record["config"][k] != v}
    assert differ == {"log_every", "validate_every"}  # what decides no weight
    told = f"error rate of characters: {share(record['token_error'])}, of words: "
    assert told in result.output


def test_words_a_share_held_back_and_a_group_norm_model(
    make_teacher, files, tmp_path: Path
) -> None:
    settings = tiny_ctc.config(
        make_teacher("wav2vec2", "group"), units="word", held_back=0.5, steps=2, validate_every=1
    )
    record = finetune(settings, files["phones"], tmp_path, quiet=True)
    data = record["data"]
    assert not data["evaluation_file"] and "word_error" not in record
    assert (data["train"][0]["files"], data["held_back"][0]["files"]) == (4, 4)  # by speaker
    assert data["shared_speakers"] == []
    assert "--eval" not in card.command(record)
    assert "spaces_between_special_tokens=True" in (tmp_path / "README.md").read_text()


def test_tokens_that_are_never_trained_on(backbone, files, tmp_path: Path, caplog) -> None:
    strange = files["eval"].with_name("strange.csv")
    rows = files["eval"].read_text().splitlines()
    path, text, speaker = rows[1].split(",")
    strange.write_text("\n".join([rows[0], f"{path},{text} XYX,{speaker}", *rows[2:]]))
    settings = tiny_ctc.config(backbone, steps=1)
    record = finetune(settings, files["train"], tmp_path, evaluation=strange, quiet=True)
    assert record["unknown_tokens"] == {"X": 2, "Y": 1}
    assert "3 tokens of the evaluation texts are never trained on" in caplog.text
    assert "X (2), Y (1)" in caplog.text
    assert "3 of the measured tokens (2 kinds) were never" in (tmp_path / "README.md").read_text()
    assert "X" not in record["vocabulary"]


@pytest.mark.parametrize("where", ["train", "eval"])
def test_a_clip_too_short_for_its_text(backbone, files, tmp_path: Path, where: str) -> None:
    good = files["train"]
    soundfile.write(good.parent / "short.wav", np.zeros(1680, np.float32), 16000)  # five frames
    # Four characters, two of them alike side by side: five frames are just enough
    for text, fits in (("ABBC", True), ("ABBCC", False)):
        bad = good.with_name(f"{where}-{text}.csv")
        bad.write_text(f"{good.read_text()}short.wav,{text},x\n")
        train, held = (bad, files["eval"]) if where == "train" else (files["eval"], bad)
        settings = tiny_ctc.config(backbone, steps=1)
        frames = open_backbone(str(backbone)).frames
        assert frames(1680) == 5
        if fits:
            CtcData.open(train, held, settings, frames, quiet=True)
            continue
        with pytest.raises(EnhanceError, match=r"1 recordings .* 5 frames, its text needs 7"):
            finetune(settings, train, tmp_path, evaluation=held, quiet=True)
    assert not any(tmp_path.iterdir())


def test_other_refusals(backbone, files, tmp_path: Path) -> None:
    settings = tiny_ctc.config(backbone)
    train = files["train"]

    def refused(
        match: str, first: Path = train, second: Path | None = None, **changes: Any
    ) -> None:
        with pytest.raises(EnhanceError, match=match):
            finetune(dataclasses.replace(settings, **changes), first, tmp_path, evaluation=second)

    refused("12 recordings are trained on as well", second=train)
    blank = train.with_name("blank.csv")
    blank.write_text("path,text\ntrain/0.wav,...\n")
    refused(r"entry 1: nothing is left of the text '...'", blank, train)
    refused("recordings are longer than 0.1 s", longest_seconds=0.1)
    refused("no teacher of this name", backbone="nothing-here")
    refused("units: expected 'char' or 'word', found 'syllable'", units="syllable")
    refused("--minutes or --steps", steps=0)
    refused(
        "the (loss|norm of its gradient) .*(nan|inf)",
        second=files["eval"],
        learning_rate=1e30,
        clip_norm=1e30,
    )


def test_batches(backbone, files) -> None:
    settings = tiny_ctc.config(backbone)
    frames = open_backbone(str(backbone)).frames
    data = CtcData.open(files["train"], files["eval"], settings, frames, quiet=True)
    stream = data.batches(settings)
    drawn = [next(stream) for _ in range(12)]
    size = len(batch_up([data.store.length(i) for i in data.train], 4.0 * 16000))
    assert sorted(i for batch in drawn[:size] for i in batch) == data.train == list(range(12))
    late = data.batches(settings, step=5)
    assert [next(late) for _ in range(7)] == drawn[5:]
    for batch in drawn:
        assert len(batch) * max(data.store.length(i) for i in batch) <= 64000
    assert batch_up([5, 90, 3, 5], 10) == [[2, 0], [3], [1]]


def test_the_learner_leaves_modes_as_they_were(backbone, files) -> None:
    settings = tiny_ctc.config(backbone)
    start = open_backbone(str(backbone))
    data = CtcData.open(files["train"], files["eval"], settings, start.frames, quiet=True)
    learner: Learner = CtcLearner(settings, data, build(start, data.vocabulary, settings))
    network = learner.learnt()["model"]
    for mode in (True, False):
        network.train(mode)
        first, second = learner.validate(), learner.validate()
        assert first == second and network.training is mode  # without dropout
    network.train()

    def loss(number: int) -> float:
        return float(learner.forward((number, data.train[:3]), 4).loss.detach())

    assert loss(4) == loss(4) != loss(5)
    # Two processes draw of their own in one step.
    assert [next(learner.batches(rank, 2, 4))[0] for rank in range(2)] == [8, 9]


def test_the_command(backbone, files, tmp_path: Path) -> None:

    def call(*words: object) -> Any:
        return CliRunner().invoke(app, ["teacher", "finetune-ctc", *map(str, words)])

    assert "--transcripts" in str(call(backbone).exception)
    files_given = ["--transcripts", files["phones"], "--units", "word", "-q"]
    assert "--resume: name the folder" in str(call(backbone, *files_given, "--resume").exception)
    run = [backbone, *files_given, "-o", tmp_path / "m", "--minutes", 0, "--steps", 1]
    result = call(*run)
    assert result.exit_code == 0 and "error rate of tokens: " in result.output
    assert isinstance(call(*run).exception, EnhanceError)
    # Nothing is left to do: the same folder again, of the run's own settings
    again = [backbone, *files_given[:2], "-q", "-o", tmp_path / "m", "--resume"]
    assert call(*again).exit_code == 0
    assert "begun with another dropout" in str(call(*again, "--dropout", 0.3).exception)
    assert "unknown" in str(call(*again, "--set", "hops=3").exception)
    _, header = load_tensors(tmp_path / "m" / "state" / "trainer.safetensors", FORMAT)
    assert header["step"] == 1 and header["config"]["units"] == "word"
