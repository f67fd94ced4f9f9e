"""The stream of `stream.h` in the shared library, called as a plug-in would."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import cycle

import numpy as np

from enhance.native.library import aligned, build_library, load_library

_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "size": (ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]),
    "open": (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int],
    ),
    "latency": (ctypes.c_int, [ctypes.c_void_p]),
    "process": (None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]),
    "reset": (None, [ctypes.c_void_p]),
    "set_limit": (None, [ctypes.c_void_p, ctypes.c_float]),
    "set_strength": (None, [ctypes.c_void_p, ctypes.c_float]),
    "set_full_band": (None, [ctypes.c_void_p, ctypes.c_int]),
}


class NativeStream:
    """One stream; `size` is 0 where it was refused."""

    def __init__(self, weights: bytes, rate: int) -> None:
        library = load_library(build_library(quiet=True))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"enhance_stream_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        self._weights = aligned(len(weights))
        self._weights[:] = np.frombuffer(weights, np.uint8)
        block = self._weights.ctypes.data, len(weights)
        self.size = self._size(*block, rate)
        if self.size:
            self._memory = aligned(self.size)
            self._handle = self._open(self._memory.ctypes.data, self.size, *block, rate)
            assert self._handle
            self.latency: int = self._latency(self._handle)

    def __call__(self, wave: np.ndarray, pieces: Sequence[int] = (512,)) -> np.ndarray:
        """Shape: (n,) -> (n,), in place, in pieces of these sizes in turn"""
        out = np.ascontiguousarray(wave, np.float32).copy()
        start = 0
        for piece in cycle(pieces):
            if start >= len(out):
                return out
            part = out[start : start + piece]
            self._process(self._handle, part.ctypes.data, part.ctypes.data, len(part))
            start += piece
        return out

    def whole(self, wave: np.ndarray) -> np.ndarray:
        """Shape: (n,) -> (n,), in line with the input"""
        return self(np.concatenate([wave, np.zeros(self.latency)]))[self.latency :]

    def set(self, **settings: float) -> NativeStream:
        """limit, strength, full_band."""
        for name, value in settings.items():
            getattr(self, f"_set_{name}")(self._handle, value)
        return self

    def reset(self) -> None:
        self._reset(self._handle)
