"""The families that can be pre-trained, one file each, behind one protocol.

The loop in `distill.ssl.run` knows no family: it asks one for batches and losses, and for a
figure on held-back files.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from distill.ssl.data.corpus import SslData
from distill.ssl.data.crops import Crop
from distill.ssl.families.config import PRESETS, SslConfig
from distill.training.accuracy import Tally
from enhance.config.settings import merge, parse, to_dict
from enhance.errors import EnhanceError
from enhance.training.engine.interrupt import Interrupt

FAMILIES = {
    "wav2vec": "distill.ssl.families.wav2vec",
    "vq-wav2vec": "distill.ssl.families.vq_wav2vec",
    "wav2vec2": "distill.ssl.families.wav2vec2",
    "hubert": "distill.ssl.families.masked_units",
    "wavlm": "distill.ssl.families.masked_units",
}
"""Module of each family; its ``FAMILY`` is a refinement of `SslConfig` and the `Family` of one."""


@dataclass(frozen=True)
class Losses:
    """What one batch gave."""

    loss: Tensor
    """Scalar to minimise."""
    correct: float
    """Right answers."""
    counted: int
    """Questions."""
    means: dict[str, float] = field(default_factory=dict)
    """Figures of the step; history.jsonl gets their means, the first is the main loss."""


@dataclass(frozen=True)
class Work:
    """What a family needs to prepare an iteration."""

    iteration: int
    """Counted from 0."""
    data: SslData
    """The files."""
    state: Path
    """Folder for what a resumed run reads again."""
    reuse: bool
    """Whether files in ``state`` belong to this run."""
    begun: bool
    """Whether the iteration was prepared before: only what is not in the checkpoint is missing."""
    batches: Callable[[], Iterator[tuple[list[Crop], Any]]]
    """The iteration's batches from its first one."""
    interrupt: Interrupt
    """To be looked at often."""
    quiet: bool
    """No progress bars."""


class Family(abc.ABC):
    """One model and its objective."""

    model: Any
    """The network, a torch module, the same over all iterations."""

    def learnt(self) -> dict[str, nn.Module]:
        """What training changes, by name: ``model``, and ``head`` once it is prepared."""
        return {"model": self.model}

    def prepare(self, work: Work) -> str:
        """Make ready for an iteration; the name of what was being made if interrupted, else ''."""
        return ""

    @abc.abstractmethod
    def batch(self, crops: list[Crop], data: SslData, rng: np.random.Generator) -> Any:
        """What `losses` takes, of crops of one length; a pure function of its arguments."""

    @abc.abstractmethod
    def losses(self, batch: Any, step: int) -> Losses:
        """Forward pass and losses of the step after ``step`` finished ones.

        Randomness may be taken from torch's global generator: the loop seeds it for each step.
        """

    @abc.abstractmethod
    def measure(self, data: SslData) -> tuple[Tally, dict[str, Any]]:
        """Answers on held-back files, and what else the record shall tell of them.

        The same crops, masks and distractors at every call; modes are restored. ``codes`` of the
        second are size, used entries and perplexity of each codebook.
        """

    def facts(self) -> dict[str, Any]:
        """What the record tells of the iteration beside measurements."""
        return {}

    def validate(self, data: SslData) -> dict[str, Any]:
        """``loss``, ``accuracy``, mean code perplexity: plain numbers for the history."""
        tally, more = self.measure(data)
        used = [row["perplexity"] for row in more.get("codes", [])]
        spread = {"perplexity": round(sum(used) / len(used), 3)} if used else {}
        return {**tally.brief(), **spread}

    def report(self, data: SslData) -> dict[str, Any]:
        """The iteration's entry in record.json.

        ``clean`` (and ``disturbed``): loss, ``accuracy`` with a 95 % interval by file, ``chance``,
        guesses that need no model; and what `facts` and `measure` tell.
        """
        row = self.facts()
        if data.held:
            tally, more = self.measure(data)
            row |= {"clean": tally.full(), **more}
        return row

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that `distill.backbones.find.load` reads."""


def configure(
    family: str | None, preset: str | None, settings: Mapping[str, Any], begun: Any = None
) -> SslConfig:
    """The configuration of a run: its preset, and what is set beyond it.

    Parameters
    ----------
    family
        One of `FAMILIES`; None takes that of the preset, or wavlm.
    preset
        One of `PRESETS`; None takes the one named like the family.
    settings
        Keys of the family's configuration, as from ``--set``.
    begun
        Configuration of a run to be resumed: stands in for the preset.

    Raises
    ------
    EnhanceError
        For an unknown family, preset or key, or a value that does not fit.
    """
    if preset is not None and preset not in PRESETS:
        raise EnhanceError(f"--preset {preset}: unknown; there are {', '.join(PRESETS)}")
    if preset is not None and begun is not None:
        raise EnhanceError("--preset: a resumed run keeps its own settings; leave it out")
    if begun is None:
        begun = PRESETS[preset] if preset is not None else {"family": family or "wavlm"}
        if preset is None and begun["family"] in PRESETS:
            begun = PRESETS[begun["family"]]
    kind = begun["family"]
    if family is not None and family != kind:
        what = f"--preset {preset}" if preset else "the run to be resumed"
        raise EnhanceError(f"--family {family}: {what} is of the family {kind}")
    cls = config_class(kind)
    whole = to_dict(parse(cls, begun, f"--preset {preset or kind}"))
    return parse(cls, merge(whole, settings), "--set")


def config_class(family: str) -> type[SslConfig]:
    """Configuration class of a family.

    Raises
    ------
    EnhanceError
        If there is no such family.
    """
    return _parts(family)[0]


def build(config: SslConfig) -> Family:
    """The family's model with fresh weights, and its objective."""
    return _parts(config.family)[1](config)


def _parts(family: str) -> tuple[type[SslConfig], Callable[[SslConfig], Family]]:
    if family not in FAMILIES:
        raise EnhanceError(f"--family {family}: unknown; there are {', '.join(FAMILIES)}")
    parts: tuple[type[SslConfig], Callable[[SslConfig], Family]]
    parts = importlib.import_module(FAMILIES[family]).FAMILY
    return parts
