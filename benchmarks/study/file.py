"""A study: named changes of one configuration under one budget, read strictly from YAML.

A study file::

    title: Trials of gcrn-tiny            # optional: the heading of the report
    base:                                 # a run's configuration, or a part of it
      include: gcrn-tiny.yaml             # a file to refine, from the study's folder
      training: {steps: 4000, batch_size: 8}
      mixing.segment_seconds: 3.0         # dotted keys are allowed everywhere
    seeds: [0]                            # every run is trained once for each
    baseline: plain                       # what runs are compared with; default: the first run
    runs:
      plain: {}
      gru: {model.gcrn.cell: gru, why: the lighter cell}
      wide: {model.gcrn.hidden: 480, why: is width worth its time}
      wide-gru:                           # settings of `wide`, and compared with it
        extends: wide
        model.gcrn.cell: gru
      flat:
        baseline: gru                     # `base` and these settings, compared with `gru`
        loss: {magnitude: 0.0}

Instead of ``runs``, or beside it, ``modes`` spans a grid: see `benchmarks.study.grid`.

A run is `base` plus its own keys, or, with ``extends``, the settings of that run plus its own keys;
it is compared with its ``baseline``, the run it extends, or the study's. Besides the keys of
`enhance.config.RunConfig` (all but ``seed``) it may have ``why`` (a line for the report) and
``include`` (as `base`). The seed of `base` is replaced by each of ``seeds``.

The budget is the audio heard: steps x batch x seconds must be the same for all runs, and no limit
in minutes may bend it. With ``budget: cpu`` it is the CPU time of training: what a step costs
decides how many steps a run gets, written in the file so that it can be repeated, and the report
says what each run took.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.study.grid import ModesGrid, expand
from distill.modes.choose import check_mode, planned_model
from enhance.config import MixingConfig, RunConfig, TrainingConfig
from enhance.config.checked import Seed, checked
from enhance.config.settings import (
    included,
    layered,
    load_yaml,
    merge,
    override,
    parse,
    to_dict,
)
from enhance.errors import EnhanceError
from enhance.network.checkpoint import difference
from enhance.network.waveform_model import WaveformModel
from enhance.training.run.run_folder import HARMLESS

Budget = Literal["audio", "cpu"]
"""What the runs of a study have in common."""
Change = tuple[str, Any, Any]
"""Dotted key, old value, new value."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_ROUNDING = 1e-3
"""Relative difference of two budgets that whole numbers of steps excuse."""


@checked
class StudyFile:
    """Keys of a study file, as above."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    seeds: list[Seed] = field(default_factory=lambda: [0])
    baseline: str = ""
    title: str = ""
    budget: Budget = "audio"
    modes: ModesGrid | None = None


@checked
class RunEntry(RunConfig):
    """Keys of one run in a study file, as above."""

    why: str = ""
    baseline: str = ""
    extends: str = ""


@dataclass(frozen=True)
class Trial:
    """One training run of a study: a name and a seed."""

    name: str
    """Name in the study file."""
    config: RunConfig
    """Resolved configuration, seed included."""
    baseline: str
    """Name of the run it is compared with; empty for the study's baseline itself."""
    why: str

    @property
    def seed(self) -> int:
        """Seed of weights and mixtures."""
        return self.config.seed

    @property
    def key(self) -> str:
        """Name of its folder, different for each trial of a study."""
        return f"{self.name}-s{self.seed}"

    @property
    def hours(self) -> float:
        """Audio that it hears, in hours."""
        return hours_heard(self.config.training, self.config.mixing, self.config.training.steps)


