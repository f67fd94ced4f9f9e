"""`enhance teacher`: pre-train and fine-tune self-supervised models, and tell what they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from enhance.cli import options
from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from distill.training.config import LoopConfig
    from distill.training.loop import Place

    C = TypeVar("C", bound=LoopConfig)

teacher_app = typer.Typer(
    help="Self-supervised models: train your own, tell what they are.", no_args_is_help=True
)


_PRETRAIN = ("minutes", "steps", "iterations", "units", "seed", "threads", "precision")


@dataclass(frozen=True)
class Training:
    """What the options say that all trainings have."""

    given: Mapping[str, Any]
    """Values of all options by name."""
    output: Path | None
    assign: list[str]
    resume: bool
    quiet: bool

    def begun(self, tag: str) -> dict[str, Any]:
        """Configuration of the run that is resumed; empty for a new one."""
        from distill.training.loop import begun

        return begun(self.output, tag)["config"] if self.resume and self.output else {}

    def settings(self, kind: type[C], tag: str) -> C:
        """Configuration of the run: that of the resumed one, below what the options say."""
        from distill.training.config import configure

        given = {f.name: self.given.get(f.name) for f in fields(kind)}
        return configure(kind, given, self.assign, self.begun(tag))

    def place(self) -> Place:
        """How it is run."""
        from enhance.training.engine.processes import Hardware

        g = self.given
        where = Hardware(g["accelerator"], g["devices"], g["strategy"], g["num_nodes"])
        return {"resume": self.resume, "hardware": where, "quiet": self.quiet}


def training(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options that all trainings have, handed to it as its first argument."""

    def shared(
        output: options.ModelFolder = None,
        assign: options.Assign = None,
        seed: options.Seed = None,
        threads: options.Threads = None,
        devices: options.Devices = 1,
        strategy: options.Strategy = "auto",
        num_nodes: options.NumNodes = 1,
        accelerator: options.Accelerator = "cpu",
        precision: options.Precision = None,
        resume: options.Resume = False,
        quiet: options.Quiet = False,
    ) -> None: ...

    own = options.options_of(command)
    own.pop("run")

    @functools.wraps(command)
    def whole(**given: Any) -> None:
        options.check_resume(given["output"], given["resume"])
        options.show_progress(given["quiet"])
        run = Training(
            given, given["output"], given["assign"] or [], given["resume"], given["quiet"]
        )
        command(run, **{name: given[name] for name in own})

    return options.with_options(whole, own | options.options_of(shared))


@teacher_app.command()
@training
def pretrain(
    run: Training,
    family: Annotated[
        Literal["wav2vec", "vq-wav2vec", "wav2vec2", "hubert", "wavlm"] | None,
        typer.Option(help="Which model and objective.  [default: wavlm]"),
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
    probe: Annotated[
        Path | None, typer.Option(help="Folder with phone alignments to probe the result on.")
    ] = None,
) -> None:
    """Pre-train a self-supervised model on your own speech.

    Each family has its paper's objective; the folder written goes to --set objective.teacher=.
    A resumed run keeps its own settings.
    """
    require("train", "torch", "lightning_fabric", "transformers", "sklearn", "scipy", "tensorboard")
    from benchmarks.analysis import phone_probe
    from benchmarks.analysis.parts.work import Work
    from distill.ssl.families import family as families
    from distill.ssl.run import FORMAT
    from distill.ssl.run import pretrain as train
    from enhance.config.settings import override
    from enhance.data.corpus import demo_corpus

    given = {k: v for k, v in run.given.items() if k in _PRETRAIN and v is not None}
    config = families.configure(
        family, preset, override(given, run.assign), run.begun(FORMAT) or None
    )
    measure = None
    if probe:
        work = Work(quiet=run.quiet)
        phone_probe.questions(probe, work)  # refused now, not after the training
        measure = functools.partial(phone_probe.probe, corpus=probe, work=work)
    record = train(
        config,
        corpus or demo_corpus.ensure(quiet=run.quiet),
        run.output or options.new_run(f"ssl-{config.family}"),
        probe=measure,
        **run.place(),
    )
    finished(record)


@teacher_app.command()
@training
def pretrain_speaker(
    run: Training,
    objective: Annotated[
        Literal["aam", "dino"] | None,
        typer.Option(help="aam: with speaker labels; dino: without.  [default: aam]"),
    ] = None,
    preset: Annotated[
        Literal["small", "medium", "published"] | None,
        typer.Option(help="Size.  [default: small]"),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder with speech, its speakers named, and noise.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="Folder with speech of other speakers, for the EER."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Only speech of this source of the manifests.  [default: all]"),
    ] = None,
    minutes: options.Minutes = None,
    steps: options.Steps = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Clips of a step.  [default: 32]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak.  [default: 0.002]")
    ] = None,
) -> None:
    """Train a speaker encoder (ECAPA-TDNN) on your own speech.

    The folder it writes is a teacher like any other. Its EER is that of speakers it never heard.
    A resumed run keeps its own settings.
    """
    require("speaker", "torch", "speechbrain", "safetensors", "lightning_fabric", "tensorboard")
    if corpus is None:
        raise EnhanceError("--corpus: name a folder with speech, its speakers in the manifest")
    from distill.speaker.config import SpeakerConfig
    from distill.speaker.train import FORMAT, train

    settings = run.settings(SpeakerConfig, FORMAT)
    record = train(
        settings,
        corpus,
        run.output or options.new_run(f"ecapa-{settings.objective}"),
        evaluation=evaluation,
        **run.place(),
    )
    finished(record)
    for row in record.get("verification", []):
        rate, low, high = (100 * row[key] for key in ("eer", "low", "high"))
        typer.echo(
            f"EER of {row['speakers']} unseen speakers, {row['embedding']}: {rate:.1f} % "
            f"({low:.1f} to {high:.1f}); guessing 50 %"
        )


