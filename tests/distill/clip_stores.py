"""Clips and teachers that tests of features, targets and windows share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip


def store_of(folder: Path, lengths: list[int], seed: int = 0) -> ClipStore:
    """Clips of coloured noise that swells and fades, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    clips = []
    for i, n in enumerate(lengths):
        wave = np.convolve(rng.standard_normal(n + 31), np.hanning(32), "valid")[:n]
        wave *= 0.03 * (1.2 + np.sin(np.arange(n) / 700))
        path = folder / f"{seed}-{i}.wav"
        soundfile.write(path, wave.astype(np.float32), 16000, "PCM_16")
        clips.append(Clip(path, n / 16000, 16000, "speech"))
    return ClipStore(clips, 16000, quiet=True)


def wave_of(samples: int, seed: int = 0) -> np.ndarray:
    """One clip of noise."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * noise).astype(np.float32)


def by_hand(state: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over the features of each frame, written out."""
    middle = state - state.mean(-1, keepdim=True)
    return middle / (state.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


class Counting:
    """A teacher that counts its calls and may be interrupted."""

    def __init__(self, teacher: object, stop_after: int | None = None) -> None:
        self.inner, self.calls, self.stop_after = teacher, 0, stop_after

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __call__(self, waves: torch.Tensor, lengths: torch.Tensor) -> object:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.inner(waves, lengths)
