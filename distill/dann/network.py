"""Layers of a speech model, pooled to an embedding; a task above it, and a domain to be forgotten.

Ganin et al., "Domain-adversarial training of neural networks", 2016: between the embedding and the
discriminator stands a layer that is the identity forward and multiplies the gradient by -lambda
backward. The discriminator so descends the domain's loss, and everything below the layer climbs it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.hf import HfTeacher
from distill.dann.config import DannConfig
from distill.teacher.contract import Teacher
from distill.teacher.layers import Layers, LayerSum
from enhance.errors import EnhanceError


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-strength``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


class Statistics(nn.Module):
    """Mean and standard deviation over the frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, T, D) -> (B, 2 D)"""
        return torch.cat([x.mean(1), (x.var(1, unbiased=False) + 1e-6).sqrt()], 1)


class Attention(nn.Module):
    """Multi-head attention pooling (India, Safari, Hernando 2019, section 2.1).

    Each head has its own share of the features, and a learned query that says how much each frame
    counts in its mean; uniform at the start. An `EnhanceError` if the features do not part evenly.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise EnhanceError(f"pooling.heads {heads}: {width} features do not part evenly")
        self.size = width
        self.query = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, T, D) -> (B, D)"""
        parts = x.unflatten(2, tuple(self.query.shape))  # (B, T, H, D / H)
        scores = torch.einsum("bthd,hd->bth", parts, self.query) / math.sqrt(parts.shape[-1])
        return torch.einsum("bth,bthd->bhd", scores.softmax(1), parts).flatten(1)


def perceptron(width: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """So many hidden layers of ReLUs, and a linear one."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, outputs))


class Network(nn.Module):
    """All that learns; the backbone is not kept where it is frozen.

    ``classes`` and ``domains`` are how many the task and the discriminator tell apart. An
    `EnhanceError` if the backbone has no such layers, or cannot be trained.
    """

    def __init__(self, config: DannConfig, teacher: Teacher, classes: int, domains: int) -> None:
        super().__init__()
        backbone = config.backbone
        self.layers = Layers.parse(backbone.layer_selection.text, teacher.num_layers)
        width = self.layers.width(teacher.widths, teacher.name)
        self.teacher: Any = None if backbone.freeze else thaw(teacher, backbone.freeze_layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.sum = LayerSum(len(self.layers.indices))
            pooling = config.pooling
            self.pool: Statistics | Attention = (
                Attention(width, pooling.heads)
                if pooling.method == "attention"
                else Statistics(width)
            )
            self.project = nn.Sequential(
                nn.Linear(self.pool.size, config.embedding),
                nn.GELU(),
                nn.LayerNorm(config.embedding),
            )
            self.task = nn.Linear(config.embedding, classes)
            judge = config.dann.discriminator
            self.domain = perceptron(config.embedding, judge.hidden_dim, judge.num_layers, domains)

    def embed(self, heard: Tensor) -> Tensor:
        """Embeddings of clips of one length.

        Shape: chosen hidden states of a frozen backbone (K, B, T, D), or waves (B, N) where it
        learns -> (B, E)
        """
        states = heard
        if self.teacher is not None:
            every = self.teacher.run(list(heard))
            states = torch.stack([every[i] for i in self.layers.indices])
        states = F.layer_norm(states.float(), states.shape[-1:])
        embedded: Tensor = self.project(self.pool(self.sum(states)))
        return embedded

    def forward(self, heard: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Logits of task (B, classes) and domain (B, domains); see `embed` and `Reversal`."""
        embedded = self.embed(heard)
        reversed_: Tensor = Reversal.apply(embedded, strength)  # type: ignore[no-untyped-call]
        return self.task(embedded), self.domain(reversed_)


def thaw(teacher: Teacher, freeze_layers: tuple[int, ...]) -> HfTeacher:
    """A backbone whose transformer blocks learn, but for some; it stays in evaluation mode.

    An `EnhanceError` if it is no transformer of the transformers library, or has no such block.
    """
    if not isinstance(teacher, HfTeacher):
        raise EnhanceError(
            f"backbone.freeze: {teacher.name} cannot be trained, only wav2vec 2.0, HuBERT and "
            "WavLM in the transformers format; set freeze: true"
        )
    blocks = teacher.model.encoder.layers
    for number in freeze_layers:
        if number >= len(blocks):
            raise EnhanceError(
                f"backbone.freeze_layers {number}: {teacher.name} has blocks 0 to {len(blocks) - 1}"
            )
    for number, block in enumerate(blocks):
        block.requires_grad_(number not in freeze_layers)
    if len(set(freeze_layers)) == len(blocks):
        raise EnhanceError("backbone.freeze_layers: names every block; set freeze: true")
    return teacher
