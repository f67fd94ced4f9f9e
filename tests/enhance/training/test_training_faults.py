"""What may befall a training: signals, kills, missing files, a second process, bad gradients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_training as tiny
import torch
from torch import Tensor

from enhance.config import RunConfig
from enhance.data.corpus.manifest import make_manifest, write_manifest
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.network.tensors import load_tensors, save_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.training.engine.engine import seed_everything
from enhance.training.engine.interrupt import Interrupt
from enhance.training.loop import fit
from enhance.training.objective import Enhancement


@pytest.fixture(scope="module", autouse=True)
def _soon_settled() -> Iterator[None]:
    with tiny.little_settling():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A run that nothing disturbed."""
    settings = tiny.config(data)
    run = tmp_path_factory.mktemp("straight") / "run"
    summary = fit(settings, Enhancement(settings.loss), run, quiet=True)
    assert (summary["stopped"], summary["step"]) == ("finished", 12)
    return settings, run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in a terminal, `timeout`, `docker stop`, a scheduler: workers are told too."""
    settings = tiny.on_workers(tiny.config(data, steps=100000, validate_every=0), 2)
    run = tmp_path / "run"
    process = tiny.command(settings, run)
    try:
        while not ((run / "history.jsonl").is_file() and len(tiny.rows(run, "train")) >= 2):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, output
    _, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert f"{number.name}, stopped and saved at step {header['step']} of 100000" in output
    assert "--resume goes on" in output
    assert "Traceback" not in output and "killed by signal" not in output
    assert header["step"] == len(tiny.rows(run, "train"))


def test_a_gradient_that_is_not_finite_reaches_nothing(data: Path, tmp_path: Path) -> None:
    class Bad(tiny.Sums):
        def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
            losses = super().forward(model, batch)
            if self.calls == 4:  # 0 as a value, 0 / 0 as a gradient
                losses["own"] = losses["own"] + (self.weight.sum() * 0).abs().sqrt()
            return losses

    settings = tiny.config(data, validate_every=0, checkpoint_every=1)
    objective = Bad(settings.loss)
    run = tmp_path / "run"
    with pytest.raises(EnhanceError, match=r"step 4: .*gradient_norm nan"):
        fit(settings, objective, run, quiet=True)
    assert objective.weight.isfinite().all()
    tensors, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert header["step"] == 3
    assert all(t.isfinite().all() for t in tensors.values())


def test_resume_without_the_state_is_refused(
    straight: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    settings, run = straight
    settings = replace(settings, training=replace(settings.training, steps=16))
    for gone, more in (([], "--init"), (["model.safetensors"], "another name")):
        other = tmp_path / str(len(gone))
        shutil.copytree(run, other)
        for name in ["trainer.safetensors", *gone]:
            (other / name).unlink()
        before = {p.name: p.read_bytes() for p in other.iterdir() if p.is_file()}
        with pytest.raises(EnhanceError, match=rf"no trainer.safetensors.*{more}"):
            fit(settings, Enhancement(settings.loss), other, resume=True, quiet=True)
        assert before == {p.name: p.read_bytes() for p in other.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": None}, "config"),
        ({"data": None, "step": None}, "data, step"),
        ({"step": "x"}, "step"),
        ({"step": -3}, "step"),
        ({"seconds": float("nan")}, "seconds"),
        ({"sums": []}, "sums"),
        ({"branch": {"step": 1}}, "branch.seconds"),
    ],
)
def test_a_state_whose_header_is_damaged_is_refused(
    straight: tuple[RunConfig, Path], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    settings, run = straight
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "trainer.safetensors"
    tensors, header = load_tensors(path, "enhance-trainer-1")
    header = {key: value for key, value in {**header, **change}.items() if value is not None}
    save_tensors(path, tensors, header, "enhance-trainer-1")
    told = rf"run/trainer\.safetensors: is damaged \(its header does not tell {named}\)"
    with pytest.raises(EnhanceError, match=told):
        fit(settings, Enhancement(settings.loss), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("history.jsonl", {"a": 1}, r"history\.jsonl, line 1: is damaged \(tells no step"),
        ("history.jsonl", [], r"history\.jsonl, line 1: is damaged"),
        ("history.jsonl", {"step": "x"}, r"history\.jsonl, line 1: is damaged"),
        ("heard.jsonl", {"a": 1}, r"heard\.jsonl: is damaged \(row 1 is no file with path"),
        ("heard.jsonl", [], r"heard\.jsonl: is damaged"),
    ],
)
def test_a_list_whose_lines_are_others_is_refused(
    straight: tuple[RunConfig, Path], tmp_path: Path, name: str, line: object, told: str
) -> None:
    settings, run = straight
    settings = replace(settings, training=replace(settings.training, steps=13))
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(json.dumps(line) + "\n" + path.read_text())
    with pytest.raises(EnhanceError, match=told):
        fit(settings, Enhancement(settings.loss), tmp_path / "run", resume=True, quiet=True)


def test_killed_before_its_first_step(data: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Dies(tiny.Sums):
        def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
            raise Killed

    settings = tiny.config(data, steps=3, validate_every=0)
    whole, run = tmp_path / "whole", tmp_path / "run"
    seed_everything(1)
    fit(settings, tiny.Sums(settings.loss), whole, quiet=True)
    seed_everything(1)
    with pytest.raises(Killed):
        fit(settings, Dies(settings.loss), run, quiet=True)
    fit(settings, tiny.Sums(settings.loss), run, resume=True, quiet=True)
    tiny.same(whole, run)


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    clips = tiny.make_clips(tmp_path / "clips", 3)
    for path in sorted(clips.rglob("0.wav")):
        path.rename(path.with_name(os.fsdecode(b"caf\xe9.wav")))
    settings = tiny.config(clips, steps=1, validate_every=0)
    run = tmp_path / "run"
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    heard = {row["path"] for row in read_jsonl(run / "heard.jsonl")}
    assert os.fsdecode(b"speech/caf\xe9.wav") in heard
    longer = tiny.config(clips, steps=2, validate_every=0)
    assert fit(longer, Enhancement(settings.loss), run, resume=True, quiet=True)["step"] == 2


@pytest.mark.parametrize("change", ["source", "speaker", "recording", "rooms"])
def test_changed_groups(tmp_path: Path, change: str) -> None:
    """Of the same files other mixtures would be drawn, without a word."""
    folder = tiny.make_clips(tmp_path / "clips")
    plain = make_manifest(folder, quiet=True)[1]
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    for name in ("a", "b"):
        soundfile.write(rooms / f"{name}.wav", np.eye(1, 400)[0], 16000)

    def label(changed: str, names: str) -> None:
        clips = []
        for i, clip in enumerate(plain):
            group = {"source": "all", "speaker": f"{names}{i % 3}", "recording": f"{names}{i}"}
            group |= {changed: f"{names}{i % 2}"} if changed in group else {}
            labels = {"recording": group.pop("recording")}
            clips.append(replace(clip, **group, labels=labels))
        write_manifest(folder / "manifest.jsonl", clips)

    settings = tiny.config(folder, steps=1, validate_every=0)
    settings = replace(
        settings,
        data=replace(settings.data, held_back=0.0, rirs=str(rooms)),
        mixing=replace(settings.mixing, rir_source="folder", rir_probability=0.5),
    )
    run = tmp_path / "run"
    label("", "a")
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    longer = replace(settings, training=replace(settings.training, steps=2))
    label("", "other names")
    assert fit(longer, Enhancement(settings.loss), run, resume=True, quiet=True)["step"] == 2
    label(change, "a")
    if change == "rooms":
        (rooms / "b.wav").unlink()
    longer = replace(settings, training=replace(settings.training, steps=3))
    with pytest.raises(EnhanceError, match="labelled otherwise"):
        fit(longer, Enhancement(settings.loss), run, resume=True, quiet=True)


def test_one_process_to_a_run(data: Path, tmp_path: Path) -> None:
    settings = tiny.config(data, steps=2, validate_every=0)
    fit(settings, Enhancement(settings.loss), tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    longer = replace(settings, training=replace(settings.training, steps=3))
    code = (
        "import pathlib, sys; from enhance.training.run.run_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('locked', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=tiny.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(EnhanceError, match="another process is training there"):
            fit(longer, Enhancement(settings.loss), tmp_path / "run", resume=True, quiet=True)
        assert (tmp_path / "run" / "history.jsonl").read_bytes() == before
    finally:
        other.communicate("\n")
    fit(longer, Enhancement(settings.loss), tmp_path / "run", resume=True, quiet=True)


def test_auto_precision_stays_what_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has = {"avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    settings = tiny.config(data, steps=2, validate_every=0, precision="auto")
    run = tmp_path / "run"
    fit(settings, Enhancement(settings.loss), run, quiet=True)
    has["avx512_bf16"] = True  # another machine
    longer = replace(settings, training=replace(settings.training, steps=3))
    fit(longer, Enhancement(settings.loss), run, resume=True)
    assert "goes on in fp32, as it began; `auto` is bf16 on this machine" in capsys.readouterr().err
    header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1", tensors=False)[1]
    assert (header["precision"], header["step"]) == ("fp32", 3)


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.caught == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a wish, however often
        assert interrupt.caught == "SIGTERM"


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_the_average_has_its_decay(data: Path, tmp_path: Path, decay: float) -> None:
    settings = tiny.config(data, steps=1, validate_every=0, ema_decay=decay, optimizer="adamw")
    starts = []

    class Start(Enhancement):
        def begin_step(self, step: int, model: WaveformModel) -> None:
            starts.append({n: p.detach().clone() for n, p in model.named_parameters()})

    fit(settings, Start(settings.loss), tmp_path / "run", quiet=True)
    tensors, _ = load_tensors(tmp_path / "run" / "trainer.safetensors", "enhance-trainer-1")
    kept = min(decay, 0.1)  # the ramp of the first step: 1 / (1 + 9)
    for name, start in starts[0].items():
        expected = kept * start + (1 - kept) * tensors[f"model.{name}"]
        torch.testing.assert_close(tensors[f"average.{name}"], expected, msg=name)
