"""Training of speaker encoders on a tiny corpus: batches, exact resumption, folder, refusals."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks.analysis import teachers as teacher_table
from distill.backbones.ecapa_model import EcapaConfig
from distill.backbones.find import load
from distill.speaker import score
from distill.speaker.config import AamConfig, DinoConfig, SpeakerConfig
from distill.speaker.data import Crops, SpeakerData
from distill.speaker.train import FORMAT, train
from enhance.cli.app import app
from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.network.tensors import load_tensors

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="needs the extra `speaker`"
)
TINY = EcapaConfig(
    channels=(8, 8, 8, 8, 16), attention_channels=8, res2net_scale=4, se_channels=8, embedding=12
)


def config(objective: str, **changes: object) -> SpeakerConfig:
    plain = SpeakerConfig(
        objective=objective,
        preset="",
        architecture=TINY,
        minutes=0,
        steps=6,
        batch=4,
        warmup_steps=2,
        held_back=0.3,
        mixing=MixingConfig(snr=(0.0, 15.0), rir_probability=0.5, rir_count=2),
        aam=AamConfig(crop_seconds=0.5),
        dino=DinoConfig(
            global_seconds=0.5,
            local_crops=2,
            local_seconds=0.3,
            outputs=16,
            hidden=12,
            bottleneck=6,
            temperature_steps=3,
            frozen_steps=2,
        ),
        log_every=2,
        validate_every=3,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def write_corpus(folder: Path, speakers: list[str], clips: int, seed: int) -> Path:
    """Voices that differ in pitch and formant, and some noise."""
    rng = np.random.default_rng(seed)
    (folder / "speech").mkdir(parents=True)
    rows = []
    for s, name in enumerate(speakers):
        pitch, formant = 90 + 37 * s, 400 + 330 * s
        for c in range(clips):
            n = int(rng.integers(8000, 14000))
            t = np.arange(n) / 16000
            voice = np.sign(np.sin(2 * np.pi * pitch * rng.uniform(0.97, 1.03) * t))
            wave = 0.1 * voice * (1 + np.sin(2 * np.pi * formant * t)) + rng.normal(0, 0.003, n)
            path = f"speech/{name}_{c}.wav"
            soundfile.write(folder / path, (wave * rng.uniform(0.3, 1)).astype(np.float32), 16000)
            rows.append([path, n / 16000, "lab", name, "speech"])
    for i in range(2):
        soundfile.write(folder / f"noise{i}.wav", rng.normal(0, 0.05, 20000), 16000)
        rows.append([f"noise{i}.wav", 20000 / 16000, "fan", "", "noise"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "seconds", "source", "speaker", "kind"], *rows])
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"s{i}" for i in range(8)]
    return write_corpus(tmp_path_factory.mktemp("speakers") / "c", names, 4, 0)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("others") / "c", ["x", "y", "z"], 3, 1)


@pytest.fixture(scope="module")
def whole(corpus: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that were never stopped."""
    folders = {}
    for objective in ("aam", "dino"):
        folder = tmp_path_factory.mktemp(objective) / "model"
        train(config(objective), corpus, folder, evaluation=others, quiet=True)
        folders[objective] = folder
    return folders


@pytest.mark.parametrize("objective", ["aam", "dino"])
@pytest.mark.parametrize(("how", "step"), [("ctrl-c", 1), ("kill", 3), ("ctrl-c", 4)])
def test_a_stopped_run_goes_on_exactly(
    corpus: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    how: str,
    step: int,
) -> None:
    class Killed(BaseException):
        pass

    batch = Crops.batch

    def disturbed(self: Crops, at: int) -> object:
        if at == step:
            if how == "kill":
                raise Killed
            signal.raise_signal(signal.SIGINT)
        return batch(self, at)

    monkeypatch.setattr(Crops, "batch", disturbed)
    # A kill loses what was done since the last saved state
    settings = config(objective, checkpoint_seconds=0.0)
    if how == "kill":
        with pytest.raises(Killed):
            train(settings, corpus, tmp_path, quiet=True)
    else:
        assert train(settings, corpus, tmp_path, quiet=True) == {"stopped": f"step {step}"}
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    train(config(objective), corpus, tmp_path, resume=True, quiet=True)
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[objective] / name).read_bytes()


