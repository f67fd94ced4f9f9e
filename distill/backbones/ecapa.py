"""ECAPA-TDNN speaker encoders as frozen teachers, from our own folders and published ones.

The hidden states are the frame-level outputs of every block: state 0 of the first TDNN block,
states 1 to 3 of the SE-Res2 blocks, state 4 of their aggregation (MFA, wider: the others are
zero-padded to its width). There is no state before the first block: the input is a log-mel
spectrogram, not a state of the model.

``field_samples`` is the window of one log-mel frame. The convolutions reach further
(`EcapaConfig.context_frames`), and means over the clip reach everywhere: see
`distill.backbones.ecapa_model`. Hence not causal, and batches of equal length only.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from distill.backbones import ecapa_model, ecapa_published
from distill.backbones.ecapa_model import FIELD, STRIDE, Ecapa
from distill.backbones.frozen import FrozenTeacher, by_length, check_lengths, fingerprint
from enhance.errors import EnhanceError


class EcapaTeacher(FrozenTeacher):
    """A frozen ECAPA-TDNN; ``left_pad`` is field - stride = 240 for None.

    The published framing has 200 zeros; `embedding` always uses that.
    """

    family = "ecapa-tdnn"

    def __init__(self, model: Ecapa, name: str, left_pad: int | None = None) -> None:
        super().__init__(
            model,
            name,
            field_samples=FIELD,
            stride_samples=STRIDE,
            widths=model.config.channels,
            left_pad=left_pad,
            reach_frames=max(model.config.context_frames),
        )
        self.embedding_size = model.config.embedding
        settings = [ecapa_model.MODEL_TYPE, asdict(model.config), self.left_pad]
        self.fingerprint = fingerprint(settings, model.network.state_dict())

    def frames(self, samples: int) -> int:
        """Frames of a clip: floor((N + left_pad - 200) / 160) + 1; 0 under `min_frames`.

        The last ones reach up to 200 samples past the end, where zeros stand.
        """
        count: int = self.model.config.frames(samples, self.left_pad)
        return count

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """Frame-level output of every block."""
        features = self.model.features(torch.stack(clips), self.left_pad)  # (B, T', M)
        return [state.transpose(1, 2) for state in self.model.states(features)]

    @torch.no_grad()
    def embedding(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Speaker embeddings, to be compared by their cosine; the published framing.

        Shape: waves (B, N), lengths (B,) or None for N each -> (B, E)

        An `EnhanceError` if shapes do not fit together, or a clip is too short.
        """
        if lengths is None:
            lengths = torch.full((len(waves),), waves.shape[-1])
        sizes = check_lengths(waves, lengths)
        if short := [n for n in sizes if not self.model.config.frames(n)]:
            raise EnhanceError(f"{self.name}: a clip of {short[0]} samples is too short to embed")
        out = waves.new_zeros((len(sizes), self.embedding_size), dtype=torch.float32)
        for rows in by_length(range(len(sizes)), sizes):
            with torch.autocast(waves.device.type, enabled=False):
                out[rows] = self.model(waves[rows, : sizes[rows[0]]])
        return out


def load(folder: Path, name: str, left_pad: int | None = None) -> EcapaTeacher:
    """Load a folder of ours or a published one of speechbrain; see `distill.backbones.load`."""
    source = ecapa_published if ecapa_published.is_published(folder) else ecapa_model
    return EcapaTeacher(source.read(folder), name, left_pad)
