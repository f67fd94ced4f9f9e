"""What training computes in another way than the plain formula has its values and gradients."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from enhance.network.dual_path import normed
from enhance.network.gated import gated
from enhance.network.waveform_model import Stft
from enhance.stft import StftConfig


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("shape", "bins"), [((2, 6, 3, 5), None), ((2, 10, 2, 7), 6), ((1, 2, 1, 1), None)]
)
def test_gate_in_training(
    shape: tuple[int, ...], bins: int | None, layout: torch.memory_format
) -> None:
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    value, gate = x[..., :bins].chunk(2, 1)
    expected = value * gate.sigmoid()
    for found in (gated(x, bins), gated(x.detach(), bins)):
        torch.testing.assert_close(found, expected)
    assert gradcheck(lambda x: gated(x, bins), x)


def test_norm_in_training_of_a_dimension_that_was_moved() -> None:
    norm = nn.BatchNorm2d(3, dtype=torch.float64)
    x = torch.randn(4, 2, 5, 3, dtype=torch.float64, requires_grad=True)  # (T, B, F, C)
    moved = x.transpose(0, 1)
    found = normed(norm, moved)
    mean, variance = moved.mean((0, 1, 2)), moved.var((0, 1, 2), correction=0)
    expected = (moved - mean) / (variance + norm.eps).sqrt()
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found.transpose(0, 1)).transpose(0, 1)
    got, wanted = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("framing", [StftConfig(16000, 20, 15, 24), StftConfig(16000, 16, 8, 17)])
def test_transforms_in_training(framing: StftConfig) -> None:
    stft = Stft(framing).double()
    audio = torch.randn(2, 4 * framing.hop_length, dtype=torch.float64)
    weight = torch.randn(2, 2, 4, framing.bins, dtype=torch.float64)
    results = []
    for training in (True, False):
        stft.train(training)
        spec = stft.analyze(audio)[0].requires_grad_()
        wave = stft.synthesize(spec * weight)[0]
        gradient = torch.autograd.grad(wave.square().sum(), spec)[0]
        results.append((spec.detach(), wave.detach(), gradient))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)  # the basis is float32
