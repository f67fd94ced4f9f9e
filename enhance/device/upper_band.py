"""What lies above the model's band: passed with the gain that the model gives the band below it.

x is the input at its own rate, d what the model hears of it, y what it makes of d, and ``up`` the
way back to the input's rate. The upper band is the rest of the input, x - up(d), and with a gain g

    out = up(y) + g (x - up(d)) = g x + up(y - g d)

as g changes little over the few samples that ``up`` reaches: one resampler does for both. The two
bands are complements of each other whatever the resampler is; with g = 1 and y = d the input comes
out to the last bit.

g is the model's own gain in the upper half of its band, smoothed over `SMOOTHING` seconds: the
root of the energy of y there over that of d, at most 1. It is known as soon as y is, so nothing
comes later for it. Loud sounds weigh more in an energy: g rises with the onset of a consonant at
once, and falls when what follows has outweighed it.
"""

from __future__ import annotations

import math

import numpy as np

from enhance.errors import EnhanceError

BANDWIDTHS = ("full", "16k")
"""Keep what lies above the model's band, or leave it out."""
SMOOTHING = 0.01
"""Seconds over which energies are averaged."""
FLOOR = 1e-10
"""Energy that stands for silence, -100 dB of full scale: what the model does not hear, passes."""
_TAPS = 47


def check_bandwidth(value: str) -> str:
    """A bandwidth as it is; an `EnhanceError` refuses others."""
    if value not in BANDWIDTHS:
        raise EnhanceError(f"bandwidth {value!r}: must be {' or '.join(BANDWIDTHS)}")
    return value


def upper_half() -> np.ndarray:
    """High-pass of half the band: an ideal one, under a Blackman window.

    Shape: -> (47,) float32; -6 dB at a quarter of the rate, below -70 dB under .19 of it
    """
    n = np.arange(_TAPS) - _TAPS // 2
    ideal = (n == 0) - 0.5 * np.sinc(n / 2)
    return (ideal * np.blackman(_TAPS + 2)[1:-1]).astype(np.float32)


class Queue:
    """Samples (n, C) that wait: put at the end, taken from the front."""

    def __init__(self, first: np.ndarray) -> None:
        self._blocks = [first]
        self._none = first[:0]

    def put(self, block: np.ndarray) -> None:
        """Append a block, which must not change any more."""
        if len(block):
            self._blocks.append(block)

    def take(self, count: int) -> np.ndarray:
        """The first ``count`` samples, or all if there are fewer."""
        taken = [self._none]
        while count and self._blocks:
            block = self._blocks[0]
            if len(block) > count:
                self._blocks[0] = block[count:]
            else:
                del self._blocks[0]
            taken.append(block[:count])
            count -= len(taken[-1])
        return np.concatenate(taken)


class UpperBand:
    """The gain of the upper band, and the lower band less what it adds.

    The model computes ``hop_length`` samples at a time, at its own rate, and y is
    ``latency_samples`` late; the input x has another rate and C channels.
    """

    def __init__(
        self,
        model_rate: int,
        hop_length: int,
        latency_samples: int,
        sample_rate: int,
        channels: int,
    ) -> None:
        self._rates = model_rate, sample_rate
        self._hop = hop_length
        self._heard = Queue(np.zeros((latency_samples, channels), np.float32))
        self._filter = upper_half()
        self._past = np.zeros((2, _TAPS - 1, channels), np.float32)  # of y and d
        self._energy = np.zeros((2, channels))
        self._keep = math.exp(-hop_length / (SMOOTHING * model_rate))
        self._last = np.ones((1, channels), np.float32)  # gain at the end of the hop before
        self._gains = self._last[:0]  # at the model's rate, from sample `_first` of the input on
        self._first = -latency_samples
        self._given = 0

    def lower(self, heard: np.ndarray, made: np.ndarray) -> np.ndarray:
        """y - g d, of what has gone into the model since the last call and what has come out.

        Shape: d (n, C); y (m, C), whole hops but for the last call -> (m, C)
        """
        self._heard.put(heard)
        heard = self._heard.take(len(made))  # as late as y is
        gains = np.empty_like(made)
        for start in range(0, len(made), self._hop):
            hop = slice(start, start + self._hop)
            gain = self._gain(np.stack([made[hop], heard[hop]]))
            rise = np.arange(1, len(made[hop]) + 1, dtype=np.float32)[:, None] / self._hop
            gains[hop] = self._last + rise * (gain - self._last)
            self._last = gain
        self._gains = np.concatenate([self._gains, gains])
        return made - gains * heard

    def gain(self, count: int) -> np.ndarray:
        """g at the next samples of the input's rate.

        Shape: -> (count, C)
        """
        model_rate, sample_rate = self._rates
        place = (self._given + np.arange(count)) * model_rate  # in units of 1 / both rates
        left, part = np.divmod(place, sample_rate)
        left -= self._first
        most = len(self._gains) - 1
        share = (part / sample_rate).astype(np.float32)[:, None]
        low, high = self._gains[np.minimum(left, most)], self._gains[np.minimum(left + 1, most)]
        self._given += count
        passed = min(max(0, self._given * model_rate // sample_rate - self._first), max(0, most))
        self._gains = self._gains[passed:].copy()
        self._first += passed
        return low + share * (high - low)

    def _gain(self, both: np.ndarray) -> np.ndarray:
        """Shape: y and d (2, n, C) of one hop -> (1, C)"""
        joined = np.concatenate([self._past, both], axis=1)
        self._past = joined[:, both.shape[1] :]
        windows = np.lib.stride_tricks.sliding_window_view(joined, _TAPS, axis=1)  # (2, n, C, taps)
        energy = np.mean(np.square(windows @ self._filter, dtype=np.float64), axis=1)
        self._energy = self._keep * self._energy + (1 - self._keep) * energy
        made, heard = self._energy + FLOOR
        return np.minimum(np.sqrt(made / heard), 1).astype(np.float32)[None]
