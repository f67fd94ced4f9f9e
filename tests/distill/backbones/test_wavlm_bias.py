"""WavLM's gated relative position bias, written out in plain loops.

Chen et al., "WavLM", 2022, section III-A, in the form of the public code: to the logit of query i
and key j of one head, ``q_i . k_j / sqrt(d)``, is added ``g_i * table[bucket(j - i)]``, where

* ``bucket`` halves the buckets by sign (j > i takes the upper half); within a half the first
  half is exact, the rest logarithmic up to the largest distance, beyond which all share the last;
* ``g_i = a (b s - 1) + 2`` with ``a, b = sigmoid`` of two sums of four outputs each of a linear
  layer from the head's slice of x_i, and one scalar s per head;
* ``x_i`` is what attention receives: the block's input in post-norm models, its layer norm in
  stable-layer-norm models;
* the table belongs to the first block and serves all; the gate is each block's own.

The released models have 320 buckets and the largest distance 800: torchaudio's bundles of WavLM
Base, Base+ and Large hold these two numbers, and the last test compares them.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.backbones import import_transformers
from distill.backbones.find import load
from distill.backbones.hf import HfTeacher

BUCKETS, DISTANCE = 320, 800


def bucket(offset: int, buckets: int = BUCKETS, distance: int = DISTANCE) -> int:
    """Row of the table for a key ``offset`` frames after the query."""
    half = buckets // 2
    exact = half // 2
    far = abs(offset)
    if far >= exact:
        share = math.log(far / exact) / math.log(distance / exact)
        far = min(exact + int(share * (half - exact)), half - 1)
    return far + (half if offset > 0 else 0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gates(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, scalar: np.ndarray) -> np.ndarray:
    """Multiplier of each head and query; x (T, D), weight (8, d), bias (8,), scalar (H,)."""
    heads, dim = len(scalar), weight.shape[1]
    result = np.empty((heads, len(x)))
    for h in range(heads):
        for i, row in enumerate(x):
            part = row[h * dim : (h + 1) * dim]
            eight = [float(weight[o] @ part + bias[o]) for o in range(8)]
            a, b = sigmoid(sum(eight[:4])), sigmoid(sum(eight[4:]))
            result[h, i] = a * (b * scalar[h] - 1) + 2
    return result


def written_out(
    x: np.ndarray, p: dict[str, np.ndarray], table: np.ndarray, buckets: int, distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bias (H, T, T) and output (T, D) of one block's attention."""
    frames, width = x.shape
    scalar = p["gru_rel_pos_const"].ravel()
    dim = width // len(scalar)
    gate = gates(x, p["gru_rel_pos_linear.weight"], p["gru_rel_pos_linear.bias"], scalar)
    q, k, v = (x @ p[f"{n}_proj.weight"].T + p[f"{n}_proj.bias"] for n in "qkv")
    bias = np.empty((len(scalar), frames, frames))
    mixed = np.empty((frames, width))
    for h in range(len(scalar)):
        part = slice(h * dim, (h + 1) * dim)
        for i in range(frames):
            logits = np.empty(frames)
            for j in range(frames):
                bias[h, i, j] = gate[h, i] * table[bucket(j - i, buckets, distance), h]
                logits[j] = q[i, part] @ k[j, part] / math.sqrt(dim) + bias[h, i, j]
            weights = np.exp(logits - logits.max())
            mixed[i, part] = weights / weights.sum() @ v[:, part]
    return bias, mixed @ p["out_proj.weight"].T + p["out_proj.bias"]


def run(teacher: HfTeacher, samples: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each block's attention receives, adds to its logits and gives."""
    seen: list[dict[str, Any]] = []
    real = F.multi_head_attention_forward

    def spy(*args: Any, **options: Any) -> Any:
        seen[-1]["added"] = options["attn_mask"].double().numpy()
        return real(*args, **options)

    module = modeling()
    monkeypatch.setattr(module.F, "multi_head_attention_forward", spy)
    for layer in teacher.model.encoder.layers:
        layer.attention.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append({"x": args[0][0].double().numpy()}),
            with_kwargs=True,
        )
        layer.attention.register_forward_hook(
            lambda _, args, output: seen[-1].update(y=output[0][0].double().numpy())
        )
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(7))
    teacher(wave[None], torch.tensor([samples]))
    return seen


