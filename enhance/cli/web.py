"""`enhance export --web`: a page of a run, or of a shipped model, which needs no extra."""

from __future__ import annotations

from pathlib import Path

from enhance.errors import require
from enhance.files import is_folder


def export_web(
    checkpoint: Path | None,
    folder: Path,
    *,
    fp32: bool,
    clips: Path | None,
    licence: str,
    force: bool,
    quiet: bool,
) -> None:
    """Write the page of a model; None is the newest run."""
    if checkpoint is None or is_folder(checkpoint):
        require("export", "torch", "onnx", "onnxscript", "safetensors", "pesq", "pystoi")
        from enhance.network.checkpoint import newest_run, read_info

        checkpoint = read_info(checkpoint or newest_run()).folder
    from export.web.page import export_page

    export_page(
        checkpoint, folder, fp32=fp32, clips=clips, licence=licence, force=force, quiet=quiet
    )
