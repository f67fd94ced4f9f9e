"""`enhance dann`: training on a speech model's layers with and without a domain adversary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli import options
from enhance.cli.teachers import Training, finished, training
from enhance.errors import require

dann_app = typer.Typer(
    help="Domain-adversarial training (DANN) and the plain one (ERM).", no_args_is_help=True
)


@dann_app.command()
@training
def train(
    run: Training,
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/dann/dann.yaml.")],
    cache: options.Cache = None,
) -> None:
    """Train a spoofing detector or speaker verifier, deaf to codecs.

    Without the adversary: configs/dann/erm.yaml, whose lambda starts and ends at 0.
    """
    require("train", "torch", "lightning_fabric", "transformers", "safetensors", "tensorboard")
    require("bench", "matplotlib")
    from distill.dann.config import DannConfig
    from distill.dann.train import train as work
    from enhance.config.settings import load_yaml, override, parse

    settings = override(load_yaml(config), run.assign, DannConfig)
    given = {key: run.given[key] for key in ("precision", "seed", "threads")}
    settings |= {key: value for key, value in given.items() if value is not None}
    folder = run.output or options.new_run(f"dann-{config.stem}")
    record = work(parse(DannConfig, settings, str(config)), folder, cache=cache, **run.place())
    finished(record)
    best = record["best"]
    typer.echo(f"{folder}: EER {100 * best['eer']:.2f} % after epoch {best['epoch']}, held back")


@dann_app.command()
@options.working("limit", "jobs", "cluster")
def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of dann train; those that differ in the seed alone are one recipe.",
        ),
    ],
    where: Annotated[
        Path, typer.Option("--eval", help="Manifest or ASVspoof protocol of other speakers.")
    ],
    work: Any,
    output: options.Output = None,
    audio: Annotated[str, typer.Option(help="Folder of a protocol's audio.")] = "",
) -> None:
    """Tell errors by codec, what is left of it, and layer weights."""
    require("train", "torch", "transformers", "safetensors", "sklearn")
    require("bench", "matplotlib")
    from benchmarks.analysis.dann import evaluate as measure
    from benchmarks.analysis.dann import tables
    from benchmarks.figures.tables import show

    output = output or options.new_run("dann-evaluate")
    show(tables(measure(runs, where, output, work, audio=audio)))
    typer.echo(f"{output / 'dann.md'}")
