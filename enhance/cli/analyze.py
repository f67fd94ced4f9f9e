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

Corpus = Annotated[Path, typer.Option(help="Manifest or folder with clips of speech.")]
Drawn = Annotated[int, typer.Option(min=0, help="Clips, evenly over speakers; 0 for all.")]

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


@analyze_app.command()
def temporal(
    backbone: Backbones,
    corpus: Annotated[
        Path | None, typer.Option(help="Manifest or folder with speech and noise.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--set", help="Instead of it: folder with clean/ and noisy/.")
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(help="dB of the noise mixed in; repeatable.  [default: 20, 5, -5]"),
    ] = None,
    output: Output = None,
    limit: Drawn = 0,
    cache: Cache = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    quiet: Quiet = False,
) -> None:
    """Correlation and distance of frames against their lag, clean and noisy, of each state."""
    _require()
    from benchmarks.analysis import temporal as analysis
    from benchmarks.figures.tables import show
    from enhance.measure.timing import cores

    show_progress(quiet)
    output = output or new_run("temporal")
    made = analysis.temporal(
        backbone,
        output,
        corpus=corpus,
        pairs=pairs,
        snrs=snr or [20.0, 5.0, -5.0],
        seed=seed,
        cache=cache,
        limit=limit,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    show(analysis.tables(made))
    typer.echo(f"{output / 'temporal.md'}")


@analyze_app.command()
def cka(
    backbone: Backbones,
    corpus: Corpus,
    output: Output = None,
    stride_frames: Annotated[
        int, typer.Option(min=1, help="Only every k-th frame: neighbours are alike.")
    ] = 1,
    limit: Drawn = 0,
    cache: Cache = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    quiet: Quiet = False,
) -> None:
    """Similarity of hidden states within and across models: linear CKA, debiased."""
    _require()
    from benchmarks.analysis import cka as analysis
    from benchmarks.figures.tables import show
    from enhance.measure.timing import cores

    show_progress(quiet)
    output = output or new_run("cka")
    made = analysis.cka(
        backbone,
        corpus,
        output,
        stride_frames=stride_frames,
        seed=seed,
        cache=cache,
        limit=limit,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    show(analysis.tables(made))
    typer.echo(f"{output / 'cka.md'}")


@analyze_app.command()
def maps(
    backbone: Backbones,
    corpus: Corpus,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="phone (from phones.csv), speaker, or a column of the manifest; repeatable.  "
            "[default: speaker]"
        ),
    ] = None,
    output: Output = None,
    frames: Annotated[int, typer.Option(min=100, help="In each map, at most.")] = 2000,
    perplexity: Annotated[float, typer.Option(min=1, help="Of t-SNE.")] = 30.0,
    limit: Drawn = 0,
    cache: Cache = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    quiet: Quiet = False,
) -> None:
    """t-SNE of frames of each state, coloured by what is said, who speaks, or any label."""
    _require("sklearn")
    from benchmarks.analysis import maps as analysis
    from benchmarks.figures.tables import show
    from enhance.measure.timing import cores

    show_progress(quiet)
    output = output or new_run("maps")
    made = analysis.maps(
        backbone,
        corpus,
        output,
        by=by or ["speaker"],
        frames=frames,
        perplexity=perplexity,
        seed=seed,
        cache=cache,
        limit=limit,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    show(analysis.tables(made))
    typer.echo(f"{output / 'maps.md'}")


@analyze_app.command()
def probe(
    backbone: Backbones,
    task: Annotated[
        str,
        typer.Option(
            help="phone, pitch, speaker, verification, language, channel, snr, noise, or label: "
            "any column of the manifest."
        ),
    ],
    corpus: Annotated[
        Path,
        typer.Option(help="Manifest or its folder; for phone with phones.csv; for snr with noise."),
    ],
    output: Output = None,
    label: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[:PATTERN]",
            help="Column that holds the label, or what a pattern finds in it.",
        ),
    ] = "",
    group: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[:PATTERN]",
            help="What is never on both sides of a split.  [default: speaker; of task speaker, "
            "recording]",
        ),
    ] = "",
    trials: Annotated[
        Path | None,
        typer.Option(help="Of verification: lines of 1 or 0 and two paths.  [default: drawn]"),
    ] = None,
    pool: Annotated[
        Literal["mean", "stats"], typer.Option(help="Of whole clips; stats: mean and deviation.")
    ] = "mean",
    frames: Annotated[
        int, typer.Option(min=100, help="At most, of phone and pitch: evenly over clips.")
    ] = 20_000,
    folds: Annotated[int, typer.Option(min=2, help="Each is tested once.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Splits, twins and trainings.")] = 1,
    seed: Seed = 0,
    cache: Cache = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Clips, classes and speakers in turn; 0 for all.")
    ] = 0,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    quiet: Quiet = False,
) -> None:
    """Ask what each layer of frozen models knows, as SUPERB does: linear probes, weighted sums.

    A twin with random weights and log-mel features of the same frame rate stand beside each.
    """
    _require("sklearn")
    from benchmarks.analysis.probe import probe as work
    from benchmarks.analysis.probe import tables
    from enhance.measure.timing import cores

    show_progress(quiet)
    output = output or new_run("probe")
    record = work(
        backbone,
        task,
        corpus,
        output,
        label=label,
        group=group,
        trials=trials,
        pool=pool,
        frames=frames,
        folds=folds,
        seeds=seeds,
        seed=seed or 0,
        cache=cache,
        limit=limit,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    for table in tables(record):
        typer.echo(f"{table.title}\n\n{table.markdown()}\n")
    typer.echo(f"{output / record['analysis']}.md")


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
    require("analysis", "av", "matplotlib")
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


def _require(*modules: str) -> None:
    require("train", "torch", "torchaudio", "transformers", "safetensors", *modules)
    require("bench", "scipy", "matplotlib", "joblib")
