"""The codec probe: known answers, chance where there is nothing, and the command on real coding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

pytest.importorskip("av")

from benchmarks.analysis.codec import codec, tables, told
from benchmarks.analysis.codecs import coding
from benchmarks.analysis.parts.heard import pooled
from benchmarks.analysis.parts.work import Work
from distill.dann import train as training
from distill.dann.config import BackboneConfig, DannConfig
from enhance.cli.app import app
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError

SPEAKERS = np.repeat(["a", "b", "c", "d", "e", "f"], 10)


def test_pooled() -> None:
    frames = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float16)
    wide = frames.astype(np.float64)
    want = np.concatenate([wide.mean(0), wide.std(0)])
    np.testing.assert_allclose(pooled(frames, "stats"), want, atol=1e-5)


def test_what_is_there_is_told_and_what_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((60, 4, 6))
    assert told(noise, SPEAKERS).mean() == pytest.approx(0.25, abs=0.1)
    there = noise + 6 * np.eye(4, 6)
    assert told(there, SPEAKERS).mean() > 0.95


def test_a_voice_gives_nothing_away() -> None:
    """Each speaker's codecs show in features of its own: a probe that heard the voice knows all."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal((60, 4, 24))
    for i in range(60):
        x[i, np.arange(4), 4 * (i // 10) + np.arange(4)] += 6
    assert told(x, np.arange(60).astype(str)).mean() > 0.95  # as it would look
    assert told(x, SPEAKERS).mean() == pytest.approx(0.25, abs=0.15)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five speakers with two clips each."""
    folder = tmp_path_factory.mktemp("speech")
    clips = []
    for i in range(10):
        rng = np.random.default_rng(i)
        path = folder / f"{i}.wav"
        soundfile.write(path, utterance(Voice.draw(np.random.default_rng(i // 2)), 0.6, rng), 16000)
        clips.append(Clip(path, 0.6, 16000, "speech", "made here", f"s{i // 2}"))
    write_manifest(folder / "manifest.jsonl", clips)
    return folder


@pytest.fixture(scope="module")
def checkpoint(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training, of speakers, whose domains are the sources of the labels."""
    folder = tmp_path_factory.mktemp("run")
    clips = [
        Clip(speech / f"{i}.wav", 0.6, 16000, "speech", "x", f"s{i // 2}", {"codec": f"{i % 2}"})
        for i in range(10)
    ]
    write_manifest(folder / "m.jsonl", clips)
    settings = DannConfig(
        task="speaker",
        train=str(folder / "m.jsonl"),
        held_back=0.4,
        seconds=0.5,
        epochs=1,
        embedding=8,
        backbone=BackboneConfig(name="log-mel:320"),
    )
    training.train(settings, folder / "tiny", cache=folder / "cache", quiet=True)
    return folder / "tiny"


def test_the_command(speech: Path, checkpoint: Path, tmp_path: Path) -> None:
    names = ["none", "8k", "gsm", "mu-law", "opus-6k"]
    words = ["analyze", "codec", "--corpus", str(speech), "-o", str(tmp_path / "out"), "-q"]
    words += ["--backbone", "log-mel:320", "--backbone", "log-mel", "--num-samples", "54"]
    words += ["--checkpoint", str(checkpoint), "--jobs", "1", "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, [*words, *(w for n in names for w in ("--codec", n))])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "codec.json").read_text())
    about, rows = record["about"], record["rows"]
    assert (about["recordings"], about["speakers"], about["codecs"]) == (10, 5, names)
    assert about["at 8 kHz"] == ["8k", "gsm", "mu-law"]
    found = {(r["backbone"], r["state"], r["task"]): r for r in rows if r["kind"] == "probe"}
    models = [("log-mel:320", "0"), ("log-mel", "0"), ("dann:tiny", "embedding")]
    assert set(found) == {(*m, t) for m in models for t in ("all", "at 8 kHz")}
    every, narrow = (found["log-mel:320", "0", t] for t in ("all", "at 8 kHz"))
    assert (every["chance"], every["n"]) == (0.2, 50) and narrow["n"] == 30
    assert narrow["chance"] == pytest.approx(1 / 3)
    assert every["low"] <= every["mean"] <= every["high"] and every["mean"] > 0.4
    shares = [every[f"recall {name}"] for name in names]
    assert every["mean"] == pytest.approx(np.mean(shares), abs=1e-4)
    # That a recording was cut at 4 kHz is plain to see in a spectrum.
    assert every["recall none"] > 0.8
    (apart,) = (r for r in rows if r["kind"] == "difference")
    want = found["log-mel", "0", "all"]["mean"] - every["mean"]
    assert apart["over"] == "log-mel:320" and apart["mean"] == pytest.approx(want, abs=1e-4)
    (weight,) = (r for r in rows if r["kind"] == "weight")
    assert (weight["checkpoint"], weight["of"], weight["weight"]) == (
        "dann:tiny", "log-mel:320", 1.0
    )  # fmt: skip
    page = (tmp_path / "out" / "codec.md").read_text()
    assert "chance 20.0" in page and "| embedding |" in page
    for plot in ("heatmap", "layers", "weights"):
        assert (tmp_path / "out" / f"codec-{plot}.svg").read_text().startswith("<svg")


def test_the_best_state_is_named_where_the_embedding_is_better() -> None:
    rows = [
        {"kind": "probe", "backbone": "dann:a", "state": state, "task": "all", "chance": 0.5,
         "mean": mean, "low": mean, "high": mean, "recall none": mean, "recall gsm": mean}
        for state, mean in (("0", 0.6), ("1", 0.7), ("embedding", 0.9))
    ]  # fmt: skip
    _, whole, known = tables({"rows": rows, "about": {"codecs": ["none", "gsm"]}})
    assert whole.rows == [["dann:a", "65.0", "70.0", "1", "10.0"]]
    assert known.rows == [["dann:a", "70", "70"]]


def test_refusals(speech: Path, tmp_path: Path) -> None:
    for more, said in (
        ({"names": ["evs"]}, "codec evs: not in this build; it has none, 8k"),
        ({"names": ["gsm"]}, "codec gsm: alone it cannot be told from others"),
        ({"num_samples": 9}, "--num-samples 9: 1 recordings for 9 codecs"),
        ({"source": "else"}, "--source else: no speech of it"),
        ({"checkpoints": [tmp_path]}, "model.safetensors: not there; name a finished run"),
    ):
        with pytest.raises(EnhanceError, match=said) as error:
            codec(["log-mel"], speech, tmp_path / "out", Work(quiet=True), **more)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert coding.DEFAULT[0] == "none"
