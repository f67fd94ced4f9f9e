"""What several commands share: options, and lines of progress."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

Cluster = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Dask scheduler whose workers do the work; they see these files."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and results only.")]
Snr = Annotated[float, typer.Option("--snr", help="Signal-to-noise ratio in dB.")]
ModelFolder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder of the model.  [default: a new one in runs/]"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")]
Seed = Annotated[int | None, typer.Option(min=0, help="[default: 0]")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads.  [default: 1]")]


def show_progress(quiet: bool) -> None:
    """Let lines of the log that tell of progress through to standard error."""
    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("enhance").setLevel(logging.INFO)
