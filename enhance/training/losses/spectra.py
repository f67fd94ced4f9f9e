"""Spectra of the training losses, with gradients that cost no more than they must.

torch's gradient of a real DFT is a complex one of the whole length, that of overlapping frames an
addition by index, and that of a power another power. Here they are a real inverse DFT, two
additions of half frames, and a product with what the forward pass knows. The errors of compressed
spectra have their gradient by formula, in a third of the passes over memory. The values are torch's
to rounding; gradients of gradients are not offered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_FLOOR = 1e-8  # energy, as in `enhance.network.gcrn.compress`


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
        spec = torch.fft.rfft(wave.unfold(1, len(window), hop) * window)  # (B, T, F)
        energy = spec.real.square().add_(spec.imag.square())
        power = _power(energy.add_(floor), exponent) if exponent != 1 else energy.add_(floor)
        slope = None if exponent == 1 or not ctx.needs_input_grad[0] else power / energy
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

    The wave is at least a window long; the window's length is even, and that of the transform. A
    root's slope at zero is infinite: it needs a floor. ``pad`` puts half a window of zeros around
    the wave, so that frame t has its middle at t hops.

    Shape: (B, N) -> (B, T, F)
    """
    if pad:
        wave = F.pad(wave, (len(window) // 2, len(window) // 2))
    return _PowerSpectra.apply(wave, window, exponent, floor)


def _power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` of positive numbers, in half of the time of torch's."""
    return x.log().mul_(exponent).exp_()


class _CompressedErrors(torch.autograd.Function):
    """With E = |z|^2 and s = E^((p - 1) / 2): c = s z, m = (|c|^2 + 1e-8)^(1 / 2).

    A gradient G of c, what comes by m included, is ``s (G + (p - 1) z (G . z) / E)`` of z.
    """

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, target: Tensor, power: float) -> tuple[Tensor, Tensor]:
        (c, m, s, energy), (target_c, target_m, *_) = (
            _compressed(z, power) for z in (estimate, target)
        )
        apart = c - target_c
        longer = m - target_m
        ctx.save_for_backward(estimate, c, s, energy, apart, longer / m)
        ctx.power = power
        n = longer.numel()
        return apart.square().sum() / n, longer.square().sum() / n

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, of_complex: Tensor, of_magnitude: Tensor
    ) -> tuple[Tensor, None, None]:
        z, c, s, energy, apart, radial = ctx.saved_tensors
        scale = 2 / radial.numel()
        g = c * (radial * (scale * of_magnitude))[:, None]
        g += apart * (scale * of_complex)
        along = (g[:, 0] * z[:, 0]).addcmul_(g[:, 1], z[:, 1])  # G . z
        along.mul_(ctx.power - 1).div_(energy).mul_(energy > _FLOOR)
        return g.addcmul_(z, along[:, None]).mul_(s[:, None]), None, None


def _compressed(z: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compressed spectrum, its magnitude, the gain and the energy. Shape: z (B, 2, T, F)"""
    energy = (z[:, 0] * z[:, 0]).addcmul_(z[:, 1], z[:, 1])
    s = _power(energy.clamp_min_(_FLOOR), (power - 1) / 2)
    c = z * s[:, None]
    m = (c[:, 0] * c[:, 0]).addcmul_(c[:, 1], c[:, 1]).add_(1e-8).sqrt_()
    return c, m, s, energy


def compressed_errors(estimate: Tensor, target: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Mean square errors of `enhance.network.gcrn.compress`ed spectra and of their magnitudes.

    The square root's slope at zero is infinite: 1e-8 under it keeps silence differentiable. No
    gradient reaches the target.

    ``power`` is that of the magnitude. Returns two scalars, of the complex spectra (both parts
    summed) and of the magnitudes.

    Shape: (B, 2, T, F), (B, 2, T, F) -> (), ()
    """
    return _CompressedErrors.apply(estimate, target, power)
