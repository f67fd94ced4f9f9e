"""A small decoder from features to the spectrum in decibels.

A linear map of every frame to every bin, and beside it residual blocks that see neighbours in
time (ConvNeXt: Liu et al. 2022, in one dimension): a depthwise convolution, layer norm, and a
two-layer perceptron. Both paths start at zero, so that training starts from the mean spectrum and
every gain over it is the features'. Inputs and outputs are normalised, feature by feature and band
by band, by statistics of the training clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.analysis.reconstruct.spectrum import BINS


class Block(nn.Module):
    """One residual block over frames."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, T, W) -> (B, T, W)"""
        y = self.mix(x.transpose(1, 2)).transpose(1, 2)  # (B, T, W)
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm(y))))


class Decoder(nn.Module):
    """Features on the spectrum's frames to decibels.

    From ``inputs`` features D of a frame, over ``width`` channels W of the residual path in so many
    ``blocks``, whose convolutions see ``kernel`` frames, odd; 7 are 56 ms.
    """

    def __init__(self, inputs: int, width: int, blocks: int, kernel: int) -> None:
        super().__init__()
        self.direct = nn.Linear(inputs, BINS)
        self.inward = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*(Block(width, kernel) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.outward = nn.Linear(width, BINS)
        for last in (self.direct, self.outward):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.input_mean: Tensor
        self.input_scale: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_scale", torch.ones(inputs))
        self.register_buffer("mean", torch.zeros(BINS))  # dB
        self.register_buffer("scale", torch.ones(BINS))

    def normalize_by(self, features: Tensor, spectrum: Tensor) -> None:
        """Take mean and deviation of every feature and band from these frames.

        Shape: features (M, D), on their own frames; spectrum (M', F), dB
        """
        for mean, scale, values in (
            (self.input_mean, self.input_scale, features),
            (self.mean, self.scale, spectrum),
        ):
            mean.copy_(values.double().mean(0))
            # A feature that never changes tells nothing: it stays at zero.
            scale.copy_(values.double().std(0).clamp_min(1e-4))

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Decibels of every frame; those without features (not ``valid``) by their neighbours.

        Shape: (B, T, D) on the spectrum's frames (`distill.teacher.frames.resample`), bool (B, T)
        to (B, T, F)
        """
        x = (features - self.input_mean) / self.input_scale * valid[..., None]
        y = self.direct(x) + self.outward(self.norm(self.blocks(self.inward(x))))  # (B, T, F)
        return y * self.scale + self.mean