@dataclass(frozen=True)
class Study:
    """A study file, resolved."""

    path: str
    title: str
    baseline: str
    """The run that others are compared with."""
    seeds: tuple[int, ...]
    """In the order of the file."""
    trials: tuple[Trial, ...]
    """Every run with the first seed, then with the next."""
    of_modes: bool
    """Whether it has a grid of modes."""
    budget: Budget

    @property
    def names(self) -> list[str]:
        """Names of the runs in the order of the file."""
        return list(dict.fromkeys(trial.name for trial in self.trials))

    def trial(self, name: str, seed: int) -> Trial:
        """The run of this name and seed."""
        return next(t for t in self.trials if (t.name, t.seed) == (name, seed))

    def select(self, only: Sequence[str]) -> list[Trial]:
        """Trials by run name or by folder name; all of them for none.

        An `EnhanceError` if there is no such run.
        """
        known = {*self.names, *(trial.key for trial in self.trials)}
        for name in only:
            if name not in known:
                raise EnhanceError(
                    f"--only {name}: no such run in {self.path}; it has {', '.join(self.names)}"
                )
        return [t for t in self.trials if not only or t.name in only or t.key in only]


def read_study(path: Path | str, assignments: Sequence[str] = ()) -> Study:
    """Read a study file. ``assignments`` (``"a.b=c"``) are put over `base`, below a run's own keys.

    Raises
    ------
    EnhanceError
        If the file cannot be read, a key is unknown or stands twice, a name leads nowhere, a
        model cannot be built, or runs have different budgets.
    """
    path = Path(path)
    found = parse(StudyFile, load_yaml(path), str(path))
    base = included(_nested(found.base, f"{path}: base"), path.parent, f"{path}: base")
    try:
        base = override(base, list(assignments), RunConfig)
    except EnhanceError as error:
        raise EnhanceError(str(error).replace("--set", "--base", 1)) from error
    parse(RunConfig, base, f"{path}: base")  # so that its errors are not told of a run
    runs = dict(found.runs)
    if found.modes is not None:
        grid = expand(found.modes, f"{path}: modes")
        double = [name for name in grid if name in runs]
        if double:
            raise EnhanceError(f"{path}: runs.{double[0]}: is a run of the grid of modes already")
        runs = {**grid, **runs}
    if not runs:
        raise EnhanceError(f"{path}: names no runs; see the text of benchmarks/study/file.py")
    if not found.seeds or len(set(found.seeds)) < len(found.seeds):
        raise EnhanceError(f"{path}: seeds {found.seeds}: need different numbers")
    for name in runs:
        if not _NAME.fullmatch(name):
            raise EnhanceError(
                f"{path}: runs: {name!r} cannot name a folder; use letters, digits and _ . + -"
            )
    default = found.baseline or next(iter(runs))
    _known(default, runs, f"{path}: baseline")
    trials = {name: _trial(name, _entry(name, runs, base, path), default, path) for name in runs}
    for trial in trials.values():
        _known(trial.baseline or default, runs, f"{path}: runs.{trial.name}: baseline")
    _check_budget(list(trials.values()), found.budget, path)
    seeded = tuple(
        replace(trial, config=replace(trial.config, seed=seed))
        for seed in found.seeds
        for trial in trials.values()
    )
    title, seeds, of_modes = found.title or path.stem, tuple(found.seeds), found.modes is not None
    return Study(str(path), title, default, seeds, seeded, of_modes, found.budget)


def hours_heard(training: TrainingConfig, mixing: MixingConfig, steps: int) -> float:
    """Hours of audio in so many steps."""
    return steps * training.batch_size * mixing.segment_seconds / 3600


def changes(old: Any, new: Any) -> list[Change]:
    """Settings that differ, as plain data, without those that weights do not depend on."""
    return [change for change in difference(old, new) if change[0] not in HARMLESS]


def changes_since(record: Any, trial: Trial) -> list[Change]:
    """Settings of a trial, as the study has it now, that differ from those it was trained with.

    ``record`` is the run's configuration as plain data, of this version or an older one: settings
    that did not exist then count as their defaults.
    """
    now = to_dict(trial.config)
    try:
        return changes(to_dict(parse(RunConfig, record, trial.key)), now)
    except EnhanceError:  # a setting has gone since
        return changes(record, now) or [("config", "old", "new")]


