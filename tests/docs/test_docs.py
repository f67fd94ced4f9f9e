"""Every command and every line of Python on the pages and in README.md is run; the site is built.

A command runs as it stands, followed by the words that `SMALLER` has for it: less of the same.
What can run nowhere is in `NOT_RUN`, with the reason; an entry that fits nothing fails too.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny_set
import tiny_training as tiny
from tiny_kinds import few_kinds
from tiny_layouts import make_dns, make_voicebank

from benchmarks.analysis.parts import linear
from enhance.cli import app as cli
from enhance.config import GcrnConfig, ModelConfig
from enhance.data.corpus.manifest import make_manifest, write_manifest
from enhance.training.loop import fit
from enhance.training.objective import Enhancement
from export import stream
from export.certificate import Bounds

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

NOT_RUN = {
    r"pip install": "needs the package index",
    r"make ": "makes an environment of its own; `make test` is what runs this",
    r"dask ": "a server that does not end; tests/benchmarks/test_cluster.py starts one",
    r".* --cluster tcp://": "needs a cluster; tests/benchmarks/test_cluster.py has one",
    r"enhance compare configs/modes-controls": "needs the weights of extra [teachers]",
    r"enhance analyze all": "minutes; tests/benchmarks/analysis/test_analysis_report.py runs it",
}
"""Patterns of the beginning of commands, and why they are not run here."""

LESS = (
    "training.steps=2 training.minutes=0 training.batch_size=2 training.warmup_steps=0 "
    "training.epoch_size=8 training.validate_every=2 training.validation_clips=1 "
    "training.checkpoint_every=2 training.log_every=1 training.threads=1 data.workers=0 "
    "mixing.segment_seconds=0.5 data.cache_gb=0 "
)
NETWORK = "model.gcrn.channels=[4,4] model.gcrn.hidden=16 model.gcrn.decoders=1 "

WAVLM = (
    "units=[4,5] unit_layer=1 batch_seconds=2 crop_seconds=0.8 warmup_steps=1 held_back=0.3 "
    "architecture.hidden=16 architecture.layers=2 architecture.heads=2 "
    "architecture.feed_forward=32 architecture.conv_channels=[4,4,4,8,8,8,16] "
    "architecture.positions=8 architecture.position_groups=2"
)


def sets(text: str, option: str = "--set") -> str:
    return " ".join(f"{option} {shlex.quote(word)}" for word in text.split())


SMALLER = {
    r"enhance train --resume": "--set training.steps=3 --set training.minutes=0 -q",
    r"enhance train --branch": "--set training.steps=2 -q",
    r"enhance train .*--init": f"{sets(LESS + 'mixing.babble_probability=0')} -q",
    r"enhance train .*--config configs/demo": f"{sets(LESS + NETWORK)} --set data.corpus=corpus -q",
    r"enhance train": f"{sets(LESS + NETWORK)} --accelerator cpu -q",
    r"enhance compare .*--report": "-q",
    r"enhance compare .*trials": f"{sets(LESS + NETWORK, '--base')} --only plain -q",
    r"enhance compare": f"{sets(LESS + NETWORK, '--base')} --only base --jobs 1 -q",
    r"enhance evaluate .*--dnsmos": "--jobs 1 --limit 1 -q",
    r"enhance evaluate": "--jobs 1 -q",
    r"enhance bench": "--seconds 0.1 -q",
    r"enhance guard": "--limit 4 --jobs 1 -q",
    r"enhance data manifest": "-o made.jsonl -f -q",
    r"enhance data mix --held-out": "--count 2 --seconds 1 --set 'data.held_out=[b]' -q",
    r"enhance data mix": "--count 2 --seconds 1 -q",
    r"enhance data features": "--jobs 1 -q",
    r"enhance data copy-synthesis": "--method griffin-lim --codec none --codec gsm --jobs 1 -q",
    r"enhance data": "-q",
    r"enhance export": "-f -q",
    r"enhance run": "-f -q",
    r"enhance teacher table": "--seconds 1 -q",
    r"enhance teacher pretrain ": f"--minutes 0 --steps 1 {sets(WAVLM)} -q",
    r"enhance teacher pretrain-speaker": "--minutes 0 --steps 1 --batch 2 -q",
    r"enhance teacher": "--minutes 0 --steps 1 -q",
    r"enhance analyze reconstruct": "--steps 2 --limit 4 -q",
    r"enhance analyze maps": "--limit 12 --frames 100 --perplexity 5 --jobs 1 -q",
    r"enhance analyze probe": "--limit 12 --folds 2 --jobs 1 -q",
    r"enhance analyze (cka|temporal)": "--limit 12 --jobs 1 -q",
    r"enhance analyze codec": "--codec none --codec gsm --num-samples 12 --jobs 1 -q",
    r"enhance dann train": "--set epochs=1 --set backbone.name=log-mel:320 -q",
    r"enhance dann": "-q",
}
"""Patterns of commands, the first that fits, and what makes them small."""

NEEDS = {
    r"enhance (evaluate .* --wer recogniser|teacher pretrain-speaker)": "speechbrain",
    r"enhance data copy-synthesis": "pyworld",
    r"enhance dann": "pyworld",  # hears what copy-synthesis made
    r"enhance analyze codec": "av",
}
"""Patterns of commands, and a module of an extra that they need."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def fitting(table: dict[str, str], words: list[str]) -> str | None:
    line = shlex.join(words)
    return next((pattern for pattern in table if re.match(pattern, line)), None)


