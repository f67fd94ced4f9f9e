"""Tiny teachers with the real 320/400 geometry, made on the spot."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill.backbones import import_transformers
from distill.backbones.hf import silent

MakeTeacher = Callable[..., Path]


@pytest.fixture(scope="session")
def make_teacher(tmp_path_factory: pytest.TempPathFactory) -> MakeTeacher:
    """Write a random tiny model into a folder of its own: kind, norm and config overrides."""

    def make(
        kind: str = "wavlm",
        norm: str = "layer",
        *,
        normalize: bool = False,
        seed: int = 0,
        **config: Any,
    ) -> Path:
        transformers = import_transformers()
        names = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}
        settings = {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": (16,) * 7,
            "feat_extract_norm": norm,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "layerdrop": 0.5,  # must not act
            **config,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, f"{names[kind]}Model")(
                getattr(transformers, f"{names[kind]}Config")(**settings)
            )
            # Fresh biases and norms are 0 and 1: make them count.
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.data += 0.1 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp(f"{kind}-{norm}")
        with silent():
            model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"do_normalize": normalize, "sampling_rate": 16000})
        )
        return folder

    return make


@pytest.fixture(scope="session")
def torchaudio_models() -> ModuleType:
    """`torchaudio.models`: an independent implementation of wav2vec 2.0, HuBERT and WavLM."""
    if "torchaudio" in sys.modules and sys.modules["torchaudio"] is None:
        del sys.modules["torchaudio"]  # hidden as unfit for this torch: only its Python is needed
    cuda = torch.version.cuda
    try:
        torch.version.cuda = None  # its import compares CUDA versions, which a CPU test needs not
        from torchaudio import models
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio cannot be imported: {error}")
    finally:
        torch.version.cuda = cuda
    return models


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of buzzing vowels and two of noise, as wav files in speech/ and noise/."""
    root = tmp_path_factory.mktemp("tiny-corpus")
    rng = np.random.default_rng(0)
    for i in range(12):
        kind = "speech" if i < 10 else "noise"
        n = int(rng.integers(9000, 20000))
        wave = rng.normal(0, 0.02, n)
        if kind == "speech":
            t = np.arange(n) / 16000
            for start in range(0, n, 3200):
                part = slice(start, start + 3200)
                wave[part] += 0.2 * np.sign(np.sin(2 * np.pi * rng.uniform(90, 900) * t[part]))
        (root / kind).mkdir(exist_ok=True)
        soundfile.write(root / kind / f"{i:02d}.wav", wave.astype(np.float32), 16000)
    return root
