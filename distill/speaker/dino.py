"""Speaker training without labels: self-distillation with no labels, DINO.

Caron et al., "Emerging properties in self-supervised vision transformers", 2021, algorithm 1: a
student is to give the same distribution over K outputs for any crop of a clip as a teacher gives
for another, long crop of it. The teacher is a moving average of the student. Two things keep it
from giving one answer to everything: its outputs are centred (their moving mean is taken off,
against one output winning) and sharpened (divided by a low temperature, against all being equal).
That a clip has one speaker is the only thing assumed about it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.speaker.config import DinoConfig, SpeakerConfig
from distill.training.accuracy import perplexity
from distill.training.config import last_quarter
from enhance.training.engine.processes import mean_everywhere


class DinoHead(nn.Module):
    """Two hidden layers, a bottleneck of length 1, and a last layer of unit weight vectors."""

    def __init__(self, width: int, config: DinoConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
        last = nn.Linear(config.bottleneck, config.outputs, bias=False)
        self.last = nn.utils.parametrizations.weight_norm(last)
        magnitude = self.last.parametrizations.weight.original0
        nn.init.ones_(magnitude)
        magnitude.requires_grad_(False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Shape: (B, E) -> (B, K), cosines"""
        return self.last(F.normalize(self.layers(embeddings), dim=-1))


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's crop and another crop of the student's.

    Crop i of the teacher and crop i of the student are the same piece of audio; this pair is left
    out. Gradients flow to the student only.

    Shape: student, a list of V tensors (B, K); teacher, a list of G <= V; centre (K,) -> scalar
    """
    targets = [F.softmax((t.detach() - centre) / teacher_temperature, dim=-1) for t in teacher]
    logs = [F.log_softmax(s / student_temperature, dim=-1) for s in student]
    terms = [
        -(target * log).sum(-1).mean()
        for i, target in enumerate(targets)
        for j, log in enumerate(logs)
        if i != j
    ]
    return torch.stack(terms).mean()


def entropies(teacher: Tensor, centre: Tensor, temperature: float) -> tuple[float, float]:
    """How far the teacher is from the two ways to collapse, as shares of ln K.

    The mean entropy of single outputs: 1 if every output is uniform (collapse by too little
    sharpening). The entropy of their mean: 0 if every clip gets the same output (collapse by too
    little centring).

    Shape: teacher (B, K), centre (K,)
    """
    p = F.softmax((teacher - centre) / temperature, dim=-1)  # (B, K)
    top = math.log(p.shape[-1])
    each = perplexity(p).log().mean() / top
    together = perplexity(p.mean(0)).log() / top
    return each.item(), together.item()


class Dino(nn.Module):
    """Student, teacher, centre and loss; the teacher is what is kept in the end.

    ``speakers`` is not used: there are no labels.
    """

    centre: Tensor

    def __init__(self, config: SpeakerConfig, speakers: int = 0) -> None:
        super().__init__()
        self.config = config.dino
        student = config.sizes.build(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            head = DinoHead(config.sizes.embedding, config.dino)
        self.student, self.student_head = student, head
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self.encoder_head = copy.deepcopy(head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.dino.outputs))
        self.crops = (config.dino.global_seconds,) * config.dino.global_crops
        self.crops += (config.dino.local_seconds,) * config.dino.local_crops

    def temperature(self, step: int) -> float:
        start, end = self.config.teacher_temperature
        steps = self.config.temperature_steps
        return start + (end - start) * (min(1.0, step / steps) if steps else 1.0)

    def forward(
        self, views: Sequence[Tensor], speakers: Tensor, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch, and what history tells of it; moves the centre.

        Shape: views, the long crops (B, N) first, then the short ones (B, N')
        """
        c = self.config
        long = torch.cat(list(views[: c.global_crops]))  # (G B, N)
        with torch.no_grad():
            # In bf16 the network's outputs are of half precision, the centre is not
            teacher = self.encoder_head(self.encoder(long)).float()  # (G B, K)
        student = [self.student_head(self.student(long))]
        if c.local_crops:
            short = torch.cat(list(views[c.global_crops :]))
            student.append(self.student_head(self.student(short)))
        crops = [view for group in student for view in group.split(len(views[0]))]
        targets = teacher.split(len(views[0]))
        temperature = self.temperature(step)
        loss = dino_loss(crops, targets, self.centre, c.student_temperature, temperature)
        each, together = entropies(teacher, self.centre, temperature)
        self.centre.lerp_(mean_everywhere(teacher.mean(0)), 1 - c.centre_momentum)
        return loss, {"loss": loss.item(), "teacher_entropy": each, "mean_entropy": together}

    def before_update(self, step: int) -> None:
        """Keep the last layer as it is at first: its gradients are dropped."""
        if step < self.config.frozen_steps:
            for parameter in self.student_head.last.parameters():
                parameter.grad = None

    def after_update(self, step: int, total: int | None) -> None:
        """Move the teacher towards the student."""
        start = self.config.teacher_momentum
        half_cosine = 0.5 - 0.5 * math.cos(math.pi * last_quarter(step, total))
        momentum = start + (1 - start) * half_cosine
        pairs = ((self.encoder, self.student), (self.encoder_head, self.student_head))
        with torch.no_grad():
            for teacher, student in pairs:
                for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                    t.lerp_(s, 1 - momentum)
