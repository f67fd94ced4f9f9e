"""Spectra of the training losses, with gradients that cost no more than they must.

torch's gradient of a real DFT is a complex one of the whole length, that of overlapping frames an
addition by index, and that of a power another power. Here they are a real inverse DFT, two
additions of half frames, and a product with what the forward pass knows. The values are torch's to
rounding; gradients of gradients are not offered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _RealDft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size, ctx.length = size, x.shape[-1]
        return torch.fft.rfft(x, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The inverse counts every bin twice but the first and the last.
        gradient = gradient * 0.5
        gradient[..., 0] *= 2
        gradient[..., -1] *= 2
        return torch.fft.irfft(gradient, ctx.size, norm="forward")[..., : ctx.length], None


def real_dft(x: Tensor, size: int) -> Tensor:
    """`torch.fft.rfft` of an even size, at least that of the signal.

    Shape: (..., N) -> (..., size / 2 + 1)
    """
    return _RealDft.apply(x, size)


class _PowerSpectra(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wave: Tensor, window: Tensor, exponent: float, floor: float) -> Tensor:
        hop = len(window) // 2
        halves = wave[:, : wave.shape[1] // hop * hop].unflatten(1, (-1, hop))  # (B, T + 1, hop)
        frames = torch.cat([halves[:, :-1], halves[:, 1:]], 2)
        spec = torch.fft.rfft(frames.mul_(window))  # (B, T, F)
        energy = spec.real.square().add_(spec.imag.square())
        power = energy.add_(floor) ** exponent if exponent != 1 else energy.add_(floor)
        slope = None if exponent == 1 else power / energy
        ctx.save_for_backward(spec, window, slope)
        ctx.exponent, ctx.length = exponent, wave.shape[1]
        return power

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        spec, window, slope = ctx.saved_tensors
        hop = len(window) // 2
        if slope is not None:
            gradient = gradient * slope
        # d|z|^2 = 2 z; half of it for the bins that the inverse counts twice.
        gradient = gradient * ctx.exponent
        gradient[..., 0] *= 2
        gradient[..., -1] *= 2
        frames = torch.fft.irfft(spec * gradient, len(window), norm="forward").mul_(window)
        wave = gradient.new_zeros(len(frames), ctx.length)
        halves = wave[:, : (frames.shape[1] + 1) * hop].unflatten(1, (-1, hop))
        halves[:, :-1] = frames[..., :hop]
        halves[:, 1:] += frames[..., hop:]
        return wave, None, None, None


def power_spectra(
    wave: Tensor, window: Tensor, exponent: float = 1.0, floor: float = 0.0, *, pad: bool = False
) -> Tensor:
    """``(|DFT|^2 + floor) ** exponent`` of half-overlapping frames.

    Parameters
    ----------
    wave
        At least a window long.
    window
        Of even length, which is that of the transform.
    exponent, floor
        A root's slope at zero is infinite: it needs a floor.
    pad
        Put half a window of zeros around the wave, so that frame t has its middle at t hops.

    Shape: (B, N) -> (B, T, F)
    """
    if pad:
        wave = F.pad(wave, (len(window) // 2, len(window) // 2))
    return _PowerSpectra.apply(wave, window, exponent, floor)
