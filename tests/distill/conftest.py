"""Tiny teachers with the real 320/400 geometry, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
