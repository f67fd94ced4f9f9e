"""ECAPA-TDNN speaker encoders as frozen teachers, from our own folders and published ones.

The hidden states are the frame-level outputs of every block: state 0 of the first TDNN block,
states 1 to 3 of the SE-Res2 blocks, state 4 of their aggregation (MFA, wider: the others are
zero-padded to its width). There is no state before the first block: the input is a log-mel
spectrogram, not a state of the model.

``field_samples`` is the window of one log-mel frame. The convolutions reach further
(`EcapaTeacher.context_frames`), and means over the clip reach everywhere: see
`distill.backbones.ecapa_model`. Hence not causal, and batches of equal length only.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones import ecapa_model, ecapa_published, read_json
from distill.backbones.ecapa_model import FIELD, SAMPLE_RATE, STRIDE, Ecapa
from enhance.errors import EnhanceError


class EcapaTeacher(nn.Module):
    """A frozen ECAPA-TDNN behind the `distill.teacher.Teacher` contract.

    Parameters
    ----------
    model
        Front end and network.
    name
        How it was asked for.
    left_pad
        Zeros before the input; None takes field - stride = 240. The published framing has 200;
        `embedding` always uses that.
    """

    causal = False
    sample_rate = SAMPLE_RATE
    field_samples = FIELD
    stride_samples = STRIDE
    equal_lengths_only = True

    def __init__(self, model: Ecapa, name: str, left_pad: int | None = None) -> None:
        super().__init__()
        self.model = model.float().requires_grad_(False).eval()
        self.name = name
        self.left_pad = FIELD - STRIDE if left_pad is None else left_pad
        if not 0 <= self.left_pad < FIELD:
            raise EnhanceError(
                f"left_pad {self.left_pad}: must be from 0 to {FIELD - 1} samples "
                "(a whole field of zeros would make a frame of nothing)"
            )
        self.offset_samples = -self.left_pad
        self.widths: tuple[int, ...] = model.config.widths
        self.num_layers = len(self.widths) - 1
        self.context_frames = model.config.context_frames
        self.embedding_size = model.config.embedding
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        settings = [ecapa_model.MODEL_TYPE, asdict(self.model.config), self.left_pad]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.model.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> EcapaTeacher:
        """Stay in eval mode: batch norm would otherwise depend on the company."""
        return super().train(False)

    def frames(self, samples: int) -> int:
        """Frames of a clip: floor((N + left_pad - 200) / 160) + 1; 0 under `min_frames`.

        The last ones reach up to 200 samples past the end, where zeros stand.
        """
        return self.model.config.frames(samples, self.left_pad)

    @torch.no_grad()
    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frame-level outputs of a batch, each item as if it were alone.

        Shape: waves (B, N), lengths (B,) -> (L + 1, B, T', D), counts (B,)

        Raises
        ------
        EnhanceError
            If the shapes do not fit together.
        """
        sizes = _sizes(waves, lengths)
        counts = [self.frames(n) for n in sizes]
        shape = (self.num_layers + 1, len(sizes), max(counts, default=0), max(self.widths))
        out = waves.new_zeros(shape, dtype=torch.float32)
        for size, rows in _equal(sizes).items():
            count = self.frames(size)
            if not count:  # too short for one frame: nothing to run
                continue
            with torch.autocast(waves.device.type, enabled=False):
                features = self.model.features(waves[rows, :size], self.left_pad)  # (b, T', M)
                states = self.model.states(features)
            for layer, state in enumerate(states):
                width = self.widths[layer]
                out[layer, rows, :count] = F.pad(
                    state.transpose(1, 2), (0, max(self.widths) - width)
                )
        return out, torch.tensor(counts, device=lengths.device)

    @torch.no_grad()
    def embedding(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Speaker embeddings, to be compared by their cosine; the published framing.

        Shape: waves (B, N), lengths (B,) or None for N each -> (B, E)

        Raises
        ------
        EnhanceError
            If shapes do not fit together, or a clip is too short.
        """
        if lengths is None:
            lengths = torch.full((len(waves),), waves.shape[-1])
        sizes = _sizes(waves, lengths)
        if short := [n for n in sizes if not self.model.config.frames(n)]:
            raise EnhanceError(f"{self.name}: a clip of {short[0]} samples is too short to embed")
        out = waves.new_zeros((len(sizes), self.embedding_size), dtype=torch.float32)
        for size, rows in _equal(sizes).items():
            with torch.autocast(waves.device.type, enabled=False):
                out[rows] = self.model(waves[rows, :size])
        return out


def _sizes(waves: Tensor, lengths: Tensor) -> list[int]:
    if waves.ndim != 2 or lengths.shape != waves.shape[:1]:
        raise EnhanceError(
            f"teacher input of shapes {tuple(waves.shape)} and {tuple(lengths.shape)}: "
            "need waves (B, N) and lengths (B,)"
        )
    sizes = [int(n) for n in lengths.tolist()]
    if any(not 0 <= n <= waves.shape[1] for n in sizes):
        raise EnhanceError(f"lengths {sizes}: must be from 0 to {waves.shape[1]} samples")
    return sizes


def _equal(sizes: list[int]) -> dict[int, list[int]]:
    """Rows of each length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, size in enumerate(sizes):
        groups[size].append(row)
    return groups


def load(folder: Path, name: str, left_pad: int | None = None) -> EcapaTeacher:
    """Load a teacher from a folder of ours or a published one of speechbrain.

    Raises
    ------
    EnhanceError
        If a file is missing, a setting is not one this front end has, or weights do not fit.
    """
    if ecapa_published.is_published(folder):
        return EcapaTeacher(ecapa_published.read(folder), name, left_pad)
    config = read_json(folder / "config.json", "it holds the sizes of the network")
    prepare = read_json(folder / "preprocessor_config.json", "it holds the front end's settings")
    return EcapaTeacher(ecapa_model.read(folder, config, prepare), name, left_pad)
