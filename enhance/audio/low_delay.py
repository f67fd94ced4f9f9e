"""Sample-rate conversion for what is heard live: 2 ms of delay a way, sample by sample.

soxr computes in blocks and holds back up to 40 ms a way. Here each output sample is one sum,
``y[m] = sum_k x[k] h(m d / u - k)`` with rates u : d in lowest terms, as soon as the last x[k] of
it is there (Crochiere and Rabiner, *Multirate Digital Signal Processing*, 1983, 2.3). h is a sinc
under a Kaiser window, of `ZEROS` zero crossings of the lower rate a side: flat up to .86 of the
lower band, 80 dB down from 1.02 of it.
"""

from __future__ import annotations

import math

import numpy as np

ZEROS = 32
"""Samples of the lower rate that are waited for."""
_CUTOFF = 0.94  # of the lower band: -6 dB
_BETA = 7.86  # of the window: 80 dB
_MOST = 1 << 22  # taps in the table
_CHUNK = 4096  # output samples that are computed at a time


def has_small_ratio(from_rate: int, to_rate: int) -> bool:
    """Whether the table of taps is of a reasonable size: the rates have a large common factor."""
    up, reach = _sizes(from_rate, to_rate)[::2]
    return up * 2 * reach <= _MOST


def _sizes(from_rate: int, to_rate: int) -> tuple[int, int, int]:
    """u, d, and input samples that an output sample reaches to each side."""
    factor = math.gcd(from_rate, to_rate)
    return to_rate // factor, from_rate // factor, math.ceil(ZEROS * max(1, from_rate / to_rate))


class LowDelayResampler:
    """In the place of ``soxr.ResampleStream``, float32 (n, C) in blocks of any size.

    The rates, samples per second, have a small ratio (`has_small_ratio`).
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._up, self._down, self._reach = _sizes(from_rate, to_rate)
        band = _CUTOFF * min(1.0, to_rate / from_rate)
        phase = np.arange(self._up)[:, None] / self._up
        time = phase - np.arange(1 - self._reach, self._reach + 1)  # (phases, taps), input samples
        window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (time / self._reach) ** 2)))
        taps = band * np.sinc(band * time) * window
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self._channels = channels
        self.clear()

    def clear(self) -> None:
        """Forget the past."""
        self._past = np.zeros((self._reach - 1, self._channels), np.float32)
        self._place = 0  # of the next output sample after `_past`'s first full window, in 1 / u

    def resample_chunk(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """Take the next samples, give those that are ready; at the ``last``, with zeros behind.

        Shape: float32 (n, C) -> (m, C)
        """
        ends = np.zeros((self._reach if last else 0, self._channels), np.float32)
        joined = np.concatenate([self._past, block, ends])
        windows = len(joined) - 2 * self._reach + 1
        if windows <= 0:
            self._past = joined
            return joined[:0]
        count = max(0, -(-(windows * self._up - self._place) // self._down))
        starts, phases = np.divmod(self._place + self._down * np.arange(count), self._up)
        view = np.lib.stride_tricks.sliding_window_view(joined, 2 * self._reach, axis=0)
        out = np.empty((count, self._channels), np.float32)
        for first in range(0, count, _CHUNK):
            part = slice(first, first + _CHUNK)
            products = view[starts[part]] * self._taps[phases[part], None]  # (m, C, taps)
            products.sum(axis=-1, out=out[part])
        self._place += count * self._down - windows * self._up
        self._past = joined[windows:]
        return out
