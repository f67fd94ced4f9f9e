"""Training losses of enhancement."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from enhance.config import LossConfig
from enhance.training.losses.intelligibility import estoi
from enhance.training.losses.opinion import opinion
from enhance.training.losses.perceptual import pesq_disturbance
from enhance.training.losses.spectra import compressed_errors, power_spectra

_LEVEL = 0.05  # rms, full scale 1: -26 dBFS, the middle of what mixtures have
_SILENCE = 1e-4  # rms: a target under it (-80 dBFS) is raised no further than one at it

_HEARD_OF = 4
"""DNSMOS hears one clip of four: of a clip it costs more than all the rest of the step."""


def si_sdr(estimate: Tensor, target: Tensor, floor_db: float = -60.0) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB.

    Both signals are made zero-mean; the target is scaled to the projection of the estimate
    (Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019). ``floor_db`` regularises
    silence: an energy this far below the target's counts as nothing.

    Shape: (B, N), (B, N) -> (B,)
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    energy = target.square().sum(-1, keepdim=True)
    tiny = 1e-8 + energy * 10 ** (floor_db / 10)
    projection = (estimate * target).sum(-1, keepdim=True) / (energy + 1e-8) * target
    signal = projection.square().sum(-1, keepdim=True)
    noise = (estimate - projection).square().sum(-1, keepdim=True)
    return 10 * torch.log10((signal + tiny) / (noise + tiny)).squeeze(-1)


def multi_resolution_error(
    estimate: Tensor, target: Tensor, sizes: tuple[int, ...], power: float
) -> Tensor:
    """Mean square error of compressed magnitudes, averaged over several transform lengths.

    Periodic Hann windows, hopped by half of their length, zeros around the signals. After
    Yamamoto, Song and Kim, "Parallel WaveGAN", ICASSP 2020, with the error of Braun and Tashev.
    One framing sees little of what lies between its frames; three see it from elsewhere.

    ``sizes`` are transform lengths in samples, ``power`` is that of the magnitude.

    Shape: aligned (B, N), (B, N) -> scalar
    """
    losses = []
    for size in sizes:
        window = torch.hann_window(size, device=estimate.device, dtype=estimate.dtype)
        e, t = (power_spectra(x, window, power / 2, 1e-8, pad=True) for x in (estimate, target))
        losses.append(F.mse_loss(e, t))
    return torch.stack(losses).mean()


def level_gain(target: Tensor) -> Tensor:
    """What brings each target to an rms of 0.05; a silent one is raised by 54 dB.

    Shape: (B, N) -> (B, 1)
    """
    rms = target.square().mean(-1, keepdim=True).sqrt()
    return _LEVEL / rms.clamp_min(_SILENCE)


def enhancement_loss(
    config: LossConfig,
    estimate_spec: Tensor,
    target_spec: Tensor,
    estimate: Tensor,
    target: Tensor,
    sample_rate: int = 16000,
    half: bool = False,
) -> dict[str, Tensor]:
    """Named, weighted terms; their sum is minimised.

    The compressed spectral terms follow Braun and Tashev, "A consolidated view of loss functions
    for supervised deep learning-based speech enhancement", 2021; SI-SDR in dB ties the phase.

    Spectra are (B, 2, T, F), the waveforms are aligned, (B, N); ``half`` is for `opinion`. An
    `EnhanceError` if a term is asked at another sample rate than its own.
    """
    losses: dict[str, Tensor] = {}
    if config.level_invariant:
        gain = level_gain(target)  # (B, 1)
        estimate, target = estimate * gain, target * gain
        estimate_spec, target_spec = (
            x * gain[..., None, None] for x in (estimate_spec, target_spec)
        )
    if config.complex or config.magnitude:
        errors = compressed_errors(estimate_spec, target_spec, config.compression)
        if config.complex:
            losses["complex"] = config.complex * errors[0]
        if config.magnitude:
            losses["magnitude"] = config.magnitude * errors[1]
    if config.si_sdr:
        losses["si_sdr"] = -config.si_sdr * si_sdr(estimate, target).mean()
    if config.waveform:
        scale = target.abs().mean().clamp_min(1e-4)
        losses["waveform"] = config.waveform * (estimate - target).abs().mean() / scale
    if config.multi_resolution:
        sizes = config.multi_resolution_sizes
        error = multi_resolution_error(estimate, target, sizes, config.compression)
        losses["multi_resolution"] = config.multi_resolution * error
    if config.pesq:
        losses["pesq"] = config.pesq * pesq_disturbance(estimate, target, sample_rate).mean()
    if config.estoi:
        losses["estoi"] = config.estoi * (1 - estoi(estimate, target, sample_rate)).mean()
    if config.dnsmos:
        heard = estimate[: -(-len(estimate) // _HEARD_OF)]
        losses["dnsmos"] = -config.dnsmos * opinion(heard, sample_rate, half=half)[:, 2].mean()
    return losses
