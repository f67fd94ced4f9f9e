"""Proof that an artefact is the trained model: measured figures, held against bounds.

Four ways to the same signal are compared on the same clips: torch on whole clips (the reference),
torch hop by hop, the fp32 file and the int8 file streamed by the runtime that users have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch

from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, MetricRefusal, measure, metric_versions
from enhance.measure.timing import versions
from enhance.network.checkpoint import CheckpointInfo
from enhance.network.waveform_model import WaveformModel

SILENCE = 1e-10
"""Mean square that silence counts as in an SNR: what rounding to 16 bits adds, -100 dBFS."""


@dataclass(frozen=True)
class Bounds:
    """Fidelity that an artefact must have, or is refused."""

    stream_error: float = 1e-5
    """fp32: largest absolute difference of any sample to torch on the whole clip (full scale 1).
    Float32 sums of a few hundred terms in another order differ by about 1e-7."""
    si_sdr_db: float = 0.1
    """int8: difference of the mean SI-SDR to torch, in dB."""
    pesq: float = 0.02
    """int8: difference of the mean PESQ-WB to torch."""
    snr_db: float = 30.0
    """int8: energy of the fp32 output over that of the difference on the worst clip, in dB.
    Trained presets reach 40 dB in the mean; at 30 dB the difference lies 20 dB below the error that
    a network of 10 dB SI-SDR still makes, and adds 0.04 dB to it."""
    size_ratio: float = 1.0
    """int8: must be smaller than this part of the fp32 file."""
    native_snr_db: float = 100.0
    """Plain C, fp32: energy of torch's output over that of the difference on the worst clip, dB."""
    native_behind_db: float = 0.0
    """Plain C, int8: by how many dB its mean SNR may be below that of ONNX's int8, both against
    torch."""


