"""What the cards of trained models have in common: written from a measured record, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError
from enhance.files import atomic

Text = Callable[[dict[str, Any], str, int], str]
"""Card of a record, the model's name and the bytes of its weights."""


def read(folder: Path) -> dict[str, Any]:
    """The record of a model folder.

    Raises
    ------
    EnhanceError
        If there is none.
    """
    path = folder / "record.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EnhanceError(f"{path}: no record to write a card from ({error})") from error
    return record


def write(folder: Path, text: Text) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``.

    Raises
    ------
    EnhanceError
        If there is no record.
    """
    record = read(folder)
    size = (folder / "model.safetensors").stat().st_size
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(text(record, folder.resolve().name, size), "utf-8")
    return folder / "README.md"


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested settings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def changes(
    config: Mapping[str, Any], usual: Mapping[str, Any], skip: Collection[str]
) -> list[tuple[str, Any]]:
    """Settings that differ from the usual ones, those of the top-level keys ``skip`` left out.

    Parameters
    ----------
    config, usual
        Nested settings, plain data.
    skip
        Keys that a command has options for, or that do not decide the weights.
    """
    plain = dict(leaves(json.loads(json.dumps(usual))))
    return [
        (key, value)
        for key, value in leaves(config)
        if key.split(".")[0] not in skip and plain.get(key) != value
    ]


def assignments(found: list[tuple[str, Any]]) -> list[str]:
    """As words of a command line: ``--set 'key=value'``."""
    return [f"--set '{key}={json.dumps(value)}'" for key, value in found]
