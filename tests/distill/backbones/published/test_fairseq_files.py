"""Published checkpoint files: kinds, settings, and what is refused."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq_layout import arguments, checkpoint, weights

from distill.backbones.published.fairseq_files import KINDS, literal, read
from enhance.errors import EnhanceError


def write(path: Path, **changes: Any) -> Path:
    """A wav2vec file with some of its entries changed."""
    args = arguments()
    torch.save({**checkpoint(args, weights(args)), **changes}, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(EnhanceError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])  # False: how torch wrote until 2020
def test_wav2vec_file(tmp_path: Path, zipped: bool) -> None:
    args = arguments()
    expected = weights(args)
    torch.save(checkpoint(args, expected), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    kind, settings, tensors = read(tmp_path / "w.pt")
    assert kind == "wav2vec"
    assert settings == vars(args)
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_kinds(tmp_path: Path) -> None:
    one = torch.ones(1)
    attention = {"encoder.layers.0.self_attn.k_proj.weight": one, "mask_emb": one}
    published = {
        "wav2vec": ({"args": Namespace(arch="wav2vec")}, {"feature_aggregator.a": one}),
        "vq-wav2vec": (
            {"args": Namespace(arch="wav2vec")},
            {"feature_aggregator.a": one, "vector_quantizer.vars": one},
        ),
        "wav2vec2": ({"args": Namespace(arch="wav2vec2"), "cfg": None}, attention),
        "hubert": (
            {"args": None, "cfg": {"model": {"_name": "hubert"}, "task": {"normalize": False}}},
            {**attention, "label_embs_concat": one},
        ),
        "wavlm": (
            {"cfg": {"normalize": True, "encoder_layers": 12}},
            {**attention, "encoder.layers.0.self_attn.grep_linear.weight": one},
        ),
    }
    assert tuple(published) == KINDS
    for kind, (settings, model) in published.items():
        torch.save({**settings, "model": model}, tmp_path / "m.pt")
        assert read(tmp_path / "m.pt").kind == kind
    torch.save({"cfg": {"model": {"_name": "data2vec_audio"}}, "model": attention}, tmp_path / "d")
    assert "architecture 'data2vec_audio'" in refusal(tmp_path / "d")


def test_sections_of_a_configuration_become_one(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    cfg = {
        "task": {"normalize": True, "dropout": 9},
        "model": {"_name": "wav2vec2", "dropout": 0.1, "w2v_args": Namespace(a=(1, [2]))},
        "optimization": {"lr": [0.1]},
    }
    model = {"encoder.layers.0.self_attn.k_proj.weight": torch.ones(1)}
    torch.save({"args": None, "cfg": cfg, "model": model}, path)
    expected = {"normalize": True, "_name": "wav2vec2", "dropout": 0.1, "w2v_args": {"a": (1, [2])}}
    assert read(path).args == expected


class AnyNode:
    def __init__(self, value: Any, parent: Any) -> None:
        self._val, self._parent, self._metadata = value, parent, Metadata()


class Metadata:
    def __init__(self) -> None:
        self.ref_type, self.key, self.flags = Any, "x", None
        self.element_type, self.resolver_cache = dict, collections.defaultdict(dict)


class DictConfig:
    def __init__(self, content: dict[str, Any], parent: Any = None) -> None:
        self._metadata, self._parent = Metadata(), parent
        self._content = {k: wrap(v, self) for k, v in content.items()}


class ListConfig:
    def __init__(self, content: list[Any], parent: Any) -> None:
        self._metadata, self._parent = Metadata(), parent
        self._content = [wrap(v, self) for v in content]


def wrap(value: Any, parent: Any) -> Any:
    if isinstance(value, dict):
        return DictConfig(value, parent)
    return (ListConfig if isinstance(value, list) else AnyNode)(value, parent)


def test_omegaconf_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of its pickles, as version 2.4 writes them, by classes of those names."""
    places = {
        "dictconfig": DictConfig,
        "listconfig": ListConfig,
        "nodes": AnyNode,
        "base": Metadata,
    }
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for place, kind in places.items():
        module = types.ModuleType(f"omegaconf.{place}")
        setattr(module, kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    model = {"_name": "wav2vec2", "layers": 12, "drop": [0.1, "x", None], "deep": {"a": True}}
    cfg = DictConfig({"task": {"normalize": True}, "model": model})
    weight = {"encoder.layers.0.self_attn.k_proj.weight": torch.ones(1)}
    torch.save({"args": None, "cfg": cfg, "model": weight}, tmp_path / "m.pt")
    for name in ("omegaconf", *(f"omegaconf.{place}" for place in places)):
        monkeypatch.delitem(sys.modules, name)
    assert read(tmp_path / "m.pt").args == {"normalize": True, **model}


def test_what_lies_beside_the_model_is_harmless(tmp_path: Path) -> None:
    numbers = {"best": np.float64(0.4), "epoch": np.int64(9)}
    assert read(write(tmp_path / "w.pt", extra_state=numbers)).kind == "wav2vec"


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Sly:
    """Calls a type off the list by way of one on it."""

    def __reduce__(self) -> Any:
        return getattr, (Namespace(a=1), "a")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made"
    state = {**checkpoint(arguments(), weights(arguments())), "extra_state": Evil(made)}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "w.pt")
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert not made.exists()
    pickle.loads(pickle.dumps(Evil(made)))
    assert made.is_dir()  # it would have run: the test can fail


