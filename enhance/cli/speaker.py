"""The command that trains speaker encoders."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enhance.cli.options import ModelFolder, Quiet, Resume, Seed, Threads, show_progress
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
    output: ModelFolder = None,
    objective: Annotated[
        SpeakerObjective | None,
        typer.Option(help="aam: with speaker labels; dino: without.  [default: aam]"),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder with speech, its speakers named, and noise.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="Folder with speech of other speakers, for the EER."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Only speech of this source of the manifests.  [default: all]"),
    ] = None,
    preset: Annotated[SpeakerPreset | None, typer.Option(help="Size.  [default: small]")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes of training; 0: no limit.  [default: 30]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps; 0: the minutes decide.  [default: 0]")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Clips of a step.  [default: 32]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak.  [default: 0.002]")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.KEY=VALUE", help="Any other setting; repeatable."),
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a speaker encoder (ECAPA-TDNN) on your own speech.

    The folder it writes is a teacher like any other. Its EER is that of speakers it never heard.
    A resumed run keeps its own settings.
    """
    require("speaker", "torch", "speechbrain", "safetensors")
    if corpus is None:
        raise EnhanceError("--corpus: name a folder with speech, its speakers in the manifest")
    if output is None and resume:
        raise EnhanceError("--resume: name the folder to go on with: --output DIR")

    from distill.speaker.config import SpeakerConfig
    from distill.speaker.train import FORMAT, train
    from distill.training.config import configure
    from distill.training.loop import begun

    show_progress(quiet)
    given = {
        "objective": objective.value if objective else None,
        "preset": preset.value if preset else None,
        "source": source,
        "seed": seed,
        "minutes": minutes,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "threads": threads,
    }
    start = begun(output, FORMAT)["config"] if resume and output is not None else {}
    settings = configure(SpeakerConfig, given, assign or [], start)
    if output is None:
        output = Path("runs") / f"ecapa-{settings.objective}-{time.strftime('%Y%m%d-%H%M%S')}"
    record = train(settings, corpus, output, evaluation=evaluation, resume=resume, quiet=quiet)
    if "stopped" in record:
        raise typer.Exit(130)
    for row in record.get("verification", []):
        rate, low, high = (100 * row[key] for key in ("eer", "low", "high"))
        typer.echo(
            f"EER of {row['speakers']} unseen speakers, {row['embedding']}: {rate:.1f} % "
            f"({low:.1f} to {high:.1f}); guessing 50 %"
        )
