"""`enhance analyze reconstruct`, whole: report, resumption, what is missing, refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_crdnn
import tiny_reconstruct as tiny
import torch
from safetensors.torch import load_file, save_file

from benchmarks.analysis.reconstruct import measure as measuring
from benchmarks.analysis.reconstruct import report, spectrum
from benchmarks.analysis.reconstruct.run import slug
from benchmarks.analysis.reconstruct.sources import open_teachers
from benchmarks.analysis.report.evidence import reconstruction
from benchmarks.figures.statistics import mean_interval
from benchmarks.recognizers import crdnn
from benchmarks.recognizers.choose import Listening
from enhance.cli.app import main
from enhance.errors import EnhanceError


@dataclass
class Place:
    """Everything a run needs, and a way to start one."""

    root: Path
    corpus: Path
    teacher: Path
    clips: Path
    calls: Callable[[list[str]], int]
    more: list[str] = field(default_factory=list)

    def run(self, name: str, *words: str) -> int:
        """Exit code of a run into ``root/name``."""
        start = ["analyze", "reconstruct", str(self.teacher), "--corpus", str(self.corpus)]
        start += ["--set", str(self.clips), "-o", str(self.root / name), "--steps", "2", "--quiet"]
        return self.calls([*start, "--cache", str(self.root / "cache"), *words])

    def results(self, name: str) -> dict[str, dict[str, Any]]:
        """Rows of results by method."""
        lines = (self.root / name / "results.jsonl").read_text().splitlines()
        return {row["method"]: row for row in map(json.loads, lines)}

    def record(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / name / "record.json").read_text())
        return found


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a teacher. Not to be changed."""
    root = tmp_path_factory.mktemp("material")
    (root / "corpus").mkdir()
    tiny.make_corpus(root / "corpus")
    tiny.make_teacher(root / "tiny")
    return root


