"""Objectives that stand around another one, which says what the enhancer itself minimises."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from enhance.config import ModelConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.network.companion import Companion
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Objective


class Around(Objective):
    """Hands all on to the objective inside, perhaps another such; subclasses add their part."""

    mode: str
    """Name of the mode that the subclass is."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner
        self.alignment = inner.alignment
        self.partial = inner.partial

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.inner(model, batch)

    def model_config(self, config: ModelConfig) -> ModelConfig:
        return self.inner.model_config(config)

    def companion(self) -> Companion | None:
        return self.inner.companion()

    def prepare(self, speech: ClipStore) -> None:
        self.inner.prepare(speech)

    def begin_step(self, step: int, model: WaveformModel) -> None:
        self.inner.begin_step(step, model)

    def trains_enhancer(self, step: int) -> bool:
        return self.inner.trains_enhancer(step)

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """What the record says of this part alone."""

    def describe(self) -> dict[str, Any]:
        """Flat for one mode; of a combination, each part under its mode's name."""
        inner = self.inner.describe()
        modes = inner.pop("mode")
        if modes == "base":
            return {"mode": self.mode, **self.about()}
        parts = inner if "+" in modes else {modes: inner}
        return {"mode": f"{self.mode}+{modes}", self.mode: self.about(), **parts}

    def log(self) -> dict[str, float]:
        return self.inner.log()
