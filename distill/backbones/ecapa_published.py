"""Folders of speechbrain's published ECAPA-TDNN models, read without running what they say.

Such a folder holds ``hyperparams.yaml`` and ``embedding_model.ckpt`` (and a classifier, a label
encoder and ``mean_var_norm_emb.ckpt``, which embeddings compared by their cosine do not need). In
HyperPyYAML a tag such as ``!new:`` or ``!apply:`` names Python code to be run at loading. Here
tags are kept as plain text: only the three entries that shape the encoder are looked at, and only
settings that this front end has are taken. The checkpoint is a pickle, opened by
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distill.backbones.ecapa_model import Ecapa, EcapaConfig
from distill.backbones.folder import read_weights
from enhance.config.settings import parse
from enhance.errors import EnhanceError, require
from enhance.network.tensors import load_exactly

SETTINGS = "hyperparams.yaml"
WEIGHTS = "embedding_model.ckpt"
_LARGEST = 1 << 20  # bytes of settings; published files have some 2,000

_NETWORK = "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN"
_RENAMED = {"n_mels": "input_size", "embedding": "lin_neurons"}  # ours: speechbrain's
_SIZES = {_RENAMED.get(f.name, f.name): f.name for f in fields(EcapaConfig)}  # theirs: ours
_DEFAULT_CHANNELS = (512, 512, 512, 512, 1536)  # of the class, where the file names none
_HARMLESS = {"device", "dropout"}  # of the network: where it runs, and how it was trained
_FRONT_END: dict[str, Any] = {
    "deltas": False,
    "context": False,
    "requires_grad": False,
    "sample_rate": 16000,
    "f_min": 0,
    "f_max": 8000,
    "n_fft": 400,
    "filter_shape": "triangular",
    "win_length": 25,
    "hop_length": 10,
}
_WITHOUT_CONTEXT = {"left_frames", "right_frames"}  # speechbrain uses them with context only


@dataclass(frozen=True)
class Tagged:
    """A node with a tag, as data."""

    tag: str
    """Without the exclamation mark: ``new:speechbrain.lobes.features.Fbank``."""
    value: Any
    """Mapping, list or text."""


def is_published(folder: Path) -> bool:
    """Whether a folder looks like a published speaker encoder of speechbrain."""
    return (folder / SETTINGS).is_file()


def read(folder: Path) -> Ecapa:
    """Build the encoder of a published folder.

    An `EnhanceError` if it is no ECAPA-TDNN with the front end known here, or a file is damaged.
    """
    path = folder / SETTINGS
    settings = read_settings(path)
    front = _entry(settings, "compute_features", "new:speechbrain.lobes.features.Fbank", path)
    norm = _entry(
        settings, "mean_var_norm", "new:speechbrain.processing.features.InputNormalization", path
    )
    network = _entry(settings, "embedding_model", f"new:{_NETWORK}", path)

    n_mels = front.pop("n_mels", 40)
    for key, value in front.items():
        if key in _WITHOUT_CONTEXT:
            continue
        if key not in _FRONT_END or value != _FRONT_END[key]:
            raise EnhanceError(
                f"{path}: compute_features.{key} is {value!r}; this front end "
                + (f"has {_FRONT_END[key]!r}" if key in _FRONT_END else "does not know it")
            )
    if norm != {"norm_type": "sentence", "std_norm": False}:
        raise EnhanceError(
            f"{path}: mean_var_norm is {norm}; known is norm_type: sentence, std_norm: False"
        )
    if network.get("input_size") != n_mels:
        raise EnhanceError(
            f"{path}: embedding_model.input_size {network.get('input_size')!r} does not fit "
            f"compute_features.n_mels {n_mels!r}"
        )
    sizes: dict[str, Any] = {"channels": list(_DEFAULT_CHANNELS)}
    for key, value in network.items():
        if key in _SIZES:
            sizes[_SIZES[key]] = value
        elif key == "activation" and value == Tagged("name:torch.nn.ReLU", ""):
            continue
        elif key not in _HARMLESS:
            raise EnhanceError(f"{path}: embedding_model.{key} is {value!r}, which is not known")
    model = parse(EcapaConfig, sizes, f"{path}: embedding_model").build(0)
    weights = folder / WEIGHTS
    load_exactly(model.network, read_weights(weights), str(weights))
    return model


def read_settings(path: Path) -> dict[str, Any]:
    """Entries of a HyperPyYAML file; tags stay data, plain references are followed.

    An `EnhanceError` if it is no YAML mapping, has Python tags, or refers to nothing.
    """
    require("train", "yaml")
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that keeps tags it does not know."""

    def tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Tagged:
        if isinstance(node, yaml.MappingNode):
            return Tagged(tag, loader.construct_mapping(node, deep=True))
        if isinstance(node, yaml.SequenceNode):
            return Tagged(tag, loader.construct_sequence(node, deep=True))
        return Tagged(tag, node.value)

    Loader.add_multi_constructor("!", tagged)
    try:
        if path.stat().st_size > _LARGEST:
            raise EnhanceError(f"{path}: too long for settings ({path.stat().st_size} bytes)")
        values = yaml.load(path.read_text("utf-8"), Loader)
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise EnhanceError(f"{path}: cannot be read as settings ({reason})") from error
    if not isinstance(values, dict):
        raise EnhanceError(f"{path}: holds no settings")
    return values


def _entry(settings: dict[str, Any], key: str, tag: str, path: Path) -> dict[str, Any]:
    """Arguments of one entry, which must have this tag; references in them followed."""
    entry = settings.get(key)
    if not (isinstance(entry, Tagged) and entry.tag == tag):
        found = f"!{entry.tag}" if isinstance(entry, Tagged) else repr(entry)
        raise EnhanceError(
            f"{path}: {key} is {found}, not !{tag}; only speechbrain's ECAPA-TDNN is read here"
        )
    values = {} if entry.value == "" else entry.value
    if not isinstance(values, dict):
        raise EnhanceError(f"{path}: {key} has no arguments by name")
    return {
        name: _follow(settings, value, f"{path}: {key}.{name}") for name, value in values.items()
    }


def _follow(settings: dict[str, Any], value: Any, where: str) -> Any:
    if not (isinstance(value, Tagged) and value.tag == "ref"):
        return value
    match = re.fullmatch(r"\s*<(\w+)>\s*", value.value) if isinstance(value.value, str) else None
    target = settings.get(match[1]) if match else None
    if target is None or isinstance(target, Tagged):
        raise EnhanceError(f"{where}: `!ref {value.value}` leads to no plain value; write it out")
    return target
