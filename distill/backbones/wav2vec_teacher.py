"""wav2vec and vq-wav2vec as frozen teachers, and their folders on disk.

Hidden states: z (state 0), for vq-wav2vec then the codewords, then the output of each aggregator
layer up to c. The published recipes feed the raw wave, unnormalised.

Group norm over time (see `distill.backbones.wav2vec`) makes every frame depend on the whole clip:
the teachers are not causal, and clips run alone or with others of exactly their length.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones import read_json
from distill.backbones.wav2vec import Wav2Vec, Wav2VecConfig
from enhance.errors import EnhanceError
from enhance.files import atomic, write_json

SAMPLE_RATE = 16000

Model = TypeVar("Model", bound=Wav2Vec)


class Wav2VecTeacher(nn.Module):
    """A frozen `Wav2Vec` or `VqWav2Vec` behind the `distill.teacher.Teacher` contract.

    Parameters
    ----------
    model
        The model.
    name
        How it was asked for.
    sample_rate
        Samples per second of its input.
    do_normalize
        Whether each clip is brought to zero mean and unit variance first. No published
        checkpoint wants it.
    left_pad
        Zeros before the input; None takes field - stride. They enter the norms' statistics:
        0 gives the states of the published code.
    """

    causal = False

    def __init__(
        self,
        model: Wav2Vec,
        name: str,
        *,
        sample_rate: int = SAMPLE_RATE,
        do_normalize: bool = False,
        left_pad: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model.float().requires_grad_(False).eval()
        self.name = name
        self.sample_rate = sample_rate
        self.do_normalize = do_normalize
        self.field_samples, self.stride_samples = model.config.geometry
        usual = max(self.field_samples - self.stride_samples, 0)
        self.left_pad = usual if left_pad is None else left_pad
        if not 0 <= self.left_pad < self.field_samples:
            raise EnhanceError(
                f"left_pad {self.left_pad}: must be from 0 to {self.field_samples - 1} samples "
                "(a whole field of zeros would make a frame of nothing)"
            )
        self.offset_samples = -self.left_pad
        self.widths: tuple[int, ...] = model.state_widths
        self.num_layers = len(self.widths) - 1
        self.equal_lengths_only = True
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        settings = [
            self.model.config.to_dict(), self.sample_rate, self.do_normalize, self.left_pad,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> Wav2VecTeacher:
        """Stay in eval mode: dropout would make the target random."""
        return super().train(False)

    def frames(self, samples: int) -> int:
        """Frames of a clip: floor((N + left_pad - field) / stride) + 1, or 0."""
        return max((samples + self.left_pad - self.field_samples) // self.stride_samples + 1, 0)

    @torch.no_grad()
    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of a batch, each item as if it were alone.

        States narrower than the widest are followed by zeros; ``widths`` has their true widths.

        Shape: waves (B, N), lengths (B,) -> (L + 1, B, T', D), counts (B,)

        Raises
        ------
        EnhanceError
            If the shapes do not fit together.
        """
        sizes, counts = self._sizes(waves, lengths)
        shape = (len(self.widths), len(sizes), max(counts, default=0), max(self.widths))
        out = waves.new_zeros(shape, dtype=torch.float32)
        for rows in self._equal(sizes, counts):
            batch = self._prepare(waves, rows, sizes[rows[0]])
            with torch.autocast(batch.device.type, enabled=False):
                states = self.model.states(batch)
            for k, state in enumerate(states):
                out[k, rows, : state.shape[1], : state.shape[2]] = state
        return out, torch.tensor(counts, device=lengths.device)

    def _sizes(self, waves: Tensor, lengths: Tensor) -> tuple[list[int], list[int]]:
        if waves.ndim != 2 or lengths.shape != waves.shape[:1]:
            raise EnhanceError(
                f"teacher input of shapes {tuple(waves.shape)} and {tuple(lengths.shape)}: "
                "need waves (B, N) and lengths (B,)"
            )
        sizes = [int(n) for n in lengths.tolist()]
        if any(not 0 <= n <= waves.shape[1] for n in sizes):
            raise EnhanceError(f"lengths {sizes}: must be from 0 to {waves.shape[1]} samples")
        return sizes, [self.frames(n) for n in sizes]

    def _equal(self, sizes: list[int], counts: list[int]) -> list[list[int]]:
        """Rows of the batch that have the same length and at least one frame."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            if count:
                groups[size].append(row)
        return list(groups.values())

    def _prepare(self, waves: Tensor, rows: list[int], size: int) -> Tensor:
        """Shape: (B, N) -> (rows, left_pad + size)"""
        clips = waves[rows, :size].float()
        if self.do_normalize:
            variance, mean = torch.var_mean(clips, dim=1, correction=0, keepdim=True)
            clips = (clips - mean) / (variance + 1e-7).sqrt()
        return F.pad(clips, (self.left_pad, 0))


def save(model: Wav2Vec, folder: Path) -> None:
    """Write a model folder: ``model.safetensors``, two JSON files, ``config.json`` last.

    Raises
    ------
    EnhanceError
        If a weight is not finite, or a file cannot be written.
    """
    tensors = {n: t.detach().cpu().float().contiguous() for n, t in model.state_dict().items()}
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise EnhanceError(f"{folder}: {bad[0]} is not finite; the training diverged")
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    write_json(
        folder / "preprocessor_config.json",
        {"do_normalize": False, "sampling_rate": SAMPLE_RATE},
    )
    write_json(folder / "config.json", model.config.to_dict())


def read_model(kind: type[Model], folder: Path) -> Model:
    """Read what `save` wrote, in eval mode.

    Raises
    ------
    EnhanceError
        If a file is missing, or the weights do not fit the architecture.
    """
    values = read_json(folder / "config.json", "it names the kind of model")
    config_type: type[Wav2VecConfig] = kind.config_type
    if values.get("model_type") != config_type.model_type:
        raise EnhanceError(
            f"{folder}: model_type {values.get('model_type')!r} is not {config_type.model_type}"
        )
    try:
        model = kind(config_type.from_dict(values))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except EnhanceError as error:
        raise EnhanceError(f"{folder / 'config.json'}: {error}") from error
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnhanceError(
            f"{folder}: cannot be loaded as {config_type.model_type} ({reason})"
        ) from error
    return model.eval()


def load_folder(
    kind: type[Wav2Vec], folder: Path, name: str, left_pad: int | None = None
) -> Wav2VecTeacher:
    """Load a teacher from what `save` wrote.

    Raises
    ------
    EnhanceError
        If a file is missing or does not fit.
    """
    return Wav2VecTeacher(read_model(kind, folder), name, left_pad=left_pad, **prepared(folder))


def prepared(folder: Path) -> dict[str, Any]:
    """What a folder's ``preprocessor_config.json`` asks for.

    Raises
    ------
    EnhanceError
        If the file is missing or does not say whether to normalise.
    """
    prepare = read_json(
        folder / "preprocessor_config.json", "do_normalize decides what the model hears"
    )
    if not isinstance(prepare.get("do_normalize"), bool):
        raise EnhanceError(
            f"{folder / 'preprocessor_config.json'}: do_normalize must be true or false "
            "(it decides what the model hears)"
        )
    return {
        "do_normalize": prepare["do_normalize"],
        "sample_rate": int(prepare.get("sampling_rate", SAMPLE_RATE)),
    }
