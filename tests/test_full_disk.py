"""A disk that takes no more: one line, nothing half-written, what was there stays.

A limit on the size of files stands for it; Python ignores the signal that comes with it.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_training as tiny
from matplotlib.figure import Figure
from tiny_onnx import build

from benchmarks.analysis.parts import record
from distill.backbones.folder import write as write_backbone
from enhance.audio.write import write
from enhance.cli.app import main
from enhance.device.clean import clean_file
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import append_jsonl, read_jsonl
from enhance.network.tensors import load_tensors
from enhance.training.loop import fit
from enhance.training.objective import Enhancement
from export.stream import write as write_artefact

FULL = r"cannot be (written|made) \((File too large|No space left on device)\)"


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".caf"])
def test_run(tmp_path: Path, suffix: str) -> None:
    model = Enhancer(build(tmp_path / "m.onnx"))
    rng = np.random.default_rng(0)
    write(tmp_path / "a.wav", 0.3 * rng.standard_normal(160_000).astype("f4"), 16000)
    out = tmp_path / "out" / f"a{suffix}"
    out.parent.mkdir()
    out.write_bytes(b"older")
    with full_after(10_000), pytest.raises(EnhanceError, match=FULL) as caught:
        clean_file(tmp_path / "a.wav", out, model, force=True)
    assert str(out) in str(caught.value)
    assert contents(out.parent) == {out.name: b"older"}


def test_run_tells_it_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "m.onnx")
    write(tmp_path / "a.wav", np.zeros(160_000, np.float32), 16000)
    arguments = ["run", "-q", "a.wav", "b.wav", "--model", "m.onnx"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["enhance", *arguments])
    with full_after(100_000), pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capfd.readouterr().err
    assert said.startswith("enhance: b.wav: cannot be written") and said.count("\n") == 1
    assert not (tmp_path / "b.wav").exists()


@pytest.fixture
def soon_settled() -> Iterator[None]:
    with tiny.little_settling():
        yield


@pytest.mark.usefixtures("soon_settled")
def test_a_checkpoint_stays_and_the_run_goes_on(tmp_path: Path) -> None:
    """As if the disk had never been full: the same history to the byte, the same weights."""
    settings = tiny.config(tiny.make_clips(tmp_path / "clips"), validate_every=0, steps=8)
    objective = Enhancement(settings.loss)
    straight, run = tmp_path / "straight", tmp_path / "run"
    fit(settings, objective, straight, quiet=True)
    fit(settings, tiny.Stopping(settings, 4), run, quiet=True)
    _, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert header["step"] == 4
    room = (run / "trainer.safetensors").stat().st_size * 9 // 10
    with full_after(room), pytest.raises(EnhanceError, match=f"safetensors: {FULL}"):
        fit(settings, objective, run, resume=True, quiet=True)
    assert not list(run.rglob("*.part*"))
    _, header = load_tensors(run / "trainer.safetensors", "enhance-trainer-1")
    assert header["step"] == 4
    fit(settings, objective, run, resume=True, quiet=True)
    tiny.same(straight, run)


def test_a_backbone_stays(tmp_path: Path) -> None:
    import torch

    write_backbone(tmp_path, {"w": torch.zeros(9)}, {}, {})
    before = contents(tmp_path)
    with full_after(1000), pytest.raises(EnhanceError, match=FULL):
        write_backbone(tmp_path, {"w": torch.ones(999)}, {"a": 1}, {"a": 1})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("room", [300, 700])
def test_an_export_leaves_the_older_one_and_its_certificate(tmp_path: Path, room: int) -> None:
    old, new = (onnx.load(build(tmp_path / "made.onnx", gain=gain)) for gain in (1.0, 0.5))
    (tmp_path / "made.onnx").unlink()
    write_artefact(old, tmp_path / "a.onnx", {"file": "a.onnx"})
    before = contents(tmp_path)
    assert set(before) == {"a.onnx", "a.certificate.json"} and len(before["a.onnx"]) > 700
    record = {"file": "a.onnx", "long": "x" * 500}
    with full_after(room), pytest.raises(EnhanceError, match=FULL):
        write_artefact(new, tmp_path / "a.onnx", record)
    assert contents(tmp_path) == before
    write_artefact(new, tmp_path / "a.onnx", record)
    assert set(contents(tmp_path)) == set(before) and contents(tmp_path) != before


@pytest.mark.parametrize("room", [10, 3000])
def test_the_record_of_an_analysis_is_all_old_or_all_new(tmp_path: Path, room: int) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2])

    def keep(about: dict[str, str], plots: dict[str, Figure]) -> None:
        made = {"analysis": "a", "about": about, "rows": []}
        record.keep(tmp_path, made, lambda _: [], lambda _: plots)

    keep({}, {"b": Figure()})
    before = contents(tmp_path)
    assert set(before) == {"a.md", "a.json", "a-b.svg"}
    with full_after(room), pytest.raises(EnhanceError, match=FULL):
        keep({"x": "y" * 9000}, {})
    assert contents(tmp_path) == before
    keep({"x": "y"}, {"b": figure})
    assert all(contents(tmp_path)[name] != before[name] for name in ("a.json", "a-b.svg"))


def test_a_line_is_appended_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"a": 1})
    before = path.read_bytes()
    with full_after(30), pytest.raises(EnhanceError, match=f"rows.jsonl: {FULL}"):
        append_jsonl(path, {"a": "x" * 100})  # of which a part would fit
    assert path.read_bytes() == before
    append_jsonl(path, {"a": "line\u2028separator\x85"})
    assert read_jsonl(path) == [{"a": 1}, {"a": "line\u2028separator\x85"}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_dev_full_is_a_full_disk() -> None:
    with pytest.raises(EnhanceError, match="No space left on device"):
        append_jsonl("/dev/full", {"a": 1})
