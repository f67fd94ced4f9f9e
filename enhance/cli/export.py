"""A trained model as what runs elsewhere: ONNX, plain C, a page, a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from enhance.cli.options import Force, Quiet
from enhance.errors import EnhanceError, require
from enhance.files import is_folder

_EXTRA = ("export", "torch", "onnx", "onnxscript", "safetensors", "pesq", "pystoi")


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
        typer.Option("--c", metavar="DIR", help="Write a folder with the model in plain C."),
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
        typer.Option("--set", help="Evaluation set to calibrate and certify on, real audio."),
    ] = None,
    require_faster: Annotated[
        bool, typer.Option("--require-faster", help="Refuse an int8 file that is not faster.")
    ] = False,
    licence: Annotated[
        str, typer.Option(help="Of the weights.  [default: the training record's, or unknown]")
    ] = "",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Export one ONNX file, plain C, a page or a plug-in, certified.

    A model of mode concat cannot stream, its teacher looks ahead: --offline puts both in one file.
    The certificate proves on real clips that the file equals the trained model.
    """
    if web is not None:
        if onnx or offline or c or sherpa or ladspa or int8_weights or require_faster or out:
            raise EnhanceError("enhance export: --web goes with --fp32; leave the others out")
        if checkpoint is None or is_folder(checkpoint):
            require(*_EXTRA)
            from enhance.network.checkpoint import newest_run

            checkpoint = checkpoint or newest_run()
        from export.web.page import export_page

        export_page(
            checkpoint, web, fp32=fp32, clips=clips, licence=licence, force=force, quiet=quiet
        )
        return
    if fp32:
        raise EnhanceError("enhance export: --fp32 goes with --web DIR")
    if ladspa is not None:
        if onnx or offline or sherpa or int8_weights or require_faster or c is not None:
            raise EnhanceError("enhance export: --ladspa goes with --int8; leave the others out")
        write_plugin(
            checkpoint, ladspa, int8=int8, clips=clips, licence=licence, force=force, quiet=quiet
        )
        return
    require(*_EXTRA)
    if not onnx and not offline and not sherpa and c is None:
        raise EnhanceError(
            "enhance export: name a format: --onnx (a stream), --c DIR, --web DIR, --ladspa DIR, "
            "--sherpa or --offline"
        )
    if offline and (onnx or c or sherpa or int8 or int8_weights or require_faster):
        raise EnhanceError("enhance export: --offline writes one fp32 file; leave the others out")
    if sherpa and (onnx or int8_weights or require_faster):
        raise EnhanceError("enhance export: --sherpa goes with --int8; leave the others out")
    from enhance.parallel import uncollected

    with uncollected():
        from enhance.network.checkpoint import newest_run, read_info
        from export.native.folder import export_native
        from export.offline import export_offline
        from export.stream import export_model

    folder = read_info(checkpoint or newest_run()).folder
    name = folder.resolve().name
    if offline:
        from distill.modes.choose import find_companion

        place = out or folder / f"{name}.offline.onnx"
        export_offline(
            folder, place, find_companion, clips=clips, licence=licence, force=force, quiet=quiet
        )
        return
    if c is not None:
        export_native(folder, c, int8=int8, clips=clips, licence=licence, force=force, quiet=quiet)
    if sherpa:
        from export.sherpa import SUFFIX, export_sherpa

        place = out or folder / f"{name}{SUFFIX}"
        export_sherpa(
            folder, place, int8=int8, clips=clips, licence=licence, force=force, quiet=quiet
        )
    if not onnx:
        return
    export_model(
        folder,
        out or folder / f"{name}.onnx",
        int8=int8,
        int8_weights=int8_weights,
        clips=clips,
        require_faster=require_faster,
        licence=licence,
        force=force,
        quiet=quiet,
    )


def write_plugin(
    model: Path | None, folder: Path, *, force: bool, quiet: bool, **options: Any
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
        weights = export_native(run, folder, force=force, quiet=quiet, **options)[-1].path
    else:
        weights = find_weights(model)
    path = build_plugin(weights, folder, force=force)
    if not quiet:
        print(f"{path}: LADSPA plug-ins {' and '.join(LABELS)}; {PIPEWIRE} beside it")
