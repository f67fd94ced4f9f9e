"""A branch: a new run that goes on from the whole state of another, under settings of its own.

Weights, averages, the optimiser's moments and the counts of steps and seconds are taken over, so
that schedule of mixtures and warm-up go on; the budget counts from the branch. With
``training.schedule=wsd`` and ``training.decay_share=1`` it is a decay, which makes a model to ship
of any state of a long run; that run is only read, and may go on meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enhance.config import RunConfig
from enhance.config.settings import parse, to_dict
from enhance.errors import EnhanceError
from enhance.files import sha256
from enhance.network.checkpoint import difference
from enhance.network.tensors import load_tensors, save_tensors
from enhance.training.engine.state import FILE, FORMAT, read_header
from enhance.training.run.run_folder import of_cache, refuse_present

_SAME = ("mode", "model.", "described.", "training.optimizer")
"""Settings that the tensors of a state depend on."""


def check(run: Path, parent: Path, config: dict[str, Any], describe: dict[str, Any]) -> None:
    """Refuse what cannot be branched; nothing is written.

    ``run`` is the folder of the new run, ``parent`` has the state of another; ``config`` and
    ``describe`` are the new run's configuration and what its objective says of itself, plain data.

    Raises
    ------
    EnhanceError
        If ``run`` holds a run, ``parent`` no state, or the state is one of another model, mode or
        optimiser.
    """
    refuse_present(run)
    if not (parent / FILE).is_file():
        raise EnhanceError(
            f"{parent}: has no {FILE} to branch from; --init starts from weights alone"
        )
    header = read_header(parent / FILE)
    old = to_dict(parse(RunConfig, header["config"], str(parent / FILE)))
    changed = difference(
        {**old, "described": header["objective"]}, {**config, "described": describe}
    )
    for key, theirs, ours in changed:
        if key.startswith(_SAME) and not of_cache(key):
            raise EnhanceError(
                f"{parent}: its state is that of another run ({key} is {theirs!r} there, {ours!r} "
                "here); give the branch the same settings, or start a new run with --init"
            )


def begin(run: Path, parent: Path, config: dict[str, Any], data: str) -> list[str]:
    """Write the state from which the branch is resumed; see `check`.

    ``data`` is the fingerprint of the new run's files. Returns lines that the user should read.
    """
    tensors, header = load_tensors(parent / FILE, FORMAT)
    # Where it lay on this machine is nobody's business, unless it was named from here.
    name = parent.name if parent.is_absolute() else parent.as_posix()
    source = {
        "checkpoint": name,
        "sha256": sha256(parent / FILE),
        "step": header["step"],
        "seconds": header["seconds"],
    }
    fresh = {"config": config, "branch": source, "used": 0.0, "data": data}
    run.mkdir(parents=True, exist_ok=True)
    save_tensors(
        run / FILE, tensors, {**header, **fresh, "best": None, "sums": {}, "counts": {}}, FORMAT
    )
    if header["data"] == data:
        return []
    return [f"{run}: trains on other files than {parent}; its heard.jsonl names its own only"]
