"""The conditions under which `benchmarks.guard.run` measures: which clips, at which level and
SNR."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.figures.clusters import FACTORS
from benchmarks.guard.signals import (
    FLOOR_DBFS,
    Formula,
    Level,
    Made,
    MadeKind,
    Mixture,
    Noise,
    Played,
    Recording,
    SilenceAfter,
    Stimulus,
    peak_dbfs,
    rms_dbfs,
)
from benchmarks.quality.candidates import SAMPLE_RATE, Candidate, Enhance
from benchmarks.quality.clips import Pair, Row, Task, parted
from enhance.data import formulas
from enhance.data.corpus.clips import place
from enhance.data.corpus.manifest import UNKNOWN, Clip
from enhance.errors import EnhanceError
from enhance.measure.metrics import METRICS, TITLES, MetricRefusal, measure
from enhance.measure.metrics import UNITS as METRIC_UNITS

T = TypeVar("T")

CLEAN = {
    "clean speech, -25 dBFS": Level("rms", -25.0),
    "clean speech, -50 dBFS": Level("rms", -50.0),
    "clean speech, -3 dBFS peak": Level("peak", -3.0),
}
"""Clean speech in, by level."""

HARD_DB = -5.0
"""SNR at which levels, groups and languages are compared."""

SNRS = {f"{snr:g} dB": snr for snr in (HARD_DB, 0.0, 5.0, 15.0)}
"""Mixtures by SNR."""

HARD = f"{HARD_DB:g} dB"
"""The case that levels, groups and languages are compared with."""

LEVELS = {f"{HARD}, -50 dBFS": Level("rms", -50.0), f"{HARD}, -3 dBFS peak": Level("peak", -3.0)}
"""Mixtures at `HARD_DB` by level."""

KINDS = {f"{HARD}, {kind}": kind for kind in formulas.KINDS}
"""Mixtures at `HARD_DB` with noise from a formula, by kind."""

SIGNALS = frozenset(f"{HARD}, {kind}" for kind in formulas.FAMILIES["tones"])
"""Those of `KINDS` with alarms and other signals."""

KIND_SHARE = 4
"""A kind has one clip for this many that other cases have, the same clips for every kind."""

LANGUAGE, NOISE, MUSIC = "other language", "noise alone", "music"
SILENCE, TAIL, DITHER, ROOM = "silence", "silence after speech", "dither", "room noise"

GROUP_FACTOR = 5
"""Groups are compared on this many times as many clips as other cases have: most are small."""

MADE_CLIPS = 6
"""Clips of a made signal that is another one for each seed: one clip gives no interval."""

KEPT = "kept_db"
"""Key of the level of what should stay, see `kept_db`; measured wherever there is a reference."""

FIGURES = (*METRICS, KEPT)
"""Everything that gains are taken of."""

NAMES = TITLES | {KEPT: "level of what should stay"}
"""Names of all figures that are held against a bound."""

UNITS = METRIC_UNITS | {KEPT: "dB"}
"""Their units."""

EXACT_DB = 100.0
"""SI-SDR of an output that is a scaled copy of the reference, where the ratio is infinite."""

NOISE_LABELS = FACTORS["noise"]
"""Labels that tell a clip's noise."""

Play = tuple[Pair, Stimulus]
"""What a clip is called and labelled, and what is played."""

_LEAST_SECONDS = 1.0
_AUDIBLE_DBFS = -80.0
"""Overshoot is measured on inputs with a peak above this."""


@dataclass(frozen=True)
class Case:
    """One condition."""

    name: str
    what: str
    """In words, for the report."""
    metrics: tuple[str, ...]
    """What the outputs are measured by; levels are measured always."""
    stimuli: Sequence[Play]
    """Clips, by name."""


@dataclass(frozen=True)
class Probe(Task):
    """One stimulus for one model."""

    case: str
    stimulus: Stimulus
    metrics: tuple[str, ...]

    def measure(self, candidate: Candidate, enhance: Enhance) -> Row:
        """A row of ``guard-clips.jsonl``: levels, metrics, refusals, or why there is no output."""
        played = _made_once(self.stimulus)
        row: Row = {
            "case": self.case,
            "clip": self.pair.name,
            "model": candidate.name,
            "model_hash": candidate.sha256,
            "labels": dict(self.pair.labels),
            "error": "",
            "metrics": {},
            "refusals": [],
        }
        try:
            estimate = np.asarray(enhance(played.wave), dtype=np.float32)
            if estimate.shape != played.wave.shape:
                raise EnhanceError(f"gave {estimate.shape} for {played.wave.shape}")
            if not np.isfinite(estimate).all():
                raise EnhanceError("gave NaN or infinity")
        except EnhanceError as error:  # an output that is none is a finding, not the guard's end
            return row | {"error": str(error)}
        heard = slice(played.start, None)
        levels = [rms_dbfs(wave[heard]) for wave in (played.wave, estimate)]
        peaks = [peak_dbfs(wave[heard]) for wave in (played.wave, estimate)]
        row |= {
            "rms_in_dbfs": levels[0],
            "rms_out_dbfs": levels[1],
            "peak_out_dbfs": peaks[1],
            "change_db": levels[1] - levels[0] if levels[0] > FLOOR_DBFS else None,
            "overshoot_db": peaks[1] - peaks[0] if peaks[0] > _AUDIBLE_DBFS else None,
        }
        if played.reference is not None:
            found = measure(played.reference, estimate, SAMPLE_RATE, self.metrics)
            if "si_sdr" in found:
                found["si_sdr"] = _capped(found["si_sdr"], played.reference, estimate)
            row |= parted(found)
            row["metrics"][KEPT] = kept_db(played.reference, estimate)
        return row


