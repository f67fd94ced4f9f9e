"""Measures of one reconstructed clip: spectrum, energy by band, waveform, recognised text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.analysis.recognizers.choose import Listening
from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.training import Trained
from benchmarks.figures.results import Row
from benchmarks.quality.clips import Pair, read_pair
from enhance.audio.resampling import resample
from enhance.measure.metrics import MetricRefusal, measure

METRICS = ("pesq_wb", "stoi", "estoi")
ORIGINAL, RESYNTHESIS = "original audio", "original magnitudes"
MEAN, NOISY = "mean spectrum", "noisy magnitudes"

Magnitudes = Callable[[Tensor, np.ndarray], Tensor]
"""From the original's magnitudes (T, F) and what is heard (N,) to those of the reconstruction."""


@dataclass(frozen=True)
class Method:
    """One way to a spectrum: a row of the table."""

    name: str
    """In the table."""
    kind: str
    """``"bound"``, ``"teacher"``, ``"random weights"``, ``"log-mel"``."""
    digest: str
    """Changes with everything that changes the result, beside the clip."""
    magnitudes: Magnitudes | None
    """None: the recording itself, for the recogniser alone."""


def methods(trained: Sequence[Trained], *, noisy: bool, recognizer: bool) -> list[Method]:
    """Bounds, then the decoders, in the order of the table.

    Parameters
    ----------
    trained
        Decoders.
    noisy
        Whether noisy speech is heard: its own magnitudes are then a row.
    recognizer
        Whether one listens: the recording itself is then a row.
    """
    found = [Method(ORIGINAL, "bound", "", None)] if recognizer else []
    found.append(Method(RESYNTHESIS, "bound", "", lambda original, _: original))
    if noisy:
        found.append(Method(NOISY, "bound", "", lambda _, heard: spectrum.of_clip(heard)))
    found += [Method(t.source.name, t.source.kind, t.digest, t.magnitudes) for t in trained]
    mean = spectrum.from_decibels(trained[0].decoder.mean)
    found.append(Method(MEAN, "bound", trained[0].digest, lambda a, _: mean.expand_as(a)))
    return found


def read_clip(pair: Pair, *, noisy: bool) -> tuple[np.ndarray, np.ndarray]:
    """The clean clip, and what is heard; float32 (N,) each at 16 kHz.

    Raises
    ------
    EnhanceError
        If a file cannot be read.
    """
    clean, mixture, rate = read_pair(pair.clean, pair.noisy)
    if rate != spectrum.SAMPLE_RATE:
        clean = resample(clean, rate, spectrum.SAMPLE_RATE)
        mixture = resample(mixture, rate, spectrum.SAMPLE_RATE)
    return clean, mixture if noisy else clean


def measure_clip(
    method: Method, clean: np.ndarray, heard: np.ndarray, listening: Listening, seed: int
) -> Row:
    """All figures of one clip by one method.

    Parameters
    ----------
    method
        How it is reconstructed.
    clean, heard
        As `read_clip` gives them.
    listening
        The recogniser, if there is one.
    seed
        Of the phases.

    Returns
    -------
    dict
        ``figures`` (by name), ``refusals`` (reasons by name), ``text`` (None without a recogniser).
    """
    figures: dict[str, float] = {}
    refusals: dict[str, str] = {}
    wave, scale = clean, spectrum.level(clean)
    if len(clean) < spectrum.SHORTEST or not scale:
        return _refused("silent, or shorter than a window")
    if method.magnitudes is not None:
        original = spectrum.of_clip(clean)  # (T, F)
        with torch.no_grad():
            found = method.magnitudes(original, heard)
        if not torch.isfinite(found).all():
            return _refused("the spectrum is not finite")
        unit = spectrum.waveform(found, len(clean), seed)
        wave = unit * np.float32(scale)
        figures |= spectrum.distances(original, found)
        again = spectrum.magnitudes(torch.from_numpy(unit)[None])[0]
        for where, magnitudes in (("spectrum", found), ("waveform", again)):
            energy = spectrum.energies(original), spectrum.energies(magnitudes)
            gains = spectrum.gains(*energy, len(original))
            figures |= {f"{where} {band}": value for band, value in gains.items()}
            for band in (*spectrum.NAMES, "high"):
                if band not in gains:
                    refusals[f"{where} {band}"] = "nothing there, before or after"
        for name, value in measure(clean, wave, spectrum.SAMPLE_RATE, METRICS).items():
            if isinstance(value, MetricRefusal):
                refusals[name] = value.reason
            else:
                figures[name] = value
    text = listening.recognizer.transcribe(wave) if listening.recognizer else None
    return {"figures": figures, "refusals": refusals, "text": text}


def _refused(why: str) -> Row:
    return {"figures": {}, "refusals": {"all": why}, "text": None}
