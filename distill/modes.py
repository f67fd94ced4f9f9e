"""What training can minimise: the name of a mode to its objective.

Here the enhancer and the teachers meet; `enhance train` and `enhance compare` both ask this module.
"""

from __future__ import annotations

from enhance.config import RunConfig
from enhance.errors import EnhanceError, require
from enhance.objective import Enhancement, Objective

MODES = ("base", "distill")
"""Modes that there are."""


def check_mode(settings: RunConfig) -> None:
    """Refuse a mode that does not exist, or settings that it does not have; loads nothing.

    Raises
    ------
    EnhanceError
        Names the known modes, or the key at fault.
    """
    if settings.mode not in MODES:
        raise EnhanceError(f"mode: no mode {settings.mode!r}; known: {', '.join(MODES)}")
    if settings.mode == "base" and settings.objective:
        raise EnhanceError("objective: mode base has no settings; they belong to --mode distill")


def make_objective(settings: RunConfig, quiet: bool) -> Objective:
    """The objective that a run's mode stands for.

    Seeds torch, numpy and Python with ``settings.seed`` first, for the objective's own weights.

    Parameters
    ----------
    settings
        Of the run.
    quiet
        No progress bars.

    Raises
    ------
    EnhanceError
        If there is no such mode, a setting of it is at fault, or its teacher cannot be loaded.
    """
    from lightning_fabric import seed_everything

    check_mode(settings)
    seed_everything(settings.seed, verbose=False)
    if settings.mode == "distill":
        require("train", "transformers")
        from distill.l1 import Distillation

        return Distillation.from_run(settings, quiet=quiet)
    return Enhancement(settings.loss)
