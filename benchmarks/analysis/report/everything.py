"""All analyses in one folder, one after another, and the page over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.analysis.cka import cka
from benchmarks.analysis.maps import maps
from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probe import probe
from benchmarks.analysis.probes.tasks import TASKS as PROBES
from benchmarks.analysis.probes.tasks import column, columns_of
from benchmarks.analysis.temporal import temporal
from enhance.data.corpus.clips import place
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, write_jsonl

log = logging.getLogger("enhance")

TASKS = ("speaker", "verification", "language", "pitch", "snr")
"""Always asked of the training part of a corpus; phones of the part that has their alignment."""

REQUEST = "request.jsonl"
"""What the records of a folder were asked with, a line; not ``.json``, which the records are."""


def _kinds_named(train: Path, work: Work, kinds: str) -> bool:
    """Whether the manifest names kinds of noise; it must, where it is told how."""
    noises = [clip for clip in place(train, "", work.quiet) if clip.kind == "noise"]
    named = any(column(noises, kinds or PROBES["noise"].label))
    if kinds and not named:
        raise EnhanceError(
            f"--noise-kinds {kinds}: no noise of {train} has a kind by it; columns there: "
            f"{columns_of(noises)}"
        )
    return named


def request(backbones: Sequence[str], corpus: Path, work: Work, kinds: str) -> dict[str, Any]:
    """What figures depend on, by the option that tells it; see `analyses`."""
    return {
        "--backbone": sorted(backbones),
        "--corpus": str(corpus.resolve()),
        "--limit": work.limit,
        "--seed": work.seed,
        "--noise-kinds": kinds,
    }


def analyses(
    backbones: Sequence[str], corpus: Path, output: Path, work: Work, kinds: str = ""
) -> dict[str, Callable[[], Any]]:
    """What can be run on a corpus, by the name of its record.

    The corpus holds ``train/`` (speech and noise), and ``analysis/`` with phones where there is
    one. ``kinds`` is the column of the noises that tells their kind, see
    `benchmarks.analysis.probes.tasks.column`; without one they are asked where the manifest has the
    usual column. The rest is as of every analysis (`benchmarks.analysis.parts`).

    An `EnhanceError` says that there is no ``train/``, or nothing can be read there, that a
    backbone cannot be had, or that no noise has such a kind: what would be refused again and
    again, or late, is so before anything runs.
    """
    train, aligned = corpus / "train", corpus / "analysis"
    if not train.is_dir():
        raise EnhanceError(f"{corpus}: holds no train/ with speech and noise; name its parent")
    heard.check(backbones, work.cache)
    named = _kinds_named(train, work, kinds)
    # A probe hears the twin of every model beside it already.
    asked = [b for b in backbones if b.removeprefix("random:") == b or b[7:] not in backbones]
    ask = partial(probe, asked, output=output, work=work)
    found: dict[str, Callable[[], Any]] = {
        "temporal": partial(temporal, backbones, output, work, corpus=train),
        "cka": partial(cka, backbones, train, output, work),
    }
    if (aligned / "phones.csv").is_file():
        found["probe-phone"] = partial(ask, task="phone", corpus=aligned)
        found["maps"] = partial(maps, backbones, aligned, output, work, by=("phone", "speaker"))
    else:
        log.warning("%s: not there; nothing is asked of phones", aligned / "phones.csv")
    found |= {f"probe-{task}": partial(ask, task=task, corpus=train) for task in TASKS}
    if named:
        found["probe-noise"] = partial(ask, task="noise", corpus=train, label=kinds)
    else:
        log.warning("%s: kinds of noise are not named; nothing is asked of them", train)
    return found


def run(
    asked: dict[str, Callable[[], Any]], output: Path, wanted: dict[str, Any], *, resume: bool
) -> list[str]:
    """Run `analyses`, with ``resume`` those alone whose record is not there; ``wanted`` is kept.

    Returns why some could not be run, a line each: what one of them lacks, others may have. An
    `EnhanceError` refuses records that are there where nothing shall be resumed, or that were asked
    with another request.
    """
    there = [name for name in asked if (output / f"{name}.json").exists()]
    if there and not resume:
        raise EnhanceError(
            f"{output}: holds {there[0]}.json already; --resume runs the others, or choose another "
            "folder"
        )
    _keep(output, wanted, there)
    refused = []
    for number, (name, work) in enumerate(asked.items(), 1):
        if name not in there:
            log.info("%d of %d: %s", number, len(asked), name)
            try:
                work()
            except EnhanceError as error:
                log.error("%s: %s", name, error)
                refused.append(f"{name}: {error}")
    return refused


def _keep(output: Path, wanted: dict[str, Any], there: Sequence[str]) -> None:
    """Write a request into the folder; where records are there, it must be theirs."""
    path = output / REQUEST
    if there and path.exists():
        rows = read_jsonl(path)
        if len(rows) != 1 or not isinstance(rows[0], dict):
            raise EnhanceError(f"{path}: is damaged; choose another folder")
        changed = [
            f"{name} was {rows[0].get(name)!r}, is {value!r}"
            for name, value in wanted.items()
            if rows[0].get(name) != value
        ]
        if changed:
            raise EnhanceError(
                f"{output}: cannot go on with another request ({'; '.join(changed)}); repeat what "
                "it began with, or choose another folder"
            )
    elif there:
        log.warning(
            "%s: does not tell what %s.json was asked with, as an older version left it; what is "
            "missing is asked as told now",
            output,
            there[0],
        )
    write_jsonl(path, [wanted])
