"""trainer.safetensors: all that a stopped run needs to go on, in one file that is whole or absent.

Tensors by name (`<module>.<name>`, `optimizer.<slot>.<module>.<name>`) and, in the header, JSON:
`enhance.training.engine.learner.State`, precision, configuration. The state of random generators
is not here because there is none to keep: training seeds them from (seed, step), and batches are
functions of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.network.tensors import load_exactly, load_tensors

FILE = "trainer.safetensors"
FORMAT = "enhance-trainer-1"

_NEEDED: Mapping[str, tuple[type, ...]] = {
    "config": (dict,),
    "objective": (dict,),
    "data": (str,),
    "step": (int,),
    "seconds": (int, float),
}
_NOTHING = type(None)
_KNOWN: Mapping[str, tuple[type, ...]] = {
    "total": (int, _NOTHING),
    "audio": (int, float),
    "sums": (dict,),
    "counts": (dict,),
    "shares": (dict,),
    "best": (dict, _NOTHING),
    "branch": (dict, _NOTHING),
}
"""What a header may lack: it was written before there was such a thing."""


def read_header(path: Path) -> dict[str, Any]:
    """Header of an enhancer's state.

    Raises
    ------
    EnhanceError
        If the file cannot be read, or does not tell where the training stands.
    """
    _, header = load_tensors(path, FORMAT, tensors=False)
    bad = [key for key, kinds in _NEEDED.items() if type(header.get(key)) not in kinds]
    bad += [k for k, kinds in _KNOWN.items() if k in header and type(header[k]) not in kinds]
    if not bad:
        bad = _misplaced(header)
    if not bad and header.get("branch"):
        bad = [f"branch.{key}" for key in _misplaced(header["branch"])]
    if bad:
        raise EnhanceError(
            f"{path}: is damaged (its header does not tell {', '.join(bad)}); bring back a copy, "
            f"or start a new run with --init {path.parent}"
        )
    return header


def _misplaced(place: Mapping[str, Any]) -> list[str]:
    """Which of step and seconds is no number from 0 on."""
    return [
        key
        for key in ("step", "seconds")
        if type(place.get(key)) not in _NEEDED[key] or not 0 <= place[key] < math.inf
    ]


def gather(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Tensor]:
    """All tensors of modules by name, and of their optimiser."""
    tensors = {f"{m}.{n}": t for m, x in modules.items() for n, t in x.state_dict().items()}
    slots = optimizer.state if optimizer else {}
    for name, parameter in _parameters(modules).items():
        for slot, value in slots.get(parameter, {}).items():
            tensors[f"optimizer.{slot}.{name}"] = torch.as_tensor(value)
    return tensors


def scatter(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    where: Path,
) -> None:
    """Put what `gather` took back in place.

    Raises
    ------
    EnhanceError
        If tensors are missing, left over, or have another shape.
    """
    for name, module in modules.items():
        load_exactly(module, below(tensors, name), f"{where}: {name}")
    parameters = _parameters(modules)
    for key, value in below(tensors, "optimizer").items():
        slot, _, name = key.partition(".")
        if name not in parameters:
            raise EnhanceError(f"{where}: optimizer state of unknown weights {name!r}")
        parameter = parameters[name]
        # Adam keeps its step count on the CPU, everything else beside the weights.
        place = torch.empty(0) if slot == "step" else parameter
        optimizer.state[parameter][slot] = value.to(place.device, place.dtype, copy=True)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix and a dot, without them."""
    start = prefix + "."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {n: p for m, x in modules.items() for n, p in x.named_parameters(m)}
