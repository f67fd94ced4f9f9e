"""Dataclasses from YAML and from `a.b=c`, strictly: an unknown key or a wrong type is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from enhance.config import MODELS, ModelConfig, RunConfig
from enhance.config.checked import read
from enhance.errors import EnhanceError, require
from enhance.files import expanded, read_text, resolved
from enhance.stft import FRAMINGS

T = TypeVar("T")
CORPUS = "DIR"
"""What stands for the place of a corpus where it must not be named."""
_PRESETS = (("preset", "gcrn", MODELS), ("framing", "stft", FRAMINGS))
"""Keys of a model that name one, the key of the settings that it stands for, and what there is."""
_MOST_VALUES = 100_000
"""Of one YAML text, each repetition by an alias counted."""


def parse(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Make a dataclass of `enhance.config.checked.checked` from plain data, as of YAML or JSON.

    Absent keys keep their defaults. An `EnhanceError` refuses an unknown key (the nearest known one
    is named) or a value that is not allowed, and names the place as ``where`` does, such as
    ``"configs/base.yaml"``.
    """
    if cls is ModelConfig:
        mapping = _expand_presets(mapping, where)
    elif issubclass(cls, RunConfig) and isinstance(mapping, Mapping) and "model" in mapping:
        model = _expand_presets(mapping["model"], f"{where}: model")
        mapping = {**mapping, "model": model}
    return read(cls, mapping, where)


def to_dict(value: Any) -> Any:
    """Plain data (dicts, lists, numbers, text) of a dataclass, fit for JSON and YAML."""

    def plain(item: Any) -> Any:
        return str(item) if isinstance(item, Path) else dataclasses.asdict(item)

    return json.loads(json.dumps(value, default=plain))


def load_yaml(path: Path | str, includers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file whose top is a mapping. A key `include` names a file to refine, or several
    in a list, each refining those before it. ``includers`` are files that include it, resolved.
    An `EnhanceError` if the file is missing, is not YAML, holds something else or a key twice, or
    includes itself.
    """
    path = Path(path)
    chain = (*includers, resolved(path))
    if chain[-1] in includers:
        raise EnhanceError(f"{path}: includes itself")
    value = _plain(read_text(path, missing="no such configuration file"), str(path))
    if not isinstance(value, dict | None):
        raise EnhanceError(f"{path}: expected keys and values at the top")
    return included(value or {}, path.parent, str(path), chain)


def included(
    mapping: Mapping[str, Any], folder: Path, where: str, includers: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """``mapping`` without its key `include`, over the files of ``folder`` which that names.

    An `EnhanceError` if it names no files, or one is at fault; see `load_yaml`.
    """
    rest = dict(mapping)
    include = rest.pop("include", None)
    names = include if isinstance(include, list) else [] if include is None else [include]
    if not all(isinstance(name, str) for name in names):
        raise EnhanceError(f"{where}: include: expected a file or a list of them, found {names!r}")
    result: dict[str, Any] = {}
    for name in names:
        try:
            result = layered(result, load_yaml(folder / expanded(name), includers))
        except EnhanceError as error:
            raise EnhanceError(f"{where}: include: {error}") from error
    return layered(result, rest)


def dump_yaml(value: Any) -> str:
    """YAML text of plain data or of a dataclass, keys in order."""
    require("train", "yaml")
    import yaml

    plain = to_dict(value)
    return yaml.dump(plain, Dumper=_of_1_2(yaml.SafeDumper), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over`` put over it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def layered(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`merge`, but that a preset named in ``over`` stands for all it decides: what ``base`` says of
    it in single settings goes.
    """
    model, own = base.get("model"), over.get("model")
    if isinstance(model, Mapping) and isinstance(own, Mapping):
        gone = {place for key, place, _ in _PRESETS if own.get(key) is not None}
        base = {**base, "model": {k: v for k, v in model.items() if k not in gone}}
    return merge(base, over)


def override(
    mapping: Mapping[str, Any], assignments: list[str], cls: type | None = None
) -> dict[str, Any]:
    """Apply ``"a.b=c"`` assignments as one layer; the right side is read as YAML, but where the
    field of dataclass ``cls`` is text, as it stands. One without ``=`` or key is refused by an
    `EnhanceError`.
    """
    result: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip("."):
            raise EnhanceError(f"--set {text}: expected KEY.KEY=VALUE")
        leaf: Any = value if _is_text(cls, key) else _plain(value, f"--set {text}")
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        result = merge(result, leaf)
    return layered(mapping, result)


def portable(value: Any) -> Any:
    """Plain data whose absolute paths are cut to their names, a corpus to `CORPUS`."""
    if isinstance(value, dict):
        return {
            key: CORPUS if key == "corpus" and item else portable(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def load_run(path: Path | str | None, assignments: list[str]) -> RunConfig:
    """The configuration of a run: defaults, then the file, then the assignments."""
    mapping = load_yaml(path) if path else {}
    whole = override(mapping, assignments, RunConfig)
    try:
        return parse(RunConfig, whole, str(path) if path else "--set")
    except EnhanceError:
        if path and assignments:
            parse(RunConfig, mapping, str(path))  # if this goes well, an assignment is at fault
            return parse(RunConfig, whole, "--set")
        raise


def _is_text(cls: type | None, key: str) -> bool:
    kind: Any = cls
    for name in key.split("."):
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = hints.get(name)
    return kind is str


def _expand_presets(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        raise EnhanceError(f"{where}: expected keys and values, found {mapping!r}")
    mapping = dict(mapping)
    for key, place, presets in _PRESETS:
        name = mapping.pop(key, None)
        if name is None:
            continue
        if not isinstance(name, str) or name not in presets:
            raise EnhanceError(f"{where}: {key}: no preset {name!r}; known: {', '.join(presets)}")
        own = mapping.get(place)
        if own is None or isinstance(own, Mapping):  # anything else is refused where it is read
            mapping[place] = merge(to_dict(presets[name]), own or {})
    return mapping


def _of_1_2(kind: Any) -> Any:
    """A loader or dumper of PyYAML for which `1e-3` is a number, as in YAML 1.2."""
    own: Any = type(kind.__name__, (kind,), {})
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)[eE][-+]?[0-9]+$")
    own.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return own


def _plain(text: str, where: str) -> Any:
    """What YAML text says; a key that stands twice is refused."""
    require("train", "yaml")
    import yaml

    try:
        loader = _of_1_2(yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, where, {}) > _MOST_VALUES:
            raise EnhanceError(f"{where}: stands for more than {_MOST_VALUES} values; use fewer *")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise EnhanceError(f"{where}: not YAML ({' '.join(str(error).split())})") from error


def _values(node: Any, where: str, known: dict[int, int]) -> int:
    """How many values a node stands for, written out: aliases of aliases grow without bound.

    A key that stands twice is refused: YAML would keep the last without a word.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = found = 1  # of a node that holds itself, which is refused later
    if node.id == "sequence":
        found += sum(_values(part, where, known) for part in node.value)
    elif node.id == "mapping":
        keys = set()
        for key, value in node.value:
            if key.id == "scalar" and key.value in keys:
                line = key.start_mark.line + 1
                raise EnhanceError(f"{where}, line {line}: key {key.value!r} stands twice")
            keys.add(str(key.value))
            found += _values(key, where, known) + _values(value, where, known)
    known[id(node)] = found
    return found
