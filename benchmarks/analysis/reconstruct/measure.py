"""Measures of reconstructed clips: spectrum, energy by band, waveform, recognised text.

Rows of all clips and methods are kept as they are done; and what they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.analysis.reconstruct import spectrum
from benchmarks.analysis.reconstruct.config import DecoderConfig
from benchmarks.analysis.reconstruct.sources import LOG_MEL, TEACHER, TWIN
from benchmarks.analysis.reconstruct.training import Trained
from benchmarks.figures.results import Row
from benchmarks.figures.statistics import row_difference, row_interval
from benchmarks.quality.clips import Pair, read_pair
from benchmarks.recognizers.choose import Listening, identity
from enhance.audio.resampling import resample
from enhance.files import append_jsonl, read_jsonl, write_jsonl
from enhance.measure.metrics import MetricRefusal, measure, metric_versions
from enhance.progress import tracked
from enhance.training.engine.interrupt import Interrupt

METRICS = ("pesq_wb", "stoi", "estoi")
ORIGINAL, RESYNTHESIS = "original audio", "original magnitudes"
MEAN, NOISY = "mean spectrum", "noisy magnitudes"


@dataclass(frozen=True)
class Method:
    """One way to a spectrum: a row of the table."""

    name: str
    """In the table."""
    kind: str
    """``"bound"``, ``"teacher"``, ``"random weights"``, ``"log-mel"``."""
    digest: str
    """Changes with everything that changes the result, beside the clip."""
    magnitudes: Callable[[Tensor, np.ndarray], Tensor] | None
    """From the original's (T, F) and what is heard (N,) to the reconstruction's; None for the
    recording itself, which only the recogniser hears."""


def methods(trained: Sequence[Trained], *, noisy: bool, recognizer: bool) -> list[Method]:
    """Bounds, then the decoders, in the order of the table.

    Where noisy speech is heard its own magnitudes are a row, and where a recogniser listens the
    recording itself is one.
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

    An `EnhanceError` names a file that cannot be read.
    """
    clean, mixture, rate = read_pair(pair.clean, pair.noisy)
    clean, mixture = (resample(wave, rate, spectrum.SAMPLE_RATE) for wave in (clean, mixture))
    return clean, mixture if noisy else clean


def measure_clip(
    method: Method, clean: np.ndarray, heard: np.ndarray, listening: Listening, seed: int
) -> Row:
    """All figures of one clip by one method.

    Returns ``figures`` (by name), ``refusals`` (reasons by name), ``text`` (None without a
    recogniser). ``seed`` is that of the phases.

    Shape: clean and heard (N,), as `read_clip` gives them
    """
    figures: dict[str, float] = {}
    refusals: dict[str, str] = {}
    wave, scale = clean, spectrum.level(clean)
    if len(clean) < spectrum.WINDOW or not scale:
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


def measure_all(
    table: Sequence[Method],
    pairs: Sequence[Pair],
    listening: Listening,
    config: DecoderConfig,
    path: Path,
    interrupt: Interrupt,
    *,
    quiet: bool,
) -> list[Row] | None:
    """A row for each method and clip, kept in ``path`` as they are done; None where interrupted.

    Rows that ``path`` holds of the same clips are not measured again. The seed of ``config`` is
    that of the phases, and it says which side is heard.
    """
    listener = identity(listening.recognizer.name) if listening.recognizer else None
    tools = " ".join(f"{key} {value}" for key, value in sorted(metric_versions().items()))
    same = {"recognizer": listener, "seed": config.seed, "tools": tools}
    # In the order of the clips, so that a stopped run has every method on the same clips.
    wanted = {(m.name, m.digest, p.name, p.sha256): (m, p) for p in pairs for m in table}
    done: dict[tuple[str, ...], Row] = {}
    kept = read_jsonl(path, unfinished=True) if path.exists() else []
    for row in (row for row in kept if isinstance(row, dict)):
        key = tuple(row.get(name) for name in ("method", "digest", "clip", "clip_hash"))
        if key in wanted and row.items() >= same.items():
            done[key] = row
    write_jsonl(path, list(done.values()))  # without a line that a kill cut off
    todo = [(key, *item) for key, item in wanted.items() if key not in done]
    read: Pair | None = None
    for key, method, pair in tracked(todo, "measuring", len(todo), quiet=quiet):
        if interrupt.caught:
            return None
        if pair is not read:
            read, waves = pair, read_clip(pair, noisy=config.noisy)
        done[key] = {
            "method": method.name,
            "kind": method.kind,
            "digest": method.digest,
            "clip": pair.name,
            "clip_hash": pair.sha256,
            "labels": dict(pair.labels),
            **same,
            **measure_clip(method, *waves, listening, config.seed),
        }
        append_jsonl(path, done[key])
    rows = [done[key] for key in wanted]
    write_jsonl(path, rows)
    return rows


def summarize(
    table: Sequence[Method],
    rows: Sequence[Row],
    listening: Listening,
    texts: dict[str, str] | None,
) -> list[Row]:
    """One row for each method: mean and interval of each figure, differences to controls, WER.

    ``texts`` is what is said in each clip; None for the recogniser's text of the original audio.
    """
    by_method = {m.name: [r for r in rows if r["method"] == m.name] for m in table}
    if listening.recognizer and texts is None:
        texts = {row["clip"]: row["text"] for row in by_method[ORIGINAL]}
    results = []
    for method in table:
        own = by_method[method.name]
        names = list(dict.fromkeys(name for row in own for name in row["figures"]))
        found = {name: row_interval(own, "figures", name) for name in names}
        result: Row = {
            "kind": "reconstruction",
            "method": method.name,
            "method_kind": method.kind,
            "digest": method.digest,
            "metrics": {
                name: row | {"refused": len(own) - row["n"]} for name, row in found.items()
            },
            "differences": {
                control: {
                    name: difference
                    for name in names
                    if (difference := row_difference(by_method[control], own, "figures", name))
                }
                for control in _controls(method, table)
            },
            "refusals": [
                {"clip": row["clip"], "metric": name, "reason": why}
                for row in own
                for name, why in row["refusals"].items()
            ],
        }
        if listening.recognizer and texts is not None:
            told = [row for row in own if row["clip"] in texts and row["text"] is not None]
            result["wer"] = listening.rate(
                [texts[row["clip"]] for row in told], [row["text"] for row in told]
            )
        results.append(result)
    return results


def _controls(method: Method, table: Sequence[Method]) -> list[str]:
    """What a teacher's row is compared with, clip by clip."""
    if method.kind != TEACHER:
        return []
    ours = [m.name for m in table if m.kind == LOG_MEL]
    return ours + [m.name for m in table if m.name == f"{method.name}, {TWIN}"]