@dataclass(frozen=True)
class Clip:
    """One pair of signals to certify on, float32 (N,)."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray


@dataclass(frozen=True)
class Subject:
    """What is exported: a trained model, and the clips that its files are proven on."""

    model: WaveformModel
    info: CheckpointInfo
    clips: list[Clip]
    source: dict[str, Any]
    """Where the clips come from."""

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.model.config.stft.sample_rate

    def measured_on(self) -> dict[str, Any]:
        """What a certificate says of the clips."""
        seconds = sum(len(clip.noisy) for clip in self.clips) / self.rate
        return {**self.source, "clips": [clip.name for clip in self.clips], "seconds": seconds}


@dataclass
class Streams:
    """Every clip through one way."""

    waves: list[np.ndarray]
    """(N,) each, aligned with the clip."""
    scores: list[dict[str, float | MetricRefusal]] = field(default_factory=list)

    def score(self, clips: Sequence[Clip], sample_rate: int) -> Streams:
        """Measure the metrics of every clip; PESQ at 16 kHz only."""
        names = [m for m in METRICS if m != "pesq_wb" or sample_rate == 16000]
        self.scores = [
            measure(clip.clean, wave, sample_rate, names)
            for clip, wave in zip(clips, self.waves, strict=True)
        ]
        return self


def offline(model: WaveformModel, clips: Sequence[Clip]) -> Streams:
    """Torch on whole clips."""
    with torch.no_grad():
        return Streams([model.enhance(torch.from_numpy(c.noisy)[None])[0].numpy() for c in clips])


def streaming(model: WaveformModel, clips: Sequence[Clip]) -> Streams:
    """Torch hop by hop, the states carried; the clips side by side, silence behind the shorter.

    A hop is thousands of small operations, which take as long for one clip as for many.
    """
    hop, late = model.config.stft.hop_length, model.config.stft.latency_samples
    longest = max(len(clip.noisy) for clip in clips)
    noisy = np.stack([np.pad(clip.noisy, (0, longest - len(clip.noisy))) for clip in clips])
    with torch.no_grad():
        state, parts = model.initial_state(len(clips)), []
        for piece in model.pad(torch.from_numpy(noisy)).split(hop, 1):
            out, state = model(piece, state)
            parts.append(out)
    waves = torch.cat(parts, 1)[:, late:].numpy()
    return Streams([wave[: len(clip.noisy)] for wave, clip in zip(waves, clips, strict=True)])


def runtime(enhancer: Enhancer, clips: Sequence[Clip]) -> Streams:
    """A file streamed by `enhance.device.enhancer`, in pieces that fit no hop."""
    waves = []
    for clip in clips:
        stream = enhancer.new_stream()
        pieces = np.split(clip.noisy, range(1000, len(clip.noisy), 1000))
        out = np.concatenate([*(stream.process(piece) for piece in pieces), stream.flush()])
        waves.append(out[enhancer.latency_samples :])
    return Streams(waves)


def max_error(a: Streams, b: Streams) -> float:
    """Largest absolute difference of any sample of any clip; NaN where a sample is no number."""
    # Not Python's max, which passes over NaN.
    return float(np.max([np.abs(x - y).max() for x, y in zip(a.waves, b.waves, strict=True)]))


def snr_db(reference: Streams, other: Streams, clips: Sequence[Clip]) -> dict[str, Any]:
    """Energy of the reference over that of the difference, in dB.

    `worst`, `worst_clip` (its name) and `mean` are of the clips that differ, None if none does,
    `equal_clips` is the number of the others; a clip with a sample that is no number is at minus
    infinity. An `EnhanceError` refuses a reference that is silent on every clip.
    """
    found: list[tuple[float, str]] = []
    silent = True
    for clip, x, y in zip(clips, reference.waves, other.waves, strict=True):
        signal, noise = (float(np.sum(np.square(v, dtype=np.float64))) for v in (x, x - y))
        silent = silent and signal == 0
        if not math.isfinite(noise):
            found.append((-math.inf, clip.name))
        elif noise > 0:
            # A silent clip has no SNR, but what is added to it must not be heard either.
            signal = max(signal, SILENCE * len(x))
            found.append((10 * math.log10(signal / noise), clip.name))
    if silent:
        raise EnhanceError("certificate: the model's output is silent on every clip; train it")
    worst, name = min(found, default=(None, None))
    mean = float(np.mean([value for value, _ in found])) if found else None
    equal = len(clips) - len(found)
    return {"worst": worst, "worst_clip": name, "mean": mean, "equal_clips": equal}


def compare_scores(reference: Streams, other: Streams, clips: Sequence[Clip]) -> dict[str, Any]:
    """Mean of each metric and its mean and largest difference to the reference, per metric.

    Clips that a metric refuses are named with the reason and left out of that metric's means.
    """
    found: dict[str, Any] = {}
    for name in reference.scores[0]:
        pairs: list[tuple[float, float]] = []
        refused: dict[str, str] = {}
        for clip, a, b in zip(clips, reference.scores, other.scores, strict=True):
            x, y = a[name], b[name]
            if isinstance(x, MetricRefusal):
                refused[clip.name] = x.reason
            elif isinstance(y, MetricRefusal):
                refused[clip.name] = y.reason
            else:
                pairs.append((x, y))
        found[name] = {"clips": len(pairs), "refused": refused}
        if pairs:
            before, after = np.array(pairs).T
            found[name] |= {
                "torch": float(before.mean()),
                "mean": float(after.mean()),
                "difference": float((after - before).mean()),
                "largest_difference": float(np.abs(after - before).max()),
            }
    return found


def judge(record: Mapping[str, Any], bounds: Bounds, name: str, require_faster: bool) -> None:
    """Refuse an artefact by the first figure out of bounds, which the `EnhanceError` names."""
    faults = [_look_ahead_faults(record["look_ahead"]), _equality_faults(record, bounds)]
    if record["quantization"] != "none":
        faults.append(_quantized_faults(record, bounds, require_faster))
    for what in chain.from_iterable(faults):
        raise EnhanceError(f"{name}: refused, {what}; it was not written")


def _look_ahead_faults(ahead: Mapping[str, Any]) -> Iterator[str]:
    if ahead["beyond_framing_samples"] > 0:
        yield (
            f"it looks {ahead['beyond_framing_samples']} samples further ahead than its frame "
            f"({ahead['measured_samples']} samples; a window has {ahead['algorithmic_samples']})"
        )
    if ahead["unchanged"]:
        changes = ahead["unchanged"]
        yield f"its look-ahead is not shown: {changes} changes of the input had no effect"


def _equality_faults(record: Mapping[str, Any], bounds: Bounds) -> Iterator[str]:
    """What is computed in float32 must be torch's."""
    for key in ("torch_streaming", "onnx_fp32", "native_fp32"):
        way = record["equality"].get(key)
        if way is None:
            continue
        if not way["max_abs_error"] <= bounds.stream_error:
            yield (
                f"{key} differs from torch by {way['max_abs_error']:.2g} "
                f"(bound {bounds.stream_error:.2g})"
            )
        exact = way["snr_db"]["worst"] if key == "native_fp32" else None
        if exact is not None and not exact >= bounds.native_snr_db:
            yield f"its SNR against torch is {exact:.1f} dB (bound {bounds.native_snr_db:g} dB)"