def newer_settings(record: Any, trial: Trial) -> list[str]:
    """Settings that did not exist when a run was trained; `changes_since` takes their defaults."""
    found = changes(record, to_dict(trial.config))
    same = {key for key, _, _ in changes_since(record, trial)}
    return [key for key, old, _ in found if old is None and key not in same]


def told(found: Sequence[Change], limit: int = 3) -> str:
    """The first changes in one line."""
    text = ", ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in found[:limit])
    return text + (f" and {len(found) - limit} more" if len(found) > limit else "")


def digest(config: Any) -> str:
    """Hash of settings (a dataclass) without seed, 16 hexadecimal digits."""
    plain = {key: value for key, value in to_dict(config).items() if key != "seed"}
    for key in HARMLESS:
        group, _, name = key.partition(".")
        if isinstance(plain.get(group), dict):
            plain[group].pop(name, None)
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(
    name: str,
    runs: Mapping[str, Any],
    base: Mapping[str, Any],
    path: Path,
    before: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Settings of a run over those it extends, back to `base`; ``before``: runs that extend it."""
    where = f"{path}: runs.{name}"
    own = included(_nested(runs[name], where), path.parent, where)
    if "seed" in own:
        raise EnhanceError(f"{where}: seed: seeds belong to the study; set seeds at the top")
    parent = own.get("extends")
    if before:
        own = {k: v for k, v in own.items() if k not in _OF_ENTRY}
    if not parent:
        return layered(base, own)
    _known(parent, runs, f"{where}: extends")
    if parent in (*before, name):
        raise EnhanceError(f"{where}: extends {parent!r}, which extends this run")
    return layered(_entry(parent, runs, base, path, (*before, name)), own)


def _trial(name: str, settings: Mapping[str, Any], default: str, path: Path) -> Trial:
    where = f"{path}: runs.{name}"
    entry = parse(RunEntry, settings, where)
    config = RunConfig(**{f.name: getattr(entry, f.name) for f in fields(RunConfig)})
    baseline = entry.baseline or entry.extends or ("" if name == default else default)
    if baseline == name:
        raise EnhanceError(f"{where}: baseline: a run cannot be compared with itself")
    if config.training.minutes:
        raise EnhanceError(
            f"{where}: training.minutes {config.training.minutes:g}: a study's budget is "
            "counted in steps; set training.minutes: 0 in base"
        )
    try:
        check_mode(config)
        model = planned_model(config.mode, config.objective, config.model)
        config = replace(config, model=model)
        with torch.device("meta"):  # one that cannot be built is told before any training
            WaveformModel(model)
    except EnhanceError as error:
        raise EnhanceError(f"{where}: {error}") from error
    return Trial(name, config, baseline, entry.why)


def _check_budget(trials: Sequence[Trial], budget: Budget, path: Path) -> None:
    first = trials[0]
    for trial in trials:
        if not trial.config.training.steps:
            raise EnhanceError(f"{path}: runs.{trial.name}: has no end; set training.steps")
        if budget == "audio" and abs(trial.hours - first.hours) > _ROUNDING * first.hours:
            t, m = trial.config.training, trial.config.mixing
            raise EnhanceError(
                f"{path}: runs.{trial.name}: hears {trial.hours:.4g} h ({t.steps} steps x "
                f"{t.batch_size} x {m.segment_seconds:g} s), {first.name} hears {first.hours:.4g} "
                "h; one study has one budget, or budget: cpu"
            )


def _known(name: Any, runs: Mapping[str, Any], where: str) -> None:
    if not isinstance(name, str) or name not in runs:
        raise EnhanceError(f"{where}: no run {name!r}; there are {', '.join(runs)}")


def _nested(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same with dotted keys taken apart."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        leaf: Any = _nested(value, where) if isinstance(value, Mapping) else value
        parts = str(key).split(".")
        if not all(parts):
            raise EnhanceError(f"{where}: key {key!r}: expected KEY.KEY")
        for part in reversed(parts):
            leaf = {part: leaf}
        result = merge(result, leaf)
    return result


_OF_ENTRY = frozenset(f.name for f in fields(RunEntry)) - {f.name for f in fields(RunConfig)}
