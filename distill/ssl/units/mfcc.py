"""Mel-frequency cepstra in Kaldi's convention, one frame for each frame of the SSL models.

The numbers follow Kaldi's ``compute-mfcc-feats`` with its defaults (which are also those of
HuBERT's first iteration, Hsu et al. 2021, section III-A): frames that fit wholly inside the
signal, constant offset removed, pre-emphasis 0.97, Povey window, 512-point power spectrum,
23 mel bands from 20 Hz to Nyquist, natural log, orthonormal DCT-II, 13 coefficients,
liftering 22; torchaudio computes them. Only the frame shift differs: 320 samples where HuBERT took
160, so that frame t covers samples ``[320 t, 320 t + 400)`` exactly as frame t of a wav2vec 2.0
style extractor.
"""

from __future__ import annotations

import numpy as np
import torch

from distill.ssl.data.crops import FIELD, SAMPLE_RATE, STRIDE, frame_count

COEFFICIENTS = 13


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
    from torchaudio.compliance import kaldi

    if not frame_count(len(wave)):
        return np.zeros((0, COEFFICIENTS), np.float32)
    signal = torch.from_numpy(np.asarray(wave, np.float32))[None]
    ms = 1000 / SAMPLE_RATE
    return kaldi.mfcc(signal, frame_length=FIELD * ms, frame_shift=STRIDE * ms, dither=0.0).numpy()


def deltas(features: np.ndarray) -> np.ndarray:
    """Slope of each column over five frames by least squares, ends repeated. (T, D) -> (T, D)"""
    from torchaudio.functional import compute_deltas

    if not len(features):
        return np.zeros_like(features, np.float32)
    return compute_deltas(torch.from_numpy(features.T)).numpy().T


def mfcc_with_deltas(wave: np.ndarray) -> np.ndarray:
    """`mfcc` with first and second `deltas`: (N,) to (T, 39)."""
    static = mfcc(wave)
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)