def _quantized_faults(
    record: Mapping[str, Any], bounds: Bounds, require_faster: bool
) -> Iterator[str]:
    """What int8 may cost, and must bring."""
    equality = record["equality"]
    ratio = record["bytes"] / record["fp32_bytes"]
    if not ratio < bounds.size_ratio:
        yield f"its size is {ratio:.3f} of fp32 (bound {bounds.size_ratio:g})"
    quantized = "native_int8" if "native_int8" in equality else "onnx_quantized"
    snr = equality[quantized]["snr_db"]
    if snr["worst"] is not None and not snr["worst"] >= bounds.snr_db:
        yield (
            f"its SNR against fp32 is {snr['worst']:.1f} dB on {snr['worst_clip']} "
            f"(bound {bounds.snr_db:g} dB)"
        )
    if quantized == "native_int8":
        # None: equal on every clip.
        own, other = (
            math.inf if mean is None else mean
            for mean in (snr["mean"], equality["onnx_quantized"]["snr_db"]["mean"])
        )
        if own < other - bounds.native_behind_db:
            yield f"its mean SNR is {own:.1f} dB, ONNX's int8 has {other:.1f} dB"
    for key, bound, unit in (("si_sdr", bounds.si_sdr_db, " dB"), ("pesq_wb", bounds.pesq, "")):
        row = record["metrics"][quantized].get(key)
        if row is None:  # PESQ is not defined at this sample rate
            continue
        if not row["clips"]:
            yield f"{key} could be measured on no clip ({next(iter(row['refused'].values()))})"
        elif not abs(row["difference"]) <= bound:
            yield f"{key} differs by {row['difference']:+.3f}{unit} (bound {bound:g}{unit})"
    speed = record["speed"]["ratio"]
    if require_faster and not speed < 1:
        yield f"a frame takes {speed:.2f} of fp32's time on {record['speed']['processor']}"


def certificate(
    subject: Subject,
    ahead: Mapping[str, Any],
    ways: Mapping[str, Streams],
    bounds: Bounds,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of one artefact, to be held against the ``bounds`` by `judge`.

    ``ahead`` is what `export.causality.look_ahead` found, ``facts`` are further entries (name,
    size, hash, speed). The ``ways`` are `torch_offline`, `torch_streaming`, `onnx_fp32`, and
    `onnx_quantized` where there is one; or of plain C `native_fp32`, and `native_int8` beside
    `onnx_quantized`. Metrics are of those that are scored, if torch's is: what equals it to 1e-5
    scores alike.
    """
    clips, reference = subject.clips, ways["torch_offline"]
    others = {key: streams for key, streams in ways.items() if key != "torch_offline"}
    equality: dict[str, Any] = {
        key: {"max_abs_error": max_error(reference, streams)} for key, streams in others.items()
    }
    for key in ("onnx_quantized", "native_fp32", "native_int8"):
        if key in ways:
            exact = ways.get("onnx_fp32", reference) if key == "onnx_quantized" else reference
            equality[key]["snr_db"] = snr_db(exact, ways[key], clips)
    longest = max(len(clip.noisy) for clip in clips)
    hops = -(-longest // subject.model.config.stft.hop_length)
    return {
        **facts,
        "measured_on": {**subject.measured_on(), "frames_carried_at_most": hops},
        "equality": equality,
        "metrics": {
            key: compare_scores(reference, s, clips) for key, s in others.items() if s.scores
        },
        "look_ahead": dict(ahead),
        "bounds": asdict(bounds),
        "versions": made_with(),
    }


def made_with() -> dict[str, str]:
    """Versions of what exports and measures."""
    return versions("torch", "onnx", "onnxruntime") | metric_versions()
