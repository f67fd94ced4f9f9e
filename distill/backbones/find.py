"""How a teacher is found: a shipped name, a folder or published file, or a hub id.

``distillmos`` and ``resemblyzer`` are those in the packages of these names (extra ``teachers``).
Beside these stand controls, by name: ``log-mel`` or ``log-mel:STRIDE`` (samples from frame to
frame), ``encoder:PATH`` (the network of a trained enhancer), and ``random:NAME`` or
``random:NAME:SEED`` (the architecture of any of them with random weights).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection
from pathlib import Path

from distill import backbones
from distill.teacher.contract import Teacher
from enhance.errors import EnhanceError, require
from enhance.files import expanded

SHIPPED = Path(__file__).parents[1] / "models"
"""Folder of the teachers that come with the source distribution."""

FILES = (".pt", ".pth", ".ckpt")
"""Endings of published checkpoint files; no hub id ends so."""


def load(name_or_path: str | Path, *, left_pad: int | None = None) -> Teacher:
    """Find and load a teacher: control, shipped or in a package, folder or file, hub id, in order.

    Parameters
    ----------
    name_or_path
        Such as ``mini-wavlm``, ``/models/wavlm-base``, ``/models/WavLM-Base.pt`` (the authors'
        own file), ``microsoft/wavlm-base-plus``, ``random:mini-wavlm`` or ``log-mel:320``.
    left_pad
        Zeros the teacher puts before its input. None takes ``field - stride`` (80 for
        400/320): frame t then ends where the t-th stride of samples ends, as in a causal STFT.

    Raises
    ------
    EnhanceError
        If nothing is found, or what is found is no teacher.
    """
    text = str(name_or_path)
    kind, colon, rest = text.partition(":")
    if kind == "random" and colon:
        name, seed = _split_number(rest, 0)
        if seed >= 2**32:
            raise EnhanceError(f"{text}: the seed must be below 2^32")
        return load(name, left_pad=left_pad).twin(seed)
    if kind == "log-mel":
        require("train", "torch", "torchaudio")
        from distill.backbones.baselines import LogMel

        name, stride = _split_number(text, LogMel.STRIDE)
        if name != kind or not 1 <= stride <= LogMel.FIELD:
            raise EnhanceError(
                f"{text}: write log-mel, or log-mel:320 for a frame every 320 samples (1 to "
                f"{LogMel.FIELD})"
            )
        return LogMel(stride, left_pad)
    if kind == "encoder" and colon:
        require("train", "torch", "safetensors")
        from distill.backbones.baselines import load_encoder

        return load_encoder(rest, text, left_pad)
    return backbones.load(resolve(text), text, left_pad)


def label(name_or_path: str | Path) -> str:
    """What tables call a teacher: the last part of a local path, and any other name as it is."""
    text = str(name_or_path)
    kind, colon, rest = text.rpartition(":") if text.startswith("encoder:") else ("", "", text)
    path = expanded(rest)
    return f"{kind}{colon}{path.resolve().name}" if path.is_dir() else text


def family(name: str, teacher: Teacher) -> str:
    """Kind of a model that was loaded by a name: `Teacher.family`, or ``random`` for a twin."""
    return "random" if name.startswith("random:") else teacher.family


def _split_number(text: str, default: int) -> tuple[str, int]:
    """``a:7`` to ``("a", 7)``; the default where no number stands behind."""
    name, colon, number = text.rpartition(":")
    return (name, int(number)) if colon and number.isdecimal() else (text, default)


def resolve(name_or_path: str | Path) -> Path:
    """Folder or file of a teacher, downloaded from the hub where the name asks for it.

    An `EnhanceError` if the name is neither shipped nor a folder or file nor a hub id that can be
    had.
    """
    text = str(name_or_path)
    if re.fullmatch(r"[\w.-]+", text) and (SHIPPED / text / "config.json").is_file():
        return SHIPPED / text
    if text in backbones.PACKAGED:
        return backbones.packaged(text)
    path = expanded(text)
    if path.exists():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and path.suffix not in FILES:
        require("train", "huggingface_hub")
        otherwise = "name a local folder, a published checkpoint file or the shipped mini-wavlm"
        return fetch(text, "teacher", _needed, _complete, otherwise)
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))
    raise EnhanceError(
        f"{text}: no teacher of this name (shipped: {', '.join(shipped) or 'none'}; "
        f"in packages: {', '.join(backbones.PACKAGED)}; controls: "
        "log-mel, encoder:PATH, random:NAME), no folder "
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


def fetch(
    repo: str,
    what: str,
    needed: Callable[[Collection[str]], list[str]],
    complete: Callable[[Path], object],
    otherwise: str,
) -> Path:
    """Folder of a hub repository, from the hub's cache or fetched, which is said.

    ``what`` is a word for it. Of the names of its files ``needed`` gives those that are wanted;
    ``complete`` tells whether an earlier call fetched all of them: it is false, or raises
    `EnhanceError`, where not. An `EnhanceError`, which ends with ``otherwise``, what to do then, if
    the repository is neither in the cache nor to be had.
    """
    import huggingface_hub
    from huggingface_hub import errors
    from rich.console import Console

    # What an earlier call fetched is used without a word to the network.
    with contextlib.suppress(errors.HfHubHTTPError, OSError, ValueError, EnhanceError):
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        if complete(folder):
            return folder
    try:
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        files = needed(sizes)
        Console(stderr=True).print(
            f"downloading {what} {repo} from the Hugging Face hub: {', '.join(files)} "
            f"({sum(sizes[n] for n in files) / 1e6:.0f} MB)"
        )
        return Path(
            huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=files)
        )
    except Exception as error:  # whatever its HTTP library raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(
            f"{repo}: cannot be had from the Hugging Face hub ({reason}); {otherwise}"
        ) from error
