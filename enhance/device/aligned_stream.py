"""A stream of any rate and channel count through a model that knows one rate and one channel.

How much of the model's work is kept (`wet_share`) is decided here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enhance.audio.resampling import StreamingResampler, check_block
from enhance.audio.samples import MOST_CHANNELS, check_samples, floats, rate_of, whole_number
from enhance.device.upper_band import Queue, UpperBand
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    from enhance.device.offline import Model


class AlignedStream:
    """Stream of any rate and channel count through a model: as long as the input, and aligned.

    Each channel has states of its own. The model's delay is taken off the front; the resamplers
    have none. Memory is constant.

    At a rate above the model's, with bandwidth "full", what lies above the model's band is passed
    with the gain of the band below it (`enhance.device.upper_band`).

    The share of the input that the enhancer's settings leave in (`wet_share`) is taken at the
    stream's own rate, not from what passed the resamplers: a strength of 0 gives exactly the input
    back, and a limit holds above the model's band too.

    The model's own stream is not touched, its settings are taken as they are now. Rate and channels
    are those of input and output; with ``low_delay`` they are resampled with a short filter
    (`enhance.audio.low_delay`). An `EnhanceError` refuses a rate that is no whole number of Hz, and
    a C that is no number of channels.
    """

    def __init__(
        self, enhancer: Model, sample_rate: int, channels: int, *, low_delay: bool = False
    ) -> None:
        sample_rate = rate_of(sample_rate)
        channels = whole_number("channels", channels, 1, MOST_CHANNELS)
        rates = sample_rate, enhancer.sample_rate
        self._into = StreamingResampler(*rates, channels, low_delay=low_delay)
        self._back = StreamingResampler(*rates[::-1], channels, low_delay=low_delay)
        self._streams = [enhancer.new_stream() for _ in range(channels)]
        for stream in self._streams:
            stream.strength, stream.atten_limit = 1.0, None
        self.wet = self._wet = enhancer.wet
        """Share of the enhanced signal in the output. It may be set between two blocks, and is
        then reached within the next that comes out."""
        self._dry = Queue(np.zeros((0, channels), np.float32))  # input without its output yet
        self._upper: UpperBand | None = None
        if enhancer.bandwidth == "full" and sample_rate > enhancer.sample_rate:
            framing = enhancer.sample_rate, enhancer.hop_length, enhancer.latency_samples
            self._upper = UpperBand(*framing, sample_rate, channels)
        self._skip = enhancer.latency_samples
        self.waiting = 0
        """Samples that have gone in and whose output has not come yet."""

    def process(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples, give those that are ready.

        Shape: float (n, C) -> float32 (m, C)

        An `EnhanceError` refuses a block of another shape or type, and samples that are NaN,
        infinite or far beyond full scale; the stream is then where it was.
        """
        block = floats("block", block)
        check_block(block, self._into.channels)
        check_samples("block", block)
        block = block.astype(np.float32)  # a copy: the caller may fill the same array again
        self._dry.put(block)
        out = self._back.process(self._enhance(self._into.process(block)))
        self.waiting += len(block) - len(out)
        return self._blend(out)

    def flush(self) -> np.ndarray:
        """Give the rest: in total as many samples as came in. The stream is over then.

        Shape: -> float32 (m, C)
        """
        last = self._enhance(self._into.flush())
        rest = np.stack([stream.flush() for stream in self._streams], axis=1)
        inner = np.concatenate([last, self._lower(last[:0], rest)])
        out = np.concatenate([self._back.process(inner), self._back.flush()])
        return self._blend(out[: self.waiting])  # less what was rounded up

    def _enhance(self, inner: np.ndarray) -> np.ndarray:
        columns = [s.process(inner[:, c]) for c, s in enumerate(self._streams)]
        return self._lower(inner, np.stack(columns, axis=1))

    def _lower(self, inner: np.ndarray, made: np.ndarray) -> np.ndarray:
        out = made if self._upper is None else self._upper.lower(inner, made)
        skipped = min(self._skip, len(out))
        self._skip -= skipped
        return out[skipped:]

    def _blend(self, out: np.ndarray) -> np.ndarray:
        dry = self._dry.take(len(out))
        if self._upper is not None:
            out = out + self._upper.gain(len(out)) * dry
        if self._wet != self.wet and len(out):  # a step would click
            shares = np.linspace(self._wet, self.wet, len(out) + 1, dtype=np.float32)[1:, None]
            self._wet = self.wet
            return dry + shares * (out - dry)
        return out if self._wet == 1 else mix(out, dry, self._wet)


def wet_share(strength: float = 1.0, atten_limit: float | None = None) -> float:
    """Share w of the enhanced signal e in the output, the rest being the input x, delayed as e is.

    Strength s mixes first, ``m = s e + (1 - s) x``. A limit of L dB then leaves a floor of the
    input, ``out = f x + (1 - f) m`` with ``f = 10^(-L / 20)``: what the model takes away wholly
    stays, L dB down, and nothing that it merely turns down falls lower. Together that is one mix,
    ``out = w e + (1 - w) x`` with ``w = s (1 - f)``.

    The limit is DeepFilterNet's (``--atten-lim``, `df/enhance.py`: ``enhanced = noisy * lim +
    enhanced * (1 - lim)``), except that 0 dB means what it says there: nothing is suppressed.

    Parameters
    ----------
    strength
        s, from 0 (the input) to 1.
    atten_limit
        L, dB, at least 0; None or infinity for no limit.

    Raises
    ------
    EnhanceError
        If one is no number in its range.
    """
    if not (_is_number(strength) and 0 <= strength <= 1):
        raise EnhanceError(f"strength {strength}: must be a number from 0 to 1")
    if atten_limit is None:
        return float(strength)
    if not (_is_number(atten_limit) and atten_limit >= 0):
        raise EnhanceError(
            f"atten_limit {atten_limit}: must be a number of dB, at least 0 (left out: no limit)"
        )
    return float(strength * (1 - 10 ** (-atten_limit / 20)))


def mix(wet: np.ndarray, dry: np.ndarray, share: float) -> np.ndarray:
    """Elementwise ``share * wet + (1 - share) * dry``, float32."""
    return np.float32(share) * wet + np.float32(1 - share) * dry


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
