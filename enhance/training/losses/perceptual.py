"""A differentiable PESQ: how much louder or softer an estimate sounds than its target.

The perceptual model of PESQ, written from its descriptions: Rix, Beerends, Hollier and Hekstra,
"Perceptual evaluation of speech quality (PESQ) - a new method for speech quality assessment of
telephone networks and codecs", ICASSP 2001; Beerends et al., "PESQ, part II: psychoacoustic
model", J. Audio Eng. Soc. 50, 2002; wideband by ITU-T P.862.2. As training loss in the manner of
Martin-Donas et al., "A deep learning loss function based on the perceptual evaluation of the
speech quality", IEEE SPL 25, 2018.

1. Both signals to one speech level (P.862: 325 to 3250 Hz), then a high-pass at 100 Hz. This is
   done in one DFT of the whole signal: a recursive filter in time costs ten times as much, and
   filtering the short spectra instead would also filter what leaks into their lowest bins.
2. Power in bands of the critical-band rate (Bark), frames of 32 ms by 16 ms.
3. What is less audible is taken out: the mean spectrum of the estimate is put on the target, the
   level of each frame of the target on the estimate.
4. Loudness by Zwicker's law. Differences inside a dead zone (masking) count as nothing.
5. Per frame a symmetrical disturbance, and an asymmetrical one that counts what was added,
   not what was left out; over time a 6-norm of half-overlapping 20 frames and a 2-norm of those.

Left out: time alignment (estimate and target are aligned), the skipping of silent ends, and the
second look at bad intervals. Added: floors for silence, and a slope above PESQ's limit of a
frame's disturbance (see `_LIMIT_SLOPE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from enhance.errors import EnhanceError
from enhance.training.losses.spectra import power_spectra, real_dft

SAMPLE_RATE = 16000
"""The only rate of wideband PESQ."""

_FRAME = 512  # samples: 32 ms, Hann, half overlap
_SPEECH_HZ = (345.0, 3260.0)  # half-power points of P.862's level filter
_LEVEL = 1e7  # mean power of the speech band that both signals get
_TONE = 29.54  # amplitude, on that scale, of a 1 kHz tone of 40 dB SPL: power 1e4, 1 sone
_SILENCE = 1e-8  # power of the target's speech band, full scale 1: at or below it is no speech
_QUIET = 1e-3  # an estimate this far (30 dB) under the target is not brought to level in full
_LIMIT = 45.0  # PESQ's largest disturbance of one frame
_LIMIT_SLOPE = 0.1
"""Slope of a frame's disturbance above PESQ's limit, where PESQ has none. At -5 dB four of five
noisy frames are above it: without a slope they teach nothing."""

_CRITICAL_BANDS_HZ = (
    # Upper edges of the critical bands 0, 1, 2 ... Bark (Zwicker 1961).
    *(0, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700),
    *(3150, 3700, 4400, 5300, 6400, 7700, 9500),
)
_NARROWEST, _WIDEST = 0.318, 0.585  # Bark: one DFT bin at 0 Hz; at 8 kHz
_THRESHOLD = (
    # Hz and dB SPL: P.862's threshold of hearing in round figures (within 1 dB).
    *((32, 64), (64, 48.5), (96, 37), (130, 30.5), (200, 20), (265, 12.5), (340, 7), (450, 1)),
    *((570, -2.5), (720, -5), (970, -6), (1250, -6), (2000, -3.6), (2500, -3), (4200, -3)),
    *((5900, -4.5), (8000, -2.5)),
)


@dataclass(frozen=True)
class _Tables:
    """Constants of the model, for K bands."""

    bands: Tensor  # (F, K): spectral power to power density per Bark
    threshold: Tensor  # (K,): power at the threshold of hearing
    exponent: Tensor  # (K,): of Zwicker's law
    scale: Tensor  # (K,): loudness in sone per Bark
    width: Tensor  # (K,): Bark
    window: Tensor  # (512,)


def _band_edges() -> tuple[np.ndarray, np.ndarray]:
    """Edges of the bands (K + 1,) in Bark and in Hz; the first starts half a bin above 0 Hz."""
    hertz = np.asarray(_CRITICAL_BANDS_HZ, dtype=np.float64)
    bark = np.arange(len(hertz))
    edges = [float(np.interp(0.5 * SAMPLE_RATE / _FRAME, hertz, bark))]
    top = float(np.interp(SAMPLE_RATE / 2, hertz, bark))
    while edges[-1] < top:
        edges.append(edges[-1] + _NARROWEST + (_WIDEST - _NARROWEST) * edges[-1] / top)
    return np.asarray(edges), np.interp(edges, bark, hertz)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept for training, even if validation asks first
def _tables(device: torch.device) -> _Tables:
    bark, hertz = _band_edges()
    width, centre = np.diff(bark), (bark[1:] + bark[:-1]) / 2
    bins = np.arange(_FRAME // 2 + 1) * SAMPLE_RATE / _FRAME
    inside = (bins[:, None] >= hertz[:-1]) & (bins[:, None] < hertz[1:])
    inside[-1] = False  # PESQ stops below the last bin
    # Bins of a band are averaged, times the band's hertz per Bark.
    bands = inside * (np.diff(hertz) / width / inside.sum(0))
    knots = np.asarray(_THRESHOLD, dtype=np.float64)
    decibels = np.interp(np.log((hertz[1:] + hertz[:-1]) / 2), np.log(knots[:, 0]), knots[:, 1])
    threshold = 10 ** (decibels / 10)
    exponent = 0.23 * np.clip(6 / (centre + 2), 1, 2) ** 0.15
    scale = (2 * threshold) ** exponent

    window = torch.hann_window(_FRAME, dtype=torch.float64)
    tone = _TONE * np.sin(2 * np.pi * 1000 / SAMPLE_RATE * np.arange(_FRAME))
    heard = np.abs(np.fft.rfft(tone * window.numpy())) ** 2 @ bands
    bands *= 1e4 / heard.max()
    ratio = np.maximum(1e4 * heard / heard.max() / threshold, 1)
    scale /= np.sum(width * scale * ((0.5 + 0.5 * ratio) ** exponent - 1))

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=device)

    return _Tables(*(tensor(x) for x in (bands, threshold, exponent, scale, width, window.numpy())))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _filters(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For a DFT of ``size``: the high-pass of P.862.2 and the speech band, each (size / 2 + 1,).

    The high-pass is a second-order Butterworth at 100 Hz, bilinear.
    """
    hertz = np.arange(size // 2 + 1) * SAMPLE_RATE / size
    s = 1j * np.tan(np.pi * hertz / SAMPLE_RATE)
    corner = np.tan(np.pi * 100 / SAMPLE_RATE)
    high_pass = s**2 / (s**2 + np.sqrt(2) * corner * s + corner**2)
    high_pass *= 10 ** (9 / 20)  # P.862.2's gain
    speech = (hertz >= _SPEECH_HZ[0]) & (hertz <= _SPEECH_HZ[1])
    return (
        torch.as_tensor(high_pass, dtype=torch.complex64, device=device),
        torch.as_tensor(speech, dtype=torch.float32, device=device),
    )


def _speech_power(spec: Tensor, speech: Tensor, size: int, length: int) -> Tensor:
    """Mean power of the speech band of signals of ``length``. Shape: (B, size / 2 + 1) -> (B,)"""
    energy = (spec.real.square() + spec.imag.square()) @ speech * (2 / size)
    return energy / (length + 5120)  # PESQ divides by a length with 0.32 s of padding


def _bark_spectrum(spec: Tensor, gain: Tensor, size: int, length: int, t: _Tables) -> Tensor:
    """Power per Bark of the signal that has this DFT, times ``gain`` (B,).

    Shape: (B, size / 2 + 1) -> (B, T, K)
    """
    wave = torch.fft.irfft(spec, size)[:, : max(length, _FRAME)] * gain[:, None]
    return power_spectra(wave, t.window) @ t.bands


def _smooth(gain: Tensor) -> Tensor:
    """``g[t] = 0.8 gain[t] + 0.2 g[t - 1]``, ``g[0] = gain[0]``, to 1e-4. Shape: (B, T)"""
    taps = 0.8 * 0.2 ** torch.arange(5.0, -1, -1, device=gain.device)
    padded = F.pad(gain[:, None], (5, 0), mode="replicate")
    return F.conv1d(padded, (taps / taps.sum())[None, None])[:, 0]


def _over_time(frames: Tensor) -> Tensor:
    """2-norm over half-overlapping 20 frames of their 6-norm, as means. Shape: (B, T) -> (B,)"""
    starts = -(-frames.shape[1] // 10)
    pieces = F.pad(frames, (0, 10 * starts + 10 - frames.shape[1])).unfold(1, 20, 10)
    # 1e-3 keeps the sixth power and its root inside float32 where nothing is heard.
    six = torch.linalg.vector_norm(pieces + 1e-3, ord=6, dim=-1) / 20 ** (1 / 6)
    return six.square().mean(1).sqrt()


def _audible(power: Tensor, threshold: Tensor) -> Tensor:
    """Power above the threshold, else nothing. Shape: (B, T, K) -> (B, T, K)"""
    return power * (power > threshold)


def _equalise(estimated: Tensor, wanted: Tensor, t: _Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Take out what is less audible: a fixed filter, and slow changes of level.

    Shape: (B, T, K), (B, T, K) -> the same two, and the target's audible power (B, T)
    """
    speaks = (_audible(wanted, 100 * t.threshold).sum(-1, keepdim=True) >= 1e7).float()
    long_estimated, long_wanted = (
        (_audible(x, 100 * t.threshold) * speaks).mean(1, keepdim=True) for x in (estimated, wanted)
    )
    wanted = wanted * ((long_estimated + 1e3) / (long_wanted + 1e3)).clamp(0.01, 100)
    heard, got = (_audible(x, t.threshold).sum(-1) for x in (wanted, estimated))
    gain = _smooth((heard + 5e3) / (got + 5e3)).clamp(3e-4, 5)
    return estimated * gain[..., None], wanted, heard


def _disturbance(
    estimated: Tensor, wanted: Tensor, heard: Tensor, limit_slope: float, t: _Tables
) -> Tensor:
    """Weighted sum of the symmetrical and the asymmetrical disturbance. Shape: (B, T, K) -> (B,)"""
    loud_e, loud_w = (
        t.scale * ((0.5 + 0.5 * (x / t.threshold).clamp_min(1)) ** t.exponent - 1)
        for x in (estimated, wanted)
    )
    masked = 0.25 * torch.minimum(loud_e, loud_w)
    difference = F.relu((loud_e - loud_w).abs() - masked) * t.width
    added = ((estimated + 50) / (wanted + 50)) ** 1.2
    added = torch.where(added < 3, 0.0, added.clamp_max(12))
    weight = ((heard + 1e5) / 1e7) ** -0.04  # loud frames count less
    symmetrical, asymmetrical = (
        _over_time(x.clamp_max(_LIMIT) + limit_slope * F.relu(x - _LIMIT))
        for x in (
            weight * t.width.sum().sqrt() * torch.linalg.vector_norm(difference, dim=-1),
            weight * (difference * added).sum(-1),
        )
    )
    return 0.1 * symmetrical + 0.0309 * asymmetrical


def pesq_disturbance(
    estimate: Tensor,
    target: Tensor,
    sample_rate: int = SAMPLE_RATE,
    limit_slope: float = _LIMIT_SLOPE,
) -> Tensor:
    """What wideband PESQ takes off its best score of 4.5, for each clip; 0 is perfect.

    Clips whose target does not speak (under -80 dBFS between 345 and 3260 Hz) count as 0, with
    no gradient: PESQ is not defined there. No gradient reaches ``target``.

    Waveforms are aligned, float32, full scale 1; clips under one frame (32 ms) are padded.
    ``sample_rate`` must be 16000, else an `EnhanceError`; ``limit_slope`` is that of a frame's
    disturbance above PESQ's limit, 0 is PESQ.

    Shape: (B, N), (B, N) -> (B,)
    """
    if sample_rate != SAMPLE_RATE:
        raise EnhanceError(
            f"loss.pesq at {sample_rate} Hz: wideband PESQ is defined at {SAMPLE_RATE} Hz; set it "
            "to 0 or take another sample rate"
        )
    length = target.shape[1]
    # Zeros behind the signal, for the filter's tail; a multiple of 1024 has a fast DFT.
    size = -(-(length + _FRAME) // 1024) * 1024
    t = _tables(target.device)
    high_pass, speech = _filters(size, target.device)
    with torch.no_grad():
        spec = torch.fft.rfft(target, size)
        power = _speech_power(spec, speech, size, length)  # (B,)
        speaking = power > _SILENCE
        power = power.clamp_min(_SILENCE)
        wanted = _bark_spectrum(spec * high_pass, (_LEVEL / power).sqrt(), size, length, t)
    spec = real_dft(estimate, size)
    gain = (_LEVEL / (_speech_power(spec, speech, size, length) + _QUIET * power)).sqrt()
    estimated = _bark_spectrum(spec * high_pass, gain, size, length, t)
    disturbance = _disturbance(*_equalise(estimated, wanted, t), limit_slope, t)
    return torch.where(speaking, disturbance, 0.0)
