"""How a teacher is found: a shipped name, a folder or published file, or a hub id."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from distill.teacher.contract import Teacher

SHIPPED = Path(__file__).parents[1] / "models"
"""Folder of the teachers that come with the source distribution."""

FILES = (".pt", ".pth", ".ckpt")
"""Endings of published checkpoint files; no hub id ends so."""


def load(name_or_path: str | Path, *, left_pad: int | None = None) -> Teacher:
    """Find and load a teacher: shipped name, then local folder or file, then hub id.

    Parameters
    ----------
    name_or_path
        Such as ``mini-wavlm``, ``/models/wavlm-base``, ``/models/WavLM-Base.pt`` (the authors'
        own file) or ``microsoft/wavlm-base-plus``.
    left_pad
        Zeros the teacher puts before its input. None takes ``field - stride`` (80 for
        400/320): frame t then ends where the t-th stride of samples ends, as in a causal STFT.

    Raises
    ------
    EnhanceError
        If nothing is found, or what is found is no teacher.
    """
    from distill import backbones

    return backbones.load(resolve(name_or_path), str(name_or_path), left_pad)


def resolve(name_or_path: str | Path) -> Path:
    """Folder or file of a teacher, downloaded from the hub where the name asks for it.

    Raises
    ------
    EnhanceError
        If the name is neither shipped nor a folder or file nor a hub id that can be had.
    """
    text = str(name_or_path)
    if re.fullmatch(r"[\w.-]+", text) and (SHIPPED / text / "config.json").is_file():
        return SHIPPED / text
    path = Path(text).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and path.suffix not in FILES:
        return _download(text)
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))
    raise EnhanceError(
        f"{text}: no teacher of this name (shipped: {', '.join(shipped) or 'none'}), no folder "
        f"of a model, no published checkpoint file ({', '.join(FILES)}) like WavLM-Base.pt, no "
        "hub id like microsoft/wavlm-base-plus"
    )


_TRANSFORMERS = ["config.json", "preprocessor_config.json"]

_SPEECHBRAIN = ["hyperparams.yaml", "embedding_model.ckpt"]


def _complete(folder: Path) -> bool:
    """Whether an earlier call fetched all that a teacher needs."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return bool(weights and all((folder / name).is_file() for name in _TRANSFORMERS)) or all(
        (folder / name).is_file() for name in _SPEECHBRAIN
    )


def _needed(names: Collection[str]) -> list[str]:
    """The files of a hub repository that a teacher needs, the safe form of weights first."""
    if all(name in names for name in _SPEECHBRAIN):
        return _SPEECHBRAIN
    safe = [n for n in names if re.fullmatch(r"model[\w-]*\.safetensors(\.index\.json)?", n)]
    pickled = [n for n in names if re.fullmatch(r"pytorch_model[\w-]*\.bin(\.index\.json)?", n)]
    return [n for n in _TRANSFORMERS if n in names] + (safe or pickled)


def _download(repo: str) -> Path:
    require("train", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub import errors
    from rich.console import Console

    try:  # what an earlier call fetched is used without a word to the network
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        if _complete(folder):
            return folder
    except (errors.HfHubHTTPError, OSError, ValueError):
        pass
    try:
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        files = _needed(sizes)
        Console(stderr=True).print(
            f"downloading teacher {repo} from the Hugging Face hub: {', '.join(files)} "
            f"({sum(sizes[n] for n in files) / 1e6:.0f} MB)"
        )
        return Path(
            huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=files)
        )
    except Exception as error:  # whatever its HTTP library raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(
            f"{repo}: cannot be had from the Hugging Face hub ({reason}); "
            "name a local folder, a published checkpoint file or the shipped mini-wavlm"
        ) from error
