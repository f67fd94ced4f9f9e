"""Word errors without transcripts: a recogniser's words of the clean clip are the reference.

What it counts is how much of what a machine understands of clean speech is lost, or made up, in the
estimate; a recogniser's own errors on clean speech are in neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.recognizers.choose import Listening, load
from distill.ctc.score import edits
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