@pytest.fixture
def place(
    material: Path, tmp_path: Path, make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Place:
    def call(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["enhance", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    def absent(repo: str) -> Path:
        raise EnhanceError(f"{repo} cannot be had here")

    monkeypatch.setattr(crdnn, "download", absent)
    return Place(tmp_path, material / "corpus", material / "tiny", make_set(3), call)


def test_a_run_writes_tables_picture_and_figures_that_can_be_traced(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_crdnn.make(tmp_path / "recogniser")
    said = place.clips / "said.csv"
    with said.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "text"], ["clean/000.wav", "go"], ["clean/002.wav", "stop it"]]
        )
    words = [
        "--layers",
        "single:0",
        "--layers",
        "last",
        "--recognizer",
        str(tmp_path / "recogniser"),
    ]
    assert place.run("out", *words, "--transcripts", str(said)) == 0
    out = tmp_path / "out"
    assert "report.md" in capsys.readouterr().out
    assert (out / "spectrograms.png").stat().st_size > 10_000
    found = place.results("out")
    assert list(found) == [
        "original audio", "original magnitudes", "tiny, single:0", "tiny, last",
        "tiny, single:0, random weights", "tiny, last, random weights", "log-mel 80",
        "mean spectrum",
    ]  # fmt: skip
    assert reconstruction(out)["rows"] == list(found.values())  # what the page of all reads
    clips = [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]
    assert len(clips) == 3 * len(found)
    for name, row in found.items():
        own = [clip for clip in clips if clip["method"] == name]
        assert row["clips"] == len(own) == 3
        assert row["wer"]["clips"] == 2 and row["wer"]["tokens"] == 3  # go; stop it
        for metric in ("l1_db", "spectrum 1-2 kHz", "stoi"):
            if name != "original audio":
                values = [clip["figures"][metric] for clip in own]
                assert row["metrics"][metric]["mean"] == mean_interval(values).mean
    twin = found["tiny, last"]["differences"]["tiny, last, random weights"]["l1_db"]
    far = {(clip["method"], clip["clip"]): clip["figures"].get("l1_db") for clip in clips}
    apart = [
        far["tiny, last", name] - far["tiny, last, random weights", name]
        for name in ("000", "001", "002")
    ]
    assert twin["mean"] == pytest.approx(np.mean(apart))
    assert "log-mel 80" in found["tiny, last"]["differences"]
    assert found["original magnitudes"]["metrics"]["l1_db"]["mean"] == 0
    assert abs(found["original magnitudes"]["metrics"]["waveform 2-4 kHz"]["mean"]) < 1
    report = (out / "report.md").read_text()
    assert "claims" in report and "said.csv" in report and "`tiny, last`" in report
    for name in found:
        assert f"| {name} |" in report
    record = place.record("out")
    assert record["recognizer"]["missing"] is None and record["clips"] == 3
    assert [d["steps"] for d in record["decoders"]] == [2] * 5
    assert len({d["key"] for d in record["decoders"]}) == 5


def test_without_a_recogniser_all_else_is_measured_and_it_is_said(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("out", "--no-controls", "--limit", "1") == 0
    why = f"{'speechbrain/asr-crdnn-rnnlm-librispeech'} cannot be had here"
    assert why in capsys.readouterr().out
    assert why in (place.root / "out/report.md").read_text()
    assert place.record("out")["recognizer"] == {
        "name": None, "missing": why, "errors": "word", "normalisation": None, "reference": None,
    }  # fmt: skip
    found = place.results("out")
    assert list(found) == ["original magnitudes", "tiny, last", "mean spectrum"]
    assert all("wer" not in row and "stoi" in row["metrics"] for row in found.values())


def test_a_recogniser_of_finetune_ctc_listens_to_its_own_text_of_the_original(place: Place) -> None:
    folder = tiny.make_ctc(place.root / "ctc")
    assert place.run("out", "--no-controls", "--recognizer", str(folder)) == 0
    found = place.results("out")
    assert "own text" in place.record("out")["recognizer"]["reference"]
    if found["original audio"]["wer"] is not None:  # its text of the original may be empty
        assert found["original audio"]["wer"]["mean"] == 0
    clips = [json.loads(x) for x in (place.root / "out/clips.jsonl").read_text().splitlines()]
    assert all(isinstance(clip["text"], str) for clip in clips)
    # Trained on, it is another recogniser in the same folder: nothing that it said is kept.
    path = folder / "model.safetensors"
    tensors = load_file(path)
    letter = next(i for i, token in enumerate("GNO", 3) if clips[0]["text"] != token)
    tensors["lm_head.bias"][letter] += 100  # which it says now, whatever it hears
    save_file(tensors, path, {"format": "pt"})
    words = ["--no-controls", "--recognizer", str(folder)]
    assert place.run("out", *words, "--resume") == 0 and place.run("new", *words) == 0
    ours, theirs = ((place.root / run / "clips.jsonl").read_text() for run in ("out", "new"))
    assert ours == theirs
    assert json.loads(ours.splitlines()[0])["text"] != clips[0]["text"]


def test_stopped_and_resumed_is_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.run("whole", "--no-controls") == 0
    count = 0
    real = measuring.measure_clip

    def stopping(*args: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(measuring, "measure_clip", stopping)
    assert place.run("parts", "--no-controls") == 130
    rows = (place.root / "parts/clips.jsonl").read_text().splitlines()
    assert len(rows) == 5 and not (place.root / "parts/report.md").exists()
    with (place.root / "parts/clips.jsonl").open("a") as file:
        file.write('{"method": "cut off in wri')
    monkeypatch.setattr(measuring, "measure_clip", real)
    assert place.run("parts") == 2  # without --resume
    assert place.run("parts", "--no-controls", "--resume") == 0
    for name in ("results.jsonl", "clips.jsonl", "report.md"):
        ours, theirs = ((place.root / run / name).read_text() for run in ("whole", "parts"))
        assert ours == theirs
    assert count == 5 and place.run("nothing", "--resume") == 2


def test_noisy_input_is_reconstructed_to_the_clean_side(place: Place) -> None:
    assert place.run("out", "--input", "noisy", "--limit", "2", "--no-controls") == 0
    found = place.results("out")
    assert place.record("out")["input"] == "noisy"
    noisy = found["noisy magnitudes"]["metrics"]
    assert noisy["l1_db"]["mean"] > 3  # at -5 dB it is far from clean
    assert found["original magnitudes"]["metrics"]["l1_db"]["mean"] == 0
    clip = place.clips / "clean/000.wav"
    assert "NOISY side" in (place.root / "out/report.md").read_text() and clip.exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--recognizer", "nowhere-at-all"], "nowhere-at-all: no such folder"),
        (["--recognizer", "some/repository"], "cannot be had here"),
        (["--layers", "single:9"], "this teacher has 2 layers"),
        (["--transcripts", "no-such.csv"], "no such file of transcripts"),
        (["--device", "abacus"], "--device abacus: cannot be used"),
        (["--hours", "-1"], "hours"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_any_work(
    place: Place, capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    assert place.run("out", *words) == 2
    error = capsys.readouterr().err
    assert what in error
    assert "Traceback" not in error and not (place.root / "out").exists()
    if "--hours" not in words:  # typer's own words for that
        assert [line for line in error.splitlines() if line.startswith("enhance: ")]


def test_a_corpus_that_is_none_leaves_nothing_behind(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.corpus = place.clips / "clean"
    assert place.run("out") == 2
    assert capsys.readouterr().err.count("\n") <= 2  # what is missing of a recogniser, and this
    assert not (place.root / "out").exists()


def test_one_name_twice_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("out", "--layers", "last", "--layers", "last") == 2
    assert "two rows would be called 'tiny, last'" in capsys.readouterr().err


def test_a_set_that_is_none_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.clips = place.root / "nowhere"
    assert place.run("out") == 2
    assert "no such evaluation set" in capsys.readouterr().err


def test_controls_stand_beside_the_teachers(place: Place, tmp_path: Path) -> None:
    found = open_teachers([str(place.teacher)], ["last"], tmp_path, 0, controls=True)
    assert [s.kind for s in found] == ["teacher", "random weights", "log-mel"]
    assert [s.name for s in found[:2]] == ["tiny, last", "tiny, last, random weights"]


def test_measures_of_a_clip_equal_those_of_its_parts() -> None:
    t = np.arange(24000) / 16000
    clean = sum(0.05 * np.sin(2 * np.pi * f * t * (1 + 0.1 * np.sin(3 * t))) for f in
                (200, 700, 1300, 2600, 5200)).astype(np.float32)  # fmt: skip
    unit = clean / np.float32(spectrum.level(clean))
    original = spectrum.magnitudes(torch.from_numpy(unit)[None])[0]
    halved = measuring.Method("half", "bound", "", lambda a, _: a * (1 - 0.5 * (
        torch.arange(257) >= 128)))  # fmt: skip
    row = measuring.measure_clip(halved, clean, clean, Listening(None), 7)
    assert row["text"] is None and not row["refusals"]
    assert row["figures"]["spectrum high"] == pytest.approx(-6.02, abs=0.01)
    assert row["figures"]["waveform high"] == pytest.approx(-6.02, abs=1)
    wave = spectrum.waveform(halved.magnitudes(original, clean), 24000, 7)  # type: ignore[misc]
    assert row["figures"]["stoi"] == measuring.measure(clean, wave * spectrum.level(clean), 16000,
                                                       ["stoi"])["stoi"]  # fmt: skip
    silent = measuring.measure_clip(halved, 0 * clean, clean, Listening(None), 7)
    assert not silent["figures"] and "silent" in silent["refusals"]["all"]


def test_summaries_count_what_was_refused() -> None:
    table = [measuring.Method("a, last", "teacher", "", lambda a, _: a),
             measuring.Method("log-mel 80", "log-mel", "", lambda a, _: a)]  # fmt: skip
    rows = [
        {"method": m.name, "clip": c, "figures": {"l1_db": v} if v else {}, "text": None,
         "refusals": {} if v else {"l1_db": "empty"}, "labels": {}}
        for m, values in zip(table, ((1.0, 2.0, None), (1.5, 2.5, 9.0)), strict=True)
        for c, v in zip("xyz", values, strict=True)
    ]  # fmt: skip
    found = measuring.summarize(table, rows, Listening(None), None)
    assert (
        found[0]["metrics"]["l1_db"]["mean"] == 1.5 and found[0]["metrics"]["l1_db"]["refused"] == 1
    )
    assert found[0]["differences"]["log-mel 80"]["l1_db"]["mean"] == pytest.approx(-0.5)
    assert found[0]["refusals"] == [{"clip": "z", "metric": "l1_db", "reason": "empty"}]


def test_names_become_folders() -> None:
    assert slug("WavLM Base+, single:3, random weights") == "WavLM-Base-single-3-random-weights"


def test_the_published_page_is_drawn_from_its_record() -> None:
    folder = Path(__file__).parents[3] / "benchmarks"
    with tarfile.open(folder / "reconstruct.tar.xz") as archive:
        files = {name: archive.extractfile(f"reconstruct/{name}").read()  # type: ignore[union-attr]
                 for name in ("record.json", "results.jsonl")}  # fmt: skip
    rows = [json.loads(line) for line in files["results.jsonl"].splitlines()]
    page = report.text(json.loads(files["record.json"]), rows, "a clip")
    known = (folder / "RECONSTRUCT.md").read_text("utf-8").split("\n\n")
    parts = page.split("\n\n")
    cut = next(i for i, part in enumerate(parts) if part.startswith("## One clip"))
    assert (
        parts[:cut] == [part.rstrip() for part in known if not part.startswith("What this")][:cut]
    )
