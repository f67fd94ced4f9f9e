"""What a decoder reconstructs from: features of a teacher, and controls.

The controls answer what a figure is worth. LOG-MEL features hold the envelope that a recogniser
needs, 100 times a second: a decoder that loses high frequencies from these too owes the loss to
itself. The same teacher with RANDOM WEIGHTS shows what the architecture and the frame rate alone
let through.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from benchmarks.analysis.reconstruct.spectrum import SAMPLE_RATE
from distill.backbones import baselines
from distill.teacher.frames import FrameGrid
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    from distill.teacher.features import Features


class Source(Protocol):
    """Features of a clip on a grid of frames."""

    name: str
    """In tables."""
    kind: str
    """``"teacher"``, ``"random weights"`` or ``"log-mel"``."""
    key: str
    """Equal keys, equal features."""
    grid: FrameGrid
    """Where its frames lie."""
    width: int
    """Features D of a frame."""

    def of(self, wave: np.ndarray) -> np.ndarray:
        """Features of a clip: (N,) float32 at 16 kHz to (T', D) float32."""
        ...


class TeacherSource:
    """Chosen layers of a teacher, normalised frame by frame, from the disk cache.

    Parameters
    ----------
    features
        The teacher and its layers.
    label
        Name of the teacher in tables.
    kind
        ``"teacher"`` or ``"random weights"``.
    device
        Where it runs.
    """

    def __init__(
        self, features: Features, label: str, kind: str = "teacher", device: str = "cpu"
    ) -> None:
        self.features, self.kind, self.device = features, kind, device
        self.layers = features.layers.text
        self.name = f"{label}, {self.layers}" + (", random weights" if kind != "teacher" else "")
        self.key = f"{features.teacher.fingerprint}|{self.layers}"
        self.grid, self.width = features.grid, features.width

    def of(self, wave: np.ndarray) -> np.ndarray:
        """Shape: (N,) to (T', D)"""
        return self.features.of(wave, device=self.device)


class LogMel:
    """Log-mel features of a clip brought to level 1."""

    def __init__(self, bands: int = baselines.BANDS) -> None:
        self._teacher = baselines.LogMel(left_pad=0, bands=bands)
        self.grid, self.width = FrameGrid.of_teacher(self._teacher), self._teacher.widths[0]
        self.name, self.kind = f"log-mel {self.width}", "log-mel"
        self.key = f"log-mel|{self.width}"

    def of(self, wave: np.ndarray) -> np.ndarray:
        """Shape: (N,) to (T', D)"""
        clip = torch.from_numpy(np.asarray(wave, np.float32))
        found: np.ndarray = self._teacher.run([clip])[0][0].numpy()
        return found


def open_teachers(
    names: list[str],
    layers: list[str],
    cache: Path,
    seed: int,
    *,
    controls: bool,
    device: str = "cpu",
) -> list[Source]:
    """Teachers, each with each choice of layers, and the controls.

    Parameters
    ----------
    names
        As `distill.backbones.find.load` takes them.
    layers
        As `distill.teacher.layers.Layers.parse` takes them.
    cache
        Folder of the feature cache.
    seed
        Of random weights.
    controls
        Whether to add random weights and log-mel features.
    device
        Where teachers run.

    Returns
    -------
    list
        In the order of the table.

    Raises
    ------
    EnhanceError
        If a teacher cannot be loaded, hears another rate, or has no such layers, two rows would
        have one name, or there is no such device.
    """
    from distill.backbones import find as teachers
    from distill.teacher.contract import check_rate
    from distill.teacher.features import Features

    _check_device(device)
    found: list[Source] = []
    twins: list[Source] = []
    for name in names:
        teacher = teachers.load(name)
        check_rate(teacher, SAMPLE_RATE)
        label = teachers.label(name)
        found += [
            TeacherSource(Features(teacher, text, cache), label, device=device) for text in layers
        ]
        if controls:
            twin = teacher.twin(seed)
            twins += [
                TeacherSource(Features(twin, text, cache), label, "random weights", device)
                for text in layers
            ]
    twice = [source.name for source in found if [s.name for s in found].count(source.name) > 1]
    if twice:
        raise EnhanceError(
            f"two rows would be called {twice[0]!r}: name each teacher and each choice of layers "
            "once, and rename one of two folders of the same name"
        )
    return found + twins + ([LogMel()] if controls else [])


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a name of no device, no driver, no such GPU
        raise EnhanceError(
            f"--device {name}: cannot be used ({str(error).splitlines()[0]}); take cpu"
        ) from error