@lru_cache(maxsize=4)
def _made_once(stimulus: Stimulus) -> Played:
    """Models hear a clip one after the other: it is made for the first of them."""
    return stimulus.make()


def kept_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Level of the reference in a signal: its projection on the reference, against the reference.

    0 where all of it is there, whatever was added that does not resemble it; negative where some
    is gone. SI-SDR, PESQ and ESTOI look at no level. Signals are (N,), aligned.
    """
    x, y = reference.astype(np.float64), estimate.astype(np.float64)
    share = abs(float(np.sum(x * y))) / float(np.sum(x * x))
    return max(20 * math.log10(share), FLOOR_DBFS) if share > 0 else FLOOR_DBFS


def _capped(
    value: float | MetricRefusal, reference: np.ndarray, estimate: np.ndarray
) -> float | MetricRefusal:
    if not isinstance(value, MetricRefusal):
        return min(value, EXACT_DB)
    x, y = (wave.astype(np.float64) - wave.mean(dtype=np.float64) for wave in (reference, estimate))
    copy = x * (np.sum(x * y) / max(float(np.sum(x * x)), 1e-300))
    same = float(np.sum((y - copy) ** 2)) <= 10 ** (-EXACT_DB / 10) * float(np.sum(copy**2))
    return EXACT_DB if same and copy.any() else value


def make_cases(
    pairs: Sequence[Pair],
    limit: int,
    speech: Sequence[Clip] = (),
    noise: Sequence[Clip] = (),
    music: Sequence[Clip] = (),
) -> list[Case]:
    """All conditions that the data allow, of ``limit`` clips each.

    The case that groups are taken from has `GROUP_FACTOR` times as many. ``speech`` is of another
    language; ``noise`` is used alone and with that instead of the set's own; without ``music`` a
    piece is made here.
    """
    wide = spread(pairs, GROUP_FACTOR * limit, stratum)
    few = spread(wide, limit, stratum)
    fewer = spread(few, max(2, limit // KIND_SHARE), stratum)
    cases: list[Case] = []

    def add(name: str, what: str, metrics: tuple[str, ...], played: Sequence[Play]) -> None:
        cases.append(Case(name, what, metrics, played))

    def mixed(chosen: Sequence[Pair], snr: float, level: Level | None = None) -> list[Play]:
        return [(p, Mixture(p.clean, _own(p), snr, level)) for p in chosen]

    for name, level in CLEAN.items():
        played = [(_with_noise(p), Recording(p.clean, level)) for p in few]
        add(name, "clean speech in", ("pesq_wb", "si_sdr"), played)
    for name, snr in SNRS.items():
        chosen = wide if name == HARD else few
        add(name, "the set's speech and noise at this SNR", METRICS, mixed(chosen, snr))
    for name, level in LEVELS.items():
        add(name, "the same mixtures at this level", METRICS, mixed(few, HARD_DB, level))
    for name, kind in KINDS.items():
        formed = [
            (_with_noise(p), Mixture(p.clean, Formula(kind, i), HARD_DB))
            for i, p in enumerate(fewer)
        ]
        what = f"the set's speech, and noise from a formula ({kind}) that training never draws"
        add(name, what, METRICS, formed)
    sounds = spread(noise, limit, lambda clip: (clip.source, clip.path.name))
    noises: list[tuple[Pair, Noise]] = [
        (replace(pair, labels={"noise_name": clip.path.stem, **pair.labels}), Noise(str(clip.path)))
        for clip, pair in zip(sounds, _named(sounds), strict=True)
    ]
    noises = noises or [(p, _own(p)) for p in few]
    if speech:
        talk = spread(speech, limit, lambda clip: (clip.speaker, clip.path.name))
        step = max(1, len(noises) // len(talk))
        foreign = [
            (_with_noise(pair, p), Mixture(str(clip.path), own, HARD_DB))
            for i, (clip, pair) in enumerate(zip(talk, _named(talk), strict=True))
            for p, own in [noises[i * step % len(noises)]]
        ]
        add(LANGUAGE, f"speech of another language at {HARD}", METRICS, foreign)
    add(NOISE, "noise without speech in", (), [(_noise_only(p), own) for p, own in noises])
    tunes = spread(music, limit, lambda clip: clip.path.name)
    if tunes:
        quiet = Level("rms", -20.0)
        pieces = [Recording(str(clip.path), quiet) for clip in tunes]
        played = list(zip(_named(tunes), pieces, strict=True))
        add(MUSIC, "music in, -20 dBFS", (), played)
    else:
        add(MUSIC, "made pieces of music in, -20 dBFS", (), _made(MUSIC, "music", 12.0))
    add(SILENCE, "digital silence in", (), _made(SILENCE, "silence", 4.0, 1))
    tails = [(p, SilenceAfter(p.noisy, 4.0)) for p in few[:: max(1, len(few) // 6)]]
    what = "speech and noise, then 4 s of digital silence, of which the last 2 s count"
    add(TAIL, what, (), tails)
    add(DITHER, "silence with 16-bit dither in, -96 dBFS", (), _made(DITHER, "dither", 4.0))
    add(ROOM, "made noise of a quiet room in, -60 dBFS", (), _made(ROOM, "room", 8.0))
    return cases


def _own(pair: Pair) -> Noise:
    return Noise(pair.noisy, pair.clean)


def _named(clips: Sequence[Clip]) -> list[Pair]:
    """Names and labels of recordings; whole paths name those whose files are called alike."""
    alike = Counter(clip.path.stem for clip in clips)
    found = []
    for clip in clips:
        name = clip.path.stem if alike[clip.path.stem] == 1 else clip.path.as_posix()
        labels = {"speaker": clip.speaker, "source": clip.source, **clip.labels}
        found.append(Pair(name, "", "", {k: v for k, v in labels.items() if v}, "", ""))
    return found


def _with_noise(pair: Pair, other: Pair | None = None) -> Pair:
    """A pair whose labels tell the noise of ``other``, or none: what is played, not the file."""
    labels = {k: v for k, v in pair.labels.items() if k not in NOISE_LABELS}
    told = other.labels if other else {}
    return replace(pair, labels=labels | {k: told[k] for k in NOISE_LABELS if k in told})


def _noise_only(pair: Pair) -> Pair:
    told = ("source", *NOISE_LABELS)
    return replace(pair, labels={k: pair.labels[k] for k in told if k in pair.labels})


def _made(name: str, kind: MadeKind, seconds: float, count: int = MADE_CLIPS) -> list[Play]:
    labels = {"synthetic": "yes"}
    return [
        (Pair(f"{name} {seed}", "", "", labels, "", ""), Made(kind, seconds, seed))
        for seed in range(count)
    ]


def stratum(pair: Pair) -> tuple[str, ...]:
    """What a choice of clips is spread over."""
    keys = ("speech_group", "source", "speaker")
    return (*(pair.labels.get(key, "") for key in keys), pair.name)


def spread(items: Sequence[T], count: int, key: Callable[[T], Any]) -> list[T]:
    """``count`` items at even distances in the order of ``key``: each group in proportion."""
    ordered = sorted(items, key=key)
    if len(ordered) <= count:
        return ordered
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def find_clips(where: Path | str, kind: str) -> list[Clip]:
    """Recordings of a folder or manifest, of one kind where it tells the kind.

    An `EnhanceError` if there is nothing, or nothing of a second or more.
    """
    clips = place(Path(where), "", quiet=True)
    kept = [c for c in clips if c.kind in ("", kind) and c.duration >= _LEAST_SECONDS]
    if not kept:
        raise EnhanceError(f"{where}: no {kind} of {_LEAST_SECONDS:g} s or more")
    return kept


def sex_of(labels: dict[str, str], pattern: str) -> str:
    """``"female"``, ``"male"`` or nothing.

    By the label `sex` or `gender`; else by the first group of ``pattern`` in the speaker's name;
    else by a `note` that begins with the word.
    """
    stated = labels.get("sex") or labels.get("gender")
    if stated is None:
        found = re.search(pattern, labels.get("speaker", "")) if pattern else None
        stated = (found and found[1]) or labels.get("note", "").partition(",")[0]
    words = {"f": "female", "female": "female", "woman": "female"}
    words |= {"m": "male", "male": "male", "man": "male"}
    return words.get(stated.strip().lower(), "")


def heard_of(labels: dict[str, str], speakers: set[str] | None) -> str:
    """``"heard"``, ``"unheard"`` or nothing: whether training heard the speaker.

    By the label `speaker_in_train`; without it by ``speakers``, those that training heard.
    """
    stated = labels.get("speaker_in_train", "").split(" ")[0]
    if stated:
        return {"yes": "heard", "no": "unheard"}.get(stated.lower(), "")
    speaker = labels.get("speaker", "")
    if speakers is None or speaker.lower() in UNKNOWN:
        return ""
    return "heard" if speaker in speakers else "unheard"
