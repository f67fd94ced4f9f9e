"""Models by shipped name, path and hub id, in this order."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import build

from enhance.cli.info import describe
from enhance.device import hub
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError

POLE, GAIN = 0.9, 0.25
RNG = np.random.default_rng(2)


def test_models_are_found_by_shipped_name_then_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    shipped = build(tmp_path / "models" / "own.int8.onnx")
    default = build(tmp_path / "models" / "default.int8.onnx")
    elsewhere = build(tmp_path / "own")
    monkeypatch.setattr(hub, "MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert hub.shipped_models() == ["default", "own"]
    assert hub.find_model("own") == shipped
    assert hub.find_model("default") == default
    assert hub.find_model("./own").samefile(elsewhere)
    assert hub.find_model(shipped) == shipped
    assert Enhancer.from_pretrained("own").metadata["model_type"] == "one-pole"
    for name in ("nothing", "", "../secret", "no/where.onnx", "models/mistyped"):
        with pytest.raises(EnhanceError, match=r"no such model.*own"):
            hub.find_model(name)
    with pytest.raises(EnhanceError, match="is a folder"):
        hub.find_model(tmp_path)


def test_hub_is_asked_last_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["README.md", "small.onnx"]

    class HfApi:
        def list_repo_files(self, repository: str) -> list[str]:
            if repository == "org/broken":
                raise OSError("no network\nmore")
            return files

    fake = types.ModuleType("huggingface_hub")
    fake.__spec__ = types.SimpleNamespace()
    fake.HfApi = HfApi
    fake.hf_hub_download = lambda repository, file: str(tmp_path / repository / file)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert hub.find_model("org/name") == tmp_path / "org/name/small.onnx"
    assert "downloading org/name/small.onnx" in capsys.readouterr().err
    fake.hf_hub_download = lambda *_: str(hub.find_model("default"))
    describe("org/name")
    said = capsys.readouterr()
    assert "org/name" in said.out and said.err.count("asking the hub") == 1
    fake.hf_hub_download = lambda repository, file: str(tmp_path / repository / file)
    files.append("big.onnx")
    with pytest.raises(EnhanceError, match=r"has 2 \.onnx files"):
        hub.find_model("org/name")
    files.append("model.onnx")
    assert hub.find_model("org/name") == tmp_path / "org/name/model.onnx"
    with pytest.raises(EnhanceError, match=r"did not give it \(no network\)"):
        hub.find_model("org/broken")
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnhanceError, match="pip install huggingface_hub"):
        hub.find_model("org/name")
