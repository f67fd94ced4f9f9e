"""``enhance export MODEL --ladspa DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enhance.device.hub import find_weights
from enhance.errors import require
from enhance.files import is_folder
from enhance.native.ladspa import LABELS, PIPEWIRE, build_plugin, refuse_place


def write_plugin(
    model: Path | None, folder: Path, *, force: bool, quiet: bool, **options: Any
) -> None:
    """Make the plug-in of a model that has weights for plain C, or of a run, which gets them.

    Without a model of the newest run.

    A run is exported as plain C into the same folder, with its certificates.
    """
    refuse_place(folder, force=force)
    if model is None or is_folder(model):
        require("export", "torch", "onnx", "onnxscript", "safetensors", "pesq", "pystoi")
        from enhance.network.checkpoint import newest_run
        from export.native.folder import export_native

        run = model or newest_run()
        weights = export_native(run, folder, force=force, quiet=quiet, **options)[-1].path
    else:
        weights = find_weights(model)
    path = build_plugin(weights, folder, force=force)
    if not quiet:
        print(f"{path}: LADSPA plug-ins {' and '.join(LABELS)}; {PIPEWIRE} beside it")
