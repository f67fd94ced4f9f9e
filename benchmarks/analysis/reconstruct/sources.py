"""What a decoder reconstructs from: features of a teacher, and controls.

The controls answer what a figure is worth. LOG-MEL features hold the envelope that a recogniser
needs, 100 times a second: a decoder that loses high frequencies from these too owes the loss to
itself. The same teacher with RANDOM WEIGHTS shows what the architecture and the frame rate alone
let through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.analysis.reconstruct.spectrum import SAMPLE_RATE, level
from distill.teacher.frames import FrameGrid
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    from distill.teacher.contract import Teacher
    from distill.teacher.features import Features

MEL_BANDS = 80
MEL_FFT = 512
MEL_GRID = FrameGrid(0, 160, 400)
"""25 ms windows, 10 ms apart."""


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

    def __init__(self, bands: int = MEL_BANDS) -> None:
        self.name, self.kind = f"log-mel {bands}", "log-mel"
        self.key = f"log-mel|{bands}"
        self.grid, self.width = MEL_GRID, bands

    def of(self, wave: np.ndarray) -> np.ndarray:
        """Shape: (N,) to (T', D)"""
        scaled = torch.from_numpy(np.asarray(wave, np.float32)) / max(level(wave), 1e-9)
        frames = scaled.unfold(0, MEL_GRID.field, MEL_GRID.stride)  # (T', 400)
        window = torch.hann_window(MEL_GRID.field)
        power = torch.fft.rfft(frames * window, MEL_FFT).abs().square()  # (T', 257)
        return torch.log(power @ _mel_bank(self.width) + 1e-3).numpy()


@lru_cache(maxsize=4)
def _mel_bank(bands: int) -> Tensor:
    """Triangles (257, bands)."""
    from torchaudio.functional import melscale_fbanks

    bank: Tensor = melscale_fbanks(MEL_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE)
    return bank


def random_twin(teacher: Teacher, seed: int) -> Teacher | str:
    """The same architecture with random weights, or why there is none.

    Parameters
    ----------
    teacher
        A loaded teacher.
    seed
        Of the weights.
    """
    from distill.backbones.hf import HfTeacher

    if not isinstance(teacher, HfTeacher):
        return "random weights are made for models of transformers only"
    kind: Callable[[Any], Any] = type(teacher.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(teacher.model.config)
    return HfTeacher(
        model,
        f"{teacher.name}, random weights",
        sample_rate=teacher.sample_rate,
        do_normalize=teacher.do_normalize,
        left_pad=teacher.left_pad,
        normalize_eps=teacher.normalize_eps,
    )


def open_teachers(
    names: list[str],
    layers: list[str],
    cache: Path,
    seed: int,
    *,
    controls: bool,
    device: str = "cpu",
) -> tuple[list[Source], list[str]]:
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
    sources
        In the order of the table.
    missing
        A line for each control that cannot be made.

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
    missing = []
    for name in names:
        teacher = teachers.load(name)
        check_rate(teacher, SAMPLE_RATE)
        where = teachers.resolve(name)
        label = where.name if where.is_dir() and where.name else name
        found += [
            TeacherSource(Features(teacher, text, cache), label, device=device) for text in layers
        ]
        twin = random_twin(teacher, seed) if controls else None
        if isinstance(twin, str):
            missing.append(f"{label}: no control of random weights ({twin})")
        elif twin is not None:
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
    return found + twins + ([LogMel()] if controls else []), missing


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a name of no device, no driver, no such GPU
        raise EnhanceError(
            f"--device {name}: cannot be used ({str(error).splitlines()[0]}); take cpu"
        ) from error
