"""Mode `concat`: the enhancer hears, beside its own recurrent output, what a teacher hears.

The teacher listens to the NOISY signal. The chosen hidden states, layer-normalised, are summed
under learned weights (`distill.teacher.layers.LayerSum`), carried to the frames of the STFT by the
overlap of their cells (`distill.teacher.frames.resample`), projected to ``size`` features and put
beside the output of the recurrent bottleneck (`Gcrn.recur`), after the *concat* integration of
Shankar, Tan, Xu and Kumar (arXiv 2403.01369). The loss is the enhancement loss, no term more.

Layer weights and projection are parts of the model. The teacher stays frozen and is needed at run
time too; it is not saved: config.json names it with its fingerprint. Its features look ahead over
the whole recording, so that such a model cannot stream.

In training the teacher is live in each step: mixtures never repeat, so that nothing can be cached.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.find import load
from distill.backbones.hf import HfTeacher
from distill.modes.wrapper import Around
from distill.teacher.contract import Teacher, check_rate
from distill.teacher.frames import FrameGrid, overlaps, resample
from distill.teacher.layers import Layers, LayerSum
from distill.teacher.windows import hear, spans
from enhance.config import ModelConfig
from enhance.config.checked import PositiveInt, checked
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.network.companion import Companion, Frozen, OneWave
from enhance.stft import StftConfig
from enhance.training.objective import Objective

KIND = "teacher-features-1"
"""Format of `TeacherFeatures.describe`."""


@checked
class ConcatConfig:
    """Settings of mode `concat`: keys of `objective` in a run's configuration."""

    teacher: str = "mini-wavlm"
    """Shipped name, folder in the transformers format, checkpoint file, or hub id."""
    layers: str = "weighted"
    """Which hidden states are summed under learned weights: `weighted` (all), `range:i-k`,
    `first_k:k`, `last_k:k`; `last` and `single:k` take one. `enhance info layers` tells what is
    claimed of them."""
    size: PositiveInt = 64
    """Features that the sum is projected to, beside the recurrent output: a fifth of `gcrn-small`'s
    320. Sets `model.gcrn.extra_features`."""


class TeacherFeatures(Companion):
    """Learned weighted sum of a frozen teacher's layers of the noisy signal, projected to ``size``.

    A frame of the STFT that no teacher frame reaches (the last, of a signal's end) gets the
    projection of zeros; ``seed`` draws the projection's first weights. An `EnhanceError` if the
    teacher has no such layers, or hears another sample rate.
    """

    def __init__(
        self, teacher: Teacher, layers: str, size: int, stft: StftConfig, seed: int = 0
    ) -> None:
        super().__init__()
        check_rate(teacher, stft.sample_rate)
        self.size = size
        self.frozen = Frozen(teacher)
        self.layers = Layers.parse(layers, teacher.num_layers)
        self.source, self.target = FrameGrid.of_teacher(teacher), FrameGrid.of_student(stft)
        width = self.layers.width(teacher.widths, teacher.name)
        self.sum = LayerSum(len(self.layers.indices))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Linear(width, size)

    @property
    def teacher(self) -> Teacher:
        return self.frozen.value

    def forward(self, noisy: Tensor, frames: int) -> Tensor:
        """Shape: noisy (B, N) -> (B, frames, size)"""
        with torch.autocast(noisy.device.type, enabled=False):
            width = self.projection.in_features
            states = hear(self.teacher, noisy.float(), lambda x: self.layers.normalized(x, width))
            summed = self.sum(states)  # (K, B, T', D) -> (B, T', D)
            valid = summed.new_ones(summed.shape[:2], dtype=torch.bool)
            aligned, _ = resample(summed, valid, self.source, self.target, frames)  # (B, T, D)
        return self.projection(aligned)

    def one_wave(self) -> OneWave:
        return OneWaveFeatures(self)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "needs": f"the hidden states of teacher {self.teacher.name}",
            "place": self.teacher.name,
            "fingerprint": self.teacher.fingerprint,
            "layers": self.layers.text,
            "size": self.size,
        }


class Concatenation(Around):
    """What ``inner`` minimises, with a teacher's features beside the recurrent output.

    An `EnhanceError` if the teacher does not fit the model.
    """

    mode = "concat"

    def __init__(
        self,
        config: ConcatConfig,
        model: ModelConfig,
        inner: Objective,
        *,
        teacher: Teacher,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.config = config
        features = TeacherFeatures(teacher, config.layers, config.size, model.stft, seed)
        self.model_config(model)  # refuses another width
        self._features = Frozen(features)  # a part of the model, not of the objective

    def model_config(self, config: ModelConfig) -> ModelConfig:
        """With `gcrn.extra_features` as wide as the features are."""
        config = self.inner.model_config(config)
        check_size(self.config, config)
        return replace(config, gcrn=replace(config.gcrn, extra_features=self.config.size))

    def companion(self) -> Companion:
        return self._features.value

    def about(self) -> dict[str, Any]:
        teacher = self._features.value.teacher
        return {
            **to_dict(self.config),
            "teacher_fingerprint": teacher.fingerprint,
            "teacher_causal": teacher.causal,
        }

    def log(self) -> dict[str, float]:
        """And which layers the enhancer listens to: their weighted mean, the first, its weight.

        All weights of a kept model are in ``load_model(run)[0].companion.sum.weights``.
        """
        features = self._features.value
        weights = features.sum.weights.tolist()
        named = list(zip(weights, features.layers.indices, strict=True))
        weight, top = max(named)
        mean = sum(share * i for share, i in named)
        mine = {"layer_mean": mean, "layer_top": top, "layer_top_weight": weight}
        return {**self.inner.log(), **mine}


def check_size(config: ConcatConfig, model: ModelConfig) -> None:
    """Refuse a network whose `extra_features` were set to something else."""
    if model.gcrn.extra_features not in (0, config.size):
        raise EnhanceError(
            f"model.gcrn.extra_features {model.gcrn.extra_features}: mode concat makes "
            f"{config.size} features (objective.size); leave extra_features out"
        )


def find_companion(record: dict[str, Any], model: ModelConfig) -> TeacherFeatures:
    """The companion of a saved model: a `enhance.network.companion.Factory`.

    An `EnhanceError` if the record is of another kind, or its teacher cannot be loaded.
    """
    if record.get("kind") != KIND:
        raise EnhanceError(
            f"config.json: companion of kind {record.get('kind')!r}, this version reads {KIND!r}"
        )
    try:
        teacher = load(str(record.get("place", "")))
    except EnhanceError as error:
        raise EnhanceError(
            f"{error}; the model was trained with this teacher: write where it lies into "
            "companion.place of the model's config.json"
        ) from error
    return TeacherFeatures(teacher, record["layers"], record["size"], model.stft)


class OneWaveFeatures(OneWave):
    """`TeacherFeatures` for one recording, in a form that an exporter can follow.

    Those cut long recordings into windows by lengths that are Python numbers, which a graph for any
    length cannot do. Here one recording goes through at once, and what depends on its length is
    arithmetic on tensors. Layer weights and projection are shared, not copied. An `EnhanceError` if
    its teacher is of a family that cannot be exported.
    """

    def __init__(self, features: TeacherFeatures) -> None:
        super().__init__()
        teacher: Any = features.teacher
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
