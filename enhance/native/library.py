"""The plain C network as a shared library: `NativeEngine` is one model in it."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import sys
import threading
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from enhance.errors import EnhanceError
from enhance.files import cache_folder, unreadable
from enhance.native.build import compile_library, find_compiler, source, target, zig

SUFFIX = ".bin"
"""Of weights for plain C: ``NAME.int8.bin`` stands beside ``NAME.int8.onnx``."""

NO_COMPILER = (
    "no C compiler found (clang, gcc or cc); install one, or pip install 'enhance[native]'"
)

_SIGNATURES: dict[str, tuple[Any, str]] = {
    "refusal": (ctypes.c_char_p, "pn"),
    "size": (ctypes.c_size_t, "pn"),
    "open": (ctypes.c_void_p, "pnpn"),
    "sample_rate": (ctypes.c_int, "p"),
    "hop": (ctypes.c_int, "p"),
    "latency": (ctypes.c_int, "p"),
    "process": (None, "ppp"),
    "state_size": (ctypes.c_size_t, "p"),
    "state": (ctypes.c_void_p, "p"),
    "version": (ctypes.c_char_p, ""),
    "instructions": (ctypes.c_char_p, ""),
}
"""Result and arguments of each function of `enhance.h`: pointers and sizes."""


@cache
def _name(compiler: str) -> str:
    """Another source, compiler or processor has another file."""
    text = source() + target(compiler)
    return f"enhance-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"


def _path(compiler: str) -> Path:
    return cache_folder() / "native" / _name(compiler)


def installed_library() -> Path | None:
    """The library for this machine, where it was built already."""
    compiler = find_compiler()
    return _path(compiler) if compiler is not None and _path(compiler).is_file() else None


def build_library(*, quiet: bool = False) -> Path:
    """The library for this machine; it is compiled if it was not.

    An `EnhanceError` tells that there is no compiler, or that it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise EnhanceError(
            f"engine native: {NO_COMPILER}, or name a library that was compiled elsewhere"
        )
    path = _path(compiler)
    if not path.is_file():
        if not quiet:
            print(f"compiling the native step with {compiler} (once)", file=sys.stderr)
        compile_library(path, compiler)
    return path


