"""When a loss is not a number: which clips made it, for people and for machines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.network.checkpoint import WEIGHTS

FILE = "bad_batch.json"


def suspects(
    losses_of: Callable[[dict[str, Any]], dict[str, Tensor]], batch: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """One row for each clip of a batch, with the losses of the clip alone.

    Rows have ``seed`` (of the run), ``epoch`` and ``index``, which make the mixture again,
    ``files``, ``losses`` and ``bad``: whether its samples or its losses are not finite.
    ``losses_of`` turns a batch into named losses, with the weights before the bad step.
    """
    rows = []
    for i, (epoch, index) in enumerate(batch["index"]):
        clip = {key: value[i : i + 1] for key, value in batch.items()}
        losses = {}
        # A control of a mode may need several clips, and refuses one alone.
        with torch.no_grad(), contextlib.suppress(EnhanceError):
            losses = {name: float(value) for name, value in losses_of(clip).items()}
        finite = bool(torch.isfinite(clip["noisy"]).all() and torch.isfinite(clip["clean"]).all())
        values = torch.tensor(list(losses.values()))
        rows.append(
            {
                "seed": seed,
                "epoch": int(epoch),
                "index": int(index),
                "files": [str(path) for path in batch["files"][i]],
                "losses": {name: f"{value:.4g}" for name, value in losses.items()},
                "bad": not (finite and bool(torch.isfinite(values).all())),
            }
        )
    return rows


def report(run: Path, step: int, losses: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Write bad_batch.json and stop.

    Raises
    ------
    EnhanceError
        Always: names the step, the losses, the clips, and where training can go on.
    """
    named = {name: f"{value:.4g}" for name, value in losses.items()}
    write_json(run / FILE, {"step": step, "losses": named, "clips": rows})
    bad = [row for row in rows if row["bad"]] or rows
    first = bad[0]
    more = f", and {len(bad) - 1} more clips" if len(bad) > 1 else ""
    values = ", ".join(f"{name} {value}" for name, value in named.items())
    kept = f"with --init {run} and" if (run / WEIGHTS).exists() else "with"
    raise EnhanceError(
        f"step {step}: the loss or its gradient is not finite ({values}) in the mixture of "
        f"{' and '.join(first['files'])} (seed {first['seed']}, epoch {first['epoch']}, index "
        f"{first['index']}{more}; the batch is in {run / FILE}); the last checkpoint is untouched: "
        f"mend or leave out the files, or start a new run {kept} a lower training.learning_rate"
    )