def write_corpus(folder: Path) -> None:
    """Four speakers in two sources, each kind of clip of 1.5 s."""
    tiny.make_clips(folder, 12)
    for kind in ("speech", "noise"):
        for path in (folder / kind).iterdir():
            path.rename(path.with_name(f"p{int(path.stem) % 4}_{path.stem}.wav"))
    _, clips, _ = make_manifest(folder, kind="", speaker=r"(p\d+)_", quiet=True)
    parted = [
        replace(
            c,
            source="ab"[c.speaker > "p1"],
            speaker=c.speaker if c.kind == "speech" else "",
            labels={"language": "nl", "licence": "CC0-1.0"},
        )
        for c in clips
    ]
    write_manifest(folder / "manifest.jsonl", parted)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the pages speak of: recordings, a corpus, a set, a run and its files, all tiny."""
    here = tmp_path_factory.mktemp("docs")
    write_corpus(here / "corpus")
    voices = [tiny_set.voice(seed) for seed in range(9)]  # a certificate needs 10 s
    dev = tiny_set.write_set(here / "dev", voices, lambda i, _: {"speaker": f"s{i}"})
    shutil.copy(dev / "noisy" / "000.wav", here / "noisy.wav")
    for name in ("recordings", "theirs"):
        shutil.copytree(dev / "noisy", here / name)
    lines = [f"corpus/speech/p{i % 4}_{i}.wav,GO ON,p{i % 4}" for i in range(12)]
    (here / "words.csv").write_text("\n".join(["path,text,speaker", *lines]) + "\n")
    make_voicebank(here / "VoiceBank-DEMAND", 48000)
    make_dns(here / "DNS-Challenge", 48000)
    for name in ("configs", "checkpoints"):
        (here / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch, tiny.little_settling(), few_kinds():
        patch.setenv("XDG_CACHE_HOME", str(here / "cache"))
        small = ModelConfig(gcrn=GcrnConfig((4, 4), hidden=16, decoders=1))
        settings = replace(tiny.config(here / "corpus", steps=4), model=small)
        fit(settings, Enhancement(settings.loss), here / "runs" / "mine", quiet=True)
        # A network of four steps has no quality that int8 could keep.
        loose = functools.partial(Bounds, si_sdr_db=99.0, pesq=9.0, snr_db=-99.0)
        patch.setattr(stream, "Bounds", loose)
        patch.setattr(linear, "LEAST", 60)  # steps of a probe
        stream.export_model(
            here / "runs/mine", here / "runs/mine/mine.onnx", int8=True, clips=dev, quiet=True
        )
        # In place of another system's stream.
        shutil.copy(here / "runs/mine/mine.onnx", here / "gtcrn_simple.onnx")
        yield here


@pytest.fixture
def enhance(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[str]], int]]:
    """Run a command in a copy of the place, which becomes the working folder: its exit code."""
    here = tmp_path / "here"
    shutil.copytree(place, here, symlinks=True, ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    handlers = logging.getLogger().handlers[:]

    def call(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", words)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code

    yield call
    logging.getLogger().handlers[:] = handlers


def prepare(words: list[str]) -> None:
    """Make room for a new run, and what takes a while only where a page asks for it."""
    if words[1] == "train" and "--run" in words and "--resume" not in words:
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
    if "recogniser" in words:
        import tiny_crdnn

        tiny_crdnn.make(Path("recogniser"))


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_commands(page: Path, enhance: Callable[[list[str]], int]) -> None:
    failed: list[str] = []
    lacking: set[str] = set()
    for words in commands(page):
        line = shlex.join(words)
        if fitting(NOT_RUN, words):
            continue
        assert words[0] == "enhance", f"{page.name}: {line}: who runs this?"
        needed = fitting(NEEDS, words)
        if needed and importlib.util.find_spec(NEEDS[needed]) is None:
            lacking.add(NEEDS[needed])
            continue
        prepare(words)
        pattern = fitting(SMALLER, words)
        if enhance([*words, *shlex.split(SMALLER[pattern] if pattern else "")]):
            failed.append(line)  # why stands on standard error
    assert not failed
    if lacking:
        pytest.skip(f"{page.name}: the others ran, but not what needs {', '.join(lacking)}")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.stem
)
def test_python(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    noisy = soundfile.read("noisy.wav", dtype="float32")[0]
    names = {"noisy": noisy, "chunk": noisy[:5000]}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_no_entry_is_left_over() -> None:
    """Each pattern is the first that fits some command, and pages have no other kinds of code."""
    every = [words for page in PAGES for words in commands(page)]
    run = [words for words in every if not fitting(NOT_RUN, words)]
    assert {fitting(NOT_RUN, words) for words in every} - {None} == {*NOT_RUN}
    assert {fitting(SMALLER, words) for words in run} - {None} == {*SMALLER}
    for page in PAGES:
        fences = re.findall(r"^```(\S+)$", page.read_text("utf-8"), re.M)
        # Pipes are text: tests/enhance/device/test_pipe.py runs them, with ffmpeg and sox.
        shown = {"text"} if page.name == "device.md" else set()
        assert {*fences} <= {"sh", "python", "{eval-rst}", "{toctree}"} | shown, page.name


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason=f"no {name}: pip install -e '.[docs]'")
    words = ["-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text("utf-8")
    for name in ("Enhancer.process", "loop.fit", "export_model", "evaluate.evaluate"):
        assert f'{name}"' in page, name


def test_readme_is_a_front_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 120
    assert [words[:2] for words in commands(ROOT / "README.md")][:2] == [
        ["make", "demo"],
        ["make", "test"],
    ]
