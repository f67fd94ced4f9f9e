"""What several commands share: options, folders of runs, and lines of progress."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from enhance.errors import EnhanceError

Options = dict[str, inspect.Parameter]
"""Of a command, by name."""

AttenLimit = Annotated[
    float | None,
    typer.Option(metavar="DB", help="Suppress nothing by more than this.  [default: no limit]"),
]
Backbones = Annotated[
    list[str],
    typer.Option(
        "--backbone",
        help="Shipped name, folder, file or hub id of a speech model; log-mel[:STRIDE], "
        "random:NAME, encoder:CHECKPOINT; repeatable.",
    ),
]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override one setting; repeatable."),
]
Bandwidth = Annotated[
    str,
    typer.Option(
        metavar="full|16k", help="Keep what lies above the model's 8 kHz, or leave it out."
    ),
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of features.  [default: the user's cache]")
]
Codecs = Annotated[
    list[str] | None,
    typer.Option("--codec", help="Such as amr-4.75k; repeatable.  [default: nine]"),
]
Cluster = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Dask scheduler whose workers do the work; they see these files."
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.")]
Jobs = Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")]
Limit = Annotated[int, typer.Option(min=0, help="Only the first clips; 0 for all.")]
Model = Annotated[str, typer.Option("-m", "--model", help="Shipped name, ONNX file, or hub id.")]
NumThreads = Annotated[int, typer.Option(min=1, help="Threads of the model.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--out", "--output", help="Folder.  [default: a new one in runs/]"),
]
Pairs = Annotated[
    Path | None, typer.Option("--set", help="Folder with clean/ and noisy/.  [default: synthetic]")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and results only.")]
Report = Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")]
REPORT = Path("report")
Strength = Annotated[
    float, typer.Option(help="Share of the cleaned signal, 0 to 1; the rest is the input.")
]
Snr = Annotated[float, typer.Option("--snr", help="Signal-to-noise ratio in dB.")]
ANY: Literal["any"] = "any"
"""In place of an SNR: each pair at its own."""
Teachers = Annotated[
    list[str],
    typer.Argument(
        metavar="TEACHER...",
        help="Shipped names, folders, files, hub ids, log-mel, random:NAME, encoder:CHECKPOINT.",
    ),
]

# Of all that trains on `enhance.training`: where it runs.
Accelerator = Annotated[str, typer.Option(metavar="cpu|cuda|auto", help="Where it computes.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes, or GPUs, per node.")]
NumNodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Precision = Annotated[
    str | None,
    typer.Option(metavar="fp32|bf16|auto", help="Arithmetic.  [default: the configuration's]"),
]
Strategy = Annotated[str, typer.Option(help="Lightning Fabric's strategy.")]

# Of teachers' training: budget and folder. What is not given keeps the configuration's value.
Minutes = Annotated[
    float | None, typer.Option(min=0, help="Minutes of training; 0: no limit.  [default: 30]")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", "--output", help="Folder of the model.  [default: a new one in runs/]"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")]
LARGEST_SEED = 2**32 - 1
Seed = Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="[default: 0]")]
Steps = Annotated[
    int | None, typer.Option(min=0, help="Steps; 0: the minutes decide.  [default: 0]")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads.  [default: 1]")]


def options_of(command: Callable[..., Any]) -> Options:
    """Parameters of a command by name, their annotations resolved."""
    return dict(inspect.signature(command, eval_str=True).parameters)


def with_options(function: Callable[..., None], options: Options) -> Callable[..., None]:
    """A function of keywords, as a command that has these options."""
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options.values()]
    function.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in named}
    return function


def working(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `benchmarks.analysis.parts.work.Work` in place of ``work``.

    An option that the command has itself stands in place of the shared one and goes into the same
    ``work``. Those named in ``without`` say nothing here.
    """

    def shared(
        limit: Annotated[
            int, typer.Option(min=0, help="Clips, evenly over speakers; 0 for all.")
        ] = 0,
        cache: Cache = None,
        seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
        jobs: Jobs = 0,
        cluster: Cluster = "",
        quiet: Quiet = False,
    ) -> None: ...

    common = {n: option for n, option in options_of(shared).items() if n not in without}

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def whole(**given: Any) -> None:
            from benchmarks.analysis.parts.work import Work

            show_progress(given["quiet"])
            told = {name: given.pop(name) for name in common}
            command(work=Work(features=told.pop("cache", None), **told), **given)

        own = {n: option for n, option in options_of(command).items() if n != "work"}
        return with_options(whole, own | common | {n: own[n] for n in own.keys() & common.keys()})

    return wrap


def new_run(name: str) -> Path:
    """Folder of a run for which none was named: a new one below runs/."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_resume(output: Path | None, resume: bool) -> None:
    """Refuse by an `EnhanceError` to go on with a folder that nobody named."""
    if resume and output is None:
        raise EnhanceError("--resume: name the folder to go on with: --out DIR")


def read_snr(text: str) -> float | Literal["any"]:
    """What ``--snr`` says of a set: a number of dB, or `ANY`; an `EnhanceError` if neither."""
    if text == ANY:
        return ANY
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise EnhanceError(f"--snr {text}: give a number of dB, or any for pairs at their own SNR")


def show_progress(quiet: bool) -> None:
    """Let lines of the log that tell of progress through to standard error."""
    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("enhance").setLevel(logging.INFO)
