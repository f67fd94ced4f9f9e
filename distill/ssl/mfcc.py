"""Mel-frequency cepstra in Kaldi's convention, one frame for each frame of the SSL models.

The numbers follow Kaldi's ``compute-mfcc-feats`` with its defaults (which are also those of
HuBERT's first iteration, Hsu et al. 2021, section III-A): frames that fit wholly inside the
signal, constant offset removed, pre-emphasis 0.97, Povey window, 512-point power spectrum,
23 mel bands from 20 Hz to Nyquist, natural log, orthonormal DCT-II, 13 coefficients,
liftering 22. Only the frame shift differs: 320 samples where HuBERT took 160, so that frame t
covers samples ``[320 t, 320 t + 400)`` exactly as frame t of a wav2vec 2.0 style extractor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16000
FIELD = 400
STRIDE = 320
COEFFICIENTS = 13
_FFT = 512
_BANDS = 23
_LIFTER = 22


def frame_count(samples: int) -> int:
    """Frames of 400 samples every 320 that fit wholly into ``samples``: 0 if none does."""
    return 0 if samples < FIELD else (samples - FIELD) // STRIDE + 1


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Window (400,), mel triangles (257, 23) and liftered DCT (23, 13)."""
    n = np.arange(FIELD)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / (FIELD - 1))) ** 0.85
    # Triangles are straight in mel, not in hertz, and Kaldi leaves out the Nyquist bin.
    edges = np.linspace(_mel(20.0), _mel(SAMPLE_RATE / 2), _BANDS + 2)
    bins = _mel(np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT)[:, None]  # (257, 1)
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = np.clip(np.minimum(up, down), 0.0, None)  # (257, 23)
    bank[-1] = 0.0
    k, m = np.arange(COEFFICIENTS), np.arange(_BANDS)
    dct = np.sqrt(2.0 / _BANDS) * np.cos(np.pi / _BANDS * np.outer(m + 0.5, k))  # (23, 13)
    dct[:, 0] = np.sqrt(1.0 / _BANDS)
    return window, bank, dct * (1.0 + 0.5 * _LIFTER * np.sin(np.pi * k / _LIFTER))


def mfcc(wave: np.ndarray) -> np.ndarray:
    """Thirteen cepstral coefficients of every 25 ms frame, 20 ms apart.

    Parameters
    ----------
    wave
        Samples at 16 kHz, (N,), full scale 1.0.

    Returns
    -------
    np.ndarray
        (T, 13) float32 with T = `frame_count` (N).
    """
    count = frame_count(len(wave))
    if count == 0:
        return np.zeros((0, COEFFICIENTS), np.float32)
    window, bank, dct = _tables()
    signal = np.asarray(wave, np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(signal, FIELD)[::STRIDE]  # (T, 400)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, _FFT)) ** 2  # (T, 257)
    energies = np.maximum(power @ bank, np.finfo(np.float32).eps)  # (T, 23)
    return (np.log(energies) @ dct).astype(np.float32)


def deltas(features: np.ndarray, reach: int = 2) -> np.ndarray:
    """Slope of each column over ``2 * reach + 1`` frames by least squares, ends repeated.

    Parameters
    ----------
    features
        (T, D).

    Returns
    -------
    np.ndarray
        (T, D) float32: ``sum_n n (c[t+n] - c[t-n]) / (2 sum_n n^2)``, n = 1..reach.
    """
    if len(features) == 0:
        return np.zeros_like(features, np.float32)
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    size = len(features)
    slope = np.zeros(features.shape, np.float64)
    for n in range(1, reach + 1):
        slope += n * (padded[reach + n :][:size] - padded[reach - n :][:size])
    return (slope / (2 * sum(n * n for n in range(1, reach + 1)))).astype(np.float32)


def mfcc_with_deltas(wave: np.ndarray) -> np.ndarray:
    """`mfcc` with first and second `deltas`: (N,) to (T, 39)."""
    static = mfcc(wave)
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)
