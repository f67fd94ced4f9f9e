"""`enhance dann`: training on a speech model's layers with and without a domain adversary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enhance.cli.options import (
    Accelerator,
    Assign,
    Cache,
    Devices,
    NumNodes,
    Output,
    Precision,
    Quiet,
    Resume,
    Seed,
    Strategy,
    check_resume,
    new_run,
    show_progress,
)
from enhance.errors import require

dann_app = typer.Typer(
    help="Domain-adversarial training (DANN) and the plain one (ERM).", no_args_is_help=True
)


@dann_app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/dann/dann.yaml.")],
    output: Output = None,
    assign: Assign = None,
    cache: Cache = None,
    devices: Devices = 1,
    strategy: Strategy = "auto",
    num_nodes: NumNodes = 1,
    accelerator: Accelerator = "cpu",
    precision: Precision = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a spoofing detector or a speaker verifier that shall not hear the codec.

    Without the adversary: configs/dann/erm.yaml, whose lambda starts and ends at 0.
    """
    require("train", "torch", "lightning_fabric", "transformers", "safetensors", "tensorboard")
    require("bench", "matplotlib")
    check_resume(output, resume)
    from distill.dann.config import DannConfig
    from distill.dann.train import train as work
    from enhance.config.settings import load_yaml, override, parse
    from enhance.training.engine.processes import Hardware

    show_progress(quiet)
    settings = override(load_yaml(config), list(assign or []), DannConfig)
    settings |= {"precision": precision} if precision else {}
    folder = output or new_run(f"dann-{config.stem}")
    record = work(
        parse(DannConfig, settings, str(config)),
        folder,
        cache=cache,
        resume=resume,
        hardware=Hardware(accelerator, devices, strategy, num_nodes),
        quiet=quiet,
    )
    if "stopped" in record:
        raise typer.Exit(130)
    best = record["best"]
    typer.echo(f"{folder}: EER {100 * best['eer']:.2f} % after epoch {best['epoch']}, held back")


@dann_app.command()
def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of dann train; the rest are compared with the first."
        ),
    ],
    where: Annotated[
        Path, typer.Option("--eval", help="Manifest or ASVspoof protocol of other speakers.")
    ],
    output: Output = None,
    audio: Annotated[str, typer.Option(help="Folder of a protocol's audio.")] = "",
    cache: Cache = None,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Errors pooled and by codec, what is left of the codec, layer weights, the best epoch."""
    require("train", "torch", "transformers", "safetensors", "sklearn")
    require("bench", "matplotlib")
    from benchmarks.analysis.dann import evaluate as work
    from benchmarks.analysis.dann import tables
    from benchmarks.figures.tables import show

    output = output or new_run("dann-evaluate")
    show(tables(work(runs, where, output, audio=audio, cache=cache, seed=seed or 0, quiet=quiet)))
    typer.echo(f"{output / 'dann.md'}")
