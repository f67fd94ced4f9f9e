"""trainer.safetensors: all that a stopped run needs to go on, in one file that is whole or absent.

Tensors by name (`model.`, `average.`, `objective.`, `optimizer.<slot>.<parameter>`) and, in the
header, JSON: step, best score, seconds trained, sums since the last history line, configuration.
The state of random generators is not here because there is none to keep: training seeds them from
(seed, step), and mixtures are functions of (seed, epoch, index).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.files import atomic

FILE = "trainer.safetensors"
FORMAT = "enhance-trainer-1"


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], tag: str) -> None:
    """Write tensors and a JSON header, atomically.

    Parameters
    ----------
    path
        The file.
    tensors
        Any device, any strides; views of one storage are written apart.
    header
        Plain data.
    tag
        Name of the format, checked by `load_tensors`.
    """
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, {"format": "pt", "enhance": tag, "header": json.dumps(header)})


def load_tensors(
    path: Path, tag: str, *, tensors: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Parameters
    ----------
    path
        The file.
    tag
        Format that the file must have.
    tensors
        False reads the header only.

    Raises
    ------
    EnhanceError
        If the file is missing, damaged, or was written by other code.
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
    return values, header


def gather(
    model: nn.Module, average: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """All tensors of a trainer by name."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("model", model), ("average", average), ("objective", objective)):
        tensors.update({f"{prefix}.{n}": t for n, t in module.state_dict().items()})
    for name, parameter in _trained(model, objective):
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{slot}.{name}"] = torch.as_tensor(value)
    return tensors


def scatter(
    tensors: dict[str, Tensor],
    model: nn.Module,
    average: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    where: Path,
) -> None:
    """Put what `gather` took back in place.

    Raises
    ------
    EnhanceError
        If tensors are missing, left over, or have another shape.
    """
    for prefix, module in (("model", model), ("average", average), ("objective", objective)):
        load_exactly(module, _below(tensors, prefix), f"{where}: {prefix}")
    parameters = dict(_trained(model, objective))
    for key, value in _below(tensors, "optimizer").items():
        slot, _, name = key.partition(".")
        if name not in parameters:
            raise EnhanceError(f"{where}: optimizer state of unknown weights {name!r}")
        parameter = parameters[name]
        # Adam keeps its step count on the CPU, everything else beside the weights.
        place = torch.empty(0) if slot == "step" else parameter
        optimizer.state[parameter][slot] = value.to(place.device, place.dtype, copy=True)


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict; missing, unexpected or misshapen tensors are named.

    Raises
    ------
    EnhanceError
        If the names or shapes differ.
    """
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


def _trained(model: nn.Module, objective: nn.Module) -> list[tuple[str, nn.Parameter]]:
    named = [(f"model.{n}", p) for n, p in model.named_parameters()]
    return named + [(f"objective.{n}", p) for n, p in objective.named_parameters()]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