@pytest.mark.parametrize("objective", ["aam", "dino"])
def test_the_folder_is_a_teacher_with_a_card(whole: dict[str, Path], objective: str) -> None:
    folder = whole[objective]
    start = TINY.build(0).network.state_dict()
    end = load_file(folder / "model.safetensors")
    assert set(start) == set(end)
    moved = [n for n in end if n.endswith("weight") and not torch.equal(end[n], start[n])]
    assert len(moved) == sum(n.endswith("weight") for n in end)
    teacher = load(folder)
    assert teacher.widths == (8, 8, 8, 8, 16) and not teacher.causal
    record = json.loads((folder / "record.json").read_text())
    assert record["steps"] == 6 and record["speakers"] == (6 if objective == "aam" else 0)
    assert record["parameters"] == sum(p.numel() for p in teacher.parameters())
    assert len(record["data"]["held_back_speakers"]) == 2
    rows = [json.loads(x) for x in (folder / "history.jsonl").read_text().splitlines()]
    assert [(r["type"], r["step"]) for r in rows] == [
        ("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    keys = {"aam": {"accuracy"}, "dino": {"teacher_entropy", "mean_entropy"}}[objective]
    assert keys <= set(rows[0]) and rows[1]["speakers"] == 2
    card = (folder / "README.md").read_text()
    assert " --set 'preset=\"\"' --set 'architecture.channels=[8, 8, 8, 8, 16]'" in card
    rows = record["verification"]
    assert [r["embedding"] for r in rows] == ["trained", "random weights", "mean log-mel spectrum"]
    assert all(r["speakers"] == 3 and r["targets"] == 9 and r["nontargets"] == 27 for r in rows)
    for row in rows:
        assert f"| {row['embedding']} | {100 * row['eer']:.1f} % (" in card


@pytest.mark.parametrize("objective", ["aam", "dino"])
def test_its_row_in_the_table_of_teachers(whole: dict[str, Path], objective: str) -> None:
    row = teacher_table.describe(str(whole[objective]))
    record = json.loads((whole[objective] / "record.json").read_text("utf-8"))
    trained, random, spectrum = record["verification"]
    assert (trained["embedding"], random["embedding"]) == ("trained", "random weights")
    assert row["family"] == "ecapa-tdnn"
    assert row["metric"]["value"]["mean"] == trained["eer"]
    told = teacher_table.markdown([row])
    assert f"EER {100 * trained['eer']:.1f} % ({100 * trained['low']:.1f} to " in told
    cells = told.splitlines()[2].split(" | ")
    assert f"50.0 % | mean spectrum {100 * spectrum['eer']:.1f} % (" in told
    assert f" | {100 * random['eer']:.1f} % (" in told
    assert f" | {100 * record['held_back']['eer']:.1f} % (" in told
    points = 100 * (spectrum["eer"] - trained["eer"])
    assert f"{points:+.1f}" + (", BELOW it" if points < 0 else "") in cells


def test_what_is_kept_of_dino_is_the_teacher(whole: dict[str, Path]) -> None:
    tensors, _ = load_tensors(whole["dino"] / "state" / "trainer.safetensors", FORMAT)
    kept = load_file(whole["dino"] / "model.safetensors")
    for name, tensor in kept.items():
        assert torch.equal(tensor, tensors[f"learner.encoder.network.{name}"])
    assert not torch.equal(
        kept["fc.conv.weight"], tensors["learner.student.network.fc.conv.weight"]
    )


def test_batches_are_a_function_of_the_step(corpus: Path) -> None:
    settings = config("aam", clean_probability=0.5)
    data = SpeakerData.open(corpus, settings, quiet=True)
    one, two = (Crops(data, settings, (0.5, 0.3)) for _ in range(2))
    one.batch(0)
    (first, owner), (again, same) = one.batch(3), two.batch(3)
    assert [v.shape for v in first] == [(4, 8000), (4, 4800)]
    assert all((a == b).all() for a, b in zip(first, again, strict=True)) and (owner == same).all()
    assert not (one.batch(4)[0][0] == first[0]).all()
    assert len(set(owner.tolist())) == 4  # distinct speakers where there are enough


def test_clean_crops_are_cut_from_the_clip_and_short_ones_repeat_it(corpus: Path) -> None:
    settings = config("aam", clean_probability=1.0)
    data = SpeakerData.open(corpus, settings, quiet=True)
    crops = Crops(data, settings, (0.2, 1.5))
    (short, long), owner = crops.batch(0)
    for row in range(4):
        found = []
        for i in np.flatnonzero(data.owner == owner[row]):
            clip = data.train.whole(int(i))
            around = np.tile(clip, 4)
            windows = np.lib.stride_tricks.sliding_window_view(around[: 2 * len(clip)], 64)
            starts = np.flatnonzero((windows == long[row, :64]).all(1))
            found += [i for s in starts if (around[s : s + 24000] == long[row]).all()]
            inside = np.lib.stride_tricks.sliding_window_view(clip, 3200)
            found += [i for _ in np.flatnonzero((inside == short[row]).all(1))]
        assert len(set(found)) == 1 and len(found) >= 2  # both views, one clip


def test_a_crop_is_looked_for_where_there_is_sound(tmp_path: Path) -> None:
    """Of a clip of 100 s with one second of sound, twenty draws miss it 4 times in 5."""
    wave = np.zeros(100 * 16000)
    wave[70 * 16000 : 71 * 16000] = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    clips = []
    for name, heard in (("gated", wave), ("silent", 0 * wave)):
        soundfile.write(tmp_path / f"{name}.wav", heard, 16000)
        clips.append(Clip(tmp_path / f"{name}.wav", 100.0, 16000, "speech", "lab", name))
    stores = [ClipStore([clip], quiet=True) for clip in clips]
    sound, silence = (
        Crops(SpeakerData(store, None, None, np.zeros(1, np.int64), 0), config("dino"), (0.5,))
        for store in stores
    )
    for step in range(20):
        views, _ = sound.batch(step)
        assert (np.abs(views[0]).max(axis=1) > 1e-4).all()
    with pytest.raises(EnhanceError, match=r"silent\.wav: is silent; leave it out"):
        silence.batch(0)


def test_noisy_crops_have_the_snr_asked_for(corpus: Path) -> None:
    settings = config(
        "aam", clean_probability=0.0, mixing=MixingConfig(snr=(6.0, 6.0), rir_probability=0.0)
    )
    data = SpeakerData.open(corpus, settings, quiet=True)
    noisy = Crops(data, settings, (0.5,)).batch(0)[0][0]
    clean = Crops(data, dataclasses.replace(settings, clean_probability=1.0), (0.5,)).batch(0)[0][0]
    for x, s in zip(noisy.astype(np.float64), clean.astype(np.float64), strict=True):
        gain = (x @ s) / (s @ s)  # the noise is white: nearly orthogonal
        rest = x - gain * s
        assert 10 * np.log10(gain**2 * (s @ s) / (rest @ rest)) == pytest.approx(6.0, abs=0.5)


def test_dino_hears_every_clip_once_an_epoch_and_no_labels(corpus: Path) -> None:
    settings = config("dino", clean_probability=1.0)
    data = SpeakerData.open(corpus, settings, quiet=True)
    assert data.speakers == 0 and not data.owner.any()
    crops = Crops(data, settings, (0.3,))
    clips = len(data.train)
    drawn = np.concatenate([crops._chosen(step) for step in range(2 * clips // 4)])
    counts = np.bincount(drawn[: clips // 4 * 4], minlength=clips)
    assert counts.max() == 1 and np.bincount(drawn, minlength=clips).max() <= 2


def test_what_the_encoder_is_compared_with(corpus: Path, others: Path) -> None:
    data = SpeakerData.open(corpus, config("aam"), quiet=True)
    store = score.open_evaluation(others, "", quiet=True)
    random = TINY.build(0).eval()
    rows = score.compare(random, TINY.build(0), data.train, store)
    assert rows[0]["eer"] == rows[1]["eer"]
    embed = score.of_mean_spectrum(data.train, random)
    wave = torch.from_numpy(store.whole(0))[None]
    centre = torch.stack(
        [random.fbank(torch.from_numpy(data.train.whole(i))[None]).mean(1)[0] for i in range(24)]
    ).mean(0)
    torch.testing.assert_close(embed(wave)[0], random.fbank(wave).mean(1)[0] - centre)


def test_measuring_leaves_the_mode_alone(others: Path) -> None:
    store = score.open_evaluation(others, "", quiet=True)
    model = TINY.build(0).train()
    before = {n: t.clone() for n, t in model.network.state_dict().items()}
    found = score.measure(store, score.of_encoder(model))
    assert model.training and found.clips == 9
    assert all(torch.equal(t, before[n]) for n, t in model.network.state_dict().items())


def test_refusals(corpus: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    aam = config("aam")
    with pytest.raises(EnhanceError, match="6 speakers are trained on as well"):
        train(aam, corpus, tmp_path / "a", evaluation=corpus, quiet=True)
    with pytest.raises(EnhanceError, match="holds a run already"):
        train(aam, corpus, whole["aam"], quiet=True)
    with pytest.raises(EnhanceError, match="no run to go on with"):
        train(aam, corpus, tmp_path / "b", resume=True, quiet=True)
    lost = shutil.copytree(whole["aam"], tmp_path / "lost")
    (lost / "state" / "trainer.safetensors").unlink()
    for resume, told in ((False, "holds model.safetensors already, but not"), (True, "no run to")):
        with pytest.raises(EnhanceError, match=told):
            train(aam, corpus, lost, resume=resume, quiet=True)
    weights = "model.safetensors"
    assert (lost / weights).read_bytes() == (whole["aam"] / weights).read_bytes()
    with pytest.raises(EnhanceError, match="begun with another batch"):
        train(config("aam", batch=5), corpus, whole["aam"], resume=True, quiet=True)
    with pytest.raises(EnhanceError, match=r"--source mars: .*sources of speech there: lab"):
        train(config("aam", source="mars"), corpus, tmp_path / "c", quiet=True)
    unlabelled = tmp_path / "plain" / "speech"
    unlabelled.mkdir(parents=True)
    for file in sorted((corpus / "speech").iterdir())[:4]:
        (unlabelled / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EnhanceError, match="needs clips of two speakers"):
        train(aam, unlabelled, tmp_path / "d", quiet=True)
    with pytest.raises(EnhanceError, match="no such manifest or folder"):
        train(aam, tmp_path / "nowhere", tmp_path / "e", quiet=True)
    for name in "abcde":
        assert not (tmp_path / name / "model.safetensors").exists()
    for wrong in ({"objective": "x"}, {"preset": "huge"}, {"batch": 1}, {"steps": 0}):
        with pytest.raises(EnhanceError):
            config("aam", **wrong) if "objective" not in wrong else config("x")


@pytest.mark.parametrize("objective", ["aam", "dino"])
def test_a_run_goes_on_with_its_own_recordings_only(
    corpus: Path, whole: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    other = write_corpus(tmp_path / "c", [f"s{i}" for i in range(8)], 4, 5)  # as many of each
    with pytest.raises(EnhanceError, match="was begun with other recordings than those of"):
        train(config(objective), other, whole[objective], resume=True, quiet=True)


def test_without_labels_and_noise_dino_still_trains(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in sorted((corpus / "speech").iterdir())[:8]:
        (folder / file.name).write_bytes(file.read_bytes())
    record = train(config("dino", steps=2), folder, tmp_path / "model", quiet=True)
    assert "held_back" not in record and record["data"]["noise"] == []
    told = " ".join(caplog.messages)
    assert "no noise there" in told and "no validation" in told
    assert "Not measured" in (tmp_path / "model" / "README.md").read_text()


def test_a_diverging_run_stops(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="the loss is nan"):
        train(config("aam", learning_rate=1e30), corpus, tmp_path, quiet=True)
    assert not (tmp_path / "model.safetensors").exists()


def test_minutes_only_decide_when_the_last_quarter_begins(corpus: Path, tmp_path: Path) -> None:
    record = train(config("aam", steps=0, minutes=0.02), corpus, tmp_path / "a", quiet=True)
    again = train(config("aam", steps=record["steps"]), corpus, tmp_path / "b", quiet=True)
    assert again["steps"] == record["steps"] >= 2
    one, two = ((tmp_path / x / "model.safetensors").read_bytes() for x in "ab")
    assert one == two


def test_the_command(corpus: Path, others: Path, tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["teacher", "pretrain-speaker", *words])

    out = tmp_path / "model"
    words = ["--corpus", str(corpus), "--eval", str(others), "--output", str(out), "--quiet"]
    words += ["--minutes", "0", "--steps", "1", "--batch", "2"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "EER of 3 unseen speakers, trained: " in done.output
    assert load(out).widths == (128, 128, 128, 128, 256)
    assert "--set" not in (out / "README.md").read_text()
    other = tmp_path / "other"
    words = ["--corpus", str(corpus), "--output", str(other), "--quiet", "--objective", "dino"]
    words += ["--minutes", "0", "--steps", "2", "--batch", "2", "--set", "dino.outputs=16"]
    assert run(*words).exit_code == 0
    assert " --set 'dino.outputs=16' --corpus" in (other / "README.md").read_text().replace(
        "\n", " "
    )
    again = ["--corpus", str(corpus), "--output", str(other), "--quiet", "--resume"]
    assert run(*again).exit_code == 0  # keeps its settings; nothing is left
    for wrong, told in (
        (["--set", "dino.output=16"], "did you mean 'outputs'"),
        (["--resume", "--seed", "3"], "begun with another seed"),
    ):
        refused = run(*words[:5], *wrong)
        assert isinstance(refused.exception, EnhanceError) and told in str(refused.exception)
    missing = run("--output", str(out))
    assert isinstance(missing.exception, EnhanceError) and "--corpus" in str(missing.exception)
