"""Small audio files for the tests of the data part, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from enhance.data.manifest import Clip

RATE = 16000


def tone(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Noise with a slow tremolo: no two samples of it are alike, no stretch is silent."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    return level * rng.standard_normal(n) * (1.2 + np.sin(np.arange(n) / 3000))


def clip(
    folder: Path,
    name: str,
    seconds: float,
    *,
    kind: str = "speech",
    source: str = "a",
    speaker: str = "",
    wave: np.ndarray | None = None,
    **labels: str,
) -> Clip:
    """Write a 16-bit WAV and describe it; the name seeds its samples."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.wav"
    if wave is None:
        wave = tone(seconds, sum(map(ord, name)) * 7919 + len(name))
    soundfile.write(path, np.clip(wave, -1, 1), RATE, subtype="PCM_16")
    return Clip(path, len(wave) / RATE, RATE, kind, source, speaker, labels)


def speech_and_noise(folder: Path) -> tuple[list[Clip], list[Clip]]:
    """Two speakers of short and long clips, two sources of noise."""
    speech = [
        clip(folder / "speech", f"{who}{i}", seconds, source=source, speaker=who)
        for who, source in (("ann", "a"), ("bob", "b"))
        for i, seconds in enumerate((0.4, 0.55, 1.73, 2.5))
    ]
    noise = [
        clip(folder / "noise", f"n{i}", seconds, kind="noise", source=source)
        for i, (seconds, source) in enumerate(((0.3, "x"), (3.1, "x"), (2.2, "y")))
    ]
    return speech, noise
