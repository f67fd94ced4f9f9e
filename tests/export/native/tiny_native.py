"""Tiny networks of every kind, and C compilers to run them with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from enhance.config import GcrnConfig, ModelConfig
from enhance.native.build import FLAGS, SOURCE, source
from enhance.stft import FRAMINGS, StftConfig

DRIVER = Path(__file__).with_name("driver.c")
META = {"training": "{}"}

GATED = {
    "two decoders, gru": (GcrnConfig((4, 8, 8), "gru", 24, groups=3), FRAMINGS["25-20"]),
    "two decoders, lstm, mapping": (
        GcrnConfig((4, 6), "lstm", 12, groups=1, output="complex_mapping"),
        FRAMINGS["20-10"],
    ),
    "linear mapping, one layer": (
        GcrnConfig((5, 7), "gru", 14, 1, 1, decoders=1, output="complex_mapping", compression=1.0),
        FRAMINGS["25-12.5"],
    ),
    "magnitude branch, three frames": (
        GcrnConfig((4, 8, 8), "lstm", 16, kernel_frames=3, decoders=1, output="magnitude_phase"),
        FRAMINGS["32-16"],
    ),
    "no join, running level, two frames": (
        GcrnConfig((4, 8), "lstm", 8 * 24, 2, 2, kernel_frames=2, level_frames=5),
        FRAMINGS["25-20"],
    ),
    "odd transform, no overlap": (
        GcrnConfig((3, 6), "lstm", 10, decoders=1),
        StftConfig(8000, 75, 75, 77),
    ),
}
DUAL = {
    f"two paths, {mixing}, {cell}": (
        GcrnConfig(
            (4, 8, 32),
            cell,
            12,
            bottleneck="dual_path",
            mixing=mixing,
            level_frames=9,
            decoders=1,
        ),
        FRAMINGS["32-16"],
    )
    for mixing, cell in (
        ("recurrent", "lstm"),
        ("recurrent", "gru"),
        ("attention", "lstm"),
        ("dense", "gru"),
    )
}
NETWORKS = {name: ModelConfig(stft, gcrn) for name, (gcrn, stft) in (GATED | DUAL).items()}


def noise(frames: int, config: ModelConfig) -> np.ndarray:
    """Noise that swells, whole hops of it."""
    n = frames * config.stft.hop_length
    rng = np.random.default_rng(5)
    return (rng.normal(0, 0.2, n) * np.linspace(0.01, 1, n)).astype(np.float32)


def need(tool: str) -> str:
    """Path of a tool; the test is skipped, and the summary says so, where it is missing."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"NO {tool}: plain C was not tested with it; install it")
    return found


def compile_driver(folder: Path, compiler: str, flags: Sequence[str]) -> Path:
    """The driver and the source as one program."""
    folder.mkdir(parents=True, exist_ok=True)
    code, program = folder / "enhance.c", folder / "driver"
    code.write_text(source())
    strict = ["-Wall", "-Wextra", "-Werror", "-D_POSIX_C_SOURCE=200809L"]
    subprocess.run(
        [compiler, *FLAGS, "-O1", *strict, *flags, "-I", SOURCE, code, DRIVER, "-o", program],
        check=True,
    )
    return program


def run_driver(
    command: Sequence[str | Path],
    folder: Path,
    weights: bytes,
    wave: np.ndarray,
    stream: Sequence[int] = (),
) -> tuple[str, np.ndarray]:
    """What the driver printed, and the enhanced samples; of a stream with (rate, piece)."""
    (folder / "weights.bin").write_bytes(weights)
    wave.tofile(folder / "in.f32")
    names = [folder / name for name in ("weights.bin", "in.f32", "out.f32")]
    done = subprocess.run([*command, *names, *map(str, stream)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip(), np.fromfile(folder / "out.f32", np.float32)


def snr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Energy of the reference over that of the difference."""
    difference = np.sum(np.square(reference - other, dtype=np.float64))
    energy = np.sum(np.square(reference, dtype=np.float64))
    return float(10 * np.log10(energy / max(difference, 1e-100)))
