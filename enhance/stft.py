"""One framing for everything: `StftConfig` and its window.

Derivation. A window ``w`` of length W, hopped by H with H <= W <= 2H, is used twice: before the
forward DFT and after the inverse one. Overlap-add returns the signal unchanged if
``w[n]**2 + w[n + H]**2 = 1`` on the O = W - H samples that two frames share and ``w[n] = 1``
elsewhere. The periodic sine taper ``w[n] = sin(pi n / 2O)`` for n < O, ``cos(pi (n - H) / 2O)``
for n >= H does that. For W = 2H it is the square root of the periodic Hann window.

The pair is then a tight frame: synthesis is the transpose of analysis, and its operator norm is
one. An arbitrary change of the spectrum is therefore never amplified. (A Hann pair with a
normalising division is also exact on the unchanged signal, but amplifies changes near frame
edges: 7.4 times at 400/320.)

Frame t covers samples ``[t H - O, t H + H)``: each hop of new samples makes one frame, the first
with O zeros on its left. Overlap-add completes samples up to ``t H + H - O``, so that the output
of a frame-synchronous system is O samples late (`StftConfig.latency_samples`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enhance.errors import EnhanceError


@dataclass(frozen=True)
class StftConfig:
    """Framing of a model, in samples."""

    sample_rate: int = 16000
    """Samples per second."""
    window_length: int = 400
    """Samples in one frame."""
    hop_length: int = 320
    """New samples per frame; at least half the window."""
    fft_size: int = 400
    """DFT length; at least the window, frames are zero-padded on the right."""

    def __post_init__(self) -> None:
        if self.sample_rate <= 0:
            raise EnhanceError(f"sample_rate {self.sample_rate}: must be positive")
        if not 0 < self.hop_length <= self.window_length <= 2 * self.hop_length:
            raise EnhanceError(
                f"window_length {self.window_length} and hop_length {self.hop_length}: "
                "need hop <= window <= 2 * hop, or overlap-add is not exact"
            )
        if self.fft_size < self.window_length:
            raise EnhanceError(
                f"fft_size {self.fft_size}: must be at least window_length {self.window_length}"
            )

    @property
    def bins(self) -> int:
        """Number of frequency bins F."""
        return self.fft_size // 2 + 1

    @property
    def overlap(self) -> int:
        """Samples that two neighbouring frames share."""
        return self.window_length - self.hop_length

    @property
    def latency_samples(self) -> int:
        """Output sample n of a frame-synchronous stream belongs to input sample n minus this."""
        return self.overlap

    @property
    def algorithmic_latency_samples(self) -> int:
        """From a sample's arrival to its departure at worst, computing time aside: one window."""
        return self.window_length


FRAMINGS: dict[str, StftConfig] = {
    "25-20": StftConfig(16000, 400, 320, 400),
    "25-16": StftConfig(16000, 400, 256, 400),
    "25-12.5": StftConfig(16000, 400, 200, 400),
    "20-10": StftConfig(16000, 320, 160, 320),
    "32-16": StftConfig(16000, 512, 256, 512),
}
"""Framing presets by window and hop in milliseconds at 16 kHz; 25-20 meets the frames of
wav2vec 2.0, HuBERT and WavLM one to one. The last three overlap by half, and their windows leak
least."""


def window(config: StftConfig) -> np.ndarray:
    """Flat-top window with periodic sine tapers over the overlap, float64 (W,)."""
    w = np.ones(config.window_length)
    overlap = config.overlap
    if overlap:
        phase = np.pi * np.arange(overlap) / (2 * overlap)
        w[:overlap] = np.sin(phase)
        w[config.hop_length :] = np.cos(phase)
    return w
