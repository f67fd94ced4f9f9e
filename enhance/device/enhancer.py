"""Streaming enhancement over ONNX Runtime, with numpy and nothing else.

A model is one ONNX file: a hop of audio and named states in, a hop of audio and the states out.
The runtime knows no architecture. It allocates zeros for every state that the graph names, cuts
the stream into hops and hands each hop's states to the next; how the stream was cut by the caller
can therefore change no bit of the output.

What comes out may hold a share of the input, brought into line with it: see
`enhance.device.aligned_stream`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enhance.audio.samples import (
    RATES,
    check_finite,
    check_layout,
    check_samples,
    floats,
    whole_number,
    without_traces,
)
from enhance.device.aligned_stream import AlignedStream, mix, wet_share
from enhance.device.hub import find_model
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    import onnxruntime

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_MOST_SAMPLES = 1 << 20
"""Of a hop or a latency, a minute; more is no number to allocate by."""
_MOST_VALUES = 1 << 24
"""Of all states of a stream together."""
_OTHER_FILE = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location\x12")
"""The entry by which a tensor of an ONNX file names another file."""


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
        ONNX file.
    num_threads
        Threads of the model.
    strength, atten_limit
        How much of the input stays in the output, see `wet_share`. Both may also be set later,
        as attributes, and then hold from the next hop on.

    Raises
    ------
    EnhanceError
        If ``path`` is no ONNX file, or an ONNX file that does not keep the contract, or a number
        is out of its range.
    """

    _states: dict[str, np.ndarray]
    _pending: np.ndarray
    _dry: np.ndarray  # the last `latency_samples` of the input whose output was given
    _received: int
    _emitted: int

    def __init__(
        self,
        path: Path | str,
        num_threads: int = 1,
        *,
        strength: float = 1.0,
        atten_limit: float | None = None,
    ) -> None:
        self._wet = wet_share(strength, atten_limit)
        self._strength, self._atten_limit = strength, atten_limit
        self.path = Path(path)
        self._session = open_session(self.path, num_threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        """What the exporter wrote about the model."""
        self.sample_rate: int = self._number("sample_rate", RATES[0], RATES[-1])
        """Samples per second that `process` takes and gives."""
        self.hop_length: int = self._number("hop_length", 1, _MOST_SAMPLES)
        """Samples that are computed at a time."""
        self.latency_samples: int = self._number("latency_samples", 0, _MOST_SAMPLES)
        """Delay of the streamed output against the input."""
        self._shapes = self._read_signature()
        self._output_names = ["enhanced", *(f"{name}.out" for name in self._shapes)]
        self._states: dict[str, np.ndarray] = {}
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Path | str = "default",
        num_threads: int = 1,
        *,
        strength: float = 1.0,
        atten_limit: float | None = None,
    ) -> Enhancer:
        """Open a model by shipped name, path or hub id (see `enhance.device.hub.find_model`)."""
        path = find_model(name_or_path)
        return cls(path, num_threads, strength=strength, atten_limit=atten_limit)

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

    def __call__(self, wave: np.ndarray, sample_rate: int) -> np.ndarray:
        """Enhance a whole signal; every channel on its own.

        Shape: float (N,) or (C, N) -> float32 of the same shape, aligned to the sample

        Raises
        ------
        EnhanceError
            If the signal is empty, not of floats, (N, C), far beyond full scale, or holds NaN or
            infinity; or ``sample_rate`` is no whole number of Hz.
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

        Raises
        ------
        EnhanceError
            If ``chunk`` is no vector of floats, is far beyond full scale, or holds NaN or infinity
            (the stream is then where it was), or if the network itself gives NaN.
        """
        chunk = floats("chunk", chunk)
        if chunk.ndim != 1:
            raise EnhanceError(
                f"chunk of shape {chunk.shape} and type {chunk.dtype}: cannot be enhanced; "
                "give one channel of floats in [-1, 1]"
            )
        check_finite("chunk", chunk)
        joined = np.concatenate([self._pending, chunk.astype(np.float32, copy=False)])
        whole = len(joined) - len(joined) % self.hop_length
        before = self._states
        out = self._run(without_traces(joined[:whole]))
        try:
            check_samples("chunk", chunk)
        except EnhanceError:  # after the run, so that a network that overflows is named first
            self._states = before
            raise
        dry = np.concatenate([self._dry, joined[:whole]])
        if self._wet < 1:
            out = mix(out, dry[:whole], self._wet)
        self._dry = dry[whole:].copy()
        self._pending = joined[whole:].copy()
        self._received += len(chunk)
        self._emitted += whole
        return out

    def flush(self) -> np.ndarray:
        """End the stream: give the rest and start anew.

        All output together is then ``N + latency_samples`` long after N samples of input.

        Shape: -> float32 (m,)
        """
        missing = self._received + self.latency_samples - self._emitted
        fill = -(-missing // self.hop_length) * self.hop_length - len(self._pending)
        out = self.process(np.zeros(max(fill, 0), np.float32))[:missing]
        self.reset()
        return out

    def reset(self) -> None:
        """Forget the past: all states are zero."""
        self._states = {name: np.zeros(shape, kind) for name, (shape, kind) in self._shapes.items()}
        self._pending = np.zeros(0, np.float32)
        self._dry = np.zeros(self.latency_samples, np.float32)
        self._received = 0
        self._emitted = 0

    def state(self) -> dict[str, np.ndarray]:
        """Everything the stream remembers, as named arrays (`numpy.savez` keeps them).

        Settings are no memory: `strength` and `atten_limit` are not in it.
        """
        return {
            **{name: value.copy() for name, value in self._states.items()},
            "stream.pending": self._pending.copy(),
            "stream.dry": self._dry.copy(),
            "stream.samples": np.array([self._received, self._emitted], np.int64),
        }

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on where `state` was taken, in this process or another.

        Raises
        ------
        EnhanceError
            If the state belongs to another model; the stream is then where it was.
        """
        state = {name: np.array(value) for name, value in state.items()}
        expected = {*self._shapes, "stream.pending", "stream.dry", "stream.samples"}
        if set(state) != expected:
            odd = ", ".join(sorted(set(state) ^ expected))
            raise EnhanceError(f"state: not of {self.path.name} (missing or unknown: {odd})")
        pending, dry, samples = (state.pop(f"stream.{n}") for n in ("pending", "dry", "samples"))
        for name, (shape, kind) in self._shapes.items():
            if state[name].shape != shape or state[name].dtype != kind:
                raise EnhanceError(
                    f"state {name!r}: not of {self.path.name} ({state[name].dtype} "
                    f"{state[name].shape} instead of {np.dtype(kind)} {shape})"
                )
        fits = pending.ndim == 1 and pending.size < self.hop_length
        if not fits or dry.shape != (self.latency_samples,) or samples.shape != (2,):
            raise EnhanceError(
                f"state: not of {self.path.name} (stream.pending, stream.dry, stream.samples)"
            )
        self._states = {name: state[name] for name in self._shapes}
        self._pending = pending.astype(np.float32)
        self._dry = dry.astype(np.float32)
        self._received, self._emitted = (int(value) for value in samples)

    def _run(self, audio: np.ndarray) -> np.ndarray:
        """Shape: (T * hop,) -> (T * hop,); on failure the states are left as they were."""
        out = np.empty_like(audio)
        states = self._states
        for start in range(0, len(audio), self.hop_length):
            hop = slice(start, start + self.hop_length)
            feed = {"audio": audio[None, hop], **states}
            enhanced, *values = run_session(self._session, self.path, self._output_names, feed)
            if enhanced.shape != (1, self.hop_length):
                raise self._not_ours(f"it gave audio of shape {enhanced.shape}")
            states = dict(zip(self._shapes, values, strict=True))
            out[hop] = enhanced[0]
        if not np.isfinite(out).all():
            raise EnhanceError(
                f"{self.path.name}: the model gave NaN or infinity (input beyond full scale?); "
                "lower the level of the input"
            )
        self._states = states
        return out

    def _number(self, key: str, least: int, most: int) -> int:
        try:
            return number_in(self.metadata, key, least, most)
        except ValueError as error:
            raise self._not_ours(str(error)) from None

    def _read_signature(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name -> shape and type of each state; checks the graph against the contract."""
        inputs = self._session.get_inputs()
        hop = [1, self.hop_length]
        if not inputs:
            raise self._not_ours(f"it has no input 'audio' {hop}")
        first, *states = inputs
        if first.name != "audio" or first.shape != hop or first.type != "tensor(float)":
            raise self._not_ours(f"its input is {first.name!r} {first.shape}, not 'audio' {hop}")
        outputs = {node.name: node for node in self._session.get_outputs()}
        out = outputs.get("enhanced")
        if out is None or out.shape != hop or out.type != first.type:
            raise self._not_ours(f"it has no output 'enhanced' of shape {hop}")
        shapes, total = {}, 0
        for node in states:
            kind = _TYPES.get(node.type)
            if kind is None or not all(isinstance(size, int) for size in node.shape):
                raise self._not_ours(f"state {node.name!r} is {node.type} {node.shape}")
            if f"{node.name}.out" not in outputs:
                raise self._not_ours(f"state {node.name!r} has no output '{node.name}.out'")
            out = outputs[f"{node.name}.out"]
            if out.shape != node.shape or out.type != node.type:
                raise self._not_ours(
                    f"state {node.name!r} is {node.type} {node.shape}, its output {out.type} "
                    f"{out.shape}"
                )
            total += math.prod(node.shape)
            if total > _MOST_VALUES:
                raise self._not_ours(
                    f"its states up to {node.name!r} {node.shape} hold more than {_MOST_VALUES} "
                    "values"
                )
            shapes[node.name] = (tuple(node.shape), kind)
        return shapes

    def _not_ours(self, why: str) -> EnhanceError:
        return EnhanceError(
            f"{self.path}: is ONNX, but not a streaming enhancer ({why}); "
            "make one with: enhance export"
        )


def open_session(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX file; an `EnhanceError` tells a missing file from a broken one."""
    import onnxruntime

    num_threads = whole_number("num_threads", num_threads, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A waiting thread must not burn a core between the hops of a live stream.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        # By bytes, so that a missing file and a broken one are told apart.
        data = path.read_bytes()
        # ONNX Runtime would look for it in the folder where the program was started.
        if _OTHER_FILE.search(data):
            raise EnhanceError(
                f"{path}: keeps weights in another file, which is not read; a model is one file"
            )
        # Without its fallback, which prints, and tries the same again.
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        # Names that are no text show here, not later.
        _ = session.get_modelmeta().custom_metadata_map
        _ = [(n.name, n.shape) for n in (*session.get_inputs(), *session.get_outputs())]
        return session
    except EnhanceError:
        raise
    except FileNotFoundError as error:
        raise EnhanceError(f"{path}: no such model file") from error
    except OSError as error:
        raise EnhanceError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # ONNX Runtime's own types share no base but this
        raise EnhanceError(
            f"{path}: is not an ONNX model that can be run ({_why(error)})"
        ) from error


def run_session(
    session: onnxruntime.InferenceSession,
    path: Path,
    names: list[str],
    feed: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """Run an open model; an `EnhanceError` where the graph fails, as at sizes that do not fit."""
    try:
        return session.run(names, feed)  # type: ignore[no-any-return]
    except Exception as error:
        raise EnhanceError(f"{path}: the model cannot be run ({_why(error)})") from error


def number_in(metadata: Mapping[str, str], key: str, least: int, most: int) -> int:
    """A whole number of a model's metadata; a `ValueError` tells what is there instead."""
    text = metadata.get(key)
    if text is None:
        raise ValueError(f"no {key!r} in its metadata")
    plain = text.isascii() and text.isdecimal() and len(text) < 20
    if not plain or not least <= int(text) <= most:
        shown = text if len(text) < 40 else text[:40] + "..."
        raise ValueError(f"{key!r} in its metadata is {shown!r}, not from {least} to {most}")
    return int(text)


def _why(error: Exception) -> str:
    """The first words of ONNX Runtime's own, in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
