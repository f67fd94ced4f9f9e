"""Dataclasses from YAML and from `a.b=c`, strictly: an unknown key or a wrong type is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from enhance.config import MODELS, ModelConfig, RunConfig
from enhance.errors import EnhanceError, require
from enhance.stft import FRAMINGS

T = TypeVar("T")
CORPUS = "DIR"
"""What stands for the place of a corpus where it must not be named."""


def parse(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from plain data.

    Parameters
    ----------
    cls
        The dataclass; its fields may be dataclasses, tuples, lists, dicts, literals, optional.
    mapping
        Plain data, as YAML or JSON give it. Absent keys keep their defaults.
    where
        How messages name the place, such as ``"configs/base.yaml"``.

    Raises
    ------
    EnhanceError
        For an unknown key (the nearest known one is named) or a value of the wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise EnhanceError(f"{where}: expected keys and values, found {mapping!r}")
    if cls is ModelConfig:
        mapping = _expand_presets(mapping, where)
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in mapping.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise EnhanceError(f"{where}: unknown key {key!r}; {hint}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    return cls(**values)


def to_dict(value: Any) -> Any:
    """Plain data (dicts, lists, numbers, text) of a dataclass, fit for JSON and YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file whose top is a mapping. A key `include` names a file to refine, or several
    in a list, each refining those before it.

    Raises
    ------
    EnhanceError
        If the file is missing, is not YAML, or holds something else.
    """
    require("train", "yaml")
    import yaml

    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise EnhanceError(f"{path}: no such configuration file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise EnhanceError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise EnhanceError(f"{path}: expected keys and values at the top")
    return included(value, path.parent, str(path))


def included(mapping: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """``mapping`` without its key `include`, over the files of ``folder`` which that names.

    Raises
    ------
    EnhanceError
        If it names no files, or one is at fault; see `load_yaml`.
    """
    rest = dict(mapping)
    include = rest.pop("include", None)
    names = include if isinstance(include, list) else [] if include is None else [include]
    if not all(isinstance(name, str) for name in names):
        raise EnhanceError(f"{where}: include: expected a file or a list of them, found {names!r}")
    result: dict[str, Any] = {}
    for name in names:
        result = merge(result, load_yaml(folder / name))
    return merge(result, rest)


def dump_yaml(value: Any) -> str:
    """YAML text of plain data or of a dataclass, keys in order."""
    require("train", "yaml")
    import yaml

    return yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over`` put over it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def override(mapping: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply ``"a.b=c"`` assignments; the right side is read as YAML.

    Raises
    ------
    EnhanceError
        If one has no ``=`` or no key.
    """
    require("train", "yaml")
    import yaml

    result = dict(mapping)
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip("."):
            raise EnhanceError(f"--set {text}: expected KEY.KEY=VALUE")
        try:
            leaf: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise EnhanceError(f"--set {text}: the value is not YAML") from error
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        result = merge(result, leaf)
    return result


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
    return parse(RunConfig, override(mapping, assignments), str(path) if path else "--set")


def _expand_presets(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    mapping = dict(mapping)
    for key, place, presets in (("preset", "gcrn", MODELS), ("framing", "stft", FRAMINGS)):
        name = mapping.pop(key, None)
        if name is None:
            continue
        if name not in presets:
            raise EnhanceError(f"{where}: {key}: no preset {name!r}; known: {', '.join(presets)}")
        mapping[place] = merge(to_dict(presets[name]), mapping.get(place) or {})
    return mapping


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        for option in rest[:-1]:
            try:
                return _convert(option, value, where)
            except EnhanceError:
                continue
        return _convert(rest[-1], value, where)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise EnhanceError(f"{where}: {value!r} is none of {', '.join(map(repr, args))}")
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast(type, kind), value, where)
    if origin is dict:
        if isinstance(value, Mapping):
            return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
        raise EnhanceError(f"{where}: expected keys and values, found {value!r}")
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise EnhanceError(f"{where}: expected a list, found {value!r}")
        if origin is list or args[-1] is Ellipsis:
            return origin(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise EnhanceError(f"{where}: expected {len(args)} values, found {len(value)}")
        pairs = zip(args, value, strict=True)
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text, because it has no dot.
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is Path and isinstance(value, str):
        value = Path(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EnhanceError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value
