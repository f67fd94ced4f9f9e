"""Training losses of enhancement."""

from __future__ import annotations

import torch
from torch import Tensor

from enhance.config import LossConfig
from enhance.gcrn import compress


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


def enhancement_loss(
    config: LossConfig,
    estimate_spec: Tensor,
    target_spec: Tensor,
    estimate: Tensor,
    target: Tensor,
) -> dict[str, Tensor]:
    """Named, weighted terms; their sum is minimised.

    The compressed spectral terms follow Braun and Tashev, "A consolidated view of loss functions
    for supervised deep learning-based speech enhancement", 2021; SI-SDR in dB ties the phase.

    Parameters
    ----------
    config
        Weights.
    estimate_spec, target_spec
        Spectra (B, 2, T, F).
    estimate, target
        Aligned waveforms (B, N).
    """
    losses: dict[str, Tensor] = {}
    if config.complex or config.magnitude:
        e = compress(estimate_spec, config.compression)
        t = compress(target_spec, config.compression)
        if config.complex:
            losses["complex"] = config.complex * (e - t).square().sum(1).mean()
        if config.magnitude:
            # The square root's slope at zero is infinite: 1e-8 keeps silence differentiable.
            em, tm = ((x.square().sum(1) + 1e-8).sqrt() for x in (e, t))
            losses["magnitude"] = config.magnitude * (em - tm).square().mean()
    if config.si_sdr:
        losses["si_sdr"] = -config.si_sdr * si_sdr(estimate, target).mean()
    if config.waveform:
        scale = target.abs().mean().clamp_min(1e-4)
        losses["waveform"] = config.waveform * (estimate - target).abs().mean() / scale
    return losses