def automatic_library() -> Path | None:
    """The library where it was built already; it is built where ``enhance[native]`` is installed.

    Where it cannot be built, standard error says why.
    """
    try:
        return build_library() if zig() else installed_library()
    except (EnhanceError, OSError) as error:
        print(f"{error}; going on with ONNX Runtime", file=sys.stderr)
        return None


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """Open a library and look at what it is; calls of it leave the interpreter free."""
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_size_t}
    try:
        library = ctypes.CDLL(str(path.resolve()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"enhance_{name}")
            function.restype, function.argtypes = result, [kinds[a] for a in arguments]
    except (OSError, AttributeError) as error:
        raise EnhanceError(f"{path}: is no library of enhance ({error})") from error
    return library


def aligned(size: int) -> np.ndarray:
    """Zero bytes at a multiple of 64. Shape: -> uint8 (size,)"""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


class _Stream(threading.local):
    """One thread's memory of the C code."""

    handle: int | None = None
    memory: np.ndarray
    held: np.ndarray  # its state, a view
    taken: np.ndarray
    given: np.ndarray  # a hop each; asking an array for its address takes longer than a copy
    addresses: tuple[int, int]


class NativeEngine:
    """A model in plain C: whole hops and the state in, the same out.

    Threads may call it at once, each has memory of its own. ``weights`` are what `export.native`
    wrote; without a ``library`` it is built. An `EnhanceError` tells which cannot be used, and why.
    """

    name = "native"

    def __init__(self, weights: Path, library: Path | None = None) -> None:
        self.path = weights
        self._library = load_library(library or build_library())
        try:
            data = weights.read_bytes()
        except OSError as error:
            raise unreadable(weights, error) from error
        self._weights = aligned(len(data))
        self._weights[:] = np.frombuffer(data, np.uint8)
        refusal = self._library.enhance_refusal(self._weights.ctypes.data, len(data))
        if refusal is not None:
            raise EnhanceError(f"{weights}: cannot be used ({refusal.decode()}); export it again")
        self._size = self._library.enhance_size(self._weights.ctypes.data, len(data))
        self._threads = _Stream()
        self.metadata, sizes = read_metadata(data, weights)
        """What the exporter wrote about the model."""
        self.instructions: str = self._library.enhance_instructions().decode()
        """Instruction set that the library was compiled for."""
        handle = self._handle()
        self.sample_rate: int = self._library.enhance_sample_rate(handle)
        """Samples per second."""
        self.hop_length: int = self._library.enhance_hop(handle)
        """Samples of a hop."""
        self.latency_samples: int = self._library.enhance_latency(handle)
        """Samples by which the output is late."""
        self.shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            name: (shape, np.float32) for name, shape in sizes.items()
        }
        """Name, shape and type of each state."""
        self._state_size = self._library.enhance_state_size(handle)
        if not self._names_its_states():
            raise EnhanceError(f"{weights}: its metadata names other states; export it again")

    def _names_its_states(self) -> bool:
        """Whether the shapes of the metadata, which are not trusted, are those of the C code."""
        shapes = [shape for shape, _ in self.shapes.values()]
        if min(0, *chain(*shapes)) < 0 or sum(map(math.prod, shapes)) != self._state_size:
            return False
        try:
            return bool(self.arrays(self.zeros()))
        except (ValueError, OverflowError):  # numpy's, of sizes that no array has
            return False

    def zeros(self) -> np.ndarray:
        """The state of a stream at its beginning."""
        return np.zeros(self._state_size, np.float32)

    def arrays(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """The same state by name, as copies."""
        sizes = [math.prod(shape) for shape, _ in self.shapes.values()]
        parts = np.split(state, np.cumsum(sizes)[:-1])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(shape).copy() for (name, (shape, _)), part in named}

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """What `arrays` took apart."""
        return np.concatenate([arrays[name].ravel() for name in self.shapes])

    def run(self, audio: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Enhance whole hops; ``state`` is left as it was.

        Shape: float32 (T * hop,), state -> float32 (T * hop,), state
        """
        if not len(audio):
            return audio.copy(), state
        handle, mine = self._handle(), self._threads
        mine.held[:] = state
        out = np.empty(len(audio), np.float32)
        process, hop = self._library.enhance_process, self.hop_length
        for start in range(0, len(audio), hop):
            mine.taken[:] = audio[start : start + hop]
            process(handle, *mine.addresses)
            out[start : start + hop] = mine.given
        return out, mine.held.copy()

    def _handle(self) -> int:
        """This thread's stream."""
        if self._threads.handle is None:
            memory = aligned(self._size)
            weights = self._weights.ctypes.data, len(self._weights)
            handle = self._library.enhance_open(memory.ctypes.data, self._size, *weights)
            if handle is None:
                raise EnhanceError(
                    "engine native: the library was compiled with contracted products and would "
                    "give other bits; compile it with -ffp-contract=off"
                )
            size = self._library.enhance_state_size(handle)
            pointer = ctypes.cast(
                self._library.enhance_state(handle), ctypes.POINTER(ctypes.c_float * size)
            )
            self._threads.memory = memory  # kept alive
            self._threads.held = np.frombuffer(pointer.contents, np.float32)
            hop = self._library.enhance_hop(handle)
            taken, given = aligned(4 * hop).view(np.float32), aligned(4 * hop).view(np.float32)
            self._threads.taken, self._threads.given = taken, given
            self._threads.addresses = taken.ctypes.data, given.ctypes.data
            self._threads.handle = handle
        return self._threads.handle


def read_metadata(data: bytes, name: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The metadata at the end of weights: text entries, and the shape of each state.

    It is not trusted either: an `EnhanceError` tells that it cannot be read.
    """
    size = int.from_bytes(data[16:20], "little")
    try:
        found = dict(json.loads(data.rstrip(b"\0")[-size:]))
        states = dict(json.loads(found.pop("states")))
        shapes = {str(key): tuple(map(int, shape)) for key, shape in states.items()}
        texts = {str(key): str(value) for key, value in found.items()}
        for text in (*shapes, *texts, *texts.values()):
            text.encode()  # what is no text shows here, not later
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise EnhanceError(f"{name}: its metadata cannot be read ({error})") from error
    return texts, shapes
