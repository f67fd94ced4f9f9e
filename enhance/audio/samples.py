"""What samples, rates and counts must be, wherever they come in: one rule and one message each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from enhance.errors import EnhanceError

MOST_CHANNELS = 1024
"""More are an array of the wrong layout, and more than libsndfile writes."""
RATES = range(1000, 768001)
"""Sample rates, Hz."""
_FEW = 8  # channels that even the shortest signal may have
LOUDEST = 4.0
"""Full scale is 1; a peak beyond this is no loud recording but another scale."""
FAINTEST = 1e-15
"""What is fainter (-300 dB) counts as 0: no converter has such a step, and what a network makes of
it are numbers below float32's normal range, which processors compute several times as slowly."""


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of any numeric type as an int; an `EnhanceError` if none, or out of range."""
    try:
        number = int(value)
        fits = np.ndim(value) == 0 and bool(number == value)
    except (TypeError, ValueError, OverflowError):
        number, fits = 0, False
    if isinstance(value, (bool, np.bool_)) or not fits:
        raise EnhanceError(f"{name} {value!r}: must be a whole number")
    if number < least or (most is not None and number > most):
        sign = "positive, " if number <= 0 < least else ""
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise EnhanceError(f"{name} {number}: must be {sign}{span}")
    return number


def rate_of(value: Any) -> int:
    """A sample rate in Hz, of any numeric type, as an int; an `EnhanceError` refuses others."""
    return whole_number("sample_rate", value, RATES[0], RATES[-1])


def floats(name: str, wave: Any) -> np.ndarray:
    """An array of floats of any precision; an `EnhanceError` refuses anything else.

    Whole numbers have another full scale.
    """
    try:
        wave = np.asarray(wave)
    except ValueError:  # rows of unequal length
        wave = np.array(None)
    if wave.dtype.kind != "f":
        raise EnhanceError(
            f"{name} of shape {wave.shape} and type {wave.dtype}: cannot be enhanced; give floats "
            "in [-1, 1] (16-bit samples divided by 32768)"
        )
    return wave


def largest(wave: np.ndarray) -> float:
    """The largest magnitude, 0 of nothing; NaN or infinity where there is one."""
    return float(np.abs(wave).max(initial=0))


def peak_of(name: str, wave: np.ndarray) -> float:
    """The largest magnitude; an `EnhanceError` refuses NaN and infinity."""
    peak = largest(wave)
    if not math.isfinite(peak):
        raise EnhanceError(f"{name}: holds NaN or infinite samples; repair the source")
    return peak


def check_peak(name: str, peak: float) -> None:
    """Refuse a peak beyond `LOUDEST` by an `EnhanceError`."""
    if peak > LOUDEST:
        raise EnhanceError(f"{name}: {too_loud(peak)}")


def check_samples(name: str, wave: np.ndarray) -> None:
    """Refuse NaN, infinity and peaks beyond `LOUDEST`, which no network can take."""
    check_peak(name, peak_of(name, wave))


def without_traces(wave: np.ndarray) -> np.ndarray:
    """A copy of float samples with zeros for what is fainter than `FAINTEST`."""
    wave = wave.copy()
    wave[np.abs(wave) < FAINTEST] = 0
    return wave


def too_loud(peak: float) -> str:
    """What to say of a peak beyond `LOUDEST`."""
    return (
        f"peaks at {peak:.6g}, far beyond full scale, which is 1 "
        f"(samples of 16 bits as floats?); divide it by {32768 if peak > 100 else f'{peak:.3g}'}"
    )


def check_layout(name: str, channels: int, samples: int) -> None:
    """Refuse (N, C) where (C, N) is meant: that many channels would take all memory.

    An `EnhanceError` if there are more channels than samples (a few excepted), or than
    `MOST_CHANNELS`.
    """
    if channels > MOST_CHANNELS or channels > max(samples, _FEW):
        raise EnhanceError(
            f"{name} of shape ({channels}, {samples}): {channels} channels of {samples} samples "
            "are not believed; give (channels, samples): transpose it"
        )
