"""Commands of self-supervised models: pretrain-ssl, teachers."""

from __future__ import annotations

import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli.options import Force, ModelFolder, Quiet, Resume, Seed, Threads, show_progress
from enhance.errors import EnhanceError, require


class Family(StrEnum):
    """Self-supervised families that can be pre-trained."""

    wav2vec = "wav2vec"
    vq_wav2vec = "vq-wav2vec"
    wav2vec2 = "wav2vec2"
    hubert = "hubert"
    wavlm = "wavlm"


def pretrain_ssl(
    output: ModelFolder = None,
    family: Annotated[
        Family | None, typer.Option(help="Which model and objective.  [default: wavlm]")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Named settings, such as mini-wavlm.  [default: the family's own]"),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Folder with speech and noise.  [default: built-in, synthetic]"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes over all iterations; 0: no limit.  [default: 48]"),
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="Steps in all, or once for each iteration.")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="hubert, wavlm: rounds of units and training.  [default: 2]"),
    ] = None,
    units: Annotated[
        list[int] | None,
        typer.Option(help="hubert, wavlm: units of each iteration.  [default: 100, then 200]"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY.KEY=VALUE", help="Architecture or recipe of the family."
        ),
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(help="Folder with phone alignments to probe the result on.")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a small self-supervised model on your own speech.

    Each family has its paper's objective; the folder written goes to --set objective.teacher=.
    A resumed run keeps its own settings.
    """
    require("train", "torch", "transformers", "safetensors", "sklearn", "scipy", "yaml")
    from benchmarks.analysis import phone_probe
    from distill.ssl import family as families
    from distill.ssl import run as pretrain_ssl
    from enhance.data import demo_corpus
    from enhance.settings import override

    show_progress(quiet)
    if output is None and resume:
        raise EnhanceError("--resume: name the folder to go on with: --output DIR")
    given = {
        "minutes": minutes,
        "steps": steps,
        "iterations": iterations,
        "units": units,
        "seed": seed,
        "threads": threads,
    }
    settings: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    settings = override(settings, list(assign or []))
    begun = pretrain_ssl.begun(output) if resume and output is not None else None
    config = families.configure(family.value if family else None, preset, settings, begun)
    if output is None:
        output = Path("runs") / f"ssl-{config.family}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = corpus or demo_corpus.ensure(quiet=quiet)
    measure = partial(phone_probe.probe, corpus=probe, quiet=quiet) if probe else None
    how: dict[str, Any] = {"resume": resume, "probe": measure, "quiet": quiet}
    record = pretrain_ssl.pretrain(config, folder, output, **how)
    if "stopped" in record:
        raise typer.Exit(130)


def teachers(
    names: Annotated[
        list[str],
        typer.Argument(metavar="TEACHER...", help="Shipped names, folders, files or hub ids."),
    ],
    audio: Annotated[
        Path | None,
        typer.Option(help="Folder of recordings: measure extraction in audio seconds a second."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Audio to extract for each teacher, from --audio.")
    ] = 120.0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write FILE.md or FILE.json, or both for a bare name."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Tell what teachers are: layers, widths, stride, field, weights, metric against chance."""
    require("train", "torch", "transformers", "safetensors")
    from benchmarks.analysis import teachers as teacher_table

    teacher_table.check(out, force)
    rows = [
        teacher_table.describe(name, audio=audio, seconds=seconds, threads=threads, quiet=quiet)
        for name in names
    ]
    print(teacher_table.markdown(rows))
    if out is not None:
        teacher_table.write(rows, out)
