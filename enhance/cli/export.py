"""A trained model as what runs elsewhere: ONNX, plain C, a page, a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli import options
from enhance.errors import EnhanceError, require
from enhance.files import is_folder

_EXTRA = ("export", "torch", "onnx", "onnxscript", "safetensors", "pesq", "pystoi")

_FORMATS = {
    "--web": ("--fp32", "--int8"),
    "--ladspa": ("--int8",),
    "--offline": ("--out",),
    "--sherpa": ("--c", "--int8", "--out"),
    "--onnx": ("--c", "--int8", "--int8-weights", "--require-faster", "--out"),
    "--c": ("--int8",),
}
"""What goes with each format; of several that are asked for the first one decides."""


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="Run or checkpoint folder, for --web and --ladspa also a model.  "
            "[default: the newest run]"
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write a streaming ONNX file.")] = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Write an ONNX file for whole recordings, any mode."),
    ] = False,
    c: Annotated[
        Path | None,
        typer.Option(
            "--c",
            metavar="DIR",
            help="Write a folder with the model in plain C; with --int8 weights of both kinds.",
        ),
    ] = None,
    sherpa: Annotated[
        bool, typer.Option("--sherpa", help="Write an ONNX file for sherpa-onnx (as GTCRN).")
    ] = False,
    web: Annotated[
        Path | None,
        typer.Option(
            "--web", metavar="DIR", help="Write a folder with a page that enhances, int8."
        ),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Float weights for --web.")] = False,
    ladspa: Annotated[
        Path | None,
        typer.Option(
            "--ladspa", metavar="DIR", help="Compile a LADSPA plug-in, of a run or model."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="And one with int8 arithmetic.")] = False,
    int8_weights: Annotated[
        bool, typer.Option("--int8-weights", help="And one with int8 weights, float arithmetic.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="ONNX file.  [default: in the run folder]")
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option("--set", help="Evaluation set to certify on, real audio."),
    ] = None,
    require_faster: Annotated[
        bool, typer.Option("--require-faster", help="Refuse an int8 file that is not faster.")
    ] = False,
    licence: Annotated[
        str, typer.Option(help="Of the weights.  [default: the training record's, or unknown]")
    ] = "",
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Export one ONNX file, plain C, a page or a plug-in, certified.

    A model of mode concat cannot stream, its teacher looks ahead: --offline puts both in one file.
    The certificate proves on real clips that the file equals the trained model.
    """
    given = {
        "--web": web is not None,
        "--ladspa": ladspa is not None,
        "--offline": offline,
        "--sherpa": sherpa,
        "--onnx": onnx,
        "--c": c is not None,
        "--fp32": fp32,
        "--int8": int8,
        "--int8-weights": int8_weights,
        "--require-faster": require_faster,
        "--out": out is not None,
    }
    _check_together({name for name, is_given in given.items() if is_given})
    if (web or ladspa) and checkpoint is not None and not is_folder(checkpoint):
        of_runs = {"--fp32": fp32, "--set": clips is not None, "--licence": bool(licence)}
        if odd := [name for name, is_given in of_runs.items() if is_given]:
            needs = f"{' and '.join(odd)}: for the run that it was made of"
            raise EnhanceError(f"{checkpoint}: is a model as it ships; {needs}")
    common: dict[str, Any] = {"clips": clips, "licence": licence, "force": force, "quiet": quiet}
    if web is not None:
        _write_page(checkpoint, web, fp32=fp32, **common)
    elif ladspa is not None:
        write_plugin(checkpoint, ladspa, int8=int8, **common)
    else:
        require(*_EXTRA)
        from enhance.parallel import uncollected

        with uncollected():
            from enhance.device.hub import shipped_models
            from enhance.network.checkpoint import newest_run, read_info
            from export.native.folder import export_native
            from export.offline import export_offline
            from export.sherpa import SUFFIX, export_sherpa
            from export.stream import export_model

        if str(checkpoint) in shipped_models() and not is_folder(checkpoint):  # type: ignore[arg-type]
            raise EnhanceError(
                f"{checkpoint}: is a model as it ships, of which --web and --ladspa can be made; "
                "the rest needs a run or checkpoint folder"
            )
        folder = read_info(checkpoint or newest_run()).folder
        name = folder.resolve().name
        if offline:
            from distill.modes.concat import find_companion

            place = out or folder / f"{name}.offline.onnx"
            export_offline(folder, place, find_companion, **common)
        if c is not None:
            export_native(folder, c, int8=int8, **common)
        if sherpa:
            export_sherpa(folder, out or folder / f"{name}{SUFFIX}", int8=int8, **common)
        if onnx:
            export_model(
                folder,
                out or folder / f"{name}.onnx",
                int8=int8,
                int8_weights=int8_weights,
                require_faster=require_faster,
                **common,
            )


def _check_together(given: set[str]) -> None:
    format_ = next((name for name in _FORMATS if name in given), None)
    if format_ is None:
        raise EnhanceError(
            "enhance export: name a format: --onnx (a stream), --c DIR, --web DIR, --ladspa DIR, "
            "--sherpa or --offline"
        )
    odd = [name for name in sorted(given - {format_}) if name not in _FORMATS[format_]]
    if odd:
        goes = " and ".join(_FORMATS[format_]) or "no other kind or format"
        raise EnhanceError(
            f"enhance export: {format_} goes with {goes}; leave {' and '.join(odd)} out"
        )
    if "--require-faster" in given and not given & {"--int8", "--int8-weights"}:
        raise EnhanceError("enhance export: --require-faster is of --int8 or --int8-weights")
    if {"--fp32", "--int8"} <= given:
        raise EnhanceError("enhance export: a page has --int8 weights or --fp32; leave one out")


def _write_page(checkpoint: Path | None, folder: Path, **common: Any) -> None:
    if checkpoint is None or is_folder(checkpoint):
        require(*_EXTRA)
        from enhance.network.checkpoint import newest_run

        checkpoint = checkpoint or newest_run()
    from export.web.page import export_page

    export_page(checkpoint, folder, **common)


def write_plugin(
    model: Path | None, folder: Path, *, force: bool, quiet: bool, **common: Any
) -> None:
    """Make the plug-in of a model that has weights for plain C, or of a run, which gets them.

    A run (without a model the newest) is exported as plain C into the same folder, with its
    certificates.
    """
    from enhance.device.hub import find_weights
    from enhance.native.ladspa import LABELS, PIPEWIRE, build_plugin, refuse_place

    refuse_place(folder, force=force)
    if model is None or is_folder(model):
        require(*_EXTRA)
        from enhance.network.checkpoint import newest_run
        from export.native.folder import export_native

        run = model or newest_run()
        weights = export_native(run, folder, force=force, quiet=quiet, **common)[-1].path
    else:
        weights = find_weights(model)
    path = build_plugin(weights, folder, force=force, quiet=quiet)
    if not quiet:
        print(f"{path}: LADSPA plug-ins {' and '.join(LABELS)}; {PIPEWIRE} beside it")
