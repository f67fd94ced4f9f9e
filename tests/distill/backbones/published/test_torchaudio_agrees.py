"""Our teachers against torchaudio's networks, which were written apart from transformers'.

torchaudio counts otherwise. ``extract_features`` gives L states, the outputs of the blocks,
never behind a final norm; ``forward`` ends behind the final norm where there is one
(stable-layer-norm models). Of our L + 1 states

* state 0 is torchaudio's input to the first block (projection, positions, and in post-norm models
  the layer norm);
* states 1 .. L - 1 are its ``extract_features`` states 0 .. L - 2;
* state L is its ``forward``: in post-norm models the same as ``extract_features`` state L - 1, in
  stable-layer-norm models that state behind the final layer norm.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones import import_transformers
from distill.backbones.find import load
from distill.backbones.hf import CLASSES, HfTeacher, conv_geometry
from distill.backbones.published.load import settings

KINDS = ["wav2vec2", "hubert", "wavlm"]
BASE = {"norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LARGE = {"norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MIXED = {"norm": "layer", "do_stable_layer_norm": False, "conv_bias": False}

# States are of size 1 to 10: 3e-5 is float32 rounding, of other kernels in another order.
CLOSE = {"atol": 3e-5, "rtol": 1e-5}


def pair(make_teacher, kind: str, left_pad: int, **config: object) -> tuple[HfTeacher, nn.Module]:
    """Our teacher, and torchaudio's model with the same weights by torchaudio's own import."""
    folder = make_teacher(kind, num_hidden_layers=3, **config)
    utils = importlib.import_module("torchaudio.models.wav2vec2.utils")
    own = getattr(import_transformers(), CLASSES[kind]).from_pretrained(folder)
    return load(folder, left_pad=left_pad), utils.import_huggingface_model(own).eval()


@torch.no_grad()
def all_states(model: nn.Module, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
    """torchaudio's states in our order, (L + 1, B, T', D)."""
    features, counts = model.feature_extractor(waves, lengths)
    projected, _ = model.encoder._preprocess(features, counts)
    first = model.encoder.transformer._preprocess(projected)
    blocks, _ = model.extract_features(waves, lengths)
    last, _ = model(waves, lengths)
    return torch.stack([first, *blocks[:-1], last])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [BASE, LARGE, MIXED], ids=["base", "large", "mixed"])
@pytest.mark.parametrize("left_pad", [0, 80])
def test_every_state_of_every_length(
    torchaudio_models: ModuleType, make_teacher, kind: str, size: dict, left_pad: int
) -> None:
    ours, theirs = pair(make_teacher, kind, left_pad, **size)
    generator = torch.Generator().manual_seed(3)
    # From a single frame to 103, where WavLM's position buckets have become logarithmic (80).
    for samples in (400, 720, 2999, 16000, 33000):
        wave = torch.randn(samples, generator=generator)
        hidden, counts = ours(wave[None], torch.tensor([samples]))
        expected = all_states(theirs, F.pad(wave, (left_pad, 0))[None])
        assert hidden.shape == expected.shape == (4, 1, int(counts), 24)
        torch.testing.assert_close(hidden, expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_final_norm_is_where_the_conventions_part(
    torchaudio_models: ModuleType, make_teacher, kind: str
) -> None:
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(4))
    for size, apart in ((BASE, False), (LARGE, True)):
        ours, theirs = pair(make_teacher, kind, 0, **size)
        with torch.no_grad():
            blocks, _ = theirs.extract_features(wave)
        last = ours(wave, torch.tensor([4000]))[0][-1]
        assert ((last - blocks[-1]).abs().max() > 0.1) == apart
        if apart:
            norm = theirs.encoder.transformer.layer_norm
            torch.testing.assert_close(last, norm(blocks[-1]).detach(), **CLOSE)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])  # torchaudio's WavLM takes no lengths
def test_a_batch_with_lengths(torchaudio_models: ModuleType, make_teacher, kind: str) -> None:
    ours, theirs = pair(make_teacher, kind, 0, **LARGE)
    lengths = torch.tensor([9000, 5000, 700])
    waves = torch.randn(3, 9000, generator=torch.Generator().manual_seed(5))
    waves *= torch.arange(9000) < lengths[:, None]
    hidden, counts = ours(waves, lengths)
    expected = all_states(theirs, waves, lengths)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(hidden[:, row, :count], expected[:, row, :count], **CLOSE)


# Full size ----------------------------------------------------------------------------------------

CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
SIZES = {
    "base": {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "extractor_mode": "default",
        "layer_norm_first": False,
    },
    "large": {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "extractor_mode": "layer_norm",
        "layer_norm_first": True,
    },
}
"""fairseq's recipes: hubert_{base_librispeech,large_librivox}, wav2vec2_{base_librispeech,
large_librivox}; unilm's WavLM is the same network but for the position bias."""


