"""`enhance analyze`: what representations hold."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from enhance.cli.options import Quiet, Resume, show_progress
from enhance.errors import require

analyze_app = typer.Typer(help="What representations hold.", no_args_is_help=True)


class Input(StrEnum):
    """Side of the evaluation set that is heard."""

    clean = "clean"
    noisy = "noisy"


@analyze_app.command()
def reconstruct(
    teachers: Annotated[
        list[str],
        typer.Argument(metavar="TEACHER...", help="Shipped names, folders, files or hub ids."),
    ],
    corpus: Annotated[Path, typer.Option(help="Folder with speech to train decoders on.")],
    clips: Annotated[
        Path, typer.Option("--set", help="Folder with clean/ and noisy/ to measure on.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder.  [default: a new one in runs/]"),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Hidden states, such as single:3; repeatable.  [default: last]"),
    ] = None,
    heard: Annotated[
        Input, typer.Option("--input", help="Features of clean or of noisy speech.")
    ] = Input.clean,
    controls: Annotated[
        bool, typer.Option(help="Reconstruct from random weights and log-mel features, too.")
    ] = True,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a speechbrain CRDNN, folder of finetune-ctc, or none.  "
            "[default: the one on the hub, if it can be had]"
        ),
    ] = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(help="What is said in the clips: path,text.  [default: what is recognised]"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each decoder.")] = 1000,
    minutes: Annotated[float, typer.Option(min=0, help="Limit for each decoder; 0: none.")] = 0.0,
    hours: Annotated[float, typer.Option(min=0, help="Of speech trained on; 0: all.")] = 1.0,
    limit: Annotated[int, typer.Option(min=0, help="Only the first clips; 0 for all.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of features.  [default: the user's cache]")
    ] = None,
    device: Annotated[str, typer.Option(help="Where teachers run: cpu, cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct speech from embeddings: spectrum, high frequencies, intelligibility, WER.

    A small decoder for each teacher and choice of layers, beside controls through the same one.
    """
    require("train", "torch", "torchaudio", "transformers", "safetensors")
    require("bench", "pesq", "pystoi", "scipy", "matplotlib")
    from benchmarks.analysis.reconstruct.config import DecoderConfig
    from benchmarks.analysis.reconstruct.report import sentences
    from benchmarks.analysis.reconstruct.run import reconstruct as work
    from enhance.errors import EnhanceError
    from enhance.files import cache_folder

    show_progress(quiet)
    if output is None:
        if resume:
            raise EnhanceError("--resume: name the folder to go on with: --output DIR")
        output = Path("runs") / f"reconstruct-{time.strftime('%Y%m%d-%H%M%S')}"
    config = DecoderConfig(
        noisy=heard is Input.noisy,
        hours=hours,
        steps=steps,
        minutes=minutes,
        seed=seed,
        threads=threads,
    )
    record = work(
        teachers,
        corpus,
        clips,
        output,
        config,
        layers=layers or ["last"],
        controls=controls,
        recognizer=recognizer,
        transcripts=transcripts,
        limit=limit,
        cache=cache or cache_folder("features"),
        device=device,
        resume=resume,
        quiet=quiet,
    )
    if "stopped" in record:
        raise typer.Exit(130)
    for line in sentences(record, record["results"]):
        typer.echo(line)
    if record["recognizer"]["missing"]:
        typer.echo(f"No word error rate: {record['recognizer']['missing']}")
    typer.echo(f"{output / 'report.md'}")
