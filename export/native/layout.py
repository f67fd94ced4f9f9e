"""Matrices, tables and the header as the C reader wants them (`enhance/native/source/read.h`).

Every section begins at a multiple of 64 bytes, little endian. Matrices are cut into tiles of 16
columns, so that a processor reads one piece of memory whatever the width of its vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enhance.errors import EnhanceError
from enhance.stft import StftConfig, window
from export.graph.quantize import WEIGHT_BITS, round_columns

MAGIC, FORMAT = 0x57484E45, 1
SECTION, TILE = 64, 16
MOST_INPUTS = 32768


class Sections:
    """Bytes that grow section by section, behind a header that is written last."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, values: np.ndarray | Sequence[float], kind: type[np.generic]) -> None:
        """One section of numbers of one kind, in C order."""
        data = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()
        self._parts.append(data + bytes(-len(data) % SECTION))

    def product(self, weight: np.ndarray, bias: np.ndarray, *, int8: bool) -> None:
        """A matrix (K, N) and what is added (N,): in float, or rounded to bytes."""
        inputs, outputs = weight.shape
        if inputs > MOST_INPUTS:
            raise EnhanceError(f"export: a matrix of {inputs} inputs is too wide for plain C")
        self.add([int(int8), inputs, outputs], np.uint32)
        self.add(_filled(bias), np.float32)
        if not int8:
            self.add(_tiles(weight), np.float32)
            return
        rounded, scale = round_columns(weight, WEIGHT_BITS["int8"])
        rows = np.pad(rounded, ((0, -inputs % 4), (0, 0)))
        tiles = _tiles(rows)  # (tiles, K, TILE) -> (tiles, K / 4, TILE, 4)
        tiles = tiles.reshape(len(tiles), -1, 4, TILE).transpose(0, 1, 3, 2)
        self.add(_filled(scale), np.float32)
        self.add(_filled(rounded.sum(0, dtype=np.int32)), np.int32)
        self.add(tiles, np.int8)

    def tables(self, config: StftConfig) -> None:
        """The window, and the roots of one that the transform multiplies by."""
        even = config.fft_size % 2 == 0
        n = config.fft_size // 2 if even else config.fft_size
        self.add(window(config), np.float32)
        self.add(_roots(n, n), np.float32)
        if even:
            self.add(_roots(n + 1, config.fft_size), np.float32)

    def finish(self, numbers: Sequence[int | float], metadata: bytes) -> bytes:
        """The whole file: header, sections, zeros that vectors may read, metadata."""
        words = b"".join(
            np.array(n, "<f4" if isinstance(n, float) else "<u4").tobytes() for n in numbers
        )
        body = words.ljust(256 - 20, b"\0") + b"".join(self._parts)
        body += bytes(SECTION) + metadata
        body += bytes(-(len(body) + 20) % SECTION)
        body = np.array([len(metadata)], "<u4").tobytes() + body
        head = np.array([MAGIC, FORMAT, len(body) + 16, checksum(body)], "<u4")
        return head.tobytes() + body


def checksum(data: bytes) -> int:
    """FNV-1a over 32-bit words."""
    total = 2166136261
    for word in np.frombuffer(data, "<u4").tolist():
        total = (total ^ word) * 16777619 & 0xFFFFFFFF
    return total


def _filled(row: np.ndarray) -> np.ndarray:
    return np.pad(row, (0, -len(row) % TILE))


def _tiles(weight: np.ndarray) -> np.ndarray:
    """Shape: (K, N) -> (tiles, K, TILE), N filled up with zeros"""
    wide = np.pad(weight, ((0, 0), (0, -weight.shape[1] % TILE)))
    return wide.reshape(len(wide), -1, TILE).transpose(1, 0, 2)


def _roots(count: int, order: int) -> np.ndarray:
    """Powers of exp(-2 pi i / order) as real and imaginary parts. Shape: -> (count, 2)"""
    angle = 2 * np.pi * np.arange(count) / order
    return np.stack([np.cos(angle), -np.sin(angle)], 1)
