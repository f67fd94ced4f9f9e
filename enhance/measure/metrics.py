"""PESQ, STOI, ESTOI, SI-SDR and opinions of one clip, and refusals that have a name.

Each metric is undefined somewhere: PESQ finds no utterance in silence, STOI needs 30 frames of
speech, SI-SDR divides by the energy of the reference. A metric that cannot be computed raises
`MetricRefused`; `measure` turns that into a `MetricRefusal` in place of the value, so that a mean
over a set counts and names what it leaves out.

Sources: PESQ is ITU-T P.862.2 (wideband, MOS-LQO) by the ``pesq`` package; STOI is Taal et al.
2011 and ESTOI Jensen and Taal 2016, by ``pystoi``; SI-SDR is Le Roux et al. 2019, equation 3;
DNSMOS and DistillMOS have a file of their own, `enhance.measure.opinions`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from enhance.errors import EnhanceError, require
from enhance.measure.opinions import DISTILLMOS, DNSMOS, distillmos, dnsmos
from enhance.measure.timing import versions

METRICS = ("pesq_wb", "stoi", "estoi", "si_sdr")
"""Measured where nothing else is asked for."""

WER = "wer"
"""Words of the estimate that are not those of the clean clip; `measure` is told how to hear them.
"""

OPINIONS = (*DNSMOS, DISTILLMOS)
"""Of the estimate alone; they take longer than the others together."""

ALL_METRICS = (*METRICS, *OPINIONS, WER)
"""Everything that can be measured."""

UNITS = {**dict.fromkeys(ALL_METRICS, ""), "pesq_wb": "MOS-LQO", "si_sdr": "dB"}
TITLES = {
    "pesq_wb": "PESQ-WB",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "si_sdr": "SI-SDR",
    "dnsmos_ovrl": "DNSMOS OVRL",
    "dnsmos_sig": "DNSMOS SIG",
    "dnsmos_bak": "DNSMOS BAK",
    DISTILLMOS: "DistillMOS",
    WER: "WER",
}

PESQ_LONGEST_SECONDS = 20.0
"""Longest clip given to PESQ. The library keeps 50 utterances and writes past its arrays (a crash,
or a wrong score) when there are more; an utterance and its gap last at least 50 + 50 frames of
4 ms, so that 20 s cannot hold more than 50."""

_SILENCE = 1e-20
"""Energy of a signal without its mean, relative to full scale: at or below it is silence."""

_EMPTY = "the clip has no samples"

_TOO_LITTLE = "too little speech: STOI needs 30 frames (0.4 s) that hold some"


class MetricRefused(EnhanceError):
    """This metric is not defined for this clip."""


@dataclass(frozen=True)
class MetricRefusal:
    """A metric that could not be computed, in the place of its value."""

    metric: str
    """Name of the metric, one of `ALL_METRICS`."""
    reason: str
    """Why, in words."""

    def row(self) -> dict[str, str]:
        """The refusal as plain data."""
        return {"metric": self.metric, "reason": self.reason}


def _pair(clean: Any, estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both signals as float64 (N,), checked."""
    reference = np.asarray(clean, dtype=np.float64)
    signal = np.asarray(estimate, dtype=np.float64)
    if reference.ndim != 1 or reference.shape != signal.shape:
        raise EnhanceError(
            f"metrics: clean {reference.shape} and estimate {signal.shape} must both be (N,) "
            "(metrics compare sample by sample); align them first"
        )
    if not reference.size:
        raise MetricRefused(_EMPTY)
    both = {"reference": reference, "estimate": signal}
    for name, wave in both.items():
        if not np.isfinite(wave).all():
            raise MetricRefused(f"the {name} holds NaN or infinite samples")
    for name, wave in both.items():
        if np.mean((wave - wave.mean()) ** 2) <= _SILENCE:
            raise MetricRefused(f"the {name} is silent")
    return reference, signal


def si_sdr(clean: Any, estimate: Any) -> float:
    """Scale-invariant signal-to-distortion ratio of signals (N,) of any scale, in dB.

    With ``s`` the reference and ``e`` the estimate, both without their means, and
    ``a = <e, s> / <s, s>``: ``10 log10(|a s|^2 / |e - a s|^2)`` (Le Roux et al. 2019, eq. 3).

    Raises
    ------
    MetricRefused
        If a signal is silent or not finite, or the ratio is infinite.
    EnhanceError
        If the shapes differ.
    """
    reference, signal = _pair(clean, estimate)
    reference = reference - reference.mean()
    signal = signal - signal.mean()
    # Sums, not products of a BLAS: their last bits change with its number of threads.
    target = reference * (np.sum(signal * reference) / np.sum(reference**2))
    wanted = float(np.sum(target**2))
    rest = float(np.sum((signal - target) ** 2))
    if wanted <= _SILENCE * float(np.sum(signal**2)):
        raise MetricRefused("the estimate holds nothing of the reference (minus infinity)")
    if rest <= _SILENCE * wanted:
        raise MetricRefused("the estimate is a scaled copy of the reference (infinity)")
    return 10.0 * float(np.log10(wanted / rest))


