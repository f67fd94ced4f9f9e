"""Backbones: one file per family of checkpoints, chosen by ``model_type`` of ``config.json``."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from distill.teacher import Teacher

BACKBONES: dict[str, str] = {
    "wav2vec2": "distill.backbones.hf",
    "hubert": "distill.backbones.hf",
    "wavlm": "distill.backbones.hf",
}
"""Module with ``load(folder, name, left_pad) -> Teacher`` for each ``model_type``."""


def import_transformers() -> ModuleType:
    """Import `transformers`, also beside a torchaudio that does not fit the installed torch.

    transformers imports torchaudio wherever it is installed, though no speech model here uses
    it. A torchaudio built for another torch raises `RuntimeError` or `OSError` at import and
    would take transformers with it; such a torchaudio is hidden for this process.

    Raises
    ------
    EnhanceError
        If transformers is missing or cannot be imported.
    """
    require("train", "torch", "transformers")
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        pass
    except (RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # makes find_spec say no
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EnhanceError(
            f"transformers cannot be imported ({str(error).splitlines()[0]}); "
            "reinstall it: pip install --force-reinstall 'enhance[train]'"
        ) from error


def read_json(path: Path, why: str) -> dict[str, Any]:
    """Read one JSON object of a model folder.

    Raises
    ------
    EnhanceError
        If the file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise EnhanceError(
            f"{path}: not there ({why}); a teacher is a folder in the transformers format "
            "with config.json, preprocessor_config.json and model.safetensors"
        ) from error
    except (OSError, ValueError) as error:
        raise EnhanceError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise EnhanceError(f"{path}: holds no JSON object ({why})")
    return value


def load(folder: Path, name: str, left_pad: int | None = None) -> Teacher:
    """Load the teacher in ``folder`` with the backbone its ``config.json`` asks for.

    Raises
    ------
    EnhanceError
        If the folder is no model folder, or no backbone here reads its ``model_type``.
    """
    kind = read_json(folder / "config.json", "it names the kind of model").get("model_type")
    if kind not in BACKBONES:
        raise EnhanceError(
            f"{folder}: model_type {kind!r} is no teacher this package reads; "
            f"known are {', '.join(BACKBONES)}"
        )
    return importlib.import_module(BACKBONES[kind]).load(folder, name, left_pad)
