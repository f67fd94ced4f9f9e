"""Run an offline ONNX model: whole recordings in, whole recordings out (numpy, onnxruntime).

What `enhance export --offline` writes for models that look ahead over the whole recording. They
have no states and no latency, and they cannot stream.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enhance.errors import EnhanceError
from enhance.runtime import open_session

KIND = "gcrn-offline"
"""`model_type` in the metadata of such a file."""


class OfflineEnhancer:
    """An offline model, ready to enhance.

    Parameters
    ----------
    path
        ONNX file.
    num_threads
        Threads of the model.

    Attributes
    ----------
    metadata
        What the exporter wrote about the model.
    sample_rate
        Samples per second of its input.
    least_samples
        Shortest recording that it takes.

    Raises
    ------
    EnhanceError
        If the file cannot be read or holds another kind of model.
    """

    def __init__(self, path: Path | str, num_threads: int = 1) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, num_threads)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("model_type") != KIND:
            raise EnhanceError(f"{self.path}: is no offline model; open it with enhance.Enhancer")
        self.sample_rate = int(self.metadata["sample_rate"])
        self.least_samples = int(self.metadata["least_samples"])

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Enhance one recording at `sample_rate`, aligned with the input.

        Shape: (N,) -> (N,) float32

        Raises
        ------
        EnhanceError
            If it is not one channel, too short, or not finite.
        """
        wave = np.asarray(wave, np.float32)
        if wave.ndim != 1 or len(wave) < self.least_samples:
            raise EnhanceError(
                f"wave of shape {wave.shape}: {self.path.name} takes one channel of at least "
                f"{self.least_samples} samples"
            )
        if not np.isfinite(wave).all():
            raise EnhanceError("wave: holds NaN or infinite samples; repair the source")
        return self._session.run(["enhanced"], {"audio": wave[None]})[0][0]


def is_offline(path: Path | str) -> bool:
    """Whether an ONNX file holds an offline model."""
    found = open_session(Path(path), 1).get_modelmeta().custom_metadata_map
    return found.get("model_type") == KIND
