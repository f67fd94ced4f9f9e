"""Checkpoints in the published fairseq layout, and the published forward pass written out.

Nothing here uses the package: names, shapes and arithmetic are those of the public model, taken
step by step with plain tensor functions, so that a test compares two independent computations.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Layers = list[tuple[int, int, int]]

ENCODER: Layers = [(6, 10, 5), (8, 8, 4), (10, 4, 2), (12, 4, 2), (12, 4, 2), (12, 1, 1)]
AGGREGATOR: Layers = [(12, 2, 1), (14, 3, 1), (14, 4, 1)]


def arguments(**changes: Any) -> Namespace:
    """Settings as wav2vec_large was trained with, layers narrower, some of the many others."""
    settings = {
        "arch": "wav2vec",
        "task": "audio_pretraining",
        "criterion": "wav2vec",
        "seed": 1,
        "fp16": True,
        "lr": [1e-06],
        "data": "/checkpoint/somewhere",
        "max_sample_size": 150000,
        "conv_feature_layers": (
            "[(6, 10, 5), (8, 8, 4), (10, 4, 2)] + [(12, 4, 2)] * 2 + [(3*4, 1, 1)]"
        ),
        "conv_aggregator_layers": "[(12, 2, 1), (14, 3, 1), (14, 4, 1)]",
        "skip_connections_agg": True,
        "skip_connections_feat": False,
        "residual_scale": 0.5,
        "log_compression": True,
        "agg_zero_pad": False,
        "no_conv_bias": False,
        "non_affine_group_norm": False,
        "encoder": "cnn",
        "aggregator": "cnn",
        "dropout": 0.1,
        "dropout_features": 0.0,
        "dropout_agg": 0.2,
        "num_negatives": 10,
        "cross_sample_negatives": False,
        "sample_distance": None,
        "prediction_steps": 4,
        "project_features": "none",
        "offset": "auto",
    }
    return Namespace(**{**settings, **changes})


def weights(args: Namespace, seed: int = 0) -> OrderedDict[str, Tensor]:
    """Random weights under the published names."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale + shift

    out: OrderedDict[str, Tensor] = OrderedDict()

    def norm(name: str, channels: int) -> None:
        if not args.non_affine_group_norm:
            out[name + ".weight"] = draw(channels, scale=0.3, shift=1.0)
            out[name + ".bias"] = draw(channels, scale=0.3)

    channels = 1
    for i, (width, kernel, _) in enumerate(ENCODER):
        name = f"feature_extractor.conv_layers.{i}"
        out[f"{name}.0.weight"] = draw(width, channels, kernel, scale=(channels * kernel) ** -0.5)
        norm(f"{name}.2", width)
        channels = width
    embed = channels
    vq_type = getattr(args, "vq_type", "none")
    if vq_type == "gumbel":
        rows = (1 if args.combine_groups else args.vq_groups) * args.vq_vars
        out["vector_quantizer.vars"] = draw(1, rows, embed // args.vq_groups)
        inner, name = embed, "vector_quantizer.weight_proj"
        for i in range(args.vq_depth - 1):
            out[f"{name}.{i}.0.weight"] = draw(2 * embed, inner)
            out[f"{name}.{i}.0.bias"] = draw(2 * embed)
            inner = 2 * embed
        last = name if args.vq_depth == 1 else f"{name}.{args.vq_depth - 1}"
        out[f"{last}.weight"] = draw(args.vq_groups * args.vq_vars, inner)
        out[f"{last}.bias"] = draw(args.vq_groups * args.vq_vars)
    elif vq_type == "kmeans":
        groups = 1 if args.combine_groups else args.vq_groups
        out["vector_quantizer.embedding"] = draw(args.vq_vars, groups, embed // args.vq_groups)
        name = "vector_quantizer.projection"
        out[f"{name}.0.weight"] = draw(embed, embed // args.vq_groups, 1)
        out[f"{name}.1.weight"] = draw(embed, scale=0.3, shift=1.0)
        out[f"{name}.1.bias"] = draw(embed, scale=0.3)
    for i, (width, kernel, _) in enumerate(AGGREGATOR):
        name = f"feature_aggregator.conv_layers.{i}"
        out[f"{name}.1.weight"] = draw(width, channels, kernel, scale=(channels * kernel) ** -0.5)
        if not args.no_conv_bias:
            out[f"{name}.1.bias"] = draw(width, scale=0.3)
        norm(f"{name}.3", width)
        if width != channels and args.skip_connections_agg:
            out[f"feature_aggregator.residual_proj.{i}.weight"] = draw(width, channels, 1)
        channels = width
    steps = args.prediction_steps
    out["wav2vec_predictions.project_to_steps.weight"] = draw(channels, embed, 1, steps)
    out["wav2vec_predictions.project_to_steps.bias"] = draw(embed)
    return out


def checkpoint(args: Namespace, model: OrderedDict[str, Tensor]) -> dict[str, Any]:
    """The whole file."""
    return {
        "args": args,
        "model": model,
        "optimizer_history": [
            {
                "criterion_name": "Wav2vecCriterion",
                "optimizer_name": "MemoryEfficientFP16Optimizer",
                "lr_scheduler_state": {"best": 0.4},
                "num_updates": 400000,
            }
        ],
        "extra_state": {"train_iterator": {"epoch": 9, "iterations_in_epoch": 0}, "val_loss": 0.4},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
    }


def activation(args: Namespace, x: Tensor) -> Tensor:
    if getattr(args, "activation", "relu") == "relu":
        return x.clamp_min(0)
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def group_norm(x: Tensor, model: dict[str, Tensor], name: str, groups: int = 1) -> Tensor:
    """x (1, C, T): mean and variance of each group over channels and time."""
    parts = x.reshape(groups, -1)
    mean, variance = parts.mean(1, keepdim=True), parts.var(1, correction=0, keepdim=True)
    y = ((parts - mean) / torch.sqrt(variance + 1e-5)).reshape(x.shape)
    if name + ".weight" in model:
        y = y * model[name + ".weight"][:, None] + model[name + ".bias"][:, None]
    return y


def encode(args: Namespace, model: dict[str, Tensor], wave: Tensor) -> Tensor:
    """z of one clip, (1, C, T)."""
    x = wave[None, None]
    for i, (_, _, stride) in enumerate(ENCODER):
        name = f"feature_extractor.conv_layers.{i}"
        y = F.conv1d(x, model[f"{name}.0.weight"], stride=stride)
        y = activation(args, group_norm(y, model, f"{name}.2"))
        if args.skip_connections_feat and y.shape[1] == x.shape[1]:
            factor = x.shape[2] // y.shape[2]
            y = (y + x[:, :, ::factor][:, :, : y.shape[2]]) * math.sqrt(args.residual_scale)
        x = y
    return torch.log(1 + torch.abs(x)) if args.log_compression else x


def quantize(args: Namespace, model: dict[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Codewords (1, C, T) and codes (T, G) of z (1, C, T), frame by frame."""
    groups, values, codes = args.vq_groups, [], []
    if args.vq_type == "kmeans":
        name = "vector_quantizer.projection"
        ze = F.conv1d(z, model[f"{name}.0.weight"], groups=groups)
        ze = group_norm(ze, model, f"{name}.1", groups)
    for t in range(z.shape[2]):
        frame, chosen = [], []
        for g in range(groups):
            if args.vq_type == "gumbel":
                rows = model["vector_quantizer.vars"][0]
                if not args.combine_groups:
                    rows = rows[g * args.vq_vars : (g + 1) * args.vq_vars]
                x, name = z[0, :, t], "vector_quantizer.weight_proj"
                for i in range(args.vq_depth - 1):
                    x = model[f"{name}.{i}.0.weight"] @ x + model[f"{name}.{i}.0.bias"]
                    x = activation(args, x)
                last = name if args.vq_depth == 1 else f"{name}.{args.vq_depth - 1}"
                x = model[f"{last}.weight"] @ x + model[f"{last}.bias"]
                best = int(x[g * args.vq_vars : (g + 1) * args.vq_vars].argmax())
            else:
                rows = model["vector_quantizer.embedding"][:, 0 if args.combine_groups else g]
                width = rows.shape[1]
                here = ze[0, g * width : (g + 1) * width, t]
                best = min(range(len(rows)), key=lambda v: float(((rows[v] - here) ** 2).sum()))
            chosen.append(best)
            frame.append(rows[best])
        codes.append(chosen)
        values.append(torch.cat(frame))
    return torch.stack(values, 1)[None], torch.tensor(codes)


def aggregate(args: Namespace, model: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Outputs of the aggregator's layers, each (1, C, T)."""
    states = []
    for i, (width, kernel, _) in enumerate(AGGREGATOR):
        name = f"feature_aggregator.conv_layers.{i}"
        first = torch.zeros_like(x[..., :1]) if args.agg_zero_pad else x[..., :1]
        padded = torch.cat([first] * (kernel - 1) + [x], dim=-1)
        y = F.conv1d(padded, model[f"{name}.1.weight"], model.get(f"{name}.1.bias"))
        y = activation(args, group_norm(y, model, f"{name}.3"))
        if args.skip_connections_agg:
            skip = x
            if width != x.shape[1]:
                skip = F.conv1d(x, model[f"feature_aggregator.residual_proj.{i}.weight"])
            y = (y + skip) * math.sqrt(args.residual_scale)
        states.append(x := y)
    return states
