"""`enhance analyze all`, `analyze report`: every analysis in one folder, and the page over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli.analyze import analyze_app, needs
from enhance.cli.options import Backbones, Output, Resume, check_resume, new_run, working
from enhance.errors import EnhanceError

Study = Annotated[
    Path | None, typer.Option(help="Folder of enhance compare of the modes, to judge them by.")
]


@analyze_app.command(name="all")
@working()
def everything(
    backbone: Backbones,
    corpus: Annotated[
        Path, typer.Option(help="Folder with train/ and, for phones, analysis/ with phones.csv.")
    ],
    work: Any,
    output: Output = None,
    study: Study = None,
    limit: Annotated[int, typer.Option(min=10, help="Clips of each analysis.")] = 400,
    resume: Resume = False,
) -> None:
    """Every analysis that a corpus allows, and one HTML page over them and the seeds' claims."""
    check_resume(output, resume)
    needs("sklearn")
    from benchmarks.analysis.report import everything as asked

    output = output or new_run("analysis")
    refused = asked.run(asked.analyses(backbone, corpus, output, work), output, resume=resume)
    report(output, backbone, study)
    if refused:
        raise EnhanceError(f"analyze all: the page lacks {'; '.join(refused)}")


@analyze_app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Where analyses left their records.")],
    backbone: Backbones,
    study: Study = None,
) -> None:
    """The page over the records of a folder."""
    needs("jinja2")
    from benchmarks.analysis.report.page import PAGE, write

    counts: dict[str, int] = {}
    for _, verdict in write(folder, backbone, study):
        counts[verdict.word] = counts.get(verdict.word, 0) + 1
    typer.echo(", ".join(f"{count} {word}" for word, count in counts.items()))
    typer.echo(f"{folder / PAGE}")
