"""Run an offline ONNX model: whole recordings in, whole recordings out (numpy, onnxruntime).

What `enhance export --offline` writes for models that look ahead over the whole recording. They
have no states and no latency, and they cannot stream.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from enhance.audio.samples import RATES, check_samples, floats, without_traces
from enhance.device.aligned_stream import wet_share
from enhance.device.engine import Choice, number_in, open_session, run_session
from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.native.library import SUFFIX

KIND = "gcrn-offline"
"""`model_type` in the metadata of such a file."""
_MOST_LEAST = 1 << 24
"""Samples that a recording is at most filled up to."""
CONTEXT_SECONDS = 4.0
"""What a window hears before and behind the part of it that is kept."""


class OfflineEnhancer:
    """An offline model; to `AlignedStream` a stream that holds everything back until the end.

    An `EnhanceError` refuses a file that cannot be read or holds another kind of model.
    """

    latency_samples = 0
    hop_length = 256  # of gains; all comes at the end

    def __init__(self, path: Path | str, num_threads: int = 1) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, num_threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("model_type") != KIND:
            raise EnhanceError(f"{self.path}: is no offline model; open it with enhance.Enhancer")
        try:
            self.sample_rate = number_in(self.metadata, "sample_rate", RATES[0], RATES[-1])
            self.least_samples = number_in(self.metadata, "least_samples", 0, _MOST_LEAST)
            """Shortest recording that it takes."""
            self.longest_samples = None
            """Longest recording that goes through at once, None for no bound. Longer ones are cut
            into windows that overlap by twice `CONTEXT_SECONDS`."""
            if self.metadata.get("equal_up_to_samples"):
                least = self.least_samples + 2 * int(CONTEXT_SECONDS * self.sample_rate)
                self.longest_samples = number_in(
                    self.metadata, "equal_up_to_samples", least + 1, 1 << 40
                )
        except ValueError as error:
            raise self._not_ours(str(error)) from None
        audio, *more = [node.name for node in self._session.get_inputs()] or [""]
        if audio != "audio" or more:
            raise self._not_ours(f"its inputs are {[audio, *more]}, not ['audio']")
        if "enhanced" not in [node.name for node in self._session.get_outputs()]:
            raise self._not_ours("it has no output 'enhanced'")
        self.bandwidth = "full"
        """What becomes of the band above the model's, see `enhance.device.upper_band`."""
        self.strength = 1.0
        self.atten_limit: float | None = None
        """How much of the input stays in a stream's output, see `wet_share`; not in a call's."""
        self._heard: list[np.ndarray] = []

    @property
    def wet(self) -> float:
        """Share of the enhanced signal in the output."""
        return wet_share(self.strength, self.atten_limit)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Enhance one recording at `sample_rate`, aligned with the input.

        Shape: (N,) -> (N,) float32

        An `EnhanceError` if it is not one channel of floats, too short, not finite, or far beyond
        full scale.
        """
        wave = floats("wave", wave)
        if wave.ndim != 1 or len(wave) < self.least_samples:
            raise EnhanceError(
                f"wave of shape {wave.shape}: {self.path.name} takes one channel of at least "
                f"{self.least_samples} samples"
            )
        check_samples("wave", wave)
        wave = wave.astype(np.float32, copy=False)
        longest = self.longest_samples
        if longest is None or len(wave) <= longest:
            return self._run(wave)
        context = int(CONTEXT_SECONDS * self.sample_rate)
        out = np.empty_like(wave)
        begin = 0  # samples before it are done
        while begin < len(wave):
            # The last window reaches back, so that it is as long as the others.
            first = min(max(0, begin - context), len(wave) - longest)
            last = first + longest == len(wave)
            end = len(wave) if last else first + longest - context
            window = self._run(wave[first : first + longest])
            out[begin:end] = window[begin - first : end - first]
            begin = end
        return out

    def new_stream(self) -> OfflineEnhancer:
        """The same model and settings, with nothing heard; the session is shared."""
        other = copy.copy(self)
        other._heard = []
        return other

    def process(self, chunk: np.ndarray) -> np.ndarray:
        """Keep the next samples (n,); gives nothing yet. Refuses what a call refuses."""
        chunk = floats("chunk", chunk)
        if chunk.ndim != 1:
            raise EnhanceError(
                f"chunk of shape {chunk.shape}: cannot be enhanced; give one channel of floats"
            )
        check_samples("chunk", chunk)
        self._heard.append(np.array(chunk, np.float32))
        return np.zeros(0, np.float32)

    def flush(self) -> np.ndarray:
        """Enhance all that was kept; what is too short for the model is filled up with silence.

        Shape: -> (N,) float32
        """
        wave = np.concatenate([np.zeros(0, np.float32), *self._heard])
        self._heard = []
        if not len(wave):
            return wave
        missing = max(0, self.least_samples - len(wave))
        return self(np.pad(wave, (0, missing)))[: len(wave)]

    def _run(self, wave: np.ndarray) -> np.ndarray:
        feed = {"audio": without_traces(wave)[None]}
        out = run_session(self._session, self.path, ["enhanced"], feed)[0]
        if out.shape != (1, len(wave)):
            raise self._not_ours(f"it gave audio of shape {out.shape} for {len(wave)} samples")
        return out[0]

    def _not_ours(self, why: str) -> EnhanceError:
        return EnhanceError(
            f"{self.path}: is ONNX, but no offline enhancer that can be run ({why}); "
            "make one with: enhance export --offline"
        )


Model = Enhancer | OfflineEnhancer
"""Any model that cleans audio."""


def is_offline(path: Path | str) -> bool:
    """Whether an ONNX file holds an offline model."""
    found = open_session(Path(path), 1).get_modelmeta().custom_metadata_map
    return found.get("model_type") == KIND


def open_model(name_or_path: Path | str, num_threads: int = 1, engine: Choice = "onnx") -> Model:
    """Open a model of either kind by shipped name, path or hub id (`find_model`).

    ``engine`` is what computes a stream (see `enhance.Enhancer`); models of the other kind are for
    ONNX Runtime alone. An `EnhanceError` tells that there is none, or one of neither kind.
    """
    path = find_model(name_or_path)
    try:
        return Enhancer(path, num_threads, engine=engine)  # the usual kind is loaded once
    except EnhanceError:
        if engine == "native" or path.suffix == SUFFIX or not is_offline(path):
            raise
    return OfflineEnhancer(path, num_threads)
