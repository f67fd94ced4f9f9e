"""Commands on finished models: `enhance guard` and `enhance card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enhance.cli_data import Force, Quiet
from enhance.errors import require


def guard(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="ONNX files, shipped names or run folders."),
    ],
    clips: Annotated[
        Path | None,
        typer.Option("--set", help="Folder with clean/ and noisy/.  [default: synthetic]"),
    ] = None,
    speech: Annotated[
        Path | None, typer.Option(help="Clean speech in another language; else not measured.")
    ] = None,
    noise: Annotated[
        Path | None, typer.Option(help="Noise instead of the set's, alone and with --speech.")
    ] = None,
    music: Annotated[Path | None, typer.Option(help="Music; else a piece is made.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")] = Path(
        "report"
    ),
    limit: Annotated[int, typer.Option(help="Clips of each condition.")] = 48,
    sex: Annotated[
        str | None,
        typer.Option(help="Pattern whose first group is f or m in a speaker's name."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 where a bound is passed.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure whether models harm what they should leave alone.

    Clean, quiet and loud speech, mild noise, silence, music, another language; women and men;
    speakers heard in training or not. Each figure is held against a bound: pass or FAIL.
    """
    require("measure", "pesq", "pystoi", "scipy")
    from benchmarks.harm import SEX
    from benchmarks.harm import guard as measure
    from benchmarks.harm_report import show_guard

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
    show_guard(found)
    if strict and found.failed:
        raise typer.Exit(1)


def card(
    model: Annotated[str, typer.Argument(help="ONNX file or shipped name.")],
    run: Annotated[Path, typer.Option(help="Folder of the run that trained it.")],
    results: Annotated[
        list[Path],
        typer.Option(help="Report folder or results.jsonl of evaluate, guard, bench; repeatable."),
    ],
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
    force: Force = False,
) -> None:
    """Write a model card from measured records, and from nothing else.

    Every record must be of this very file: certificate, run, evaluation, guard and bench are
    checked against its hash, and a missing or strange one is refused.
    """
    require("train", "yaml")
    from benchmarks.model_card import write_card

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
