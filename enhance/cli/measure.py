"""Commands that measure: evaluate, bench, guard, card, compare."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from enhance.cli import options
from enhance.errors import EnhanceError, require


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoint folders, ONNX files, shipped names, noisy, or folders of another "
            "system's outputs by name.  [default: newest run]",
        ),
    ] = None,
    clips: options.Pairs = None,
    snr: Annotated[
        str, typer.Option(metavar="DB|any", help="SNR of every pair; any for each its own.")
    ] = "-5",
    out: options.Report = options.REPORT,
    jobs: options.Jobs = 0,
    cluster: options.Cluster = "",
    limit: options.Limit = 0,
    dnsmos: Annotated[
        bool, typer.Option("--dnsmos", help="DNSMOS P.835 too: about 1.2 s of CPU a clip.")
    ] = False,
    distillmos: Annotated[
        bool, typer.Option("--distillmos", help="DistillMOS too: about 0.5 s of CPU a clip.")
    ] = False,
    wer: Annotated[
        str | None,
        typer.Option(
            metavar="RECOGNIZER",
            help="Word error rate too, against this recogniser's words of the clean clip: a "
            "folder or hub id of a Whisper model for faster-whisper, or of a CRDNN.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Report groups of this label of the set; repeatable."),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure PESQ-WB, STOI, ESTOI and SI-SDR at a fixed SNR."""
    require("bench", "pesq", "pystoi", "matplotlib")
    from benchmarks.pages.report import write_report
    from benchmarks.quality.evaluate import evaluate as measure
    from benchmarks.quality.tables import show_evaluation

    level = options.read_snr(snr)
    found = measure(
        models or (),
        set=clips,
        snr=None if level == options.ANY else level,
        out=out,
        jobs=jobs,
        cluster=cluster,
        dnsmos=dnsmos,
        distillmos=distillmos,
        wer=wer,
        groups=by,
        limit=limit,
        quiet=quiet,
    )
    write_report(found.folder)
    show_evaluation(found)


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="ONNX files or shipped names."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Audio seconds per model and regime.")] = 4.0,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE@MS", help="Another system's streaming ONNX, and its hop."),
    ] = None,
    out: options.Report = options.REPORT,
    quiet: options.Quiet = False,
) -> None:
    """Time models frame by frame, side by side.

    One thread; hot (back to back), cold (caches used by something else) and paced (a live call).
    """
    require("bench", "matplotlib")
    from benchmarks.latency.bench import bench as measure
    from benchmarks.latency.tables import show_bench
    from benchmarks.pages.report import write_report

    models = models or ["default"]
    found = measure(models, seconds=seconds, out=out, peers=peer or (), quiet=quiet)
    write_report(out)
    show_bench(found)


def guard(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="ONNX files, shipped names or run folders."),
    ],
    clips: options.Pairs = None,
    speech: Annotated[
        Path | None, typer.Option(help="Clean speech in another language; else not measured.")
    ] = None,
    noise: Annotated[
        Path | None, typer.Option(help="Noise instead of the set's, alone and with --speech.")
    ] = None,
    music: Annotated[Path | None, typer.Option(help="Music; else a piece is made.")] = None,
    out: options.Report = options.REPORT,
    limit: Annotated[int, typer.Option(help="Clips of each condition.")] = 48,
    sex: Annotated[
        str | None,
        typer.Option(help="Pattern whose first group is f or m in a speaker's name."),
    ] = None,
    jobs: options.Jobs = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 where a check fails.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure whether models harm what they should leave alone.

    Clean, quiet and loud speech, mild noise, silence, music, another language; women and men;
    speakers heard in training or not. Each interval is held against a bound: pass, FAIL, or not
    shown where it lies across.
    """
    require("measure", "pesq", "pystoi", "scipy")
    from benchmarks.guard.run import SEX
    from benchmarks.guard.run import guard as measure
    from benchmarks.guard.tables import show_guard
    from benchmarks.pages.report import write_report

    found = measure(
        models,
        clips,
        out,
        speech=speech,
        noise=noise,
        music=music,
        limit=limit,
        sex=SEX if sex is None else sex,
        jobs=jobs,
        quiet=quiet,
    )
    write_report(found.folder)
    show_guard(found)
    if strict and found.failed:
        raise typer.Exit(1)


def card(
    model: Annotated[str, typer.Argument(help="ONNX file or shipped name.")],
    results: Annotated[
        list[Path],
        typer.Option(help="Report folder or results.jsonl of evaluate, guard, bench; repeatable."),
    ],
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run that trained it; not for --guards.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File.  [default: NAME.md beside MODEL]")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Where the training corpus lies, if it has moved.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Preset that the command shall name.")
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Markdown on intended use and limits, put in as it is.")
    ] = None,
    guards: Annotated[
        bool, typer.Option("--guards", help="Renew what the card tells of guards, and no more.")
    ] = False,
    force: options.Force = False,
) -> None:
    """Write a model card from measured records, and from nothing else.

    Every record must be of this very file: certificate, run, evaluation, guard and bench are
    checked against its hash, and a missing or strange one is refused. --guards needs a card and
    the guard's records alone: the rest of the card stays as it is.
    """
    require("train", "yaml", "huggingface_hub", "jinja2")
    from benchmarks.pages.card import renew_guards, write_card

    if guards:
        print(f"{renew_guards(model, results, out)}: guards renewed")
        return
    if run is None:
        raise EnhanceError("card: no run named; give the folder that trained it with --run")
    path = write_card(
        model,
        run,
        results,
        out,
        corpus=corpus,
        config=config,
        notes=notes,
        force=force,
    )
    print(f"{path}: written")


def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of named runs.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the study.  [default: runs/STUDY]"),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            "--set", help="Folder with clean/ and noisy/.  [default: as before, or synthetic]"
        ),
    ] = None,
    snr: Annotated[
        str | None,
        typer.Option(
            metavar="DB|any",
            help="SNR of every pair; any for each its own.  [default: as before, or -5]",
        ),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY.KEY=VALUE", help="Override one setting of the base; repeatable."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this run; repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, a process each.")] = 1,
    cluster: options.Cluster = "",
    accelerator: options.Accelerator = "auto",
    report: Annotated[
        bool, typer.Option("--report", help="Only write the tables anew; train nothing.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option(help="Write the report to this Markdown file too.")
    ] = None,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Train runs anew whose settings changed.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train many runs under one budget and compare them in pairs.

    Stop it at any time: the same command goes on. Several may work on one folder at once.
    """
    require("train", "torch", "lightning_fabric", "safetensors", "yaml", "tensorboard")
    require("export", "onnx", "onnxscript")
    require("bench", "pesq", "pystoi", "matplotlib")
    from benchmarks.study.compare import compare as carry_out
    from benchmarks.study.compare import show_comparison

    found = carry_out(
        study,
        out,
        clips=clips,
        snr=None if snr is None else options.read_snr(snr),
        base=base or (),
        only=only or (),
        jobs=jobs,
        cluster=cluster,
        accelerator=accelerator,
        force=force,
        report=report,
        table=table,
        quiet=quiet,
    )
    show_comparison(found)
    if found.stopped:
        print("enhance: stopped and saved; the same command goes on", file=sys.stderr)
        raise typer.Exit(128 + int(signal.Signals[found.stopped]))
