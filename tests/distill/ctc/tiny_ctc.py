"""A toy language: three tones are its letters, a hiss between words."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import soundfile

from distill.ctc.config import CtcConfig

TONES = {"A": 300.0, "B": 900.0, "C": 2700.0}


def say(text: str, rng: np.random.Generator) -> np.ndarray:
    """Tones of 60 to 100 ms with gaps of 30 ms; a word boundary is 60 ms of noise."""
    parts = [np.zeros(640)]
    for letter in text:
        n = int(rng.integers(960, 1600))
        t = np.arange(n) / 16000
        if letter == " ":
            parts.append(0.2 * rng.normal(0, 1, 960))
        else:
            parts.append(0.3 * np.sin(2 * np.pi * TONES[letter] * t + rng.uniform(0, 6)))
        parts.append(np.zeros(480))
    wave = np.concatenate([*parts, np.zeros(640)])
    return (wave + rng.normal(0, 0.003, len(wave))).astype(np.float32)


def write(folder: Path, name: str, count: int, seed: int, units: str = "char") -> Path:
    """Recordings and their file of transcripts, CSV; two speakers take turns."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    rows = [["path", "text", "speaker"]]
    for i in range(count):
        words = ["".join(rng.choice(list("ABC"), rng.integers(1, 4))) for _ in range(2)]
        if units == "word":
            words = list("".join(words))
        text = " ".join(words)
        wave = say(text.replace(" ", "") if units == "word" else text, rng)
        soundfile.write(folder / name / f"{i}.wav", wave, 16000)
        rows.append([f"{name}/{i}.wav", text, f"{name}{i % 2}"])
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / f"{name}.csv"


def config(backbone: Path | str, **changes: object) -> CtcConfig:
    """A run of six steps."""
    plain = CtcConfig(
        backbone=str(backbone),
        minutes=0,
        steps=6,
        warmup_steps=2,
        freeze_steps=2,
        mask=0.05,
        batch_seconds=4.0,
        log_every=2,
        validate_every=3,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]
