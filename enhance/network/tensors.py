"""Files of tensors: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.files import atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], tag: str) -> None:
    """Write tensors and a JSON header of plain data, atomically.

    Tensors may be of any device and strides; views of one storage are written apart. ``tag`` is
    the name of the format, checked by `load_tensors`.
    """
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with atomic(path) as temporary:
        # As bytes, since safetensors' own error of a full disk is none of the system's.
        about = {"format": "pt", "enhance": tag, "header": json.dumps(header)}
        temporary.write_bytes(_in_order(save(plain, about)))


def _in_order(data: bytes) -> bytes:
    """The same file, its table of contents by name: safetensors puts metadata in any order."""
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    text = json.dumps(table, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > size:  # other escapes than theirs: as it is
        return data
    return data[:8] + text.ljust(size) + data[8 + size :]


def load_tensors(
    path: Path, tag: str, *, tensors: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote under this tag; without ``tensors`` the header only.

    An `EnhanceError` tells that the file is missing, damaged, or was written by other code.
    """
    if not path.is_file():
        raise EnhanceError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            values = {n: file.get_tensor(n) for n in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise EnhanceError(
            f"{path}: not a whole safetensors file ({' '.join(str(error).split())}); "
            "take another checkpoint"
        ) from error
    found = metadata.get("enhance")
    if found != tag:
        what = f"its format is {found!r}" if found else "it has no header of enhance"
        raise EnhanceError(f"{path}: written by other code ({what}, need {tag!r})")
    try:
        header = json.loads(metadata["header"])
    except (KeyError, ValueError) as error:
        raise EnhanceError(f"{path}: the header is damaged ({error})") from error
    if not isinstance(header, dict):
        raise EnhanceError(f"{path}: the header is damaged (no JSON object)")
    return values, header


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict; an `EnhanceError` names missing, unexpected and misshapen tensors."""
    own = module.state_dict()
    problems = [f"missing {n}" for n in own if n not in tensors]
    problems += [f"unexpected {n}" for n in tensors if n not in own]
    problems += [
        f"{n} is {tuple(tensors[n].shape)}, need {tuple(t.shape)}"
        for n, t in own.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise EnhanceError(
            f"{where}: tensors do not fit the model ({'; '.join(problems[:3])}{more}); "
            "the file belongs to another model or another version"
        )
    module.load_state_dict(tensors)
