"""Whisper recognisers, run by faster-whisper (CTranslate2).

Such a folder holds ``model.bin``, ``config.json`` and a tokenizer. Everything that would make a
text depend on chance or on the clip before is off: one temperature of 0, English, beam search, no
text carried over, no detector of voice.

Texts are brought to words as Whisper's authors do before they count errors (Radford et al. 2022,
appendix C): the English normaliser, in the copy that transformers has of it, without its list of
British spellings (that comes with checkpoints, and not with these). Lower case, no punctuation, no
fillers, contractions written out, numbers as digits. One step is added: each digit is a word of its
own, as the normaliser makes 35 of "three five", and of "3 5" two words. Spelt letters stay as they
are written: "K-M-H" and "KMH" differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distill.backbones import import_transformers
from enhance.errors import EnhanceError, require

WEIGHTS = "model.bin"


class Whisper:
    """A loaded recogniser: faster-whisper's ``WhisperModel``, and how it was asked for."""

    normalisation = (
        "Whisper's English normaliser without its list of British spellings, then every digit a "
        "word of its own"
    )

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    def transcribe(self, wave: np.ndarray) -> str:
        """Text of (N,) float32 at 16 kHz."""
        segments, _ = self.model.transcribe(
            np.ascontiguousarray(wave, np.float32),
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            vad_filter=False,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def words(self, text: str) -> list[str]:
        """What errors are counted in."""
        numbers = re.sub(r"\bone\b", "1", _normaliser()(text))  # it writes a lone 1 so
        return re.sub(r"(\d)", r" \1 ", numbers).split()


@lru_cache(maxsize=1)
def _normaliser() -> Callable[[str], str]:
    import_transformers()
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    found: Callable[[str], str] = EnglishTextNormalizer({})
    return found


def load(place: str, name: str) -> Whisper:
    """Load a recogniser from a folder or by hub id; one thread, as the rest of an analysis.

    Raises
    ------
    EnhanceError
        If faster-whisper is missing, or the model cannot be had or does not fit.
    """
    require("asr", "faster_whisper", "ctranslate2")
    if Path(place).is_dir() and not (Path(place) / "tokenizer.json").is_file():
        raise EnhanceError(f"recogniser {name}: tokenizer.json missing beside {WEIGHTS}")
    from faster_whisper import WhisperModel

    try:
        model = WhisperModel(place, device="cpu", compute_type="float32", cpu_threads=1)
    except Exception as error:  # of CTranslate2, or of the hub's HTTP library
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EnhanceError(
            f"recogniser {name}: cannot be had as a model of faster-whisper ({reason}); name a "
            f"folder with {WEIGHTS}, config.json and tokenizer.json"
        ) from error
    return Whisper(model, name)
