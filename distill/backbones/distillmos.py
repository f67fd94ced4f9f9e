"""The quality model DistillMOS as a frozen teacher: weights of the package `distillmos` 0.9.1.

Stahl and Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based
Speech Quality Assessment" (ICASSP 2025): a student of XLS-R that rates the quality of speech. A
window of 7.68 s, brought to a peak of 1, becomes a spectrum with compressed magnitudes (20 ms
every 10 ms), 1,024 features every 20 ms by six convolutions, and goes through seven transformer
layers of 200. The network is built here, its rating head left out; of the package only the file
of weights is read, none of its code runs.

State 0 is the output of the convolutions, 1,024 wide; states 1 to 7 are those of the layers.

The layers know positions of one window only. A shorter clip is followed by zeros, as in the
package; a longer one is heard in windows that overlap by half, and each frame is taken from the
window that has it nearest to its middle. Peak, attention and zeros reach over the whole window:
the teacher is not causal, and what it says of a clip depends on nothing else in a batch.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.folder import read_weights
from distill.backbones.frozen import FrozenTeacher, fingerprint
from enhance.network.tensors import load_exactly

STRIDE = 320
FRAMES = 384
"""Of a window, 7.68 s."""
LAYERS, WIDTH, HEADS = 7, 200, 8
CHANNELS = (2, 64, 64, 128, 256, 256, 256)
FEATURES = 1024
"""256 channels of the last convolution in 4 bands."""

_WINDOW, _HOP = 320, 160  # of the STFT
_SAMPLES = FRAMES * STRIDE
_REACH = len(CHANNELS) - 1  # STFT frames to a side that the convolutions see
_FIRST = -(_REACH * _HOP + (_WINDOW - _HOP) // 2)  # first sample of frame 0's field
FIELD = 2 * _REACH * _HOP + _WINDOW
"""Samples that the convolutions of one frame see, 140 ms."""


class DistillMos(nn.Module):
    """Convolutions and transformer layers of DistillMOS."""

    def __init__(self) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(CHANNELS)):
            stride = (1 if i == 0 else 2, 2 if i == _REACH - 1 else 1)  # frequency, time
            convolutions += [nn.Conv2d(a, b, 3, stride, (0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*convolutions)
        self.norms = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.BatchNorm1d(FEATURES))
        self.project = nn.Linear(FEATURES, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, batch_first=True)
            for _ in range(LAYERS)
        )
        self.register_buffer("positions", torch.zeros(1, FRAMES, WIDTH))

    def convolve(self, waves: Tensor) -> Tensor:
        """State 0, a frame for each whole stride.

        Shape: (B, N) -> (B, T', 1024)
        """
        side = (_WINDOW - _HOP) // 2
        padded = F.pad(waves, (side, side), mode="reflect")
        window = torch.hann_window(_WINDOW, device=waves.device)
        spec = torch.stft(
            padded, _WINDOW, _HOP, window=window, center=False, return_complex=True
        )  # (B, F, T)
        parts = torch.view_as_real(spec).permute(0, 3, 1, 2)  # (B, 2, F, T)
        magnitude = parts.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        out: Tensor = self.cnn(magnitude**0.3 * parts / magnitude)  # (B, 256, 4, T')
        return out.flatten(1, 2).transpose(1, 2)

    def forward(self, waves: Tensor, heard: int) -> list[Tensor]:
        """States of windows; the convolutions skip the zeros after ``heard`` samples, which give
        the same frames everywhere but at the window's end.

        Shape: (B, 122880) -> (B, 384, 1024), then 7 times (B, 384, 200)
        """
        peak = waves.abs().amax(1, keepdim=True)
        waves = waves / (peak + 1e-8)
        cut = heard // STRIDE + 8
        if cut < FRAMES:
            silence = self.convolve(waves.new_zeros(1, 16 * STRIDE))
            filled = FRAMES - cut  # and 3 frames that see the end
            middle = silence[:, 8:9].expand(len(waves), filled, -1)
            end = silence[:, -3:].expand(len(waves), -1, -1)
            first = self.convolve(waves[:, : cut * STRIDE])[:, : cut - 3]
            features = torch.cat([first, middle, end], 1)
        else:
            features = self.convolve(waves)
        states = [features]
        x = self.project(self.norms(features.transpose(1, 2)).transpose(1, 2)) + self.positions
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states


class DistillMosTeacher(FrozenTeacher):
    """A frozen `DistillMos`; without ``left_pad`` no zeros stand before the input, as in the
    package.
    """

    family = "distillmos"

    def __init__(self, model: DistillMos, name: str, left_pad: int | None = None) -> None:
        super().__init__(
            model,
            name,
            field_samples=FIELD,
            stride_samples=STRIDE,
            widths=(FEATURES, *[WIDTH] * LAYERS),
            equal_lengths_only=False,
            left_pad=left_pad or 0,
        )
        self.offset_samples = _FIRST - self.left_pad
        self.fingerprint = fingerprint(["distillmos", self.left_pad], self.model.state_dict())

    def frames(self, samples: int) -> int:
        """Frames of a clip: one for each whole stride; the last fields pass its end."""
        return (samples + self.left_pad) // STRIDE if samples else 0

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """States of every clip from its own windows."""
        padded = [F.pad(clip, (self.left_pad, 0)) for clip in clips]
        starts = [window_starts(len(clip)) for clip in padded]
        rows = [
            F.pad(part := clip[start : start + _SAMPLES], (0, _SAMPLES - len(part)))
            for clip, own in zip(padded, starts, strict=True)
            for start in own
        ]
        heard = min(max(len(clip) for clip in padded), _SAMPLES)
        states = self.model(torch.stack(rows), heard)
        sizes = [len(own) for own in starts]
        return [
            nn.utils.rnn.pad_sequence([joined(x) for x in state.split(sizes)], batch_first=True)
            for state in states
        ]


def window_starts(samples: int) -> list[int]:
    """First sample of each window: half a window apart, until the clip is covered."""
    half = _SAMPLES // 2
    return list(range(0, max(samples - half, 1), half))


def joined(windows: Tensor) -> Tensor:
    """One run of frames: of a window its middle half, of the first and last their ends, too.

    Shape: (W, 384, D) -> (T', D)
    """
    quarter = FRAMES // 4
    parts = [
        window[quarter if i else 0 : None if i == len(windows) - 1 else -quarter]
        for i, window in enumerate(windows)
    ]
    return torch.cat(parts)


_NAMES = {
    "cnn.cnn.": "cnn.",
    "transformer_pool_attn.norm_input.": "norms.0.",
    "transformer_pool_attn.transformer.norm.": "norms.1.",
    "transformer_pool_attn.transformer.linear_proj.": "project.",
    "transformer_pool_attn.transformer.transformer_encoder.layers.": "layers.",
    "transformer_pool_attn.transformer.position_encoding.pe": "positions",
}
"""Prefixes of the package's weights to ours; the rest is the rating head."""


def load(path: Path, name: str, left_pad: int | None = None) -> DistillMosTeacher:
    """Load the teacher from the package's file of weights; see `distill.backbones.load`."""
    weights = read_weights(path, "model")
    own = {
        mine + key.removeprefix(theirs): tensor
        for key, tensor in weights.items()
        for theirs, mine in _NAMES.items()
        if key.startswith(theirs)
    }
    model = DistillMos()
    load_exactly(model, own, str(path))
    return DistillMosTeacher(model, name, left_pad)