def test_types_off_the_list_are_named(tmp_path: Path) -> None:
    assert "getattr" in refusal(write(tmp_path / "s.pt", extra_state=Sly()))
    odd = refusal(write(tmp_path / "c.pt", extra_state=types.SimpleNamespace(a=1)))
    assert "types.SimpleNamespace" in odd
    assert "save {'cfg'" in odd
    # What is allowed while reading is allowed for that time only.
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(write(tmp_path / "w.pt"), weights_only=True)


def test_broken_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    assert "download it again" in refusal(tmp_path / "text.pt")
    whole = write(tmp_path / "w.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    assert "download it again" in refusal(tmp_path / "half.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "download it again" in refusal(tmp_path / "empty.pt")
    torch.save([1], tmp_path / "list.pt")
    assert "no 'model'" in refusal(tmp_path / "list.pt")
    for args in (None, torch.ones(2)):
        assert "no settings" in refusal(write(tmp_path / "n.pt", args=args))
    assert "is no tensor" in refusal(write(tmp_path / "t.pt", model={"a": 1}))
    assert "holds nothing" in refusal(write(tmp_path / "e.pt", model={}))
    unknown = write(tmp_path / "u.pt", model={"a": torch.ones(1)}, args=Namespace(arch="bart"))
    assert "architecture 'bart'" in refusal(unknown)
    loop: dict[str, Any] = {}
    loop["a"] = loop
    assert "contain themselves" in refusal(write(tmp_path / "l.pt", args=None, cfg=loop))


def test_literal() -> None:
    text = "[(512, 10, 5)] + [(512, 4, 2)] * 3 + 1 * [(512*3, 1, 1)]"
    assert literal(text, "x") == [(512, 10, 5), *[(512, 4, 2)] * 3, (1536, 1, 1)]
    assert literal("(2.0, 0.5, 0.999995)", "x") == (2.0, 0.5, 0.999995)
    assert literal(" -3 - 1", "x") == -4
    assert literal([1, 2], "x") == [1, 2]
    for bad in ["__import__('os')", "a", "[x for x in (1,)]", "(1).real", "'a' * 9", "[1, 2",
                "[0] * 1000000000", "9 ** 9", "[1] + 2", "(" * 500 + ")" * 500]:  # fmt: skip
        with pytest.raises(EnhanceError, match="conv") as caught:
            literal(bad, "conv")
        assert "\n" not in str(caught.value)
