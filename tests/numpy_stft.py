"""The framing of `enhance.stft` in numpy, as a stream: what the network's transforms must equal."""

from __future__ import annotations

import numpy as np

from enhance.errors import EnhanceError
from enhance.stft import StftConfig, window


class StreamingStft:
    """Analysis of a stream, hop by hop.

    Any whole number of hops per call; the last ``overlap`` samples are carried.
    """

    def __init__(self, config: StftConfig) -> None:
        self.config = config
        self._window = window(config)
        self.reset()

    def reset(self) -> None:
        """Forget the past: zeros stand to the left again."""
        self._tail = np.zeros(self.config.overlap)

    def process(self, audio: np.ndarray) -> np.ndarray:
        """Spectrum of the next frames.

        Shape: audio (T * hop,) -> complex (T, F)

        Raises
        ------
        EnhanceError
            If the length is no multiple of the hop.
        """
        c = self.config
        if audio.ndim != 1 or len(audio) % c.hop_length:
            raise EnhanceError(
                f"audio of shape {audio.shape}: need one channel in hops of {c.hop_length} samples"
            )
        joined = np.concatenate([self._tail, audio])
        frames = len(audio) // c.hop_length
        index = np.arange(frames)[:, None] * c.hop_length + np.arange(c.window_length)
        self._tail = joined[len(audio) :]
        return np.fft.rfft(joined[index] * self._window, c.fft_size)  # (T, F)


class StreamingIstft:
    """Synthesis of a stream by overlap-add, ``overlap`` samples late."""

    def __init__(self, config: StftConfig) -> None:
        self.config = config
        self._window = window(config)
        self.reset()

    def reset(self) -> None:
        """Forget the past: nothing overlaps the next frame."""
        self._tail = np.zeros(self.config.overlap)

    def process(self, spectrum: np.ndarray) -> np.ndarray:
        """Samples that the next frames complete.

        Shape: complex (T, F) -> (T * hop,)
        """
        c = self.config
        frames = np.fft.irfft(spectrum, c.fft_size)[:, : c.window_length] * self._window
        out = np.zeros(len(frames) * c.hop_length + c.overlap)
        out[: c.overlap] = self._tail
        for t, frame in enumerate(frames):
            out[t * c.hop_length : t * c.hop_length + c.window_length] += frame
        self._tail = out[len(frames) * c.hop_length :]
        return out[: len(frames) * c.hop_length]
