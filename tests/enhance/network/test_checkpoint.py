"""Checkpoints: what goes in comes out; what is not one is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from enhance.config import GcrnConfig, ModelConfig
from enhance.errors import EnhanceError
from enhance.network.checkpoint import (
    CheckpointInfo,
    difference,
    load_model,
    newest_run,
    save_model,
    start_from,
)
from enhance.network.tensors import load_exactly, load_tensors, save_tensors
from enhance.network.waveform_model import WaveformModel
from enhance.stft import FRAMINGS
from enhance.training.engine.state import gather, scatter

CONFIG = ModelConfig(gcrn=GcrnConfig(channels=(4, 4, 4), cell="lstm", hidden=16))


@pytest.fixture(scope="module")
def model() -> WaveformModel:
    torch.manual_seed(0)
    made = WaveformModel(CONFIG).train()
    made(torch.randn(2, 3200))  # moves the running statistics away from their start
    return made.eval()


@pytest.fixture
def folder(model: WaveformModel, tmp_path: Path) -> Path:
    info = CheckpointInfo(CONFIG, {"mode": "base"}, {"step": 7, "si_sdr": 1.25})
    save_model(tmp_path / "kept", model, info)
    return tmp_path / "kept"


def rewrite(path: Path, change: str, value: torch.Tensor | None) -> None:
    """Put a tensor in, or take one out, keeping the header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors.pop(change, None)
    if value is not None:
        tensors[change] = value
    save_file(tensors, path, metadata)


def test_round_trip(model: WaveformModel, folder: Path) -> None:
    audio = torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
    for place in (folder, folder / "model.safetensors", str(folder)):
        loaded, info = load_model(place)
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded.enhance(audio), model.enhance(audio))
    assert (info.config, info.training) == (CONFIG, {"mode": "base"})
    assert (info.score, info.folder) == ({"step": 7, "si_sdr": 1.25}, folder)
    assert info.heard == []
    (folder / "heard.jsonl").write_text('{"path": "a.wav", "sha256": "00"}\n')
    assert load_model(folder)[1].heard == [{"path": "a.wav", "sha256": "00"}]


