"""Labels of frames: phones from an alignment, and the pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.heard import SAMPLE_RATE
from benchmarks.analysis.parts.phones import label_at, read_phones
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.tasks import Data, Task, column, drawn
from distill.speaker.data import speech_of
from enhance.errors import EnhanceError, require
from enhance.progress import progress_bar

_GRID = (-80, 320, 400)  # where frames of wav2vec 2.0 and its kin lie: offset, stride, field


def of_frames(name: str, task: Task, corpus: Path, frames: int, work: Work) -> Data:
    """One question a frame, for ``phone`` and ``pitch``: see `benchmarks.analysis.probes.read`.

    Times are labelled, not frames of one model: each model answers with its nearest frame.
    """
    classes: list[str] = []
    if name == "phone":
        clips, spans, classes = read_phones(corpus)
    else:
        require("analysis", "pyworld")
        clips, _ = speech_of(corpus, "", False, work.quiet)
    groups = column(clips, task.group)
    known = [i for i, group in enumerate(groups) if group]
    keep = drawn(known, [""] * len(clips), groups, work.limit, work.seed)
    quota = -(-frames // max(len(keep), 1))
    times, labels = [], []
    offset, stride, width = _GRID
    with progress_bar(quiet=work.quiet) as bar:
        bar_task = bar.add_task(f"labels: {name}", total=len(keep), speed="")
        for i in keep:
            count = int(min(clips[i].duration, heard.MOST_SECONDS) * SAMPLE_RATE) // stride
            seconds = (np.arange(count) * stride + offset + width / 2) / SAMPLE_RATE
            if name == "phone":
                found = label_at(spans[i], seconds).astype(float)
                found[found < 0] = np.nan
            else:
                found = pitch_at(heard.wave_of(clips[i].path), seconds)
            spoken = np.flatnonzero(~np.isnan(found))
            if len(spoken) > quota:
                spoken = spoken[np.linspace(0, len(spoken) - 1, quota).round().astype(int)]
            times.append(seconds[spoken])
            labels.append(found[spoken])
            bar.update(bar_task, advance=1)
    full = [j for j, values in enumerate(labels) if len(values)]
    if len({groups[keep[j]] for j in full}) < 2:
        raise EnhanceError(
            f"{corpus}: labelled frames of fewer than two values of {task.group}; a probe is "
            "tested on others than it was trained on: name more data, or another --group"
        )
    values = np.concatenate([labels[j] for j in full])
    notes = [f"{len(clips) - len(full)} clips without {task.group}, label, or beyond the limit"]
    return Data(
        task,
        [clips[keep[j]] for j in full],
        values.astype(int) if classes else values,
        np.repeat(np.arange(len(full)), [len(labels[j]) for j in full]),
        classes,
        [groups[keep[j]] for j in full],
        times=[times[j] for j in full],
        notes=[note for note in notes if not note.startswith("0 ")],
    )


def pitch_at(wave: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Pitch at each time in semitones (12 log2 of hertz), NaN where nothing is voiced.

    F0 by DIO, refined by StoneMask (Morise, Kawahara and Katayose 2009; WORLD).

    Shape: (N,) at 16 kHz, (T,) to (T,).
    """
    import pyworld

    samples = wave.astype(np.float64)
    coarse, at = pyworld.dio(samples, SAMPLE_RATE, frame_period=5.0)
    f0 = pyworld.stonemask(samples, coarse, at, SAMPLE_RATE)
    nearest = np.clip(np.round(seconds / 0.005).astype(int), 0, len(f0) - 1)
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.where(f0 > 0, 12 * np.log2(f0), np.nan)[nearest]
    return found
