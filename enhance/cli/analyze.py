"""`enhance analyze`: what representations hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from enhance.cli.options import (
    Cache,
    Limit,
    Quiet,
    Resume,
    Teachers,
    check_resume,
    new_run,
    show_progress,
)
from enhance.errors import require

analyze_app = typer.Typer(help="What representations hold.", no_args_is_help=True)


@analyze_app.command()
def reconstruct(
    teachers: Teachers,
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
        Literal["clean", "noisy"],
        typer.Option("--input", help="Features of clean or of noisy speech."),
    ] = "clean",
    controls: Annotated[
        bool, typer.Option(help="Reconstruct from random weights and log-mel features, too.")
    ] = True,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a speechbrain CRDNN or of a Whisper for faster-whisper, "
            "folder of teacher finetune-ctc, or none.  "
            "[default: the CRDNN of the hub, if it is there]"
        ),
    ] = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(help="What is said in the clips: path,text.  [default: what is recognised]"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each decoder.")] = 1000,
    minutes: Annotated[float, typer.Option(min=0, help="Limit for each decoder; 0: none.")] = 0.0,
    hours: Annotated[float, typer.Option(min=0, help="Of speech trained on; 0: all.")] = 1.0,
    limit: Limit = 0,
    cache: Cache = None,
    device: Annotated[
        str, typer.Option(help="Where teachers and decoders run: cpu, cuda.")
    ] = "cpu",
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
    check_resume(output, resume)
    from benchmarks.analysis.reconstruct.config import DecoderConfig
    from benchmarks.analysis.reconstruct.report import sentences
    from benchmarks.analysis.reconstruct.run import reconstruct as work
    from enhance.files import cache_folder

    show_progress(quiet)
    output = output or new_run("reconstruct")
    config = DecoderConfig(
        noisy=heard == "noisy",
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
