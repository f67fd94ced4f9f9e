"""`enhance data`: manifests, evaluation sets, features, example audio."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli import options
from enhance.errors import EnhanceError, require
from enhance.files import expanded, read_text, refuse_existing, resolved

data_app = typer.Typer(
    help="Manifests, evaluation sets, features, example audio.", no_args_is_help=True
)


@data_app.command("manifest")
def data_manifest(
    folder: Annotated[Path, typer.Argument(help="Folder of recordings.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File.  [default: FOLDER/manifest.jsonl]")
    ] = None,
    kind: Annotated[str, typer.Option(help="speech or noise, for all of them.")] = "",
    source: Annotated[str, typer.Option(help="Name of the data set.")] = "",
    speaker: Annotated[
        str, typer.Option(help="Pattern whose first group is the speaker in a path.")
    ] = "",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a manifest (JSON lines) of a folder of recordings.

    Without --kind, files below a folder named speech (or clean, noise) are labelled so.
    """
    from enhance.data.corpus.manifest import make_manifest

    if kind not in ("", "speech", "noise"):
        raise EnhanceError(f"--kind {kind}: give speech or noise")
    path, clips, problems = make_manifest(
        folder, out, kind=kind, source=source, speaker=speaker, force=force, quiet=quiet
    )
    hours = sum(clip.duration for clip in clips) / 3600
    print(f"{path}: {len(clips)} files, {hours:.2f} h")
    if speaker and not any(clip.speaker for clip in clips):
        print(f"warning: --speaker {speaker}: fits no path, nobody is named", file=sys.stderr)
    if not any(clip.kind for clip in clips):
        print("warning: neither speech nor noise by their folders; --kind tells", file=sys.stderr)
    _refuse_left_out(folder, problems)


def _refuse_left_out(folder: Path, problems: Sequence[str]) -> None:
    for line in problems:
        print(f"left out: {line}", file=sys.stderr)
    if problems:
        raise EnhanceError(f"{folder}: {len(problems)} files were left out, the others are listed")


