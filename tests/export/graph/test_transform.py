"""The transforms of a step against those of the model."""

from __future__ import annotations

import pytest
import torch

from enhance.network.waveform_model import Stft
from enhance.stft import FRAMINGS, StftConfig
from export.graph.transform import StepStft

OTHERS = {
    "no multiple of four": StftConfig(16000, 10, 5, 10),
    "odd": StftConfig(16000, 9, 5, 9),
    "padded": StftConfig(16000, 12, 8, 16),
    "padded and odd": StftConfig(16000, 10, 6, 13),
    "padded by less than a quarter": StftConfig(16000, 22, 16, 24),
    "no overlap": StftConfig(16000, 16, 16, 16),
}


@pytest.mark.parametrize("config", [*FRAMINGS.values(), *OTHERS.values()], ids=str)
def test_same_spectrum_and_same_audio_hop_by_hop(config: StftConfig) -> None:
    torch.manual_seed(0)
    whole, step = Stft(config).eval(), StepStft(config).eval()
    audio = torch.randn(1, 4 * config.hop_length)
    expected, _ = whole.analyze(audio)  # (1, 2, T, F)
    change = torch.randn_like(expected)
    made, _ = whole.synthesize(expected * change)
    state = step.initial_state()
    for t, hop in enumerate(audio.split(config.hop_length, 1)):
        spec, analysis = step.analyze(hop, state)
        ways, _, places = spec.shape
        assert ways == (1 if config.fft_size % 4 else 2)
        bins = spec.permute(1, 2, 0).reshape(2, -1)  # in their order
        torch.testing.assert_close(bins[:, : config.bins], expected[0, :, t], atol=1e-5, rtol=1e-5)
        assert not bins[:, config.bins :].any()
        # What stands in the place too many reaches nothing.
        changed = torch.full_like(bins, 7.0)
        changed[:, : config.bins] = (expected * change)[0, :, t]
        laid = changed.view(2, places, ways).permute(2, 0, 1).contiguous()
        out, synthesis = step.synthesize(laid, state)
        own = made[:, t * config.hop_length : (t + 1) * config.hop_length]
        torch.testing.assert_close(out, own, atol=1e-5, rtol=1e-5)
        state = {**analysis, **synthesis}


def test_it_holds_a_quarter_of_the_numbers() -> None:
    config = FRAMINGS["32-16"]
    whole, step = Stft(config).basis.numel(), StepStft(config).basis.numel()
    assert whole == 512 * 514
    assert step == 4 * 129 * 129
