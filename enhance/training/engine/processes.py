"""Several processes as one: starting them, and failing together with one message."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from enhance.errors import EnhanceError

R = TypeVar("R")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Hardware:
    """Where a training runs, in Lightning Fabric's words."""

    accelerator: str = "cpu"
    """`cpu`, `cuda` or `auto`."""
    devices: int = 1
    """Processes, or GPUs, per node. The calling command is run again for each but the first; those
    processes end inside the call, and several nodes must share the folder of the run."""
    strategy: str = "auto"
    """One of `STRATEGIES`."""
    num_nodes: int = 1
    """Machines."""

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes

    def launch(self, precision: str = "fp32", *, partial: bool = False) -> Fabric:
        """Start Lightning Fabric, ``precision`` as in `resolve`.

        ``partial`` says that some steps leave weights without a gradient. An `EnhanceError` if
        there are no such devices, or the strategy is none that training supports.
        """
        strategy = self.strategy
        if strategy not in STRATEGIES:
            raise EnhanceError(f"strategy {strategy!r}: none of {', '.join(STRATEGIES)}")
        if self.world > 1 and partial:
            strategy = finds_unused(strategy)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                strategy=strategy,
                num_nodes=self.num_nodes,
                precision=PRECISIONS[resolve(precision, self.accelerator)],
            )
            fabric.launch()
        except (ValueError, RuntimeError) as error:
            raise EnhanceError(
                f"accelerator {self.accelerator}, {self.devices} devices, strategy {strategy}: "
                f"cannot be had ({' '.join(str(error).split())})"
            ) from error
        return fabric


def finds_unused(strategy: str) -> str:
    """The strategy for objectives whose steps leave some weights without a gradient.

    An `EnhanceError` if one was named that would wait for those gradients for ever.
    """
    if strategy == "ddp":
        raise EnhanceError(
            "strategy 'ddp': this mode trains parts of the model in turn; take auto or "
            f"{STRATEGIES[-1]}"
        )
    return STRATEGIES[-1]


def resolve(precision: str, accelerator: str) -> str:
    """What `TrainingConfig.precision` stands for on this machine: ``fp32`` or ``bf16``."""
    if precision != "auto":
        return precision
    return "bf16" if has_bfloat16(accelerator) else "fp32"


def has_bfloat16(accelerator: str) -> bool:
    """Whether it computes in bfloat16 itself; elsewhere that is slower than float32."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch before 2.10 does not say what the processor has.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def precision_of(fabric: Fabric) -> str:
    """What a training computes in: ``fp32`` or ``bf16``."""
    return "bf16" if fabric.strategy.precision.precision.startswith("bf16") else "fp32"


@contextlib.contextmanager
def on_cpu(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules on the CPU for a while: figures that do not depend on the device."""
    places = [(m, next((p.device for p in m.parameters()), torch.device("cpu"))) for m in modules]
    try:
        for module, _ in places:
            module.to("cpu")
        yield
    finally:
        for module, device in places:
            module.to(device)


def on_first(fabric: Fabric, action: Callable[[], R]) -> R | None:
    """Run ``action`` on the first process only, while the others wait; None is their result.

    Where it raises an `EnhanceError`, the others end quietly, so that the message stands once.
    """
    result, problem = None, None
    if fabric.is_global_zero:
        try:
            result = action()
        except EnhanceError as error:
            problem = error
    if fabric.broadcast(problem is not None):
        raise problem if problem is not None else SystemExit(0)
    return result


def in_turn(fabric: Fabric, action: Callable[[], R]) -> R:
    """Run ``action`` on the first process (see `on_first`), then on the others: they find the files
    it made.
    """
    result = on_first(fabric, action)
    return result if fabric.is_global_zero else action()  # type: ignore[return-value]


def together(fabric: Fabric, action: Callable[[], R]) -> R:
    """Run ``action`` on every process; an `EnhanceError` on one ends all, raised on the first with
    the message of the first that failed.
    """
    if fabric.world_size == 1:
        return action()
    result, problem = None, ""
    try:
        result = action()
    except EnhanceError as error:
        problem = str(error)
    if any(row[0] for row in share(fabric, [float(bool(problem))])):
        first = next(text for text in collect(fabric, problem) if text)
        raise EnhanceError(first) if fabric.is_global_zero else SystemExit(0)
    return result  # type: ignore[return-value]


def end_others(fabric: Fabric) -> None:
    """Leave the process group; every process but the first ends here, its work done."""
    fabric.barrier()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not fabric.is_global_zero:
        raise SystemExit(0)


def share(fabric: Fabric, values: list[float]) -> list[list[float]]:
    """The same list of numbers from every process, in order of rank."""
    if fabric.world_size == 1:
        return [values]
    mine = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    rows = [torch.empty_like(mine) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, mine)
    return torch.stack(rows).tolist()


def same_everywhere(tensor: torch.Tensor) -> None:
    """Give all processes the first one's values, in place."""
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, 0)


def mean_everywhere(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes."""
    if not torch.distributed.is_initialized():
        return tensor
    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def collect(fabric: Fabric, value: Any) -> list[Any]:
    """The same kind of plain data from every process, in order of rank."""
    if fabric.world_size == 1:
        return [value]
    everything: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everything, value)
    return everything
