"""One file of HTML with a model in it, and the weights that the npm package loads.

The page is put together from the modules in ``source/``, which are those of the package: their
imports and exports are left out, WebAssembly and weights stand in it as base64. It asks nothing of
any network.
"""

from __future__ import annotations

import base64
import html
import re
import shutil
import sys
from pathlib import Path

from enhance.device.hub import find_weights
from enhance.errors import EnhanceError
from enhance.files import (
    atomic_folder,
    is_file,
    is_folder,
    read_json,
    sha256,
    temporary_folder,
)
from enhance.native.library import read_metadata
from export.web.wasm import WASM, WEB

PAGE = "index.html"

_FILES = {"int8": "enhance.int8.bin", "none": "enhance.bin"}
"""Weights by how they are quantised."""

_MODULES = ("worklet.js", "index.js", "spectrogram.js", "recording.js", "microphone.js", "page.js")
"""In the order of their imports."""


def export_page(
    model: Path | str,
    folder: Path | str,
    *,
    fp32: bool = False,
    clips: Path | str | None = None,
    licence: str = "",
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a folder with a page that enhances microphone and recordings, offline.

    ``model`` is a run or checkpoint folder, whose weights `export.native.folder.export_native`
    makes; one as `enhance.device.hub.find_model` has them, with its weights for plain C beside
    it, as shipped models have them; or such weights. The folder is made whole or not at all:
    ``index.html``, which needs no other file and is returned; and for pages of one's own
    (``web/README.md``) the weights with their certificate, ``enhance.int8.bin`` or ``enhance.bin``.

    An `EnhanceError` tells that the model cannot be used, or has no such weights, or the folder is
    there already and ``force`` is not set.
    """
    folder = Path(folder)
    opened = atomic_folder(folder, holds=(PAGE, "enhance.*"), reads=[Path(model)], force=force)
    with opened as whole, temporary_folder() as made:
        if is_folder(model):
            from export.native.folder import export_native

            export_native(model, made, int8=not fp32, clips=clips, licence=licence, quiet=quiet)
            weights, name = made / _FILES["none" if fp32 else "int8"], Path(model).resolve().name
        elif fp32:
            raise EnhanceError(f"{model}: --fp32 needs the run that it was made of")
        else:
            weights, name = find_weights(model), Path(model).name
        data = weights.read_bytes()
        text = page(name, data)
        (whole / PAGE).write_text(text, "utf-8")
        kind = read_metadata(data, weights)[0].get("quantization")
        copy = whole / _FILES["none" if kind == "none" else "int8"]
        copy.write_bytes(data)
        if proof := _certificate(weights):
            shutil.copyfile(proof, copy.with_suffix(".certificate.json"))
    if not quiet:
        print(f"{folder / PAGE}: {len(text.encode()) / 1e6:.2f} MB", file=sys.stderr)
    return folder / PAGE


def _certificate(weights: Path) -> Path | None:
    """What proves these very weights: named as beside shipped ones, or as in a folder of C."""
    names = (f"{weights.name}.certificate.json", f"{weights.stem}.certificate.json")
    for place in map(weights.with_name, names):
        if is_file(place) and read_json(place).get("sha256") == sha256(weights):
            return place
    return None


def page(name: str, weights: bytes) -> str:
    """The page of a model by its name and weights, which must have their metadata."""
    about, _ = read_metadata(weights, Path(name))
    licence = about.get("licence", "unknown")
    facts = {
        "name": html.escape(name),
        "size": f"{len(weights) / 1e6:.2f} MB",
        "about": html.escape(f"Made by {about.get('producer', 'enhance')}; weights: {licence}."),
        "style": (WEB / "page.css").read_text("utf-8").strip(),
        "wasm": base64.b64encode(WASM.read_bytes()).decode(),
        "weights": base64.b64encode(weights).decode(),
        "worklet": (WEB / "worklet.js").read_text("utf-8"),
        "script": "\n".join(plain((WEB / module).read_text("utf-8")) for module in _MODULES),
    }
    frame = (WEB / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: facts[field[1]], frame)


def plain(module: str) -> str:
    """A module without its imports and exports, to stand in one script with what it imports."""
    module = re.sub(r"^import .*;\n", "", module, flags=re.M)
    return re.sub(r"^export (?=(async )?function|class|const)", "", module, flags=re.M)


def package(folder: Path) -> None:
    """What the npm package ships: modules, WebAssembly, and the default model.

    ``python -m export.web.page FOLDER``, which ``npm pack`` calls.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*(WEB / name for name in ("index.js", "index.d.ts", "worklet.js")), WASM):
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(find_weights("default"), folder / "default.int8.bin")


if __name__ == "__main__":
    package(Path(sys.argv[1]))