def pesq_wb(clean: Any, estimate: Any, sample_rate: int = 16000) -> float:
    """Wideband PESQ (ITU-T P.862.2) of signals (N,), mean opinion score from 1.04 to 4.64.

    Raises
    ------
    MetricRefused
        If the clip is silent, shorter than 1/4 s, longer than `PESQ_LONGEST_SECONDS`, or has no
        utterance.
    EnhanceError
        If the sample rate is not 16 kHz or the shapes differ.
    """
    require("measure", "pesq")
    import pesq

    if sample_rate != 16000:
        raise EnhanceError(
            f"pesq_wb: {sample_rate} Hz (P.862.2 is defined at 16000 Hz); resample both signals"
        )
    reference, signal = _pair(clean, estimate)
    if reference.size > PESQ_LONGEST_SECONDS * sample_rate:
        raise MetricRefused(
            f"{reference.size / sample_rate:.1f} s is longer than {PESQ_LONGEST_SECONDS:.0f} s "
            "(the pesq library overruns its arrays on more than 50 utterances); cut the clip"
        )
    try:
        value = float(pesq.pesq(sample_rate, reference, signal, "wb"))
    except pesq.PesqError as error:
        text = error.args[0] if error.args else str(error)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise MetricRefused(f"pesq {type(error).__name__}: {reason}") from error
    except ValueError as error:  # a NaN inside the library, on near-silence
        raise MetricRefused(f"pesq: {error}") from error
    if not np.isfinite(value):
        raise MetricRefused("pesq returned a value that is not finite")
    return value


def _pystoi(clean: Any, estimate: Any, sample_rate: int, extended: bool) -> float:
    require("measure", "pystoi")
    from pystoi import stoi as library

    reference, signal = _pair(clean, estimate)
    state = np.random.get_state()  # noqa: NPY002 - the generator that the library uses
    # ESTOI adds global noise of 1e-16, which decides where the estimate is digital silence.
    np.random.seed(0)  # noqa: NPY002
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = float(library(reference, signal, sample_rate, extended=extended))
    except (ValueError, IndexError) as error:  # no frame is left of it, or it has none
        raise MetricRefused(_TOO_LITTLE) from error
    finally:
        np.random.set_state(state)  # noqa: NPY002
    if any("Not enough STFT frames" in str(item.message) for item in caught):
        raise MetricRefused(_TOO_LITTLE)  # where pystoi returns 1e-5
    if not np.isfinite(value):
        raise MetricRefused("pystoi returned a value that is not finite")
    return value


def stoi(clean: Any, estimate: Any, sample_rate: int = 16000) -> float:
    """Short-time objective intelligibility of signals (N,), about 0 to 1 (Taal et al. 2011).

    The library resamples to 10 kHz.

    Raises
    ------
    MetricRefused
        If a signal is silent or has fewer than 30 frames of speech (pystoi returns 1e-5 there).
    EnhanceError
        If the shapes differ.
    """
    return _pystoi(clean, estimate, sample_rate, extended=False)


def estoi(clean: Any, estimate: Any, sample_rate: int = 16000) -> float:
    """Extended STOI (Jensen and Taal 2016); arguments and refusals as `stoi`.

    The library adds noise of 1e-16 from numpy's global generator; it is seeded here and put back
    as it was, so that the value is the same every time.
    """
    return _pystoi(clean, estimate, sample_rate, extended=True)


def measure(
    clean: Any,
    estimate: Any,
    sample_rate: int = 16000,
    metrics: Sequence[str] = METRICS,
    words: Callable[[Any, Any], float] | None = None,
) -> dict[str, float | MetricRefusal]:
    """Metrics of one clip, two aligned signals (N,), each by its name with its value or a
    `MetricRefusal`; PESQ and opinions need 16 kHz.

    ``metrics`` are names out of `ALL_METRICS`, in the order wanted, ``words`` gives the word error
    rate of ``(clean, estimate)``, where it is asked for. An `EnhanceError` if a name is unknown,
    ``words`` are missing, the shapes differ or PESQ or an opinion is asked at another rate.
    """
    heard: dict[str, float] = {}

    def opinion(name: str) -> float:
        if not np.size(estimate):
            raise MetricRefused(_EMPTY)
        if not np.isfinite(np.asarray(estimate)).all():
            raise MetricRefused("the estimate holds NaN or infinite samples")
        if name == DISTILLMOS:
            return distillmos(estimate, sample_rate)
        if not heard:
            heard.update(dnsmos(estimate, sample_rate))
        return heard[name]

    functions: dict[str, Callable[[], float]] = {
        "pesq_wb": lambda: pesq_wb(clean, estimate, sample_rate),
        "stoi": lambda: stoi(clean, estimate, sample_rate),
        "estoi": lambda: estoi(clean, estimate, sample_rate),
        "si_sdr": lambda: si_sdr(clean, estimate),
        **{name: partial(opinion, name) for name in OPINIONS},
    }
    if words:
        functions[WER] = lambda: words(clean, estimate)
    results: dict[str, float | MetricRefusal] = {}
    for name in metrics:
        if name == WER and not words:
            raise EnhanceError("metric 'wer': give words, what counts a recogniser's errors")
        if name not in functions:
            raise EnhanceError(f"metric {name!r} is unknown; choose from {', '.join(ALL_METRICS)}")
        try:
            results[name] = functions[name]()
        except MetricRefused as error:
            results[name] = MetricRefusal(name, str(error))
    return results


def metric_versions(metrics: Sequence[str] = METRICS) -> dict[str, str]:
    """Versions of the libraries behind the metrics, as `enhance.measure.timing.versions`."""
    judges = ("speechmos", "onnxruntime") if set(metrics) & set(DNSMOS) else ()
    second = (DISTILLMOS, "torch") if DISTILLMOS in metrics else ()
    return versions("pesq", "pystoi", "numpy", "scipy", *judges, *second)
