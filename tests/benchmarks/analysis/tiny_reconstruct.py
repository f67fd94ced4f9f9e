"""What a reconstruction of seconds needs: a corpus, a teacher, a CTC model, all made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from distill.backbones import import_transformers
from distill.backbones.hf import silent
from distill.ctc.vocabulary import Vocabulary
from distill.ssl.families.transformer import Architecture, save


def make_corpus(root: Path) -> Path:
    """Twelve clips of a buzz through moving resonances, and three of noise."""
    rng = np.random.default_rng(0)
    for i in range(15):
        kind = "speech" if i < 12 else "noise"
        (root / kind).mkdir(exist_ok=True)
        t = np.arange(20000 + 500 * i) / 16000
        if kind == "speech":
            tones = np.sin(2 * np.pi * np.outer(np.arange(1, 40), (90 + 9 * i) * t))
            centre = 1500 + 1200 * np.sin(2 * np.pi * (2 + 0.1 * i) * t + i)
            hertz = np.arange(1, 40)[:, None] * (90 + 9 * i)
            wave = 0.05 * (tones * np.exp(-(((hertz - centre) / 500) ** 2))).sum(0)
            wave += 0.003 * rng.standard_normal(len(t))
        else:
            wave = 0.1 * rng.standard_normal(len(t))
        soundfile.write(root / kind / f"{i:02d}.wav", wave.astype(np.float32), 16000)
    return root


def make_teacher(folder: Path) -> Path:
    """A WavLM of two layers of 24, random weights."""
    size = Architecture(24, 2, 2, 32, (8,) * 7, 16, 2)
    save(size.build(0), folder)
    return folder


def make_ctc(folder: Path) -> Path:
    """A CTC model as `enhance teacher finetune-ctc` writes it, random weights."""
    transformers = import_transformers()
    vocabulary = Vocabulary.of(["GO ON"], "char")
    config = transformers.HubertConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,) * 7, feat_extract_norm="layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, vocab_size=len(vocabulary), pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), silent():
        torch.manual_seed(0)
        transformers.HubertForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    vocabulary.write(folder)
    return folder
