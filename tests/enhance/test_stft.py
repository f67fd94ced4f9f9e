"""Framing: exact reconstruction, streaming = whole, numpy = torch, bounded gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy_stft import StreamingIstft, StreamingStft

from enhance.errors import EnhanceError
from enhance.network.waveform_model import Stft
from enhance.stft import FRAMINGS, StftConfig, window

FRAMING = pytest.mark.parametrize("config", list(FRAMINGS.values()), ids=list(FRAMINGS))


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples) * 0.1


@FRAMING
def test_window_squares_add_to_one(config: StftConfig) -> None:
    total = np.zeros(10 * config.hop_length + config.window_length)
    for t in range(10):
        total[t * config.hop_length : t * config.hop_length + config.window_length] += (
            window(config) ** 2
        )
    inner = total[config.window_length : 9 * config.hop_length]
    np.testing.assert_allclose(inner, 1, atol=1e-15)


@pytest.mark.parametrize("name", ["20-10", "32-16"])
def test_half_overlap_window_is_the_root_of_a_periodic_hann(name: str) -> None:
    config = FRAMINGS[name]
    expected = torch.hann_window(config.window_length, periodic=True, dtype=torch.float64).sqrt()
    np.testing.assert_allclose(window(config), expected.numpy(), atol=1e-15)


@FRAMING
def test_reconstruction_is_exact_and_late_by_the_overlap(config: StftConfig) -> None:
    audio = noise(20 * config.hop_length)
    out = StreamingIstft(config).process(StreamingStft(config).process(audio))
    late = config.latency_samples
    np.testing.assert_allclose(out[late:], audio[: len(audio) - late], atol=1e-14)
    np.testing.assert_allclose(out[:late], 0, atol=1e-14)


@FRAMING
def test_frames_are_the_samples_the_contract_names(config: StftConfig) -> None:
    audio = noise(5 * config.hop_length)
    spec = StreamingStft(config).process(audio)
    for t in range(5):
        start = t * config.hop_length - config.overlap
        frame = np.array(
            [audio[n] if n >= 0 else 0.0 for n in range(start, start + config.window_length)]
        )
        expected = np.fft.rfft(frame * window(config), config.fft_size)
        np.testing.assert_allclose(spec[t], expected, atol=1e-12)


@FRAMING
def test_numpy_streaming_equals_torch_offline_and_in_pieces(config: StftConfig) -> None:
    audio = noise(12 * config.hop_length)
    analysis, synthesis, stft = StreamingStft(config), StreamingIstft(config), Stft(config)
    spec = np.concatenate([analysis.process(p) for p in np.split(audio, 12)])  # (T, F)
    wave = np.concatenate([synthesis.process(s[None]) for s in spec])
    scale = np.abs(spec).max()

    x = torch.from_numpy(audio).float()[None]
    for pieces in (1, 3, 12):
        state, specs, waves = stft.initial_state(), [], []
        for piece in x.chunk(pieces, 1):
            s, tail = stft.analyze(piece, state)
            state.update(tail)
            w, tail = stft.synthesize(s, state)
            state.update(tail)
            specs.append(s)
            waves.append(w)
        got = torch.cat(specs, 2)[0]  # (2, T, F)
        assert np.abs(got[0].numpy() + 1j * got[1].numpy() - spec).max() < 1e-6 * scale
        assert np.abs(torch.cat(waves, 1)[0].numpy() - wave).max() < 1e-6


@FRAMING
def test_an_arbitrary_change_of_the_spectrum_is_not_amplified(config: StftConfig) -> None:
    # The largest singular value of synthesis, by power iteration on the worst spectrum change:
    # adjoint of synthesis = analysis with the inverse DFT's weights, applied here by autograd.
    stft = Stft(config).double()
    frames = 6
    change = torch.randn(
        1, 2, frames, config.bins, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    # Parseval: the energy of a frame is sum |X|^2 / N over all N bins, i.e. `weight` per half bin.
    metric = stft.weight.view(2, 1, config.bins)
    gain = 0.0
    for _ in range(30):
        change = change / (change.square() * metric).sum().sqrt()
        change.requires_grad_(True)
        wave = stft.synthesize(change)[0]
        energy = wave.square().sum()
        gain = float(energy.detach().sqrt())
        (gradient,) = torch.autograd.grad(energy, change)
        change = (gradient / metric).detach()
    assert gain == pytest.approx(1.0, abs=1e-4)


def test_a_hann_pair_would_amplify_where_ours_does_not() -> None:
    # The pitfall that the flat-top window avoids, shown with the same measure.
    config = FRAMINGS["25-20"]
    hann = np.hanning(config.window_length + 1)[:-1]
    norm = np.zeros(config.hop_length)
    for n in range(config.window_length):
        norm[n % config.hop_length] += hann[n] ** 2
    worst = max(
        np.sqrt(hann[n] ** 2) / norm[n % config.hop_length] for n in range(config.window_length)
    )
    ours = window(config).max()
    assert worst > 4
    assert ours == 1.0


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"window_length": 900}, "overlap-add"),
        ({"hop_length": 500}, "overlap-add"),
        ({"fft_size": 256}, "fft_size"),
        ({"sample_rate": 0}, "sample_rate"),
    ],
)
def test_impossible_framing_is_refused(values: dict[str, int], word: str) -> None:
    with pytest.raises(EnhanceError, match=word):
        StftConfig(**values)


def test_streaming_refuses_part_of_a_hop() -> None:
    with pytest.raises(EnhanceError, match="320"):
        StreamingStft(StftConfig()).process(np.zeros(100))
