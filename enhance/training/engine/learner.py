"""What everything that is trained is to the engine: the `Learner`, its `Step`s, its `Plan`.

Enhancers, self-supervised families, speaker encoders, CTC models and decoders differ in what a
batch is, what is minimised, and what is measured. That is a `Learner`. How long, how fast and how
carefully is a `Plan`. Everything else is the same for all and is `enhance.training.engine.engine`.
"""

from __future__ import annotations

import abc
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from enhance.errors import EnhanceError

RATES = ("gradient_norm", "learning_rate")
"""What the engine averages beside a learner's own figures."""


@dataclass(frozen=True)
class Step:
    """What one batch gave."""

    loss: Tensor
    """Scalar to minimise."""
    audio: float
    """Seconds heard."""
    means: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Figures of the step; history.jsonl gets their means over the steps since its last line."""
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Counts such as (right, asked); history.jsonl gets the share of their sums."""
    heard: str = ""
    """What the batch was made of, for the message when the loss is not finite."""


@dataclass
class State:
    """Where a training stands; JSON."""

    step: int = 0
    """Finished steps."""
    total: int | None = None
    """Steps in all, once known."""
    seconds: float = 0.0
    """Training time, validation included."""
    audio: float = 0.0
    """Seconds of audio heard, by all processes."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of `Step.means` and `RATES` since the last line of history."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many steps had each of them."""
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Sums of `Step.shares` since then."""

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> State:
        """From the header of a state file."""
        state = cls(**{f.name: header[f.name] for f in fields(cls) if f.name in header})
        if state.sums and not state.counts:  # written before figures could differ between steps
            state.counts = dict.fromkeys(state.sums, header["summed"])
        return state

    def means(self) -> dict[str, float]:
        """Means since the last line, each over the steps that had it."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}


class Learner(abc.ABC):
    """What an engine trains.

    Everything random in a step must follow from the configuration and the step's number, or come
    from the global generators of torch, numpy and Python, which the engine seeds in each step:
    this is what makes a resumed run equal to one never stopped.
    """

    name = "training"
    """Of the progress bar, and of messages."""

    @abc.abstractmethod
    def learnt(self) -> Mapping[str, nn.Module]:
        """Modules by name: all are kept in the state, and trained where a gradient is asked."""

    def beside(self) -> Mapping[str, nn.Module]:
        """Modules that are kept in the state and moved to the device, but not trained."""
        return {}

    @abc.abstractmethod
    def batches(self, rank: int, world: int, step: int) -> Iterator[Any]:
        """This process's batches without end, the first for the step after ``step`` finished ones.

        Tensors in dicts, lists and tuples are brought to the device, plain data stay.
        """

    @abc.abstractmethod
    def forward(self, batch: Any, step: int) -> Step:
        """Loss of the step after ``step`` finished ones; figures have the same names everywhere."""

    def before_step(self, step: int) -> None:  # noqa: B027  (most need few of these)
        """Choose what follows from the step alone, such as which parts are frozen."""

    def before_update(self, step: int) -> None:  # noqa: B027
        """Change gradients before they are clipped and used."""

    def after_update(self, step: int, total: int | None) -> None:  # noqa: B027
        """Change what follows the weights; ``step`` steps came before, of ``total``, once known."""

    def validate(self) -> dict[str, Any] | None:
        """Figures on held-back data, or None without any; modes are restored. On one process."""
        return None

    def before_save(self, last: bool) -> None:  # noqa: B027
        """What to write beside the state; ``last`` where training ends or stops. On one process."""

    def row(self, state: State) -> dict[str, Any]:
        """A line of training history."""
        means = {n: value for n, value in state.means().items() if n not in RATES}
        shares = {n: part / max(whole, 1) for n, (part, whole) in state.shares.items()}
        return {**means, **shares}

    def clock(self) -> dict[str, float]:
        """Numbers for timing.jsonl, such as a cache's hit rate."""
        return {}

    def tell(self, row: dict[str, Any], seconds: float) -> str:
        """What the screen shows of a line of history, after so many seconds; empty for nothing."""
        return f"{json.dumps(row)} ({seconds:.0f} s)"

    def fail(
        self, batch: Any, found: Step, at: tuple[int, int], loss: float, figures: dict[str, float]
    ) -> NoReturn:
        """Say why training cannot go on; called on all processes.

        ``batch`` and ``found`` are this process's; ``loss`` and ``figures`` (the step's means and
        ``gradient_norm``) are those of all. ``at`` is the seed, and the bad step's number, from 1.
        Always raises `EnhanceError`.
        """
        what = f"the loss is {loss}"
        if math.isfinite(loss):
            what += f", the norm of its gradient {figures['gradient_norm']}"
        seed, step = at
        heard = f", {found.heard}" if found.heard else ""
        raise EnhanceError(
            f"{self.name}, step {step}: {what} (seed {seed}{heard}); the last state is untouched; "
            "lower the learning rate"
        )


class Plan(abc.ABC):
    """How long, how fast and how carefully a learner learns."""

    seed: int
    """Of every step."""
    clip_norm: float
    """Bound on the norm of all gradients; 0 for none."""
    log_every: int
    """Steps averaged into one line of history.jsonl."""
    validate_every: int
    """Steps between validations; 0 for none."""
    closes: bool = False
    """Whether the last step has a line of history and a validation whatever its number."""

    @abc.abstractmethod
    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Of a module's trained parameters."""

    @abc.abstractmethod
    def rate(self, state: State) -> float:
        """Learning rate of the next step; a group's ``scale`` multiplies it."""

    @abc.abstractmethod
    def expected(self, state: State) -> float | None:
        """Steps that the budget will allow, as far as is known now; None for no end."""

    @abc.abstractmethod
    def over(self, state: State) -> bool:
        """Whether the budget is used; may note in ``state`` when it will be."""

    @abc.abstractmethod
    def saves(self, state: State, saved: float) -> bool:
        """Whether to write the state now, ``saved`` being ``state.seconds`` when last written."""


def adamw(module: nn.Module, rate: float, decay: float, **options: Any) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, not vectors."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, **options)
