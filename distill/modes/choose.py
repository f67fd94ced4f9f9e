"""What training can minimise: the name of a mode to its objective.

Here the enhancer and the teachers meet; `enhance train` and `enhance compare` both ask this module.

A mode is ``base``, one of ``distill``, ``concat``, ``pretrain``, or several of these three joined
by ``+``, in any order: ``concat+distill`` hears a teacher and imitates one, ``pretrain+distill``
imitates in fine-tuning too. The ``objective`` settings of one mode are its own keys::

    mode: distill
    objective: {teacher: mini-wavlm, weight: 0.5}

and those of a combination stand under each mode's name (all may be left out)::

    mode: concat+distill
    objective:
      concat: {layers: weighted, size: 64}
      distill: {weight: 0.5}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.backbones.find import load
from distill.modes.concat import ConcatConfig, Concatenation, check_size
from distill.modes.concat import find_companion as find_companion
from distill.modes.distill import Distillation, DistillConfig
from distill.modes.imitation import ImitationConfig
from distill.modes.pretrain import PretrainConfig, Pretraining, check_steps
from enhance.config import ModelConfig, RunConfig
from enhance.config.settings import parse
from enhance.errors import EnhanceError
from enhance.network import checkpoint
from enhance.network.checkpoint import CheckpointInfo
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Enhancement, Objective

SETTINGS: dict[str, type] = {
    "distill": DistillConfig,
    "concat": ConcatConfig,
    "pretrain": PretrainConfig,
}
"""Of each mode with a teacher; these can be joined."""
MODES = ("base", *SETTINGS)
_ENDLESS = 10**9  # steps of a run without a limit


def parts(mode: str) -> tuple[str, ...]:
    """The modes that a mode's name joins, in one order; none for ``base``.

    An `EnhanceError` if there is no such mode, or it cannot be joined so.
    """
    names = mode.split("+")
    for name in names:
        if name not in MODES:
            raise EnhanceError(
                f"mode: no mode {name!r}; known: {', '.join(MODES)}, "
                f"and {', '.join(MODES[1:])} joined by +"
            )
    if len(set(names)) < len(names):
        raise EnhanceError(f"mode {mode}: names a mode twice")
    if "base" in names and len(names) > 1:
        raise EnhanceError(f"mode {mode}: base is the mode without a teacher; leave it out")
    return tuple(name for name in ("pretrain", "concat", "distill") if name in names)


def read_objective(mode: str, objective: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of each mode that a mode joins: `DistillConfig` and its kin by name.

    An `EnhanceError` for a key that the mode does not have, or a value out of range.
    """
    names = parts(mode)
    if len(names) == 1:
        return {names[0]: parse(SETTINGS[names[0]], objective, "objective")}
    for key, value in objective.items():
        if key not in names or not isinstance(value, Mapping):
            raise EnhanceError(
                f"objective: key {key!r}: mode {mode} has its settings under "
                f"{' and '.join(f'objective.{name}' for name in names)}"
            )
    return {
        name: parse(SETTINGS[name], objective.get(name, {}), f"objective.{name}") for name in names
    }


def check_mode(settings: RunConfig, *, goes_on: bool = False) -> None:
    """Refuse a mode that does not exist, or settings that it does not have; loads nothing.

    The `EnhanceError` names the known modes, or the key at fault. Where a run
    ``goes_on`` from a state, its own or another's, its first phase may be over.
    """
    names = parts(settings.mode)
    if not names and settings.objective:
        raise EnhanceError(
            "objective: mode base has no settings; they belong to --mode distill, concat, pretrain"
        )
    if "concat" not in names and settings.model.gcrn.extra_features:
        raise EnhanceError(
            f"model.gcrn.extra_features {settings.model.gcrn.extra_features}: mode "
            f"{settings.mode} has no features beside the audio; mode concat has, and sets it"
        )
    if not names:
        return
    found = read_objective(settings.mode, settings.objective)
    if "concat" in found:
        check_size(found["concat"], settings.model)
    if "pretrain" in found and not goes_on:
        check_steps(found["pretrain"], settings.training)


def planned_model(mode: str, objective: Mapping[str, Any], model: ModelConfig) -> ModelConfig:
    """The model that a run will train, as far as its mode decides about it; loads nothing.

    An `EnhanceError` if there is no such mode, or, of mode concat, no such setting.
    """
    if "concat" not in parts(mode):
        return model
    size = read_objective(mode, objective)["concat"].size
    return replace(model, gcrn=replace(model.gcrn, extra_features=size))


def make_objective(settings: RunConfig, quiet: bool, *, goes_on: bool = False) -> Objective:
    """The objective that a run's mode stands for.

    Seeds torch, numpy and Python with ``settings.seed`` first, for the objective's own weights.
    An `EnhanceError` if its teacher cannot be loaded, and as `check_mode`.
    """
    from lightning_fabric import seed_everything

    check_mode(settings, goes_on=goes_on)
    seed_everything(settings.seed, verbose=False)
    found = read_objective(settings.mode, settings.objective)
    # One that serves two modes is loaded once.
    teachers = {name: load(name) for name in dict.fromkeys(c.teacher for c in found.values())}
    model, training = settings.model, settings.training

    def shared(own: Any) -> dict[str, Any]:
        return {"teacher": teachers[own.teacher], "seed": settings.seed}

    def imitated(own: ImitationConfig, steps: int) -> dict[str, Any]:
        unaltered = int(settings.mixing.natural_share * steps * training.batch_size)
        return {**shared(own), "expected_mixtures": unaltered, "quiet": quiet}

    objective: Objective = Enhancement(settings.loss)
    if own := found.get("distill"):
        more = imitated(own, training.steps or _ENDLESS)
        objective = Distillation(own, settings.loss, model, **more)
    if own := found.get("concat"):
        objective = Concatenation(own, model, objective, **shared(own))
    if own := found.get("pretrain"):
        more = imitated(own, own.pretrain_steps)
        objective = Pretraining(own, model, objective, **more)
    return objective


def load_model(path: Path | str) -> tuple[WaveformModel, CheckpointInfo]:
    """`enhance.network.checkpoint.load_model` for models of all modes: finds the teacher of a
    concat model. An `EnhanceError` as there, or if the teacher is gone or another one.
    """
    return checkpoint.load_model(path, find_companion)
