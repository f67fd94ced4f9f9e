"""Where a model's name leads: shipped with the package, a path, or a hub repository."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import is_file, is_folder
from enhance.native.library import SUFFIX as WEIGHTS

MODELS = Path(__file__).parents[1] / "models"
"""Folder of the shipped ONNX models."""

SUFFIX = ".int8.onnx"
"""Shipped files are the exporter's int8 files, with certificate and card of the same name."""


def shipped_models() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(path.name.removesuffix(SUFFIX) for path in MODELS.glob(f"*{SUFFIX}"))


def find_model(name: Path | str) -> Path:
    """Find an ONNX file by shipped name, path or hub id, in this order.

    That is one of `shipped_models` (``"default"`` among them), a path, or
    ``"organisation/repository"`` on the Hugging Face hub (needs ``huggingface_hub``; says on
    standard error what it fetches). An `EnhanceError` tells that it is none of these.
    """
    text = str(name)
    if text in shipped_models():
        return MODELS / f"{text}{SUFFIX}"
    path = Path(text)
    if text and is_file(path):
        return path
    names = ", ".join(shipped_models()) or "none in this installation"
    if text and is_folder(path):
        raise EnhanceError(
            f"{text}: is a folder, a model is one .onnx file; "
            "make it from a checkpoint with: enhance export"
        )
    hub_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) and not text.endswith(".onnx")
    if hub_id and not is_folder(path.parent):  # below a folder that exists it is a mistyped path
        return _fetch(text)
    raise EnhanceError(f"{text}: no such model (no file; shipped models: {names})")


def find_weights(name: Path | str) -> Path:
    """The weights for plain C beside the ONNX file that `find_model` finds.

    An `EnhanceError` tells that there is no such model, or nothing beside it.
    """
    weights = find_model(name).with_suffix(WEIGHTS)
    if not is_file(weights):
        raise EnhanceError(
            f"{name}: has no weights for plain C ({weights.name}); name the run, or export them "
            "with: enhance export RUN --c DIR"
        )
    return weights


def _fetch(repository: str) -> Path:
    """The one ONNX file (or ``model.onnx``) of a hub repository, cached by the hub's library."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise EnhanceError(
            f"{repository}: no such file, and the hub cannot be asked for it: "
            "pip install huggingface_hub"
        )
    import huggingface_hub

    print(f"{repository}: asking the hub", file=sys.stderr)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # not a line for each of its attempts
    try:
        files = huggingface_hub.HfApi().list_repo_files(repository)
        models = [file for file in files if file.endswith(".onnx")]
        if "model.onnx" in models:
            models = ["model.onnx"]
        if len(models) == 1:
            print(f"downloading {repository}/{models[0]} from the hub", file=sys.stderr)
            return Path(huggingface_hub.hf_hub_download(repository, models[0]))
    except Exception as error:  # whatever its HTTP library raises
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EnhanceError(
            f"{repository}: no such file, and the hub did not give it ({why}); give a path"
        ) from error
    finally:
        logger.setLevel(level)
    raise EnhanceError(
        f"{repository}: the hub repository has {len(models)} .onnx files, and none is called "
        "model.onnx; download the right one and give its path"
    )