def test_readable_by_others(folder: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_save_is_whole_or_absent(
    model: WaveformModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnhanceError, match="No space left"):
        save_model(folder, model, CheckpointInfo(CONFIG))
    monkeypatch.undo()
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_missing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(EnhanceError, match="no such checkpoint folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(EnhanceError, match=r"no model.safetensors and no config.json"):
        load_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EnhanceError, match=r"no model.safetensors"):
        load_model(folder)
    (folder / "history.jsonl").touch()
    with pytest.raises(EnhanceError, match="has not kept a model yet"):
        load_model(folder)


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_damaged_weights(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(EnhanceError, match="not a whole safetensors file") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_other_code(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    save_file(load_file(path), path, {"format": "pt"})
    with pytest.raises(EnhanceError, match="written by other code"):
        load_model(folder)
    path.write_bytes(whole)
    (folder / "config.json").write_text("[]")
    with pytest.raises(EnhanceError, match="holds no JSON object"):
        load_model(folder)
    for text in ("{}", '{"architectures": ["WavLMModel"], "model": {}}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(EnhanceError, match="written by other code"):
            load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(EnhanceError, match="cannot be read as JSON"):
        load_model(folder)


def test_trainer_state_is_no_model(folder: Path, model: WaveformModel) -> None:
    save_tensors(folder / "model.safetensors", {}, {}, "enhance-trainer-1")
    with pytest.raises(EnhanceError, match="its format is 'enhance-trainer-1'"):
        load_model(folder)


def test_config_of_another_model(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    record["model"]["gcrn"]["hidden"] = 20
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(EnhanceError, match="do not belong together"):
        load_model(folder)
    record["model"]["gcrn"]["layers"] = 20
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(EnhanceError, match=r"config.json: gcrn: unknown key 'layers'"):
        load_model(folder)


def test_tensors_that_do_not_fit(folder: Path) -> None:
    path, name = folder / "model.safetensors", "network.encoder.0.conv.bias"
    whole = path.read_bytes()
    for change, value, message in (
        (name, None, f"missing {name}"),
        ("teacher.weight", torch.ones(2), "unexpected teacher.weight"),
        (name, torch.ones(3), rf"{name} is \(3,\), need \(8,\)"),
        (name, torch.full((8,), torch.nan), f"{name} is not finite"),
    ):
        path.write_bytes(whole)
        rewrite(path, change, value)
        with pytest.raises(EnhanceError, match=message):
            load_model(folder)


def test_newest_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="holds no trained run"):
        newest_run(tmp_path / "runs")
    for name, time in (("b", 300), ("a", 400), ("c", 200)):
        shutil.copytree(folder, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "model.safetensors", (time, time))
        os.utime(tmp_path / "runs" / name / "config.json", (time, time))
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "config.yaml").touch()
    assert newest_run(tmp_path / "runs").name == "a"
    assert newest_run(tmp_path / "runs", kept=False).name == "begun"


def test_trainer_state_round_trip(tmp_path: Path) -> None:
    def parts() -> tuple[WaveformModel, torch.nn.Linear, torch.optim.AdamW]:
        net, own = WaveformModel(CONFIG), torch.nn.Linear(3, 1)
        return net, own, torch.optim.AdamW([*net.parameters(), *own.parameters()], lr=0.1)

    def step(net: WaveformModel, own: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        audio = torch.linspace(-1, 1, 3200)[None].sin()
        (net(audio)[0].square().mean() + own(torch.ones(3)).square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(3)
    net, own, optimizer = parts()
    step(net, own, optimizer)
    path = tmp_path / "trainer.safetensors"
    save_tensors(
        path, gather({"model": net, "objective": own}, optimizer), {"step": 1}, "enhance-trainer-1"
    )
    tensors, header = load_tensors(path, "enhance-trainer-1")
    assert header == {"step": 1}
    other, another, restored = parts()
    scatter(tensors, {"model": other, "objective": another}, restored, path)
    step(net, own, optimizer)
    step(other, another, restored)
    for a, b in zip([*net.parameters(), *own.parameters()], other.parameters(), strict=False):
        assert torch.equal(a, b)
    assert torch.equal(own.weight, another.weight)
    with pytest.raises(EnhanceError, match="objective: tensors do not fit"):
        scatter(tensors, {"objective": torch.nn.Linear(4, 1)}, restored, path)


def test_load_exactly_counts() -> None:
    with pytest.raises(EnhanceError, match="missing weight; missing bias; unexpected a and 1 more"):
        load_exactly(torch.nn.Linear(1, 1), {"a": torch.ones(1), "b": torch.ones(1)}, "here")


def test_difference() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": 3}}
    assert difference(old, {"a": 1, "b": {"c": [1, 2], "d": 3}}) == []
    assert difference(old, {"a": 2, "b": {"c": [1], "d": 3, "e": 0}}) == [
        ("a", 1, 2),
        ("b.c", [1, 2], [1]),
        ("b.e", None, 0),
    ]


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ({"bottleneck": "dual_path"}, True),
        ({"bottleneck": "dual_path", "mixing": "dense"}, False),
        ({"bottleneck": "grouped"}, False),
    ],
    ids=["dual", "dense", "grouped"],
)
def test_weights_go_to_another_framing_where_they_fit(
    kind: dict[str, Any], fits: bool, tmp_path: Path
) -> None:
    gcrn = GcrnConfig(channels=(4, 4), hidden=8, groups=1, rnn_layers=1, **kind)
    before, after = (ModelConfig(FRAMINGS[name], gcrn) for name in ("32-16", "25-12.5"))
    there, here = WaveformModel(before), WaveformModel(after)
    save_model(tmp_path, there, CheckpointInfo(before))
    if not fits:
        with pytest.raises(EnhanceError, match=r"model.stft.window_length is 512 there, 400"):
            start_from(here, after, tmp_path)
        return
    start_from(here, after, tmp_path)
    for (name, a), b in zip(there.named_parameters(), here.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """Their hash names a model; safetensors itself writes metadata in any order."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2), "none": torch.zeros(0)}
    path, found = tmp_path / "x.safetensors", set()
    for _ in range(12):
        save_tensors(path, tensors, {"of": "ä", "step": 3}, "tag")
        found.add(path.read_bytes())
    assert len(found) == 1
    again, header = load_tensors(path, "tag")
    assert header == {"of": "ä", "step": 3}
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
