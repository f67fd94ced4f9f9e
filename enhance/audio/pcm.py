"""Samples as whole numbers, and as the bytes of a pipe: little-endian, channels in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

WIDTHS = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
"""Bytes of a sample, by libsndfile's name of the encoding."""
_FLOATS = {"FLOAT": "<f4", "DOUBLE": "<f8"}
_MOST = 1 << 16  # bytes that are read at a time


def decode(data: bytes, subtype: str, channels: int) -> np.ndarray:
    """Samples of whole frames.

    Shape: n * C samples -> float32 (n, C); full scale is 1
    """
    flat: np.ndarray
    if subtype in _FLOATS:
        flat = np.frombuffer(data, _FLOATS[subtype]).astype(np.float32)
    elif subtype == "PCM_U8":
        flat = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    else:
        width = WIDTHS[subtype]
        wide = np.zeros((len(data) // width, 4), np.uint8)  # on top of 32 bits
        wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        flat = (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return flat.reshape(-1, channels)


def rounded(block: np.ndarray, bits: int) -> np.ndarray:
    """The nearest whole numbers of so many bits, full scale 1; int32 of the same shape."""
    full = 2 ** (bits - 1)
    scaled = np.rint(block.astype(np.float64) * full)
    return np.clip(scaled, -full, full - 1).astype(np.int32)


def encode(block: np.ndarray, subtype: str) -> tuple[bytes, int]:
    """Bytes of samples (n, C), and how many of them were cut to full scale (of floats: none)."""
    if subtype in _FLOATS:
        return block.astype(_FLOATS[subtype]).tobytes(), 0
    width = WIDTHS[subtype]
    narrow = rounded(block, 8 * width).astype("<i4")
    clipped = int(np.count_nonzero(np.abs(block) > 1))
    return narrow.view(np.uint8).reshape(-1, 4)[:, :width].tobytes(), clipped


class FrameReader:
    """Whole frames of C channels out of a pipe, as soon as they are there.

    The file is buffered, as ``sys.stdin.buffer`` is. It is read for ``limit`` bytes, or (None) to
    its end.
    """

    def __init__(
        self, file: BinaryIO, subtype: str, channels: int, limit: int | None = None
    ) -> None:
        self._file = file
        self._form = subtype, channels
        self._left = sys.maxsize if limit is None else limit
        self.odd = 0
        """Bytes at the end that are no whole frame."""
        self.frames = 0
        """Frames so far."""

    def __iter__(self) -> Iterator[np.ndarray]:
        width = WIDTHS[self._form[0]] * self._form[1]
        rest = b""
        while self._left > 0:
            data = self._file.read1(min(_MOST, self._left))  # type: ignore[attr-defined]
            if not data:  # else what is there, perhaps not all that was asked for
                break
            self._left -= len(data)
            data = rest + data
            whole = len(data) // width * width
            rest = data[whole:]
            if whole:
                self.frames += whole // width
                yield decode(data[:whole], *self._form)
        self.odd = len(rest)
