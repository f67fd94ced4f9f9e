"""The command that fine-tunes a self-supervised model on transcripts."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enhance.cli.options import ModelFolder, Quiet, Resume, Seed, Threads, show_progress
from enhance.errors import EnhanceError, require


class Units(StrEnum):
    """What is recognised."""

    char = "char"
    word = "word"


def finetune_ctc(
    backbone: Annotated[
        str, typer.Argument(metavar="BACKBONE", help="Shipped name, folder, file or hub id.")
    ],
    transcripts: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV or JSONL with columns path and text, perhaps speaker."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="The same, to measure on.  [default: a tenth, by speaker]"),
    ] = None,
    output: ModelFolder = None,
    units: Annotated[
        Units | None,
        typer.Option(
            help="char: characters; word: tokens parted by spaces, such as phones.  [default: char]"
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes of training; 0: no limit.  [default: 30]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps; 0: the minutes decide.  [default: 0]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak.  [default: 0.0003]")
    ] = None,
    batch_seconds: Annotated[
        float | None, typer.Option(min=1, help="Audio of a step.  [default: 32]")
    ] = None,
    freeze_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps at the start that train the head alone.  [default: 100]"),
    ] = None,
    train_front_end: Annotated[
        bool | None, typer.Option("--train-front-end", help="Train the convolutions too.")
    ] = None,
    mask: Annotated[
        float | None,
        typer.Option(min=0, help="Share of frames that start a masked span.  [default: 0]"),
    ] = None,
    dropout: Annotated[float | None, typer.Option(min=0, help="[default: 0.1]")] = None,
    from_scratch: Annotated[
        bool | None,
        typer.Option("--from-scratch", help="Random weights: what pre-training is worth."),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; repeatable."),
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a self-supervised model to write what is said (CTC).

    The folder it writes is a CTC model of transformers, and a teacher like any other. A resumed
    run keeps its own settings.
    """
    require("train", "torch", "transformers", "safetensors", "torchaudio", "yaml")
    if transcripts is None:
        raise EnhanceError("--transcripts: name a file with columns path and text")
    if output is None and resume:
        raise EnhanceError("--resume: name the folder to go on with: --output DIR")

    from distill.ctc.card import share
    from distill.ctc.config import CtcConfig
    from distill.ctc.train import FORMAT, finetune
    from distill.training.config import configure
    from distill.training.loop import begun

    show_progress(quiet)
    given = {
        "backbone": backbone,
        "from_scratch": from_scratch,
        "units": units.value if units else None,
        "seed": seed,
        "minutes": minutes,
        "steps": steps,
        "learning_rate": learning_rate,
        "freeze_steps": freeze_steps,
        "train_front_end": train_front_end,
        "mask": mask,
        "dropout": dropout,
        "batch_seconds": batch_seconds,
        "threads": threads,
    }
    start = begun(output, FORMAT)["config"] if resume and output is not None else {}
    settings = configure(CtcConfig, given, assign or [], start)
    if output is None:
        output = Path("runs") / f"ctc-{time.strftime('%Y%m%d-%H%M%S')}"
    record = finetune(
        settings, transcripts, output, evaluation=evaluation, resume=resume, quiet=quiet
    )
    if "stopped" in record:
        raise typer.Exit(130)
    kind = "characters" if settings.units == "char" else "tokens"
    told = f"error rate of {kind}: {share(record['token_error'])}"
    if "word_error" in record:
        told += f", of words: {share(record['word_error'])}"
    typer.echo(f"{told}; one text for every recording: {share(record['constant'])}")
