"""`enhance analyze`: what representations hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from enhance.cli.options import (
    Backbones,
    Cache,
    Cluster,
    Jobs,
    Limit,
    Output,
    Quiet,
    Resume,
    Seed,
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
            help="Folder or hub id of a speechbrain CRDNN, folder of teacher finetune-ctc, or "
            "none.  [default: the one on the hub, if it can be had]"
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


@analyze_app.command()
def codec(
    backbones: Backbones,
    corpus: Annotated[Path, typer.Option(help="Folder or manifest of speech, speakers named.")],
    output: Output = None,
    source: Annotated[str, typer.Option(help="Only this source of the manifest.")] = "",
    codecs: Annotated[
        list[str] | None,
        typer.Option("--codec", help="Such as amr-4.75k; repeatable.  [default: nine]"),
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="Folder of dann train, heard too; repeatable."),
    ] = None,
    num_samples: Annotated[
        int, typer.Option(min=1, help="Coded clips: recordings times codecs.")
    ] = 3000,
    cache: Cache = None,
    seed: Seed = None,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    quiet: Quiet = False,
) -> None:
    """Which codec a clip went through, told from each layer of several models."""
    require("train", "torch", "transformers", "safetensors", "sklearn")
    require("codecs", "av", "matplotlib")
    from benchmarks.analysis.codec import codec as work
    from benchmarks.analysis.codec import tables
    from benchmarks.figures.tables import show
    from enhance.measure.timing import cores

    output = output or new_run("codec")
    record = work(
        backbones,
        corpus,
        output,
        source=source,
        names=codecs or [],
        checkpoints=checkpoints or [],
        num_samples=num_samples,
        cache=cache,
        seed=seed or 0,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    show(tables(record))
    typer.echo(f"{output / 'codec.md'}")
