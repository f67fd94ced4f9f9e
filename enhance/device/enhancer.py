"""Streaming enhancement: whole hops through an engine (`enhance.device.engine`), numpy in and out.

The runtime knows no architecture. It begins with an engine's zero state, cuts the stream into hops
and hands each hop's state to the next; how the stream was cut by the caller can therefore change no
bit of the output.

What comes out may hold a share of the input, brought into line with it: see
`enhance.device.aligned_stream`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from enhance.audio.samples import check_layout, check_peak, check_samples, floats, largest, peak_of
from enhance.device.aligned_stream import AlignedStream, mix, wet_share
from enhance.device.engine import Choice, open_engine
from enhance.device.hub import find_model
from enhance.device.upper_band import check_bandwidth
from enhance.errors import EnhanceError


class Enhancer:
    """Enhance speech, whole or as a stream of one channel.

    >>> enhancer = Enhancer.from_pretrained("default")
    >>> clean = enhancer(noisy, 44100)                        # any rate, same length, aligned
    >>> for chunk in microphone:                              # float32 at enhancer.sample_rate
    ...     play(enhancer.process(chunk))                     # any length in, what is ready out
    >>> play(enhancer.flush())

    Streamed output is `latency_samples` late: ``out[n]`` belongs to ``in[n - latency_samples]``.
    A call leaves the stream alone. Several threads may each use their own `new_stream`.

    Parameters
    ----------
    path
        ONNX file, or weights for plain C.
    num_threads
        Threads of the model; plain C has one.
    strength, atten_limit
        How much of the input stays in the output, see `wet_share`. Both may also be set later,
        as attributes, and then hold from the next hop on.
    engine
        What computes: ``"onnx"``, ONNX Runtime; ``"native"``, plain C, with the weights beside
        the ONNX file, compiled where it was not yet; ``"auto"``, plain C where the model has
        weights for it and it was compiled already or ``enhance[native]`` is installed, else ONNX
        Runtime.
    library
        Shared library of plain C; None for the one that is compiled here.
    bandwidth
        Of calls with a rate above the model's: ``"full"`` passes what lies above the model's band
        with the gain of the band below (`enhance.device.upper_band`), ``"16k"`` leaves it out.

    Raises
    ------
    EnhanceError
        If ``path`` is no ONNX file, or an ONNX file that does not keep the contract, or a number
        is out of its range.
    """

    _state: Any  # the engine's
    _pending: np.ndarray
    _dry: np.ndarray  # the last `latency_samples` of the input whose output was given
    _received: int  # samples since the beginning

    def __init__(
        self,
        path: Path | str,
        num_threads: int = 1,
        *,
        strength: float = 1.0,
        atten_limit: float | None = None,
        engine: Choice = "onnx",
        library: Path | str | None = None,
        bandwidth: str = "full",
    ) -> None:
        self._wet = wet_share(strength, atten_limit)
        self._bandwidth = check_bandwidth(bandwidth)
        self._strength, self._atten_limit = strength, atten_limit
        self._opened = {"num_threads": num_threads, "library": library}
        self._engine = open_engine(Path(path), engine, num_threads, library)
        self.path = self._engine.path
        """The file that runs."""
        self.engine: str = self._engine.name
        """What computes: ``"onnx"`` or ``"native"``."""
        self.metadata: dict[str, str] = self._engine.metadata
        """What the exporter wrote about the model."""
        self.sample_rate: int = self._engine.sample_rate
        """Samples per second that `process` takes and gives."""
        self.hop_length: int = self._engine.hop_length
        """Samples that are computed at a time."""
        self.latency_samples: int = self._engine.latency_samples
        """Delay of the streamed output against the input."""
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Path | str = "default",
        num_threads: int = 1,
        *,
        strength: float = 1.0,
        atten_limit: float | None = None,
        engine: Choice = "onnx",
        library: Path | str | None = None,
        bandwidth: str = "full",
    ) -> Enhancer:
        """Open a model by shipped name, path or hub id (see `enhance.device.hub.find_model`)."""
        return cls(
            find_model(name_or_path),
            num_threads,
            strength=strength,
            atten_limit=atten_limit,
            engine=engine,
            library=library,
            bandwidth=bandwidth,
        )

    @property
    def bandwidth(self) -> str:
        """What calls do above the model's band: ``"full"`` keeps it, ``"16k"`` leaves it out."""
        return self._bandwidth

    @bandwidth.setter
    def bandwidth(self, value: str) -> None:
        self._bandwidth = check_bandwidth(value)

    @property
    def strength(self) -> float:
        """How much of the model's work is kept: 1 all, 0 the input comes out, delayed."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._wet = wet_share(value, self._atten_limit)
        self._strength = value

    @property
    def atten_limit(self) -> float | None:
        """Most dB by which anything is suppressed; None for no limit."""
        return self._atten_limit

    @atten_limit.setter
    def atten_limit(self, value: float | None) -> None:
        self._wet = wet_share(self._strength, value)
        self._atten_limit = value

    @property
    def wet(self) -> float:
        """Share of the enhanced signal in the output: `wet_share` of both settings."""
        return self._wet

    def new_stream(self) -> Enhancer:
        """Another stream over the same loaded model and settings, with states of its own."""
        other = object.__new__(Enhancer)
        other.__dict__.update(self.__dict__)
        other.reset()
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process goes what opens the model there, and where the stream is."""
        settings = {
            "strength": self._strength,
            "atten_limit": self._atten_limit,
            "bandwidth": self._bandwidth,
            "engine": self.engine,
            **self._opened,
        }
        return _reopened, (self.path, settings, self.state())

    def __copy__(self) -> Enhancer:
        """The same loaded model, the stream where it is."""
        other = self.new_stream()
        other.load_state(self.state())
        return other

    def __call__(self, wave: np.ndarray, sample_rate: int) -> np.ndarray:
        """Enhance a whole signal; every channel on its own.

        Shape: float (N,) or (C, N) -> float32 of the same shape, aligned to the sample

        An `EnhanceError` if the signal is empty, not of floats, (N, C), far beyond full scale, or
        holds NaN or infinity; or ``sample_rate`` is no whole number of Hz.
        """
        wave = floats("wave", wave)
        if wave.ndim not in (1, 2) or not wave.size:
            raise EnhanceError(
                f"wave of shape {wave.shape} and type {wave.dtype}: cannot be enhanced; "
                "give floats in [-1, 1] of shape (N,) or (C, N)"
            )
        frames = np.atleast_2d(wave).T  # (N, C)
        check_layout("wave", *frames.shape[::-1])
        check_samples("wave", wave)
        aligned = AlignedStream(self, sample_rate, frames.shape[1])
        out = np.concatenate([aligned.process(frames), aligned.flush()])  # (N, C)
        return np.ascontiguousarray(out.T).reshape(wave.shape)

    def process(self, chunk: np.ndarray) -> np.ndarray:
        """Take the next samples of the stream, give those that are ready.

        Shape: float (n,), any n -> float32 (m,), m a multiple of the hop

        An `EnhanceError` if ``chunk`` is no vector of floats, is far beyond full scale, or holds
        NaN or infinity (the stream is then where it was), or if the network itself gives NaN.
        """
        chunk = floats("chunk", chunk)
        if chunk.ndim != 1:
            raise EnhanceError(
                f"chunk of shape {chunk.shape} and type {chunk.dtype}: cannot be enhanced; "
                "give one channel of floats in [-1, 1]"
            )
        peak = peak_of("chunk", chunk)
        joined = chunk.astype(np.float32, copy=False)
        if len(self._pending):
            joined = np.concatenate([self._pending, joined])
        whole = len(joined) - len(joined) % self.hop_length
        out, state = self._engine.run(joined[:whole], self._state)
        if not math.isfinite(largest(out)):
            raise EnhanceError(
                f"{self.path.name}: the model gave NaN or infinity (input beyond full scale?); "
                "lower the level of the input"
            )
        check_peak("chunk", peak)  # after the run: a network that overflows is named first
        self._state = state
        if self._wet < 1 or whole < self.latency_samples:
            dry = np.concatenate([self._dry, joined[:whole]])
            if self._wet < 1:
                out = mix(out, dry[:whole], self._wet)
            self._dry = dry[whole:].copy()
        else:
            self._dry = joined[whole - self.latency_samples : whole].copy()
        self._pending = joined[whole:].copy()
        self._received += len(chunk)
        return out

    def flush(self) -> np.ndarray:
        """End the stream: give the rest and start anew.

        All output together is then ``N + latency_samples`` long after N samples of input.

        Shape: -> float32 (m,)
        """
        missing = len(self._pending) + self.latency_samples
        fill = -(-missing // self.hop_length) * self.hop_length - len(self._pending)
        out = self.process(np.zeros(max(fill, 0), np.float32))[:missing]
        self.reset()
        return out

    def reset(self) -> None:
        """Forget the past: all states are zero."""
        self._state = self._engine.zeros()
        self._pending = np.zeros(0, np.float32)
        self._dry = np.zeros(self.latency_samples, np.float32)
        self._received = 0

    def state(self) -> dict[str, np.ndarray]:
        """Everything the stream remembers, as named arrays (`numpy.savez` keeps them).

        Settings are no memory: `strength` and `atten_limit` are not in it.
        """
        given = self._received - len(self._pending)
        return {
            **self._engine.arrays(self._state),
            "stream.pending": self._pending.copy(),
            "stream.dry": self._dry.copy(),
            "stream.samples": np.array([self._received, given], np.int64),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on where `state` was taken, in this process or another.

        An `EnhanceError` if the state is none, or of a model whose states have other names or
        shapes; the stream is then where it was.
        """
        try:
            state = {name: np.array(value) for name, value in state.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise EnhanceError(
                f"state: no arrays by name ({error}); give what state() gave"
            ) from error
        expected = {*self._engine.shapes, "stream.pending", "stream.dry", "stream.samples"}
        if set(state) != expected:
            odd = ", ".join(sorted(map(str, set(state) ^ expected)))
            raise EnhanceError(f"state: not of {self.path.name} (missing or unknown: {odd})")
        pending, dry, samples = (state.pop(f"stream.{n}") for n in ("pending", "dry", "samples"))
        for name, (shape, kind) in self._engine.shapes.items():
            if state[name].shape != shape or state[name].dtype != kind:
                raise EnhanceError(
                    f"state {name!r}: not of {self.path.name} ({state[name].dtype} "
                    f"{state[name].shape} instead of {np.dtype(kind)} {shape})"
                )
        received = self._count(pending, dry, samples)
        for name, value in {**state, "stream.pending": pending, "stream.dry": dry}.items():
            if not np.isfinite(value).all():
                raise EnhanceError(f"state {name!r}: holds NaN or infinity; reset() starts anew")
        self._state = self._engine.state_of(state)
        self._pending = pending.astype(np.float32)
        self._dry = dry.astype(np.float32)
        self._received = received

    def _count(self, pending: np.ndarray, dry: np.ndarray, samples: np.ndarray) -> int:
        """Samples that came, of a state in which all agrees."""
        fits = (
            all(part.dtype.kind == "f" for part in (pending, dry))
            and samples.dtype.kind in "iu"
            and pending.ndim == 1
            and pending.size < self.hop_length
            and dry.shape == (self.latency_samples,)
            and samples.shape == (2,)
        )
        received, emitted = (int(value) for value in samples) if fits else (0, -1)
        if emitted < 0 or received - emitted != pending.size:
            raise EnhanceError(
                f"state: not of {self.path.name} (stream.pending, stream.dry, stream.samples)"
            )
        return received


def _reopened(path: Path, settings: dict[str, Any], state: dict[str, np.ndarray]) -> Enhancer:
    enhancer = Enhancer(path, **settings)
    enhancer.load_state(state)
    return enhancer