@teacher_app.command()
@training
def finetune_ctc(
    run: Training,
    backbone: Annotated[
        str, typer.Argument(metavar="BACKBONE", help="Shipped name, folder, file or hub id.")
    ],
    transcripts: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV or JSONL with columns path and text, perhaps speaker."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="The same, to measure on.  [default: a tenth, by speaker]"),
    ] = None,
    units: Annotated[
        Literal["char", "word"] | None,
        typer.Option(
            help="char: characters; word: tokens parted by spaces, such as phones.  [default: char]"
        ),
    ] = None,
    minutes: options.Minutes = None,
    steps: options.Steps = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak.  [default: 0.0003]")
    ] = None,
    batch_seconds: Annotated[
        float | None, typer.Option(min=1, help="Audio of a step.  [default: 32]")
    ] = None,
    freeze_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps at the start that train the head alone.  [default: 100]"),
    ] = None,
    train_front_end: Annotated[
        bool | None, typer.Option("--train-front-end", help="Train the convolutions too.")
    ] = None,
    mask: Annotated[
        float | None,
        typer.Option(min=0, help="Share of frames that start a masked span.  [default: 0]"),
    ] = None,
    dropout: Annotated[float | None, typer.Option(min=0, help="[default: 0.1]")] = None,
    from_scratch: Annotated[
        bool | None,
        typer.Option("--from-scratch", help="Random weights: what pre-training is worth."),
    ] = None,
) -> None:
    """Fine-tune a model to write what is said (CTC).

    The folder it writes is a CTC model of transformers, and a teacher like any other. A resumed
    run keeps its own settings.
    """
    require("train", "torch", "lightning_fabric", "transformers", "torchaudio", "tensorboard")
    if transcripts is None:
        raise EnhanceError("--transcripts: name a file with columns path and text")
    from distill.ctc.config import CtcConfig
    from distill.ctc.train import FORMAT, finetune
    from distill.training.card import share

    settings = run.settings(CtcConfig, FORMAT)
    record = finetune(
        settings,
        transcripts,
        run.output or options.new_run("ctc"),
        evaluation=evaluation,
        **run.place(),
    )
    finished(record)
    kind = "characters" if settings.units == "char" else "tokens"
    told = f"error rate of {kind}: {share(record['token_error'])}"
    if "word_error" in record:
        told += f", of words: {share(record['word_error'])}"
    typer.echo(f"{told}; one text for every recording: {share(record['constant'])}")


@teacher_app.command()
def table(
    names: options.Teachers,
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
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell layers, stride, weights and worth of teachers."""
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


def finished(record: Mapping[str, Any]) -> None:
    """Leave with the exit code of Ctrl-C where a training was stopped."""
    if "stopped" in record:
        raise typer.Exit(130)
