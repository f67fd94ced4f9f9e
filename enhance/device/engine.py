"""What computes a stream: ONNX Runtime, or the network as plain C.

Both take whole hops and a state and give enhanced hops and the state behind them; what a state is
they alone know, but can lay it out as the same named arrays.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from enhance.audio.samples import RATES, whole_number, without_traces
from enhance.errors import EnhanceError
from enhance.files import unreadable
from enhance.native.library import SUFFIX, NativeEngine, aligned, automatic_library

if TYPE_CHECKING:
    import onnxruntime

Choice = Literal["onnx", "native", "auto"]
"""Which engine: this one, or plain C where it is installed and the model has weights for it."""

Shapes = dict[str, tuple[tuple[int, ...], Any]]
"""Name -> shape and type of each state."""

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
_ALIGNED = 64  # bytes, at whose multiples states begin
_MOST_SAMPLES = 1 << 20
"""Of a hop or a latency, a minute; more is no number to allocate by."""
_MOST_VALUES = 1 << 24
"""Of all states of a stream together."""
_OTHER_FILE = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location\x12")
"""The entry by which a tensor of an ONNX file names another file."""


def open_engine(
    path: Path, choice: Choice = "onnx", num_threads: int = 1, library: Path | str | None = None
) -> OnnxEngine | NativeEngine:
    """Open a model: an ONNX file, or weights for plain C (``.bin``).

    ``num_threads`` are those of ONNX Runtime, ``library`` is the shared library of plain C (None
    for the one that is compiled here). An `EnhanceError` tells why it cannot be opened so.
    """
    if choice not in ("onnx", "native", "auto"):
        raise EnhanceError(f"engine {choice!r}: unknown; choose onnx, native or auto")
    weights = path if path.suffix == SUFFIX else path.with_suffix(SUFFIX)
    shared = None if library is None else Path(library)
    if choice == "auto":
        shared = (shared or automatic_library()) if weights.is_file() else None
        choice = "onnx" if shared is None else "native"
    if choice == "onnx":
        if path.suffix == SUFFIX:
            raise EnhanceError(
                f"{path}: holds weights for plain C; take the .onnx file, or engine native"
            )
        return OnnxEngine(path, num_threads)
    if not weights.is_file():
        raise EnhanceError(
            f"{path}: has no weights for plain C beside it ({weights.name}); "
            "export them with: enhance export --c, or use engine onnx"
        )
    engine = NativeEngine(weights, shared)
    if path != weights and not _same_model(engine, path):
        raise EnhanceError(
            f"{weights}: holds another model than {path.name} beside it; export both anew"
        )
    return engine


def _same_model(engine: NativeEngine, path: Path) -> bool:
    """Whether an ONNX file holds the training record of these weights, which names their step."""
    if not path.is_file():
        raise EnhanceError(f"{path}: no such model file")
    training = engine.metadata.get("training", "").encode()
    return bool(training) and training in path.read_bytes()


class OnnxEngine:
    """A model as one ONNX file: a hop of audio and named states in, the same out.

    It allocates zeros for every state that the graph names. An `EnhanceError` refuses what is no
    ONNX file, or one that does not keep the contract.
    """

    name = "onnx"

    def __init__(self, path: Path, num_threads: int) -> None:
        self.path = path
        self._session = open_session(path, num_threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            self.sample_rate = number_in(self.metadata, "sample_rate", RATES[0], RATES[-1])
            self.hop_length = number_in(self.metadata, "hop_length", 1, _MOST_SAMPLES)
            self.latency_samples = number_in(self.metadata, "latency_samples", 0, _MOST_SAMPLES)
        except ValueError as error:
            raise self._not_ours(str(error)) from None
        self.shapes = self._read_signature()
        self._places, self._size = _laid(self.shapes)
        self._threads = threading.local()

    def zeros(self) -> np.ndarray:
        """The state of a stream at its beginning: bytes, one named state behind the other."""
        return np.zeros(self._size, np.uint8)

    def arrays(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """A state by name, as copies."""
        return {name: value.copy() for name, value in self._named(state).items()}

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """What `arrays` took apart; types and shapes were looked at."""
        state = self.zeros()
        for name, place in self._named(state).items():
            place[...] = arrays[name]
        return state

    def run(self, audio: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Enhance whole hops; ``state`` is left as it was.

        Shape: (T * hop,), state -> (T * hop,), state
        """
        audio, out = without_traces(audio), np.empty_like(audio)
        mine, side = self._bound(), 0
        mine.states[side][:] = state
        for start in range(0, len(audio), self.hop_length):
            hop = slice(start, start + self.hop_length)
            mine.audio[0] = audio[hop]
            try:
                self._session.run_with_iobinding(mine.bindings[side])
            except Exception as error:
                raise _failed(self.path, error) from error
            out[hop] = mine.enhanced[0]
            side = 1 - side
        return out, mine.states[side].copy()

    def _named(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """Views of a state."""
        return {
            name: np.ndarray(shape, kind, state.data, self._places[name])
            for name, (shape, kind) in self.shapes.items()
        }

    def _bound(self) -> Any:
        """This thread's memory, in which ONNX Runtime reads and writes: one hop of audio each way,
        and two states that change places from hop to hop. Arrays that it makes, and takes, anew for
        each hop cost a tenth of a step.
        """
        mine = self._threads
        if not hasattr(mine, "bindings"):
            mine.audio, mine.enhanced = np.zeros((2, 1, self.hop_length), np.float32)
            mine.states = [aligned(self._size), aligned(self._size)]
            bindings = []
            for side in (0, 1):
                bound = self._session.io_binding()
                _bind(bound.bind_input, "audio", mine.audio)
                _bind(bound.bind_output, "enhanced", mine.enhanced)
                for name, value in self._named(mine.states[side]).items():
                    _bind(bound.bind_input, name, value)
                for name, value in self._named(mine.states[1 - side]).items():
                    _bind(bound.bind_output, f"{name}.out", value)
                bindings.append(bound)
            mine.bindings = bindings
        return mine

    def _read_signature(self) -> Shapes:
        """Checks the graph against the contract."""
        inputs, hop = self._session.get_inputs(), [1, self.hop_length]
        if not inputs:
            raise self._not_ours(f"it has no input 'audio' {hop}")
        first, *states = inputs
        if first.name != "audio" or first.shape != hop or first.type != "tensor(float)":
            raise self._not_ours(f"its input is {first.name!r} {first.shape}, not 'audio' {hop}")
        outputs = {node.name: node for node in self._session.get_outputs()}
        out = outputs.get("enhanced")
        if out is None or out.shape != hop or out.type != first.type:
            raise self._not_ours(f"it has no output 'enhanced' of shape {hop}")
        shapes: Shapes = {}
        total = 0
        for node in states:
            kind = _TYPES.get(node.type)
            if kind is None or not all(isinstance(size, int) for size in node.shape):
                raise self._not_ours(f"state {node.name!r} is {node.type} {node.shape}")
            out = outputs.get(f"{node.name}.out")
            if out is None:
                raise self._not_ours(f"state {node.name!r} has no output '{node.name}.out'")
            if out.shape != node.shape or out.type != node.type:
                raise self._not_ours(
                    f"state {node.name!r} is {node.type} {node.shape}, its output {out.type} "
                    f"{out.shape}"
                )
            shapes[node.name] = (tuple(node.shape), kind)
            total += math.prod(node.shape)
            if total > _MOST_VALUES:
                where = f"its states up to {node.name!r} {node.shape}"
                raise self._not_ours(f"{where} hold more than {_MOST_VALUES} values")
        return shapes

    def _not_ours(self, why: str) -> EnhanceError:
        return EnhanceError(
            f"{self.path}: is ONNX, but not a streaming enhancer ({why}); "
            "make one with: enhance export"
        )


def _laid(shapes: Shapes) -> tuple[dict[str, int], int]:
    """Where each state begins in the bytes of all, and how many these are."""
    places, size = {}, 0
    for name, (shape, kind) in shapes.items():
        places[name] = size
        size += -(-math.prod(shape) * np.dtype(kind).itemsize // _ALIGNED) * _ALIGNED
    return places, size


def _bind(call: Callable[..., None], name: str, value: np.ndarray) -> None:
    call(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)


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
        raise unreadable(path, error) from error
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
        raise _failed(path, error) from error


def _failed(path: Path, error: Exception) -> EnhanceError:
    return EnhanceError(f"{path}: the model cannot be run ({_why(error)})")


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