def by_hand(kind: str, size: str, conv_bias: bool) -> int:
    """Parameters without pre-training heads and mask embedding, counted on paper."""
    args = SIZES[size]
    d, f = args["encoder_embed_dim"], args["encoder_ffn_embed_dim"]
    blocks, heads = args["encoder_layers"], args["encoder_attention_heads"]
    convolutions = 512 * 10 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2 + 7 * 512 * conv_bias
    norms = 2 * 512 * (7 if size == "large" else 1)
    projection = 2 * 512 + 512 * d + d
    positions = d * (d // 16) * 128 + 128 + d  # grouped convolution; length per tap; bias
    attention = 4 * (d * d + d)
    feed_forward = d * f + f + f * d + d
    block = attention + feed_forward + 4 * d
    if kind == "wavlm":
        block += (d // heads) * 8 + 8 + heads  # gate: Linear(64 to 8), one scalar per head
        positions += 320 * heads  # the shared table
    return convolutions + norms + projection + positions + 2 * d + blocks * block


def heads(kind: str, size: str) -> int:
    """Parameters of the pre-training heads, which published totals include."""
    d, z = SIZES[size]["encoder_embed_dim"], 256 if size == "base" else 768  # z: final_dim
    final = d * z + z
    if kind == "wav2vec2":  # logits of 2 x 320 codes, codes of z / 2, project_q
        return final + 512 * 640 + 640 + 640 * z // 2 + z * z + z
    return final + 504 * z  # one embedding of each of the 500 units and 4 special labels


PUBLISHED = {
    ("wav2vec2", "base"): 95.04,
    ("wav2vec2", "large"): 317.38,
    ("hubert", "base"): 94.68,
    ("hubert", "large"): 316.61,
    ("wavlm", "base"): 94.70,
    ("wavlm", "large"): 316.62,
}
"""Millions of parameters in the tables of SUPERB (Yang et al., 2021) and WavLM (Chen et al.,
2022); the papers of wav2vec 2.0 and HuBERT round to 95 and 317."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["base", "large"])
def test_full_size(torchaudio_models: ModuleType, kind: str, size: str) -> None:
    """Built on the meta device: shapes and counts without memory or arithmetic."""
    conv_bias = (kind, size) == ("wav2vec2", "large")
    args = SIZES[size] | {"conv_feature_layers": CONVOLUTIONS, "conv_bias": conv_bias}
    args |= {"conv_pos": 128, "conv_pos_groups": 16, "num_buckets": 320, "max_distance": 800}
    model_class = getattr(import_transformers(), CLASSES[kind])
    lv60k = "_lv60k" if conv_bias else ""
    with torch.device("meta"):
        model = model_class(model_class.config_class(**settings(kind, args, "here"))).eval()
        theirs = getattr(torchaudio_models, f"{kind}_{size}{lv60k}")()
    blocks, width = args["encoder_layers"], args["encoder_embed_dim"]

    count = sum(p.numel() for p in model.parameters()) - width  # without the mask embedding
    assert count == by_hand(kind, size, conv_bias)
    assert count == sum(p.numel() for p in theirs.parameters())
    total = count + width + heads(kind, size)
    assert total / 1e6 == pytest.approx(PUBLISHED[kind, size], rel=3e-4)
    assert round(count / 1e6, 1) == {"base": 94.4, "large": 315.4 + 0.1 * (kind == "wavlm")}[size]

    config = model.config
    assert conv_geometry(config.conv_kernel, config.conv_stride) == (400, 320)
    output = model(torch.zeros(2, 16000, device="meta"), output_hidden_states=True)
    assert len(output.hidden_states) == blocks + 1
    assert {tuple(state.shape) for state in output.hidden_states} == {(2, 49, width)}
