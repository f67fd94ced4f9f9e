"""What all model folders have: weights, configuration, and what the model wants to hear."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from distill.backbones import import_transformers, read_json
from enhance.errors import EnhanceError
from enhance.files import atomic, write_json


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    prepare: Mapping[str, Any],
) -> None:
    """Write ``model.safetensors``, ``preprocessor_config.json`` and, last, ``config.json``.

    An `EnhanceError` if a weight is not finite, or a file cannot be written.
    """
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    bad = [name for name, tensor in plain.items() if not torch.isfinite(tensor).all()]
    if bad:
        kind = str(plain[bad[0]].dtype).removeprefix("torch.")
        raise EnhanceError(f"{folder}: {bad[0]} is not finite in {kind}; the training diverged")
    with atomic(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(plain, {"format": "pt"}))
    write_json(folder / "preprocessor_config.json", prepare)
    write_json(folder / "config.json", config)


def read_weights(path: Path, part: str = "") -> dict[str, Tensor]:
    """Tensors of a file: safetensors, or a pickle of torch, of which no code is run.

    They lie under the key ``part`` in what is pickled; empty where they are the whole. An
    `EnhanceError` if it cannot be read, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, "cpu", weights_only=True)
        tensors: dict[str, Tensor] = found[part] if part else found
        if not all(isinstance(k, str) and torch.is_tensor(v) for k, v in tensors.items()):
            raise ValueError("holds no plain table of tensors")
    except (
        SafetensorError, pickle.UnpicklingError, OSError, EOFError, RuntimeError,
        ValueError, LookupError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EnhanceError(f"{path}: cannot be read as weights ({reason})") from error
    return tensors


def write_transformer(
    folder: Path,
    model: Any,
    tensors: Mapping[str, Tensor],
    *,
    do_normalize: bool = True,
    attention_mask: bool = True,
    **prepare: Any,
) -> None:
    """Write a model of `transformers` in its own format.

    ``config.json`` names float32 as type: `from_pretrained` then computes in fp32 without being
    told to, whatever the weights are stored in.

    ``do_normalize``, ``attention_mask`` and ``prepare`` are what ``preprocessor_config.json`` asks
    for. Errors as of `write`.
    """
    config: dict[str, Any] = model.config.to_dict()
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    config.pop("_name_or_path", None)
    extractor = import_transformers().Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=16000,
        padding_value=0.0,
        do_normalize=do_normalize,
        return_attention_mask=attention_mask,
    )
    write(folder, tensors, config, extractor.to_dict() | prepare)


def prepared(folder: Path) -> dict[str, Any]:
    """``do_normalize`` and ``sample_rate`` of a folder's ``preprocessor_config.json``.

    An `EnhanceError` if the file is missing, does not say whether to normalise, or names no sample
    rate.
    """
    path = folder / "preprocessor_config.json"
    prepare = read_json(path, "do_normalize decides what the model hears")
    if not isinstance(prepare.get("do_normalize"), bool):
        raise EnhanceError(
            f"{path}: do_normalize must be true or false (it decides what the model hears)"
        )
    rate = prepare.get("sampling_rate", 16000)
    if not isinstance(rate, int) or rate < 1:
        raise EnhanceError(f"{path}: sampling_rate is {rate!r}, not a number of samples a second")
    return {"do_normalize": prepare["do_normalize"], "sample_rate": rate}
