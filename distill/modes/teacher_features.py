"""A teacher's features of one recording, in a form that an exporter can follow.

`TeacherFeatures` sorts clips by length, reads lengths as Python numbers and cuts long recordings
into windows; a graph for any length can do none of it. Here one recording goes through at once,
and what depends on its length is arithmetic on tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.teacher.frames import overlaps
from distill.teacher.windows import spans
from enhance.errors import EnhanceError
from enhance.network.companion import OneWave

if TYPE_CHECKING:
    from distill.modes.concat import TeacherFeatures


class OneWaveFeatures(OneWave):
    """`distill.modes.concat.TeacherFeatures` for one recording.

    Parameters
    ----------
    features
        What it equals; layer weights and projection are shared, not copied.

    Raises
    ------
    EnhanceError
        If its teacher is of a family that cannot be exported.
    """

    def __init__(self, features: TeacherFeatures) -> None:
        super().__init__()
        teacher: Any = features.teacher
        from distill.backbones.hf import HfTeacher

        if not isinstance(teacher, HfTeacher):
            raise EnhanceError(
                f"export: teacher {teacher.name} cannot be a part of an ONNX graph; wav2vec 2.0, "
                "HuBERT and WavLM can"
            )
        self.states = _States(teacher)
        self.layers, self.sum, self.projection = features.layers, features.sum, features.projection
        self.source, self.target = features.source, features.target
        self.width = features.projection.in_features
        # Two frames: exporters take a single one for a length that never changes.
        self.least_samples = teacher.field_samples + teacher.stride_samples
        self.longest_samples = spans(teacher)[0] * teacher.stride_samples

    def forward(self, noisy: Tensor, frames: int) -> Tensor:
        """Shape: noisy (1, N) -> (1, frames, size)"""
        states = self.layers.normalized(self.states(noisy), self.width)  # (K, 1, T', D)
        summed = self.sum(states)[0]  # (T', D)
        weights = overlaps(self.source, self.target, summed.shape[0], frames)  # (T, T')
        cover = weights.sum(1, keepdim=True)
        aligned = torch.where(cover > 0, weights @ summed / cover.clamp_min(1e-9), 0.0)
        return self.projection(aligned)[None]


class _States(nn.Module):
    """Hidden states of one recording by a transformers model."""

    def __init__(self, teacher: Any) -> None:
        super().__init__()
        self.model = teacher.model
        self.left_pad = teacher.left_pad
        self.eps = teacher.normalize_eps if teacher.do_normalize else None

    def forward(self, wave: Tensor) -> Tensor:
        """Shape: (1, N) -> (L + 1, 1, T', D)"""
        if self.eps is not None:
            variance, mean = torch.var_mean(wave, dim=1, correction=0, keepdim=True)
            wave = (wave - mean) / (variance + self.eps).sqrt()
        padded = F.pad(wave, (self.left_pad, 0))
        result = self.model(
            padded, attention_mask=None, output_hidden_states=True, return_dict=True
        )
        return torch.stack([*result.hidden_states[:-1], result.last_hidden_state])
