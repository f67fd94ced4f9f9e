"""Small audio files for the tests of the data part, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from enhance.data.corpus.manifest import Clip

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


def make_odd_files(folder: Path) -> list[Clip]:
    """One clip for each way in which a file can differ."""
    wave = np.clip(tone(0.8, 5), -1, 1)
    stereo = np.stack([wave, 0.5 * wave[::-1]], 1)
    kinds = {
        "plain.wav": (wave, 16000, "PCM_16"),
        "deep.flac": (wave, 16000, "PCM_24"),
        "float.wav": (wave, 16000, "FLOAT"),
        "two.wav": (stereo, 16000, "PCM_16"),
        "fast.wav": (wave, 44100, "PCM_16"),
        "lossy.ogg": (wave, 16000, "VORBIS"),
        "slow-lossy.ogg": (wave, 8000, "VORBIS"),
    }
    clips = []
    for name, (data, rate, subtype) in kinds.items():
        soundfile.write(folder / name, data, rate, subtype=subtype)
        clips.append(Clip(folder / name, len(data) / rate, rate))
    return clips
