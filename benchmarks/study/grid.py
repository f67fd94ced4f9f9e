"""The grid of a study of modes: every mode with every teacher in networks of several widths.

Under the key ``modes`` of a study file (`benchmarks.study.file`)::

    modes:
      names: [base, concat, distill, pretrain]   # default: these four; concat+distill too
      teachers: [mini-wavlm, models/my-hubert]   # names, folders, hub ids; default: the shipped one
      presets: [gcrn-tiny, gcrn-small]           # width of the student; default: base's model
      objective:                                 # settings of a mode, whatever the teacher; those
        pretrain: {pretrain_steps: 400}          # of a combination stand under its parts

Each becomes a run: ``distill``, or with several teachers and widths
``distill-my-hubert-gcrn-tiny``. A mode is compared with ``base`` of the same width, which is
trained once for all teachers. Pre-training counts into the budget: all runs have the same steps.

The table is the one of Shankar, Tan, Xu and Kumar (arXiv 2403.01369). What that paper reports is
put beside it, named as the paper's: it was measured on another corpus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from distill.modes.choose import MODES, parts
from enhance.config.checked import checked
from enhance.errors import EnhanceError

PAPER = "Shankar, Tan, Xu and Kumar, arXiv 2403.01369"


@checked
class ModesGrid:
    """Keys of ``modes`` in a study file, as above."""

    names: list[str] = field(default_factory=lambda: list(MODES))
    teachers: list[str] = field(default_factory=lambda: ["mini-wavlm"])
    presets: list[str] = field(default_factory=list)
    objective: dict[str, dict[str, Any]] = field(default_factory=dict)


def expand(grid: ModesGrid, where: str) -> dict[str, dict[str, Any]]:
    """Settings of each run of the grid, by name, as under ``runs`` of a study file.

    An `EnhanceError` if an axis is empty or names something twice, or a mode does not exist.
    """
    for name in ("names", "teachers"):
        if not getattr(grid, name):
            raise EnhanceError(f"{where}.{name}: is empty; leave it out for the default")
    short = [_short(teacher) for teacher in grid.teachers]
    for name, values in (("names", grid.names), ("teachers", short), ("presets", grid.presets)):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise EnhanceError(f"{where}.{name}: {twice[0]!r} stands twice")
    for mode in (*grid.names, *grid.objective):
        parts(mode)  # refuses what is no mode
    known = {*grid.names, *(name for mode in grid.names for name in parts(mode))}
    unused = [mode for mode in grid.objective if mode not in known]
    if unused:
        raise EnhanceError(f"{where}.objective: {unused[0]!r} is no mode of this grid")
    runs: dict[str, dict[str, Any]] = {}
    for preset in grid.presets or [""]:
        own: dict[str, Any] = {"model.preset": preset} if preset else {}
        tail = f"-{preset}" if len(grid.presets) > 1 else ""
        if "base" in grid.names:
            runs[f"base{tail}"] = {"mode": "base", "baseline": "", **own}
        others = [mode for mode in grid.names if mode != "base"]
        baseline = f"base{tail}" if "base" in grid.names else ""
        for teacher, called in zip(grid.teachers, short, strict=True):
            middle = f"-{called}" if len(grid.teachers) > 1 else ""
            for mode in others:
                objective = _objective(mode, teacher, grid.objective)
                settings = {"mode": mode, "objective": objective, "baseline": baseline, **own}
                runs[f"{mode}{middle}{tail}"] = settings
    return runs


def _objective(
    mode: str, teacher: str, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    names = parts(mode)
    if len(names) == 1:
        return {"teacher": teacher, **settings.get(mode, {})}
    own = settings.get(mode, {})
    return {
        name: {"teacher": teacher, **settings.get(name, {}), **own.get(name, {})} for name in names
    }


def _short(teacher: str) -> str:
    """Last part of a path or hub id, fit for the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", Path(teacher).name.removesuffix(".pt"))
