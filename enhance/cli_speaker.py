"""The command that trains speaker encoders."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enhance.cli_data import Quiet
from enhance.errors import EnhanceError, require


class SpeakerObjective(StrEnum):
    """Ways to train a speaker encoder."""

    aam = "aam"
    dino = "dino"


class SpeakerPreset(StrEnum):
    """Sizes of a speaker encoder."""

    small = "small"
    medium = "medium"
    published = "published"


def pretrain_speaker(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the model.  [default: a new one in runs/]"),
    ] = None,
    objective: Annotated[
        SpeakerObjective,
        typer.Option(help="aam: with speaker labels; dino: without."),
    ] = SpeakerObjective.aam,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder with speech, its speakers named, and noise.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="Folder with speech of other speakers, for the EER."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="Only speech of this source of the manifests.  [default: all]")
    ] = "",
    preset: Annotated[SpeakerPreset, typer.Option(help="Size.")] = SpeakerPreset.small,
    minutes: Annotated[float, typer.Option(min=0, help="Minutes of training; 0: no limit.")] = 30.0,
    steps: Annotated[int, typer.Option(min=0, help="Steps; 0: the minutes decide.")] = 0,
    batch: Annotated[int, typer.Option(min=2, help="Clips of a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a speaker encoder (ECAPA-TDNN) on your own speech.

    The folder it writes is a teacher like any other. Its EER is that of speakers it never heard.
    """
    require("speaker", "torch", "speechbrain", "safetensors")
    import logging

    if corpus is None:
        raise EnhanceError("--corpus: name a folder with speech, its speakers in the manifest")
    if output is None:
        if resume:
            raise EnhanceError("--resume: name the folder to go on with: --output DIR")
        output = Path("runs") / f"ecapa-{objective.value}-{time.strftime('%Y%m%d-%H%M%S')}"

    from distill.speaker.config import SpeakerConfig
    from distill.speaker.train import train

    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("enhance").setLevel(logging.INFO)
    settings = SpeakerConfig(
        objective=objective.value,
        preset=preset.value,
        source=source,
        seed=seed,
        minutes=minutes,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        threads=threads,
    )
    record = train(settings, corpus, output, evaluation=evaluation, resume=resume, quiet=quiet)
    if "stopped" in record:
        raise typer.Exit(130)
    for row in record.get("verification", []):
        rate, low, high = (100 * row[key] for key in ("eer", "low", "high"))
        typer.echo(
            f"EER of {row['speakers']} unseen speakers, {row['embedding']}: {rate:.1f} % "
            f"({low:.1f} to {high:.1f}); guessing 50 %"
        )