@data_app.command("layout")
def data_layout(
    layout: Annotated[str, typer.Argument(metavar="voicebank|dns", help="How it is laid out.")],
    folder: Annotated[Path, typer.Argument(metavar="SRC", help="Where it was unpacked.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Take in VoiceBank-DEMAND or the DNS Challenge.

    Writes a training manifest and evaluation sets.
    Files are named or linked where they are; the noise of VoiceBank-DEMAND, noisy less clean, is
    written.
    """
    from enhance.data.layouts import import_layout

    found = import_layout(layout, folder, out, force=force, quiet=quiet)
    for part in found:
        what = f"{part.files} files, {part.hours:.2f} h of speech" if part.hours else ""
        print(f"{out / part.name}: {what or f'{part.files} pairs'}")
    _refuse_left_out(folder, [line for part in found for line in part.problems])


@data_app.command("mix")
def data_mix(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to make.  [default: one below sets/]")
    ] = None,
    corpus: Annotated[
        str, typer.Option(help="Folder with speech and noise.  [default: built-in, synthetic]")
    ] = "",
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML file whose data to take.")
    ] = None,
    assign: options.Assign = None,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="Only what training keeps for validation.")
    ] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only the sources of data.held_out.")
    ] = False,
    formulas: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="Of the noises, this share is made."),
    ] = 0.0,
    snr: options.Snr = -5.0,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 500,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 4.0,
    seed: Annotated[
        int, typer.Option(min=0, max=options.LARGEST_SEED, help="Another seed, another set.")
    ] = 0,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Freeze an evaluation set: pairs at one SNR, hashed."""
    from enhance.config import DataConfig
    from enhance.data.evaluation_set import mix

    require("train", "scipy")
    data = DataConfig(corpus=corpus)
    for text in assign or []:
        if not text.startswith("data."):
            raise EnhanceError(f"--set {text}: a set is mixed of data.* alone; see the options")
    if config or assign:
        from enhance.config.settings import load_run

        extra = [f"data.corpus={corpus}"] if corpus else []
        data = load_run(config, [*(assign or []), *extra]).data
    if out is None:
        name = "own" if data.speech or data.noise else "synthetic"
        name = resolved(data.corpus).name if data.corpus else name
        name += "-held-out" if held_out else ""
        out = Path("sets") / f"{name}-snr{snr:g}-{count}x{seconds:g}s-seed{seed}"
    found = mix(
        data,
        out,
        held_back=held_back,
        held_out=held_out,
        snr_db=snr,
        count=count,
        seconds=seconds,
        seed=seed,
        formulas=formulas,
        force=force,
        quiet=quiet,
    )
    print(f"{out}: {len(found.pairs)} pairs at {snr:g} dB, set {found.hash}")


@data_app.command("example")
def data_example(
    out: Annotated[Path, typer.Argument(help="WAV file to write.")],
    snr: options.Snr = -5.0,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a noisy example from the built-in corpus."""
    require("measure", "scipy")
    from enhance.audio.read import read
    from enhance.audio.write import write
    from enhance.data.evaluation_set import builtin_set

    refuse_existing(out, force=force)
    _, _, noisy, _ = builtin_set(snr, quiet=quiet).pairs[0]
    wave = read(noisy)
    write(out, wave, 16000)
    print(f"{out}: {len(wave) / 16000:.1f} s of synthetic speech in noise at {snr:g} dB")


@data_app.command("align")
@options.working("cache", "seed")
def data_align(
    manifest: Annotated[Path, typer.Argument(help="Of English recordings.")],
    work: Any,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    transcripts: Annotated[
        Path | None, typer.Option(help="What is said: path,text.  [default: it is recognised]")
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="Text file of the only words that are recognised.")
    ] = None,
    source: Annotated[str, typer.Option(help="Only clips of this source.")] = "",
    limit: options.Limit = 0,
    force: options.Force = False,
) -> None:
    """Find the phones of recordings with PocketSphinx.

    They make a corpus for analyze probe --task phone.
    With transcripts by forced alignment; else words are recognised first, rightly or wrongly.
    """
    from distill.ctc.transcripts import read_transcripts
    from enhance.data.corpus.align import align, normalise
    from enhance.data.corpus.manifest import read_manifest

    if transcripts is not None and words is not None:
        raise EnhanceError("--transcripts and --words: give one of them")
    clips = [c for c in read_manifest(manifest) if source in ("", c.source)]
    clips = [c for c in clips if c.kind != "noise"][: work.limit or None]
    if not clips:
        raise EnhanceError(f"--source {source}: no speech of it in {manifest}")
    texts = {t.path: t.text for t in read_transcripts(transcripts)} if transcripts else None
    known = normalise(read_text(words)).split() if words else []
    if words and not known:
        raise EnhanceError(f"--words {words}: holds no word, of letters")
    if texts is not None:
        clips = [clip for clip in clips if clip.path in texts]
    problems = align(clips, out, texts=texts, words=known, workers=work, force=force)
    for line in problems:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{out}: phones of {len(clips) - len(problems)} clips")


@data_app.command("features")
@options.working("limit", "seed")
def data_features(
    corpus: Annotated[str, typer.Argument(help="Folder with speech, or a manifest.")],
    work: Any,
    teacher: Annotated[
        str, typer.Option(help="Shipped name, folder, file or hub id.")
    ] = "mini-wavlm",
    layers: Annotated[str, typer.Option(help="Hidden states, such as single:3.")] = "last",
    cache_gb: Annotated[float, typer.Option(min=0, help="Bound on that folder.")] = 20.0,
) -> None:
    """Let a teacher hear a corpus in advance.

    Training and analysis then need not wait for it.
    """
    require("train", "torch", "transformers", "safetensors")
    from distill.extract import Wanted, extract
    from enhance.data.corpus.clips import place

    clips = place(expanded(corpus), "", work.quiet)
    speech = [clip for clip in clips if clip.kind in ("speech", "")]
    if not speech:
        raise EnhanceError(f"{corpus}: holds no speech")
    wanted = Wanted(teacher, layers, work.cache, cache_gb)
    found = extract(speech, wanted, work)
    print(f"{wanted.cache}: {found.made} clips added, {found.found} were there")


@data_app.command("copy-synthesis")
@options.working("limit", "cache")
def data_copy_synthesis(
    corpus: Annotated[Path, typer.Argument(help="Folder or manifest of speech, speakers named.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    work: Any,
    source: Annotated[str, typer.Option(help="Only this source of the manifest.")] = "",
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="griffin-lim, world, lpc; repeatable.  [default: all]"),
    ] = None,
    names: options.Codecs = None,
    per_clip: Annotated[
        int, typer.Option(min=1, help="Codecs for each clip and copy; they take turns.")
    ] = 1,
    clips: Annotated[int, typer.Option(min=0, help="Recordings, drawn; 0 for all.")] = 0,
    held_back: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of speakers for evaluation.")
    ] = 0.3,
    force: options.Force = False,
) -> None:
    """Make a spoofing task: speech and its vocoder copies.

    Both go through codecs. It is an easier task than ASVspoof, and no figure on it compares with
    one.
    """
    require("analysis", "av", "pyworld", "torchaudio", "scipy")
    from benchmarks.analysis.codecs.copy_synthesis import make

    counts = make(
        corpus,
        out,
        work,
        source=source,
        methods=methods,
        names=names,
        per_clip=per_clip,
        clips=clips,
        held_back=held_back,
        force=force,
    )
    for name, count in counts.items():
        print(f"{out / name}: {count} clips")
