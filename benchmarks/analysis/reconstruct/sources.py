"""What a decoder reconstructs from: features of a teacher, and controls.

The controls answer what a figure is worth. LOG-MEL features hold the envelope that a recogniser
needs, 100 times a second: a decoder that loses high frequencies from these too owes the loss to
itself. The same teacher with RANDOM WEIGHTS shows what the architecture and the frame rate alone
let through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.analysis.reconstruct.spectrum import SAMPLE_RATE
from distill.backbones import baselines, find
from distill.teacher.contract import check_rate
from distill.teacher.features import Features
from distill.teacher.frames import FrameGrid
from enhance.errors import EnhanceError

TEACHER, TWIN, LOG_MEL = "teacher", "random weights", "log-mel"


@dataclass(frozen=True)
class Source:
    """Features of a clip on a grid of frames."""

    name: str
    """In tables."""
    kind: str
    """`TEACHER`, `TWIN` or `LOG_MEL`."""
    key: str
    """Equal keys, equal features."""
    grid: FrameGrid
    """Where its frames lie."""
    width: int
    """Features D of a frame."""
    of: Callable[[np.ndarray], np.ndarray]
    """Features of a clip: (N,) float32 at 16 kHz to (T', D) float32."""


def of_teacher(features: Features, label: str, kind: str, device: str = "cpu") -> Source:
    """Chosen layers of a teacher, normalised frame by frame, from the disk cache.

    ``label`` names the teacher in tables, ``kind`` is `TEACHER` or `TWIN`.
    """
    layers = features.layers.text
    name = f"{label}, {layers}" + (f", {kind}" if kind != TEACHER else "")
    key = f"{features.teacher.fingerprint}|{layers}"
    hear = partial(features.of, device=device)
    return Source(name, kind, key, features.grid, features.width, hear)


def log_mel(bands: int = baselines.BANDS) -> Source:
    """Log-mel features of a clip brought to level 1."""
    teacher = baselines.LogMel(left_pad=0, bands=bands)

    def hear(wave: np.ndarray) -> np.ndarray:
        clip = torch.from_numpy(np.asarray(wave, np.float32))
        found: np.ndarray = teacher.run([clip])[0][0].numpy()
        return found

    name, key = f"log-mel {bands}", f"log-mel|{bands}"
    return Source(name, LOG_MEL, key, FrameGrid.of_teacher(teacher), bands, hear)


def open_teachers(
    names: Sequence[str],
    layers: Sequence[str],
    cache: Path,
    seed: int,
    *,
    controls: bool,
    device: str = "cpu",
) -> list[Source]:
    """Teachers, each with each choice of layers, and the controls, in the order of the table.

    They are named as `distill.backbones.find.load` and `distill.teacher.layers.Layers.parse` take
    them; ``cache`` is the folder of the feature cache, ``seed`` that of random weights, ``device``
    where teachers run. An `EnhanceError` refuses what cannot be loaded or used, a teacher that
    hears another rate or has no such layers, and two rows of one name.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a name of no device, no driver, no such GPU
        raise EnhanceError(
            f"--device {device}: cannot be used ({str(error).splitlines()[0]}); take cpu"
        ) from error
    teachers = [(find.label(name), find.load(name)) for name in names]
    for _, teacher in teachers:
        check_rate(teacher, SAMPLE_RATE)
    kinds = {TEACHER: teachers}
    if controls:
        kinds[TWIN] = [(label, teacher.twin(seed)) for label, teacher in teachers]
    found = [
        of_teacher(Features(teacher, text, cache), label, kind, device)
        for kind, chosen in kinds.items()
        for label, teacher in chosen
        for text in layers
    ]
    shown = [source.name for source in found]
    twice = [name for name in shown if shown.count(name) > 1]
    if twice:
        raise EnhanceError(
            f"two rows would be called {twice[0]!r}: name each teacher and each choice of layers "
            "once, and rename one of two folders of the same name"
        )
    return found + ([log_mel()] if controls else [])
