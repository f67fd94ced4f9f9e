"""wav2vec and vq-wav2vec as frozen teachers, and their folders on disk.

Hidden states: z (state 0), for vq-wav2vec then the codewords, then the output of each aggregator
layer up to c. The published recipes feed the raw wave, unnormalised.

Group norm over time (see `distill.backbones.wav2vec.model`) makes every frame depend on the whole
clip: the teachers are not causal, and clips run alone or with others of exactly their length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.backbones import read_json
from distill.backbones.folder import prepared, read_weights, write
from distill.backbones.frozen import FrozenTeacher, fingerprint
from distill.backbones.wav2vec.model import VqWav2Vec, Wav2Vec
from enhance.config.settings import parse
from enhance.network.tensors import load_exactly

SAMPLE_RATE = 16000

NETWORKS = {kind.config_type.model_type: kind for kind in (Wav2Vec, VqWav2Vec)}
"""By the ``model_type`` of their ``config.json``."""


class Wav2VecTeacher(FrozenTeacher):
    """A frozen `Wav2Vec` or `VqWav2Vec`; arguments as of `FrozenTeacher`.

    ``do_normalize`` brings each clip to zero mean and unit variance first; no published checkpoint
    wants it. The zeros of ``left_pad`` enter the norms' statistics: 0 gives the states of the
    published code.
    """

    def __init__(
        self,
        model: Wav2Vec,
        name: str,
        *,
        sample_rate: int = SAMPLE_RATE,
        do_normalize: bool = False,
        left_pad: int | None = None,
    ) -> None:
        field, stride = model.config.geometry
        super().__init__(
            model,
            name,
            sample_rate=sample_rate,
            field_samples=field,
            stride_samples=stride,
            widths=model.state_widths,
            left_pad=left_pad,
            reach_frames=model.config.context_frames - 1,
        )
        self.family, self.do_normalize = model.config.model_type, do_normalize
        settings = [model.config.to_dict(), sample_rate, do_normalize, self.left_pad]
        self.fingerprint = fingerprint(settings, self.model.state_dict())

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """z, then each state behind it."""
        waves = torch.stack(clips)  # (B, n)
        if self.do_normalize:
            variance, mean = torch.var_mean(waves, dim=1, correction=0, keepdim=True)
            waves = (waves - mean) / (variance + 1e-7).sqrt()
        states: list[Tensor] = self.model.states(F.pad(waves, (self.left_pad, 0)))
        return states


def save(model: Wav2Vec, folder: Path) -> None:
    """Write a model folder: ``model.safetensors``, two JSON files, ``config.json`` last.

    An `EnhanceError` if a weight is not finite, or a file cannot be written.
    """
    tensors = {name: tensor.float() for name, tensor in model.state_dict().items()}
    prepare = {"do_normalize": False, "sampling_rate": SAMPLE_RATE}
    write(folder, tensors, model.config.to_dict(), prepare)


def read_model(folder: Path) -> Wav2Vec:
    """Read what `save` wrote, in eval mode.

    An `EnhanceError` if a file is missing, or the weights do not fit the architecture.
    """
    values: dict[str, Any] = read_json(folder / "config.json", "it names the kind of model")
    kind: Any = NETWORKS[values["model_type"]]
    given = {k: v for k, v in values.items() if k not in ("model_type", "architectures")}
    model: Wav2Vec = kind(parse(kind.config_type, given, str(folder / "config.json")))
    path = folder / "model.safetensors"
    load_exactly(model, read_weights(path), str(path))
    return model.eval()


def load(folder: Path, name: str, left_pad: int | None = None) -> Wav2VecTeacher:
    """Load a teacher from what `save` wrote; see `distill.backbones.load`."""
    return Wav2VecTeacher(read_model(folder), name, left_pad=left_pad, **prepared(folder))
