"""The front door: one thin function per command, heavy imports inside."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand

from enhance.cli import measure, options, streams, teachers
from enhance.cli.analyze import analyze_app
from enhance.cli.dann import dann_app
from enhance.cli.data import data_app
from enhance.cli.export import export
from enhance.errors import EnhanceError, require
from enhance.files import is_folder, named

app = typer.Typer(
    help="Causal speech enhancement at very low SNR: train, distil, export, prove, measure, run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(analyze_app, name="analyze")
app.add_typer(teachers.teacher_app, name="teacher")
app.add_typer(dann_app, name="dann")


def _version(wanted: bool) -> None:
    if wanted:
        from enhance import __version__

        typer.echo(f"enhance {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Audio file or folder; - for a WAV piped in.")
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUTPUT]",
            help="File or folder to write; - for a WAV piped on.  [default: INPUT_enhanced]",
        ),
    ] = None,
    model: options.Model = "default",
    force: options.Force = False,
    num_threads: options.NumThreads = 1,
    strength: options.Strength = 1.0,
    atten_limit: options.AttenLimit = None,
    bandwidth: options.Bandwidth = "full",
    engine: Annotated[
        str,
        typer.Option(
            metavar="auto|onnx|native",
            help="What computes: ONNX Runtime, or plain C, which is compiled at its first use; "
            "auto takes plain C where the model has weights for it and it was compiled, or "
            "enhance[native] is installed.",
        ),
    ] = "auto",
    quiet: options.Quiet = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Name the engine and each file.")
    ] = False,
) -> None:
    """Clean a recording, or every recording below a folder.

    The output has the input's length, rate and channels, and is aligned with it to the sample.
    """
    if "-" in (str(source), str(target)):
        chosen = cast(Any, engine)  # what is none of them is refused there
        settings = streams.Settings(model, num_threads, strength, atten_limit, bandwidth, chosen)
        streams.run_piped(source, target, settings, force=force, verbose=verbose)
        return
    from enhance.device.clean import run_path

    run_path(
        source,
        target,
        model=model,
        force=force,
        num_threads=num_threads,
        strength=strength,
        atten_limit=atten_limit,
        engine=cast(Any, engine),
        bandwidth=bandwidth,
        quiet=quiet,
        verbose=verbose,
    )


@app.command()
def train(
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="base|distill|concat|pretrain|A+B",
            help="What the network learns from.  [default: base]",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML file, see configs/.")
    ] = None,
    assign: options.Assign = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run.  [default: a new one below runs/]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where --run, or the newest run, stopped.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights a new run starts from.")
    ] = None,
    branch: Annotated[
        Path | None,
        typer.Option(help="Run whose whole state, and settings, a new run goes on from."),
    ] = None,
    devices: options.Devices = 1,
    strategy: options.Strategy = "auto",
    num_nodes: options.NumNodes = 1,
    accelerator: options.Accelerator = "auto",
    precision: options.Precision = None,
    quiet: options.Quiet = False,
) -> None:
    """Train an enhancer.

    Without data named, on the built-in synthetic corpus; modes with a teacher bring their own.

    Ctrl-C saves and stops, --resume goes on. A resumed run keeps its own configuration, which
    --set may extend (training.steps, training.minutes).

    --branch RUN leaves RUN as it is; its budget counts from there. With --set
    training.schedule=wsd, training.decay_share=1 and training.steps=N it is a decay in N steps.
    """
    require("train", "torch", "lightning_fabric", "safetensors", "yaml", "pesq", "tensorboard")
    from distill.modes.choose import make_objective
    from enhance.config.settings import load_run
    from enhance.network.checkpoint import newest_run
    from enhance.training.engine.processes import Hardware
    from enhance.training.loop import fit

    if branch is not None and (resume or init is not None):
        raise EnhanceError("enhance train: --branch starts a run; leave --resume and --init out")
    if resume and init is not None:
        raise EnhanceError("enhance train: a resumed run has its own weights; leave --init out")
    if resume:
        run = run or newest_run(kept=False)
        if not is_folder(run):
            raise EnhanceError(f"{run}: there is no run to resume")
    before = run if resume else branch
    if before is not None and config is None:
        config = before / "config.yaml"
    assignments = list(assign or [])
    if mode is not None:
        assignments.append(f"mode={mode}")
    if precision is not None:
        assignments.append(f"training.precision={precision}")
    settings = load_run(config, assignments)
    summary = fit(
        settings,
        make_objective(settings, quiet, goes_on=resume or branch is not None),
        run or options.new_run(settings.mode),
        resume=resume,
        hardware=Hardware(accelerator, devices, strategy, num_nodes),
        init=init,
        branch=branch,
        quiet=quiet,
    )
    if quiet:
        print(f"{summary['run']}: {summary['stopped']} at step {summary['step']}")
    if summary["stopped"] != "finished":
        raise typer.Exit(128 + int(signal.Signals[summary["stopped"]]))


@app.command()
def snapshot(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder.  [default: the newest run]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to make.  [default: RUN-snapshot]")
    ] = None,
    limit_mb: Annotated[float, typer.Option(help="Largest size of the folder.")] = 4.0,
    force: options.Force = False,
) -> None:
    """Write a run's state in half precision, for train --branch."""
    require("train", "torch", "safetensors", "yaml")
    from enhance.network.checkpoint import newest_run
    from enhance.training.run.snapshot import snapshot as write

    run = run or newest_run(kept=False)
    out = out or named(run).with_name(f"{named(run).name}-snapshot")
    made = write(run, out, limit_mb=limit_mb, force=force)
    print(f"{out}: step {made['step']}, {made['bytes'] / 1e6:.2f} MB")


