"""What can be evaluated: a trained checkpoint, an ONNX file or shipped name, what another system
made of the clips, or the noisy input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from enhance.audio import read as audio
from enhance.data.evaluation_set import by_name
from enhance.errors import EnhanceError, require
from enhance.files import is_file, is_folder, resolved, sha256

NOISY = "noisy"
"""Name of the candidate that changes nothing."""

SAMPLE_RATE = 16000
"""Rate at which everything is evaluated: that of wideband PESQ."""

Enhance = Callable[[np.ndarray], np.ndarray]
"""Wave (N,) at `SAMPLE_RATE` to a wave of the same length, aligned."""


@dataclass(frozen=True)
class Candidate:
    """A model that was found, small enough to send to another process."""

    name: str
    kind: Literal["noisy", "checkpoint", "onnx", "outputs"]
    """How it is run: by torch offline, by ONNX Runtime, as a stream if it can, or not at all."""
    path: str
    """Checkpoint folder, ONNX file or folder of outputs; empty for the noisy input."""
    sha256: str
    """Hash of the weights and the configuration, or of the outputs."""


def resolve(model: str | Path, *, outputs: bool = False) -> Candidate:
    """Find ``"noisy"``, a run or checkpoint folder, an ONNX file, a shipped name or a hub id.

    With ``outputs`` also a folder of audio, see `output_of`. An `EnhanceError` if there is no such
    model.
    """
    text = str(model)
    if text == NOISY:
        return Candidate(NOISY, "noisy", "", NOISY)
    path = Path(text)
    if outputs and is_folder(path) and not _is_run(path) and (files := by_name(path)):
        told = "".join(f"{name}\t{sha256(files[name])}\n" for name in sorted(files))
        digest = hashlib.sha256(told.encode()).hexdigest()
        return Candidate(resolved(path).name, "outputs", str(path), digest)
    if is_folder(path) or path.suffix == ".safetensors":
        require("train", "torch")
        folder = path if is_folder(path) else path.parent
        return Candidate(resolved(folder).name, "checkpoint", str(folder), _folder_hash(folder))
    from enhance.device.hub import find_model

    found = find_model(text)
    name = found.stem if found.name != "model.onnx" else text
    return Candidate(name, "onnx", str(found), sha256(found))


def resolve_all(
    models: str | Path | Sequence[str | Path], *, outputs: bool = False
) -> list[Candidate]:
    """The noisy input, then models, each once, under its own name, and opened once.

    ``outputs`` as in `resolve`. An `EnhanceError` if a model cannot be found or opened.
    """
    given = [models] if isinstance(models, str | Path) else models
    found = [resolve(model, outputs=outputs) for model in (NOISY, *given)]
    kept: list[Candidate] = []
    for candidate in found:
        if candidate.sha256 in {other.sha256 for other in kept}:
            continue
        if candidate.name in {other.name for other in kept}:
            candidate = replace(candidate, name=f"{candidate.name}@{candidate.sha256[:6]}")
        kept.append(candidate)
    for candidate in kept:
        load(candidate)  # a broken model is told before the long work
    return kept


def load(candidate: Candidate) -> Enhance:
    """Open a model on one thread; what is not run gives what it is given.

    An `EnhanceError` if it cannot be read, or changed since `resolve`.
    """
    if candidate.kind in ("noisy", "outputs"):
        return lambda wave: wave
    if candidate.kind == "onnx":
        from enhance.device.enhancer import Enhancer
        from enhance.device.offline import OfflineEnhancer, is_offline

        if sha256(candidate.path) != candidate.sha256:
            raise EnhanceError(f"{candidate.path}: changed during the evaluation; start again")
        if is_offline(candidate.path):
            offline = OfflineEnhancer(candidate.path)
            _check_rate(candidate.path, offline.sample_rate)
            return offline
        enhancer = Enhancer(candidate.path, num_threads=1)
        return lambda wave: enhancer(wave, SAMPLE_RATE)
    if _folder_hash(Path(candidate.path)) != candidate.sha256:
        raise EnhanceError(
            f"{candidate.path}: changed during the evaluation (a training run still writes "
            "there?); evaluate a copy, or wait"
        )
    import torch

    from distill.modes.choose import load_model

    model, info = load_model(Path(candidate.path))
    advice = "; export it and evaluate the ONNX file, which resamples"
    _check_rate(candidate.path, info.config.stft.sample_rate, advice)

    def run(wave: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model.enhance(torch.from_numpy(wave)[None])[0].numpy()

    return run


def output_of(candidate: Candidate, clip: str) -> np.ndarray:
    """What a system of kind ``outputs`` made of a clip, (N,) at `SAMPLE_RATE`.

    Its file has the name of the clip's noisy one, suffix aside, and lies in the same subfolder; an
    `EnhanceError` if there is none, or it cannot be read.
    """
    path = _outputs(candidate).get(clip)
    if path is None:
        raise EnhanceError(
            f"{candidate.path}: holds nothing for clip {clip}; give every clip's output the name "
            "of its noisy file"
        )
    return audio.read(path, SAMPLE_RATE)


@lru_cache(maxsize=32)
def _outputs(candidate: Candidate) -> dict[str, Path]:
    return by_name(Path(candidate.path))


def _check_rate(path: str, rate: int, advice: str = "") -> None:
    if rate != SAMPLE_RATE:
        why = f"works at {rate} Hz (metrics are computed at {SAMPLE_RATE} Hz)"
        raise EnhanceError(f"{path}: {why}{advice}")


def _is_run(folder: Path) -> bool:
    from enhance.network.checkpoint import CONFIG, WEIGHTS

    return any(is_file(folder / name) for name in (WEIGHTS, CONFIG))


def _folder_hash(folder: Path) -> str:
    from enhance.network.checkpoint import CONFIG, WEIGHTS

    parts = [folder / WEIGHTS, folder / CONFIG]
    if not all(is_file(part) for part in parts):
        from enhance.network.checkpoint import read_info

        read_info(folder)  # raises, and says what the folder lacks
    return hashlib.sha256("".join(map(sha256, parts)).encode()).hexdigest()
