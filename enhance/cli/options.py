"""What several commands share: options, and lines of progress."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from enhance.errors import EnhanceError

Cluster = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Dask scheduler whose workers do the work; they see these files."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and results only.")]
Snr = Annotated[float, typer.Option("--snr", help="Signal-to-noise ratio in dB.")]
ANY: Literal["any"] = "any"
"""In place of an SNR: each pair at its own."""
ModelFolder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder of the model.  [default: a new one in runs/]"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")]
Seed = Annotated[int | None, typer.Option(min=0, help="[default: 0]")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes, or GPUs, per node.")]
Strategy = Annotated[str, typer.Option(help="Lightning Fabric's strategy.")]
NumNodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads.  [default: 1]")]


def read_snr(text: str) -> float | Literal["any"]:
    """What ``--snr`` says of a set: a number of dB, or `ANY`.

    Raises
    ------
    EnhanceError
        If it is neither.
    """
    if text == ANY:
        return ANY
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise EnhanceError(f"--snr {text}: give a number of dB, or any for pairs at their own SNR")


def show_progress(quiet: bool) -> None:
    """Let lines of the log that tell of progress through to standard error."""
    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("enhance").setLevel(logging.INFO)
