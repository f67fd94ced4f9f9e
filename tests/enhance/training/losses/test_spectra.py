"""Spectra with written gradients against torch's own, and against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from enhance.network.gcrn import compress
from enhance.training.losses.spectra import compressed_errors, power_spectra, real_dft


def by_torch(wave: Tensor, window: Tensor, exponent: float, floor: float, pad: bool) -> Tensor:
    size = len(window)
    spec = torch.stft(
        wave,
        size,
        size // 2,
        window=window,
        center=pad,
        pad_mode="constant",
        return_complex=True,
    )
    return (spec.abs().square() + floor).transpose(1, 2) ** exponent


@pytest.mark.parametrize("samples", [32, 33, 95, 96, 100])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(("exponent", "floor"), [(1.0, 0.0), (0.15, 1e-3), (0.5, 1e-8)])
def test_frames_are_those_of_torch(samples: int, pad: bool, exponent: float, floor: float) -> None:
    torch.manual_seed(samples)
    window = torch.hann_window(32, dtype=torch.float64)
    wave = torch.randn(3, samples, dtype=torch.float64, requires_grad=True)
    got = power_spectra(wave, window, exponent, floor, pad=pad)
    expected = by_torch(wave, window, exponent, floor, pad)
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    found, wanted = (torch.autograd.grad((x * weight).sum(), wave)[0] for x in (got, expected))
    torch.testing.assert_close(found, wanted)


def test_frames_by_differences() -> None:
    torch.manual_seed(0)
    window = torch.rand(6, dtype=torch.float64)
    wave = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: power_spectra(x, window, 0.3, 0.1, pad=True), wave)


@pytest.mark.parametrize(("samples", "size"), [(10, 10), (7, 12), (1, 2)])
def test_the_real_dft(samples: int, size: int) -> None:
    torch.manual_seed(samples)
    x = torch.randn(3, samples, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(real_dft(x, size), torch.fft.rfft(x, size))
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(real_dft(x, size)), x)


def test_silence_has_a_gradient_of_zero() -> None:
    wave = torch.zeros(1, 600, requires_grad=True)
    power_spectra(wave, torch.hann_window(256), 0.15, 1e-8).sum().backward()
    assert torch.equal(wave.grad, torch.zeros(1, 600))


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_errors_of_compressed_spectra(power: float) -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.randn(2, 3, 2, 5, 7, dtype=torch.float64, generator=generator)
    estimate[:, :, 1] *= 1e-6  # under the floor of the gain
    estimate[:, :, 2], target[:, :, 3] = 0, 0
    estimate.requires_grad_()

    def plain(estimate: Tensor) -> tuple[Tensor, Tensor]:
        c, target_c = compress(estimate, power), compress(target, power)
        m, target_m = ((x.square().sum(1) + 1e-8).sqrt() for x in (c, target_c))
        return (c - target_c).square().sum(1).mean(), (m - target_m).square().mean()

    found, expected = compressed_errors(estimate, target, power), plain(estimate)
    torch.testing.assert_close(found, expected)
    for weights in ((0.5, 2.0), (1.0, 0.0), (0.0, 1.0)):
        got, wanted = (
            torch.autograd.grad(
                sum(w * x for w, x in zip(weights, errors, strict=True)),
                estimate,
                retain_graph=True,
            )[0]
            for errors in (found, expected)
        )
        torch.testing.assert_close(got, wanted)
