"""The families that can be pre-trained, one file each, behind one protocol.

The loop in `distill.ssl.run` knows no family: it asks one for batches and losses, and for a
figure on held-back files. Each family refines `SslConfig` with its architecture and its objective.
A run has one or more iterations: HuBERT and WavLM make new units and train on them in each, the
other families have one.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import Tensor, nn

from distill.ssl.data.crops import Crop, SslData
from distill.training.accuracy import Tally
from distill.training.config import LoopConfig
from enhance.config.checked import (
    Field,
    NonNegativeFloat,
    Part,
    PositiveFloat,
    PositiveInt,
    checked,
)
from enhance.config.settings import merge, parse, to_dict
from enhance.errors import EnhanceError
from enhance.training.engine.interrupt import Interrupt


@checked
class SslConfig(LoopConfig):
    """What decides the weights, apart from the family's own settings."""

    family: str = ""
    """Kind of model and loss."""
    minutes: NonNegativeFloat = 48.0
    """Wall time of training over all iterations, units not counted; 0 for no limit."""
    steps: tuple[PositiveInt, ...] = ()
    """Steps of each iteration; one number is for all iterations together; empty for no limit."""
    batch_seconds: PositiveFloat = 16.0
    """Audio of one step."""
    crop_seconds: Annotated[float, Field(ge=0.04)] = 5.0
    """Longest crop."""
    held_back: Part = 0.05
    """Share of speech (by speaker, where known) and noise kept out of training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rounds = self.rounds
        if self.steps and len(self.steps) not in (1, rounds):
            counts = f"the {rounds} iterations" if rounds > 1 else "the one iteration"
            raise EnhanceError(
                f"--steps {','.join(map(str, self.steps))}: give one positive number, or one for "
                f"each of {counts}"
            )

    @property
    def rounds(self) -> int:
        """Iterations of the run."""
        return 1

    def share(self, iteration: int) -> float:
        """Fraction of the whole budget for one iteration."""
        return 1.0 / self.rounds

    def steps_of(self, iteration: int) -> int | None:
        """Steps of one iteration, None where only the clock limits them."""
        if len(self.steps) == self.rounds:
            return self.steps[iteration]
        return max(1, round(self.steps[0] * self.share(iteration))) if self.steps else None


PRESETS: dict[str, dict[str, Any]] = {
    "wav2vec": {"family": "wav2vec"},
    "vq-wav2vec": {"family": "vq-wav2vec"},
    # Departs from the paper where a few hundred steps on one CPU core learnt nothing: the front
    # end learns units of MFCC first, and the diversity loss counts five times as much.
    "wav2vec2": {"family": "wav2vec2", "front_end_steps": 600, "diversity_weight": 0.5},
    "hubert": {
        "family": "hubert",
        "disturbance": {"noise_probability": 0.0, "speech_probability": 0.0},
    },
    "wavlm": {
        "family": "wavlm",
        "disturbance": {
            "noise_probability": 0.25,
            "noise_snr": [-5.0, 20.0],
            "speech_probability": 0.15,
            "speech_overlap": [0.25, 0.75],
            "reverberation_probability": 0.2,
        },
    },
    # The recipe of the teacher that ships in distill/models/mini-wavlm, step by step.
    "mini-wavlm": {"family": "wavlm", "minutes": 0.0, "steps": [2065, 3785], "units": [100, 200]},
}
"""Named settings, over the defaults of the family's configuration class; the preset named like a
family is its default."""


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
    head: Any = None
    """What predicts from it, a torch module; None where the model has its own, or not yet."""

    def learnt(self) -> dict[str, nn.Module]:
        """What training changes, by name: ``model``, and ``head`` once it is prepared."""
        modules = {"model": self.model, "head": self.head}
        return {name: module for name, module in modules.items() if module is not None}

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
        tally, more = self.measure(data)
        return {**self.facts(), "clean": tally.full(), **more}

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that `distill.backbones.find.load` reads."""


def configure(
    family: str | None, preset: str | None, settings: Mapping[str, Any], begun: Any = None
) -> SslConfig:
    """The configuration of a run: its preset, and what is set beyond it.

    ``family`` is one of `FAMILIES`, None takes that of the preset, or wavlm; ``preset`` is one of
    `PRESETS`, None takes the one named like the family. ``settings`` are keys of the family's
    configuration, as from ``--set``. ``begun``, the configuration of a run to be resumed, stands in
    for the preset. An `EnhanceError` for an unknown family, preset or key, or a value that does not
    fit.
    """
    if preset is not None and preset not in PRESETS:
        raise EnhanceError(f"--preset {preset}: unknown; there are {', '.join(PRESETS)}")
    if preset is not None and begun is not None:
        raise EnhanceError("--preset: a resumed run keeps its own settings; leave it out")
    if begun is None:
        name = preset or family or "wavlm"
        begun = PRESETS.get(name, {"family": name})
    kind = begun["family"]
    if family is not None and family != kind:
        what = f"--preset {preset}" if preset else "the run to be resumed"
        raise EnhanceError(f"--family {family}: {what} is of the family {kind}")
    cls = config_class(kind)
    whole = to_dict(parse(cls, begun, f"--preset {preset or kind}"))
    return parse(cls, merge(whole, settings), "--set")


def config_class(family: str) -> type[SslConfig]:
    """Configuration class of a family; an `EnhanceError` if there is none."""
    return _parts(family)[0]


def build(config: SslConfig) -> Family:
    """The family's model with fresh weights, and its objective."""
    return _parts(config.family)[1](config)


def _parts(family: str) -> tuple[type[SslConfig], Callable[[SslConfig], Family]]:
    if family not in FAMILIES:
        raise EnhanceError(f"--family {family}: unknown; there are {', '.join(FAMILIES)}")
    config, kind = importlib.import_module(FAMILIES[family]).FAMILY
    return config, kind
