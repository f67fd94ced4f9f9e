"""The resampler of pipes and live sound: exact, and quick."""

from __future__ import annotations

import numpy as np
import pytest

from enhance.audio.resampling import StreamingResampler, held_back


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 16001])
def test_low_delay_resampler(rate: int) -> None:
    """Against a sine by its formula, cut anyhow, of exact length; and far less is held back."""
    for there, back in [(rate, 16000), (16000, rate)]:
        time_in, count = np.arange(there // 2) / there, -(-(there // 2) * back // there)
        frequency = 0.4 * min(there, back)
        wave = np.sin(2 * np.pi * frequency * time_in + 1).astype(np.float32)[:, None]
        stream = StreamingResampler(there, back, low_delay=True)
        whole = np.concatenate([stream.process(wave), stream.flush()])
        assert whole.shape == (count, 1)
        by_hand = np.sin(2 * np.pi * frequency * np.arange(count) / back + 1)
        inner = slice(back // 50, -back // 50)
        np.testing.assert_allclose(whole[inner, 0], by_hand[inner], atol=5e-4)
        for size in (1, 7, 333):
            if size > 1 or there <= 16000:
                cuts = range(size, len(wave), size)
                parts = [stream.process(piece) for piece in np.split(wave, cuts)]
                np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()]), whole)
    quick, usual = held_back(rate, 16000, low_delay=True), held_back(rate, 16000)
    assert 0 < quick < 0.01 and usual > 3 * quick
    # Aliases and images, 80 dB down: a tone above the lower band is gone.
    if rate > 40000:
        tone = np.sin(2 * np.pi * 8500 * np.arange(rate // 4) / rate).astype(np.float32)[:, None]
        down = StreamingResampler(rate, 16000, low_delay=True).process(tone)
        assert np.abs(down[1000:]).max() < 3e-4
