"""A set of synthetic speech in noise for the tests of harm."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
COUNT = 6


def voice(seed: int, seconds: float = 1.2) -> np.ndarray:
    """A buzz in syllables with silence between, different for each seed."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 100 + 15 * seed
    buzz = sum(np.sin(2 * np.pi * pitch * k * t + k * k) / k for k in range(1, 30))
    return (0.05 * np.clip(np.sin(2 * np.pi * 3.7 * t + seed), 0, None) * buzz).astype(np.float32)


def write_set(folder: Path) -> Path:
    """Pairs at -5 dB of six voices: one half women, one half heard in training."""
    rows = []
    for index in range(COUNT):
        clean = voice(index)
        rough = np.random.default_rng(index).standard_normal(clean.size).astype(np.float32)
        scale = np.sqrt(np.sum(clean**2) / np.sum(rough**2)) * 10 ** (5 / 20)
        for part, wave in (("clean", clean), ("noisy", clean + scale * rough)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            path = f"{part}/{index:03d}.wav"
            soundfile.write(folder / path, wave, RATE, subtype="FLOAT")
            speaker = f"an4_{'fm'[index % 2]}{index}"
            heard = ("yes", "no", "unknown (not told)")[index // 2]
            rows.append({"path": path, "speaker": speaker, "speaker_in_train": heard})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
