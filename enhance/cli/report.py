"""`enhance analyze all`, `analyze report`: every analysis in one folder, and the page over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enhance.cli.analyze import analyze_app
from enhance.cli.options import (
    Backbones,
    Cache,
    Cluster,
    Jobs,
    Output,
    Quiet,
    Resume,
    check_resume,
    new_run,
    show_progress,
)
from enhance.errors import require

Study = Annotated[
    Path | None, typer.Option(help="Folder of enhance compare of the modes, to judge them by.")
]


@analyze_app.command(name="all")
def everything(
    backbone: Backbones,
    corpus: Annotated[
        Path, typer.Option(help="Folder with train/ and, for phones, analysis/ with phones.csv.")
    ],
    output: Output = None,
    study: Study = None,
    limit: Annotated[int, typer.Option(min=10, help="Clips of each analysis.")] = 400,
    cache: Cache = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    jobs: Jobs = 0,
    cluster: Cluster = "",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Every analysis that a corpus allows, and one HTML page over them and the seeds' claims."""
    check_resume(output, resume)
    _require("sklearn", "transformers")
    from benchmarks.analysis.report import everything as work
    from enhance.measure.timing import cores

    show_progress(quiet)
    output = output or new_run("analysis")
    asked = work.analyses(
        backbone,
        corpus,
        output,
        limit=limit,
        cache=cache,
        seed=seed,
        jobs=jobs or cores(),
        cluster=cluster,
        quiet=quiet,
    )
    work.run(asked, output, resume=resume)
    report(output, backbone, study)


@analyze_app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Where analyses left their records.")],
    backbone: Backbones,
    study: Study = None,
) -> None:
    """The page over the records of a folder."""
    _require("jinja2")
    from benchmarks.analysis.report.page import PAGE, write

    counts: dict[str, int] = {}
    for _, verdict in write(folder, backbone, study):
        counts[verdict.word] = counts.get(verdict.word, 0) + 1
    typer.echo(", ".join(f"{count} {word}" for word, count in counts.items()))
    typer.echo(f"{folder / PAGE}")


def _require(*modules: str) -> None:
    require("train", "torch", "torchaudio", *modules)
    require("bench", "scipy", "matplotlib", "joblib")
