"""An evaluation set of synthetic speech in noise."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def voice(seed: int, seconds: float = 1.2) -> np.ndarray:
    """A buzz in syllables with silence between, different for each seed."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 100 + 15 * seed
    buzz = sum(np.sin(2 * np.pi * pitch * k * t + k * k) / k for k in range(1, 30))
    return (0.05 * np.clip(np.sin(2 * np.pi * 3.7 * t + seed), 0, None) * buzz).astype(np.float32)


def write_set(
    folder: Path,
    clean: Sequence[np.ndarray],
    labels: Callable[[int, str], dict[str, str]],
    snr: float = -5.0,
) -> Path:
    """``clean/`` and ``noisy/`` at one SNR; ``labels`` of a file by its number and part."""
    rows = []
    for index, wave in enumerate(clean):
        rough = np.random.default_rng(index).standard_normal(wave.size).astype(np.float32)
        rough *= np.sqrt(np.sum(wave**2) / np.sum(rough**2)) * 10 ** (-snr / 20)
        for part, samples in (("clean", wave), ("noisy", wave + rough)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            path = f"{part}/{index:03d}.wav"
            soundfile.write(folder / path, samples, RATE, subtype="FLOAT")
            rows.append({"path": path, **labels(index, part)})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
