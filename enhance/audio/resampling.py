"""Sample-rate conversion that keeps every sample in its place, whole or as a stream.

The filter is soxr's HQ polyphase filter (linear phase). soxr takes its own delay out, so that
output sample m lies at time ``m / to_rate``, as input sample n lies at ``n / from_rate``; a
stream cut anyhow gives the same bits. soxr rounds the length, which loses the last part of a
sample; here it is ``ceil(n * to_rate / from_rate)``, so that going there and back never comes
out short.
"""

from __future__ import annotations

import numpy as np
import soxr

from enhance.audio.low_delay import LowDelayResampler, has_small_ratio
from enhance.audio.samples import check_layout, rate_of, whole_number
from enhance.errors import EnhanceError


def resampled_length(length: int, from_rate: int, to_rate: int) -> int:
    """Samples that ``length`` samples become: ``ceil(length * to_rate / from_rate)``."""
    return -(-length * to_rate // from_rate)


class StreamingResampler:
    """Resample a stream in constant memory, aligned and of exact length.

    Equal rates pass the samples through. ``low_delay`` takes the short filter of
    `enhance.audio.low_delay`, where the rates have a small ratio. An `EnhanceError` refuses a rate
    that is no whole number of Hz (`enhance.audio.samples.RATES`), and no number of channels C.
    """

    def __init__(
        self, from_rate: int, to_rate: int, channels: int = 1, *, low_delay: bool = False
    ) -> None:
        self.from_rate = from_rate = rate_of(from_rate)
        self.to_rate = to_rate = rate_of(to_rate)
        self.channels = channels = whole_number("channels", channels, 1)
        self._received = self._emitted = 0
        self._filter: soxr.ResampleStream | LowDelayResampler | None = None
        if from_rate != to_rate and low_delay and has_small_ratio(from_rate, to_rate):
            self._filter = LowDelayResampler(from_rate, to_rate, channels)
        elif from_rate != to_rate:
            self._filter = soxr.ResampleStream(from_rate, to_rate, channels, "float32", "HQ")

    def process(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples, give those that are ready; refuses a block of another shape.

        Shape: float32 (n, C) -> (m, C)
        """
        check_block(block, self.channels)
        self._received += len(block)
        if self._filter is None or not len(block):
            out = block
        else:
            out = self._filter.resample_chunk(np.ascontiguousarray(block, np.float32))
        self._emitted += len(out)
        return out

    def flush(self) -> np.ndarray:
        """Give the rest; in total ``resampled_length(n)`` samples will have come out.

        The resampler is then as new.

        Shape: -> (m, C)
        """
        missing = resampled_length(self._received, self.from_rate, self.to_rate) - self._emitted
        out = np.zeros((0, self.channels), np.float32)
        if self._filter is not None:
            # Zeros for two more output samples, past soxr's rounding; zeros follow anyway.
            pad = 2 * (resampled_length(1, self.to_rate, self.from_rate) + 1)
            if self._received:
                zeros = np.zeros((pad, self.channels), np.float32)
                out = self._filter.resample_chunk(zeros, last=True)[:missing]
            self._filter.clear()
        self._received = self._emitted = 0
        return out


def held_back(from_rate: int, to_rate: int, *, low_delay: bool = False) -> float:
    """Seconds of a stream that are held back at most on the way to a rate and back: measured."""
    there = StreamingResampler(from_rate, to_rate, low_delay=low_delay)
    back = StreamingResampler(to_rate, from_rate, low_delay=low_delay)
    step = -(-from_rate // 1000)
    held, most = 0, 0
    for _ in range(2000):
        held += step - len(back.process(there.process(np.zeros((step, 1), np.float32))))
        most = max(most, held)
    return most / from_rate


def check_block(block: np.ndarray, channels: int) -> None:
    """Refuse a block that is not (n, C) by an `EnhanceError`."""
    if np.ndim(block) != 2 or np.shape(block)[1] != channels:
        raise EnhanceError(
            f"block of shape {np.shape(block)}: must be (samples, {channels}); transpose it, or "
            "open a stream for that number of channels"
        )


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample a whole signal.

    Shape: (..., N) -> float32 (..., ceil(N * to_rate / from_rate))

    An `EnhanceError` if a rate is no whole number of Hz, or the signal is empty or (N, C).
    """
    wave = np.asarray(wave, np.float32)
    if not wave.size:
        raise EnhanceError(f"wave of shape {wave.shape}: holds no samples")
    if wave.ndim == 2:
        check_layout("wave", *wave.shape)
    flat = wave.reshape(-1, wave.shape[-1]).T  # (N, C)
    stream = StreamingResampler(from_rate, to_rate, flat.shape[1])
    out = np.concatenate([stream.process(flat), stream.flush()])
    return np.ascontiguousarray(out.T).reshape(*wave.shape[:-1], -1)
