"""A day in a few minutes: hours of audio through one stream, and what they leave behind.

    python -m benchmarks.latency.day small --hours 24 -o day.json

Noise, silence, speech, both together, a fade into nothing and subnormal samples take turns, cut
into pieces of any length. After each hour a fixed clip goes through the same stream, which was
never reset: its quality must not change, nor may a frame of anything cost more than one of noise.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.latency.cold_start import resident_bytes
from enhance.audio.resampling import resample
from enhance.data.synthetic import noise
from enhance.data.synthetic.voice import Voice, utterance
from enhance.device.engine import Choice
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import check_writable, write_json
from enhance.measure.metrics import si_sdr
from enhance.measure.timing import hardware
from enhance.progress import tracked

_RATE = 16000  # of the synthetic sounds
_MATERIAL_SECONDS = 20.0
_PIECE = 8000  # longest piece, samples
_TINY = np.finfo(np.float32).tiny  # the smallest normal number


def live_through(
    model: Path | str,
    hours: float,
    *,
    engine: Choice = "onnx",
    part_seconds: float = 20.0,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Send hours of audio through one stream, as fast as it goes.

    Each kind of sound lasts ``part_seconds`` before the next; ``seed`` is that of sounds, levels
    and pieces.

    Returns
    -------
    dict
        ``model``, ``engine``, ``hours``, ``frames``; ``cpu_us`` (kind of sound -> microseconds of
        CPU time a frame, median of the parts of each hour); ``slowest`` (the largest of them
        against that of noise in the same hour); ``si_sdr`` (dB of the fixed clip, before and after
        each hour); ``reset_equal`` (whether a reset gives the first bits again); ``subnormal``
        (most subnormal values seen in the states after a part); ``peak`` of the output;
        ``resident_mb`` (before and after each hour); ``hardware``.

    Raises
    ------
    EnhanceError
        If there is no such model, it gives NaN or infinity, there are no hours or parts, or a part
        holds no frame.
    """
    if not (0 < hours < math.inf and 0 < part_seconds <= 3600):
        raise EnhanceError(
            f"{hours:g} hours in parts of {part_seconds:g} s: give hours, parts of at most 3600 s"
        )
    enhancer = Enhancer.from_pretrained(model, engine=engine)
    length = int(part_seconds * enhancer.sample_rate)
    if length < enhancer.hop_length:
        raise EnhanceError(f"parts of {part_seconds:g} s: shorter than a frame of {model}")
    rng = np.random.default_rng(seed)
    sounds = _sounds(rng, enhancer.sample_rate)
    clean, noisy = _fixed_clip(enhancer.sample_rate)
    before = _enhanced(enhancer, noisy)
    quality, memory = [si_sdr(clean, before)], [resident_bytes() / 1e6]
    cpu: dict[str, list[float]] = {kind: [] for kind in sounds}
    subnormal, peak, frames, slowest = 0, 0.0, 0, 0.0
    parts = max(len(sounds), round(hours * 3600 / part_seconds))
    per_hour = min(parts, round(3600 / part_seconds))
    hour: dict[str, list[float]] = {kind: [] for kind in sounds}
    for part in tracked(range(parts), "hours", parts, quiet=quiet):
        kind = list(sounds)[part % len(sounds)]
        wave = sounds[kind](length)
        cuts = np.cumsum(rng.integers(0, _PIECE, 2 + 3 * length // _PIECE))
        pieces = np.split(wave, cuts[cuts < length])
        begin = time.thread_time_ns()
        out = np.concatenate([enhancer.process(piece) for piece in pieces])
        took = time.thread_time_ns() - begin
        done = len(out) // enhancer.hop_length
        frames += done
        hour[kind].append(took / 1e3 / done)
        peak = max(peak, float(np.abs(out).max()))
        subnormal = max(subnormal, _subnormals(enhancer))
        if (part + 1) % per_hour == 0 or part + 1 == parts:
            medians = {name: float(np.median(times)) for name, times in hour.items() if times}
            hour = {name: [] for name in sounds}
            for name, median in medians.items():
                cpu[name].append(median)
                slowest = max(slowest, median / medians.get("noise", math.inf))
            quality.append(si_sdr(clean, _enhanced(enhancer, noisy)))
            memory.append(resident_bytes() / 1e6)
    enhancer.reset()
    return {
        "model": str(model),
        "engine": enhancer.engine,
        "hours": parts * part_seconds / 3600,
        "frames": frames,
        "cpu_us": cpu,
        "slowest": slowest,
        "si_sdr": quality,
        "reset_equal": bool(np.array_equal(_enhanced(enhancer, noisy), before)),
        "subnormal": subnormal,
        "peak": peak,
        "resident_mb": memory,
        "hardware": hardware(),
    }


def _sounds(rng: np.random.Generator, rate: int) -> dict[str, Callable[[int], np.ndarray]]:
    """Kinds of sound, each by its number of samples; every call gives others."""
    n = int(_MATERIAL_SECONDS * _RATE)
    made = [noise.coloured, noise.wind, noise.impulsive, noise.hum, noise.babble]
    noises = [_at_rate(make(n, rng), rate) for make in made]
    voices = [_at_rate(utterance(Voice.draw(rng), _MATERIAL_SECONDS, rng), rate) for _ in range(3)]

    def some(waves: list[np.ndarray], length: int) -> np.ndarray:
        wave = waves[rng.integers(len(waves))]
        level = 10 ** rng.uniform(-1.5, 0)
        return (level * np.resize(np.roll(wave, rng.integers(len(wave))), length)).astype("f4")

    def fade(length: int) -> np.ndarray:
        return (some(noises, length) * 10.0 ** np.linspace(0, -44, length)).astype("f4")

    def subnormals(length: int) -> np.ndarray:
        return (rng.standard_normal(length) * 1e-40).astype("f4")

    return {
        "noise": lambda length: some(noises, length),
        "silence": lambda length: np.zeros(length, np.float32),
        "speech": lambda length: some(voices, length),
        "speech in noise": lambda length: some(voices, length) + some(noises, length),
        "fade": fade,
        "subnormal": subnormals,
    }


def _at_rate(wave: np.ndarray, rate: int) -> np.ndarray:
    wave = resample(wave, _RATE, rate) if rate != _RATE else wave
    return 0.2 * wave / np.abs(wave).max()


def _fixed_clip(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Speech, and the same in noise at 5 dB."""
    rng = np.random.default_rng(1)
    clean = _at_rate(utterance(Voice.draw(rng), 4.0, rng), rate)
    under = _at_rate(noise.coloured(4 * _RATE, rng), rate)
    gain = np.sqrt(np.mean(clean**2) / np.mean(under**2)) * 10 ** (-5 / 20)
    return clean, (clean + gain * under).astype(np.float32)


def _enhanced(enhancer: Enhancer, wave: np.ndarray) -> np.ndarray:
    """A clip through the stream as it is, behind two seconds of silence; aligned."""
    hop, late = enhancer.hop_length, enhancer.latency_samples
    pending = len(enhancer.state()["stream.pending"])
    lead = 2 * enhancer.sample_rate // hop * hop - pending
    enhancer.process(np.zeros(lead, np.float32))
    fill = -(len(wave) + late) % hop + late
    return enhancer.process(np.pad(wave, (0, fill)))[late : late + len(wave)]


def _subnormals(enhancer: Enhancer) -> int:
    state = enhancer.state().items()
    states = [v for k, v in state if not k.startswith("stream.") and v.dtype == np.float32]
    return sum(int(np.count_nonzero((v != 0) & (np.abs(v) < _TINY))) for v in states)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--engine", choices=get_args(Choice), default="onnx")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--part-seconds", type=float, default=20.0)
    parser.add_argument("-o", "--out", type=Path, required=True, help="record, JSON")
    given = vars(parser.parse_args())
    out = given.pop("out")
    try:
        check_writable(out)  # before hours of work
        write_json(out, live_through(**given))
    except EnhanceError as error:
        parser.exit(2, f"day: {error}\n")


if __name__ == "__main__":
    _main()
