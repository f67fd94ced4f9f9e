"""A differentiable ESTOI: how well an estimate keeps the modulations of its target.

Jensen and Taal, "An algorithm for predicting the intelligibility of speech masked by modulated
noise maskers", IEEE/ACM TASLP 24, 2016. At 10 kHz, in frames of 25.6 ms by half of that: amplitudes
of fifteen third octaves from 150 Hz; in each stretch of thirty frames every band, then every frame,
is made zero-mean and of one length; the score is the mean product of both signals' frames.

The measure cuts frames without speech out of the waveforms; here they are left out of the spectra,
which moves the score by some thousandths.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
import torch
from torch import Tensor

from enhance.training.losses.spectra import real_dft

_RATE = 10000  # Hz
_FRAME, _DFT = 256, 512  # samples
_BANDS, _LOWEST = 15, 150  # third octaves, the lowest one's centre in Hz
_STRETCH = 30  # frames: 384 ms
_RANGE_DB = 40  # frames of the target this far under its loudest hold no speech
_SILENCE = 1e-4  # rms: a target at or under it (-80 dBFS) is no speech
_FLOOR = 1e-2  # power of a band 64 dB under the target's: what is under it has hardly a slope


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept for training, even if validation asks first
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Window (256,) and the bins of each band (257, 15)."""
    bins = np.arange(_DFT // 2 + 1)
    edges = _LOWEST * 2 ** ((2 * np.arange(_BANDS + 1) - 1) / 6)  # Hz
    nearest = np.round(edges * _DFT / _RATE)
    bands = (bins[:, None] >= nearest[:-1]) & (bins[:, None] < nearest[1:])
    window = np.hanning(_FRAME + 2)[1:-1]
    return (
        torch.as_tensor(window, dtype=torch.float32, device=device),
        torch.as_tensor(bands, dtype=torch.float32, device=device),
    )


def _frames(wave: Tensor, sample_rate: int, window: Tensor) -> Tensor:
    """Windowed frames at 10 kHz. Shape: (B, N) -> (B, T, 256)"""
    # One DFT cut at 5 kHz: zeros behind the signal keep its ends apart, and a size of many factors
    # of two is quick.
    unit = 64 * sample_rate // gcd(sample_rate, _RATE)
    size = -(-(wave.shape[1] + sample_rate // 32) // unit) * unit
    length = size * _RATE // sample_rate
    slow = torch.fft.irfft(real_dft(wave, size), length) * (length / size)
    slow = slow[:, : max(_FRAME, -(-wave.shape[1] * _RATE // sample_rate))]
    return slow.unfold(1, _FRAME, _FRAME // 2) * window


def _amplitudes(frames: Tensor, bands: Tensor) -> Tensor:
    """Amplitude of each band. Shape: (B, T, 256) -> (B, T, 15)"""
    spec = real_dft(frames, _DFT)
    return ((spec.real.square() + spec.imag.square()) @ bands + _FLOOR).sqrt()


def _unit(x: Tensor, dim: int) -> Tensor:
    """Zero mean and unit length along a dimension."""
    x = x - x.mean(dim, keepdim=True)
    return x * (x.square().sum(dim, keepdim=True) + 1e-8).rsqrt()


def estoi(estimate: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Extended short-time objective intelligibility of each clip; 1 is perfect.

    Clips whose target has less than 384 ms of speech, or lies under -80 dBFS, count as 1, with no
    gradient: ESTOI is not defined there. No gradient reaches ``target``. Waveforms are aligned,
    full scale 1.

    Shape: (B, N), (B, N) -> (B,)
    """
    window, bands = _tables(target.device)
    with torch.no_grad():
        rms = target.square().mean(1, keepdim=True).sqrt()  # (B, 1)
        gain = 1 / rms.clamp_min(_SILENCE)
        wanted = _frames(target * gain, sample_rate, window)
        energy = wanted.square().sum(-1)  # (B, T)
        speaks = energy > energy.amax(1, keepdim=True) * 10 ** (-_RANGE_DB / 10)
        # Frames that speak come first, in their order; stretches of them are counted.
        order = speaks.int().argsort(dim=1, descending=True, stable=True)[..., None]
        last = speaks.sum(1) * (rms[:, 0] > _SILENCE) - _STRETCH  # (B,)
    estimated = _frames(estimate * gain, sample_rate, window)
    parts = []
    for frames in (wanted, estimated):
        amplitudes = _amplitudes(frames, bands).take_along_dim(order, 1)
        stretches = amplitudes.unfold(1, min(_STRETCH, amplitudes.shape[1]), 1)  # (B, S, 15, 30)
        parts.append(_unit(_unit(stretches, 3), 2))
    scores = (parts[0] * parts[1]).sum(2).mean(2)  # (B, S)
    counted = torch.arange(scores.shape[1], device=scores.device) <= last[:, None]
    score = (scores * counted).sum(1) / counted.sum(1).clamp_min(1)
    return torch.where(last >= 0, score, 1.0)
