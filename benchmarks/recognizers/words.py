"""Word errors without transcripts: a recogniser's words of the clean clip are the reference.

What it counts is how much of what a machine understands of clean speech is lost, or made up, in the
estimate; a recogniser's own errors on clean speech are in neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.recognizers.choose import Listening, folder_of, load
from distill.ctc.score import edits
from enhance.files import sha256
from enhance.measure.metrics import MetricRefused

_listening = lru_cache(maxsize=2)(lambda name: Listening(load(name)))


@lru_cache(maxsize=8)
def _heard(name: str, samples: bytes) -> list[str]:
    """Words of a clip, (N,) float32; models that clean the same clip share its reference."""
    listening = _listening(name)
    assert listening.recognizer is not None
    return listening.words(listening.recognizer.transcribe(np.frombuffer(samples, np.float32)))


def word_errors(name: str) -> Callable[[Any, Any], float]:
    """How a recogniser counts the word errors of ``(clean, estimate)``, (N,) each at 16 kHz.

    Substitutions, deletions and insertions over the words of the clean clip; `MetricRefused` where
    those are none.
    """

    def count(clean: Any, estimate: Any) -> float:
        wanted, found = (
            _heard(name, np.asarray(wave, np.float32).tobytes()) for wave in (clean, estimate)
        )
        if not wanted:
            raise MetricRefused("the recogniser hears no word in the clean clip")
        return edits()(wanted, found) / len(wanted)

    return count


def identity(name: str) -> str:
    """Which recogniser it is, in one word: of a folder its name, and a hash of its files.

    An `EnhanceError` if it cannot be loaded.
    """
    load(name)
    folder = folder_of(name)
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.iterdir() if path.is_file())
    told = "".join(f"{path.name} {sha256(path)}\n" for path in files)
    short = hashlib.sha256(told.encode()).hexdigest()[:12]
    return f"{folder.resolve().name.replace(' ', '_')}@{short}"
