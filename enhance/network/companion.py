"""What stands beside the recurrent output: features made from the noisy waveform, by contract.

A network with ``gcrn.extra_features`` takes features (B, T, D) beside its recurrent output. A
`Companion` makes them, from whole signals: it may look ahead as far as it likes, and a model that
has one cannot stream. Which companions there are is not known here; whoever makes one hands it to
the model, and a `Factory` finds it again when a checkpoint is loaded.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from enhance.config import ModelConfig
from enhance.errors import EnhanceError

T = TypeVar("T")


class OneWave(nn.Module, abc.ABC):
    """Features of ONE recording, without Python that depends on its length or its samples."""

    least_samples: int
    """Shortest recording."""
    longest_samples: int | None
    """Longest recording for which it equals the companion; None for any."""

    @abc.abstractmethod
    def forward(self, noisy: Tensor, frames: int) -> Tensor:
        """Shape: noisy (1, N) -> (1, frames, size)"""


class Companion(nn.Module, abc.ABC):
    """Makes features beside the recurrent output.

    It is a submodule of the model: its parameters are trained, averaged, validated and saved with
    the model's. What is frozen, a teacher say, belongs into a `Frozen`.
    """

    size: int
    """Width D of the features, the model's ``gcrn.extra_features``."""

    @abc.abstractmethod
    def forward(self, noisy: Tensor, frames: int) -> Tensor:
        """Features of whole signals on the frames of the model's STFT.

        Shape: noisy (B, N) -> (B, frames, size)
        """

    def one_wave(self) -> OneWave:
        """The same features, made by something that an exporter can follow.

        An `EnhanceError` tells that there is no such thing.
        """
        raise EnhanceError(f"export: {type(self).__name__} cannot be a part of an ONNX graph")

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for config.json, from which a `Factory` makes an equal one.

        ``needs`` is a phrase for people (what it takes to run it). ``place`` is where that was
        found; it may be edited and is no part of the model's identity, everything else is.
        """


Factory = Callable[[dict[str, Any], ModelConfig], Companion]
"""From `Companion.describe` of a saved model, and the model's configuration, to its companion."""


class Frozen(Generic[T]):
    """Holds what a module needs and does not own: no submodule, so neither trained nor saved.

    Copies of the module (the average of its weights) share it.
    """

    def __init__(self, value: T) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[T]:
        return self