def modeling() -> ModuleType:
    import_transformers()
    from transformers.models.wavlm import modeling_wavlm

    return modeling_wavlm


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("sizes", [(320, 800), (8, 16)], ids=["released", "small"])
def test_attention_adds_the_written_out_bias(make_teacher, monkeypatch, norm, sizes) -> None:
    buckets, distance = sizes
    teacher = load(
        make_teacher(
            "wavlm",
            norm,
            do_stable_layer_norm=norm == "layer",
            num_hidden_layers=3,
            num_buckets=buckets,
            max_bucket_distance=distance,
        )
    )
    generator = torch.Generator().manual_seed(8)
    layers = teacher.model.encoder.layers
    layers[0].attention.rel_attn_embed.weight.normal_(generator=generator)  # biases that matter
    for layer in layers:  # fresh ones are all 1
        layer.attention.gru_rel_pos_const.normal_(generator=generator)
    frames = 95 if buckets == BUCKETS else 24  # past the exact buckets; past the largest distance
    seen = run(teacher, frames * 320, monkeypatch)
    assert len(seen) == 3
    table = layers[0].attention.rel_attn_embed.weight.double().numpy()
    for layer, found in zip(layers, seen, strict=True):
        weights = {k: v.double().numpy() for k, v in layer.attention.named_parameters()}
        bias, output = written_out(found["x"], weights, table, buckets, distance)
        assert bias.shape == (2, frames, frames)
        assert bias.std() > 0.5
        np.testing.assert_allclose(found["added"], bias, atol=2e-5)
        np.testing.assert_allclose(found["y"], output, atol=2e-5)
    assert not hasattr(layers[1].attention, "rel_attn_embed")  # one table for all blocks
    assert np.abs(seen[0]["added"] - seen[1]["added"]).max() > 0.1  # but a gate for each


def test_what_attention_receives(make_teacher, monkeypatch) -> None:
    """Post-norm: the block's input itself. Stable layer norm: its layer norm."""
    for stable in (False, True):
        teacher = load(make_teacher("wavlm", do_stable_layer_norm=stable))
        with monkeypatch.context() as patch:
            seen = run(teacher, 4000, patch)
        wave = torch.randn(4000, generator=torch.Generator().manual_seed(7))
        hidden = teacher(wave[None], torch.tensor([4000]))[0][:, 0]
        for k, layer in enumerate(teacher.model.encoder.layers):
            expected = layer.layer_norm(hidden[k]) if stable else hidden[k]
            np.testing.assert_allclose(seen[k]["x"], expected.double().numpy(), atol=1e-6)


def test_buckets_over_all_distances(torchaudio_models: ModuleType) -> None:
    """1200 frames (24 s) to each side, beyond the largest distance."""
    offsets = list(range(-1200, 1201))
    expected = [bucket(offset) for offset in offsets]
    attention = modeling().WavLMAttention(24, 2)  # with the sizes that are its default
    assert attention._relative_positions_bucket(torch.tensor(offsets)).tolist() == expected
    with torch.device("meta"):  # of full size, without its memory
        theirs = torchaudio_models.wavlm_base().encoder.transformer.layers[0].attention
    assert (theirs.num_buckets, theirs.max_distance) == (BUCKETS, DISTANCE)
    assert theirs._relative_positions_bucket(torch.tensor(offsets)).tolist() == expected
    # Signed, exact to 79, then logarithmic; the last of each half from 800 (and a little before).
    assert [bucket(n) for n in (0, -1, -79, -80, 1, 79, 80)] == [0, 1, 79, 80, 161, 239, 240]
    assert bucket(-800) == bucket(-1200) == 159
    assert bucket(800) == bucket(1200) == 319
    assert {bucket(n) for n in offsets} == set(range(320)) - {160}  # "0 frames after" is bucket 0
    assert (np.diff([bucket(n) for n in range(1, 1201)]) >= 0).all()