app.command()(export)
for _command in (measure.evaluate, measure.bench, measure.guard, measure.card, measure.compare):
    app.command()(_command)
app.command()(streams.stream)
app.command()(streams.live)


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Preset, checkpoint folder, ONNX file or shipped name; or layers: what is claimed "
            "of a teacher's layers."
        ),
    ] = None,
    framing: Annotated[str, typer.Option(help="Framing of a preset.")] = "25-20",
) -> None:
    """Print parameters, MAC/s, size, framing and latency."""
    if model == "layers":
        from benchmarks.analysis.claims import show

        show()
        return
    from enhance.cli.info import describe

    describe(model, framing)


RENAMED: dict[str, tuple[str, Callable[..., None]]] = {
    "pretrain-ssl": ("teacher pretrain", teachers.pretrain),
    "pretrain-speaker": ("teacher pretrain-speaker", teachers.pretrain_speaker),
    "finetune-ctc": ("teacher finetune-ctc", teachers.finetune_ctc),
    "teachers": ("teacher table", teachers.table),
}
"""Names of version 0.1 and what they are now; they go with version 0.3."""


class _Renamed(TyperCommand):
    """A command under its old name: works, and tells the new one on standard error."""

    def invoke(self, ctx: Any) -> Any:
        old = str(ctx.info_name)
        print(f"enhance: {old} is now {RENAMED[old][0]}", file=sys.stderr)
        return super().invoke(ctx)


for _old, (_, _command) in RENAMED.items():
    app.command(_old, cls=_Renamed, hidden=True)(_command)


PACKAGES = ("enhance", "distill", "export", "benchmarks")
"""Ours: what is missing of them is a fault, not an extra."""


_UsageError: Any = typer.BadParameter.__base__
"""Of a command line that is wrong in itself; typer keeps its name to itself."""


def main() -> None:
    """Run the command line: errors become one line and exit code 2, Ctrl-C exit code 130."""
    try:
        try:
            _refuse_empty(sys.argv)
            sys.argv[1:] = map(_at_home, sys.argv[1:])
            code = app(standalone_mode=False)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # so that a full disk behind a pipe is told here
    except EnhanceError as error:
        _end(f"enhance: {error}")
    except _UsageError as error:
        _end(_in_one_line(error))
    except KeyboardInterrupt:
        _end("enhance: stopped", 130)
    except BrokenPipeError:
        _leave_stdout()
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in PACKAGES:
            raise
        _end(
            f"enhance: this command needs {error.name}, not installed here: "
            "pip install 'enhance[train,export,bench]'"
        )
    except OSError as error:  # of the system: a disk that is full, a folder that may not be entered
        if error.errno is None:
            raise
        if error.filename is None:
            _leave_stdout()
        named = "" if error.filename is None else f"{error.filename}: "
        _end(f"enhance: {named}{error.strerror}")
    sys.exit(code if isinstance(code, int) else 0)


def _end(line: str, code: int = 2) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)


def _at_home(word: str) -> str:
    """``--option=~/place`` with the home folder there: no shell sees to that behind an ``=``."""
    option, _, value = word.partition("=")
    if not option.startswith("--") or not value.startswith("~/"):
        return word
    from enhance.files import expanded

    return f"{option}={expanded(value)}"


def _refuse_empty(words: Sequence[str]) -> None:
    """An empty word is a variable that is not set; as a path it would be this very folder."""
    for before, word in pairwise(words):
        if not word:
            raise EnhanceError(
                f"an empty word stands behind {Path(before).name}: name something there, or leave "
                "it out"
            )


def _in_one_line(error: Any) -> str:
    """What is wrong with a command line; of a group without a command, its help."""
    text = error.format_message()
    if text.startswith("Usage: "):
        return str(text)
    command = error.ctx.command_path if error.ctx else "enhance"
    return f"{command}: {' '.join(text.split()).rstrip('.')}; see {command} --help"


def _leave_stdout() -> None:
    """What could not be written is not tried again when the process ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
