"""`enhance analyze`: what representations hold."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from enhance.cli import options
from enhance.errors import EnhanceError, require

Corpus = Annotated[Path, typer.Option(help="Manifest or folder with clips of speech.")]

Study = Annotated[
    Path | None, typer.Option(help="Folder of enhance compare of the modes, to judge them by.")
]

analyze_app = typer.Typer(help="What representations hold.", no_args_is_help=True)


def needs(*modules: str) -> None:
    """Refuse to begin without what every analysis uses, and some more of the extra `train`."""
    require("train", "torch", "torchaudio", "transformers", "safetensors", *modules)
    require("bench", "scipy", "matplotlib", "joblib")


def analysis(*modules: str, without: tuple[str, ...] = ()) -> Callable[..., Callable[..., None]]:
    """A command whose options are those of the analysis of its name: it asks and shows that.

    ``modules`` are needed beside those of `needs`; `working` takes ``without``.
    """

    def register(command: Callable[..., None]) -> Callable[..., None]:
        name = command.__name__

        @functools.wraps(command)
        def ask(work: Any, output: Path | None, **own: Any) -> None:
            needs(*modules)
            from benchmarks.figures.tables import show

            module = importlib.import_module(f"benchmarks.analysis.{name}")
            output = output or options.new_run(name)
            made = getattr(module, name)(output=output, work=work, **own)
            show(module.tables(made))
            typer.echo(f"{output / made['analysis']}.md")

        folder = Parameter(
            "output", Parameter.KEYWORD_ONLY, default=None, annotation=options.Output
        )
        asked = options.options_of(command) | {"output": folder}
        return analyze_app.command()(options.working(*without)(options.with_options(ask, asked)))

    return register


@analyze_app.command()
@options.working("jobs", "cluster")
def reconstruct(
    teachers: options.Teachers,
    corpus: Annotated[Path, typer.Option(help="Folder with speech to train decoders on.")],
    clips: Annotated[
        Path, typer.Option("--set", help="Folder with clean/ and noisy/ to measure on.")
    ],
    work: Any,
    output: options.Output = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Hidden states, such as single:3; repeatable.  [default: last]"),
    ] = None,
    heard: Annotated[
        Literal["clean", "noisy"],
        typer.Option("--input", help="Features of clean or of noisy speech."),
    ] = "clean",
    controls: Annotated[
        bool, typer.Option(help="Reconstruct from random weights and log-mel features, too.")
    ] = True,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a speechbrain CRDNN or of a Whisper for faster-whisper, "
            "folder of teacher finetune-ctc, or none.  "
            "[default: the CRDNN of the hub, if it is there]"
        ),
    ] = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(help="What is said in the clips: path,text.  [default: what is recognised]"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each decoder.")] = 1000,
    minutes: Annotated[float, typer.Option(min=0, help="Limit for each decoder; 0: none.")] = 0.0,
    hours: Annotated[float, typer.Option(min=0, help="Of speech trained on; 0: all.")] = 1.0,
    limit: options.Limit = 0,
    device: Annotated[
        str, typer.Option(help="Where teachers and decoders run: cpu, cuda.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    resume: options.Resume = False,
) -> None:
    """Reconstruct speech from embeddings, and measure it.

    A small decoder for each teacher and choice of layers, beside controls through the same one.
    """
    needs("jinja2")
    require("bench", "pesq", "pystoi")
    options.check_resume(output, resume)
    from benchmarks.analysis.reconstruct.config import DecoderConfig
    from benchmarks.analysis.reconstruct.report import sentences
    from benchmarks.analysis.reconstruct.run import reconstruct as measure

    output = output or options.new_run("reconstruct")
    config = DecoderConfig(
        noisy=heard == "noisy",
        hours=hours,
        steps=steps,
        minutes=minutes,
        seed=work.seed,
        threads=threads,
    )
    record = measure(
        teachers,
        corpus,
        clips,
        output,
        config,
        work,
        layers=layers or ["last"],
        controls=controls,
        recognizer=recognizer,
        transcripts=transcripts,
        device=device,
        resume=resume,
    )
    if "stopped" in record:
        raise typer.Exit(130)
    for line in sentences(record, record["results"]):
        typer.echo(line)
    if record["recognizer"]["missing"]:
        typer.echo(f"No word error rate: {record['recognizer']['missing']}")
    typer.echo(f"{output / 'report.md'}")


@analysis()
def temporal(
    backbones: options.Backbones,
    corpus: Annotated[
        Path | None, typer.Option(help="Manifest or folder with speech and noise.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--set", help="Instead of it: folder with clean/ and noisy/.")
    ] = None,
    snrs: Annotated[
        list[float] | None,
        typer.Option("--snr", help="dB of the noise mixed in; repeatable.  [default: 20, 5, -5]"),
    ] = None,
) -> None:
    """Correlation and distance of frames against their lag."""


@analysis()
def cka(
    backbones: options.Backbones,
    corpus: Corpus,
    stride_frames: Annotated[
        int, typer.Option(min=1, help="Only every k-th frame: neighbours are alike.")
    ] = 1,
) -> None:
    """Similarity of states within and across models (linear CKA)."""


@analysis("sklearn")
def maps(
    backbones: options.Backbones,
    corpus: Corpus,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="phone (from phones.csv), speaker, or a column of the manifest; repeatable.  "
            "[default: speaker]"
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=100, help="In each map, rounded up to as many of each clip.")
    ] = 2000,
    perplexity: Annotated[float, typer.Option(min=1, help="Of t-SNE.")] = 30.0,
) -> None:
    """t-SNE of frames, coloured by phone, speaker or any label."""


@analysis("sklearn")
def probe(
    backbones: options.Backbones,
    task: Annotated[
        str,
        typer.Option(
            help="phone, pitch, speaker, verification, language, channel, snr, noise, or label: "
            "any column of the manifest."
        ),
    ],
    corpus: Annotated[
        Path,
        typer.Option(help="Manifest or its folder; for phone with phones.csv; for snr with noise."),
    ],
    label: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[:PATTERN]",
            help="Column that holds the label, or what a pattern finds in it.",
        ),
    ] = "",
    group: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[:PATTERN]",
            help="What is never on both sides of a split.  [default: speaker; of task speaker, "
            "recording]",
        ),
    ] = "",
    trials: Annotated[
        Path | None,
        typer.Option(help="Of verification: lines of 1 or 0 and two paths.  [default: drawn]"),
    ] = None,
    pool: Annotated[
        Literal["mean", "stats"], typer.Option(help="Of whole clips; stats: mean and deviation.")
    ] = "mean",
    frames: Annotated[
        int, typer.Option(min=100, help="At most, of phone and pitch: evenly over clips.")
    ] = 20_000,
    folds: Annotated[int, typer.Option(min=2, help="Each is tested once.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Splits, twins and trainings.")] = 1,
    limit: Annotated[
        int, typer.Option(min=0, help="Clips, classes and speakers in turn; 0 for all.")
    ] = 0,
) -> None:
    """Ask what each layer of frozen models knows, as SUPERB does.

    A twin with random weights and log-mel features of the same frame rate stand beside each.
    """


@analysis("sklearn", without=("limit",))
def codec(
    backbones: options.Backbones,
    corpus: Annotated[Path, typer.Option(help="Folder or manifest of speech, speakers named.")],
    source: Annotated[str, typer.Option(help="Only this source of the manifest.")] = "",
    names: options.Codecs = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="Folder of dann train, heard too; repeatable."),
    ] = None,
    num_samples: Annotated[
        int, typer.Option(min=1, help="Coded clips: recordings times codecs.")
    ] = 3000,
) -> None:
    """Which codec a clip went through, told from each layer."""


@analyze_app.command(name="all")
@options.working()
def everything(
    backbone: options.Backbones,
    corpus: Annotated[
        Path, typer.Option(help="Folder with train/ and, for phones, analysis/ with phones.csv.")
    ],
    work: Any,
    output: options.Output = None,
    study: Study = None,
    limit: Annotated[int, typer.Option(min=10, help="Clips of each analysis.")] = 400,
    kinds: Annotated[
        str,
        typer.Option(
            "--noise-kinds",
            metavar="COLUMN[:PATTERN]",
            help="Column of the noises' kind, or what a pattern finds in it.  [default: type]",
        ),
    ] = "",
    resume: options.Resume = False,
) -> None:
    """Every analysis that a corpus allows, and a page over them."""
    options.check_resume(output, resume)
    needs("sklearn")
    from benchmarks.analysis.report import everything as asked

    output = output or options.new_run("analysis")
    found = asked.analyses(backbone, corpus, output, work, kinds)
    wanted = asked.request(backbone, corpus, work, kinds)
    refused = asked.run(found, output, wanted, resume=resume)
    if len(refused) == len(found):
        raise EnhanceError(f"analyze all: nothing could be analysed: {'; '.join(refused)}")
    report(output, study)
    if refused:
        raise EnhanceError(f"analyze all: the page lacks {'; '.join(refused)}")


@analyze_app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Where analyses left their records.")],
    study: Study = None,
) -> None:
    """The page over the records of a folder."""
    needs("jinja2")
    from benchmarks.analysis.report.page import PAGE, write

    counts = Counter(verdict.word for _, verdict in write(folder, study))
    typer.echo(", ".join(f"{count} {word}" for word, count in counts.items()))
    typer.echo(f"{folder / PAGE}")
