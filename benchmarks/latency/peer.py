"""Another system's streaming ONNX file, timed beside ours (``enhance bench --peer FILE@MS``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enhance.device.engine import open_session, run_session
from enhance.errors import EnhanceError


class Peer:
    """A foreign model under measurement: what of an `Enhancer` a bench uses.

    Its first input is a frame of whatever shape, and is fed with noise; every other one is a state,
    whose next value is the output at the same place. What it does in Python beside the file, often
    its transforms, is not timed. An `EnhanceError` tells that the file is nothing of the kind.
    """

    sample_rate = 16000
    latency_samples = None

    def __init__(self, text: str) -> None:
        """``text`` is ``FILE@MS``: the file, and the milliseconds of new audio in a frame."""
        file, _, hop = text.rpartition("@")
        try:
            self.hop_length = round(float(hop) * self.sample_rate / 1000)
        except (ValueError, OverflowError):
            self.hop_length = 0
        if not file or self.hop_length < 1:
            raise EnhanceError(
                f"--peer {text}: write FILE@MS, with the milliseconds of new audio in a frame"
            )
        self.path = Path(file).expanduser()
        session = open_session(self.path, 1)
        self._session = session
        self._outputs = [value.name for value in session.get_outputs()]
        inputs, outputs = (
            [(value.shape, value.type) for value in values]
            for values in (session.get_inputs(), session.get_outputs())
        )
        for value in session.get_inputs():
            if value.type != "tensor(float)" or not all(isinstance(n, int) for n in value.shape):
                raise EnhanceError(
                    f"{self.path}: input {value.name!r} is {value.type} of {value.shape}; a peer "
                    "takes float32 of fixed sizes"
                )
        if len(inputs) < 2 or inputs[1:] != outputs[1:]:
            raise EnhanceError(
                f"{self.path}: its outputs after the first are not the states that it takes after "
                "the first input, in the same order; a peer is such a stream"
            )
        rng = np.random.default_rng(0)
        names = [value.name for value in session.get_inputs()]
        frame, *states = (shape for shape, _ in inputs)
        self._feed = dict(zip(names[1:], (np.zeros(s, np.float32) for s in states), strict=True))
        self._feed[names[0]] = (0.05 * rng.standard_normal(frame)).astype(np.float32)
        self._states = names[1:]
        self.metadata = {"quantization": "-"}

    def process(self, _: np.ndarray) -> np.ndarray:
        """One frame; what is given only tells that it is its turn."""
        found = run_session(self._session, self.path, self._outputs, self._feed)
        self._feed.update(zip(self._states, found[1:], strict=True))
        return found[0]
