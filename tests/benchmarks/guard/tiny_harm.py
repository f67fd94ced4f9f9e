"""A set of synthetic speech in noise for the tests of harm."""

from __future__ import annotations

from pathlib import Path

import tiny_set
from tiny_set import RATE, voice

__all__ = ["COUNT", "RATE", "voice", "write_set"]

COUNT = 6


def write_set(folder: Path) -> Path:
    """Pairs at -5 dB of six voices: one half women, one half heard in training."""

    def labels(index: int, _: str) -> dict[str, str]:
        heard = ("yes", "no", "unknown (not told)")[index // 2]
        return {"speaker": f"an4_{'fm'[index % 2]}{index}", "speaker_in_train": heard}

    return tiny_set.write_set(folder, [voice(index) for index in range(COUNT)], labels)
