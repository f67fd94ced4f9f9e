"""trainer.safetensors: all that a stopped run needs to go on, in one file that is whole or absent.

Tensors by name (`<module>.<name>`, `optimizer.<slot>.<module>.<name>`) and, in the header, JSON:
`enhance.training.engine.learner.State`, precision, configuration. The state of random generators
is not here because there is none to keep: training seeds them from (seed, step), and batches are
functions of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.network.tensors import load_exactly, load_tensors

FILE = "trainer.safetensors"
FORMAT = "enhance-trainer-1"


class _Place(BaseModel):
    """Where a run was branched off."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    step: NonNegativeInt
    seconds: NonNegativeFloat


class _Header(BaseModel):
    """What `read_header` relies on; what has a default is newer than some files."""

    model_config = _Place.model_config
    config: dict[str, Any]
    objective: dict[str, Any]
    data: str
    step: NonNegativeInt
    seconds: NonNegativeFloat
    total: int | None = None
    audio: float = 0.0
    sums: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    best: dict[str, Any] | None = None
    branch: _Place | None = None
    groups: str = ""


def read_header(path: Path) -> dict[str, Any]:
    """Header of an enhancer's state.

    An `EnhanceError` tells that the file cannot be read, or not where the training stands.
    """
    _, header = load_tensors(path, FORMAT, tensors=False)
    try:
        _Header.model_validate(header)
    except ValidationError as error:
        bad = dict.fromkeys(".".join(map(str, found["loc"][:2])) for found in error.errors())
        raise EnhanceError(
            f"{path}: is damaged (its header does not tell {', '.join(bad)}); bring back a copy, "
            f"or start a new run with --init {path.parent}"
        ) from error
    return header


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

    An `EnhanceError` names tensors that are missing, left over, or of another shape.
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
