"""Which recogniser listens to reconstructions, or why none does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.recognizers.whisper import Whisper
from distill.ctc.score import error_rate
from distill.ctc.transcripts import read_transcripts
from distill.ctc.vocabulary import normalise
from enhance.errors import EnhanceError
from enhance.files import expanded, is_folder, sha256

DEFAULT = "speechbrain/asr-crdnn-rnnlm-librispeech"
"""The CRDNN recogniser of the paper's section, as far as it is named there."""


class Recognizer(Protocol):
    """Speech to text."""

    name: str
    """How it was asked for."""

    def transcribe(self, wave: np.ndarray) -> str:
        """Text of (N,) float32 at 16 kHz."""
        ...


@dataclass(frozen=True)
class Listening:
    """A recogniser, or what is missing for one."""

    recognizer: Recognizer | None
    """None where there is none."""
    missing: str = ""
    """Why there is none, and what to do."""

    @property
    def units(self) -> str:
        """``word`` where texts are tokens apart (phones), else ``char``."""
        vocabulary = getattr(self.recognizer, "vocabulary", None)
        return str(getattr(vocabulary, "units", "char"))

    @property
    def errors(self) -> str:
        """What errors are counted in, in a word: a model of phones has no words."""
        return "word" if self.units == "char" else "token"

    @property
    def normalisation(self) -> str:
        """What is done to texts before errors are counted."""
        plain = "upper case, no punctuation" if self.units == "char" else "tokens as they stand"
        return str(getattr(self.recognizer, "normalisation", plain))

    def words(self, text: str) -> list[str]:
        """What errors are counted in."""
        if isinstance(self.recognizer, Whisper):
            return self.recognizer.words(text)
        return normalise(text, self.units).split()

    def rate(self, references: Sequence[str], texts: Sequence[str]) -> dict[str, Any] | None:
        """Word error rate over all clips, with its interval; None without a reference word."""
        wanted = [self.words(text) for text in references]
        if not any(wanted):
            return None
        return error_rate(wanted, [self.words(text) for text in texts])


def listen_with(name: str | None) -> Listening:
    """Find and load a recogniser; an `EnhanceError` if one was named and cannot be loaded.

    Its name is a folder or hub id of speechbrain's CRDNN recognisers or of a Whisper model for
    faster-whisper, or a folder that ``enhance teacher finetune-ctc`` wrote. None tries `DEFAULT`
    and goes without where it cannot be had; ``"none"`` wants none.
    """
    if name == "none":
        return Listening(None, "--recognizer none was given")
    if name is not None:
        return Listening(load(name))
    try:
        return Listening(load(DEFAULT))
    except EnhanceError as error:
        return Listening(None, str(error))


def identity(name: str) -> str:
    """Which recogniser it is, in one word: of a folder its name, and a hash of its files."""
    folder = expanded(name)
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.iterdir() if path.is_file())
    told = "".join(f"{path.name} {sha256(path)}\n" for path in files)
    short = hashlib.sha256(told.encode()).hexdigest()[:12]
    return f"{folder.resolve().name.replace(' ', '_')}@{short}"


def load(name: str) -> Recognizer:
    """Load a recogniser by folder or hub id; a hub id with ``whisper`` in it is one for
    faster-whisper, such as Systran/faster-whisper-tiny.en. An `EnhanceError` if it is neither, or
    cannot be loaded.
    """
    from benchmarks.recognizers import crdnn, whisper

    folder = expanded(name)
    if is_folder(folder):
        if (folder / crdnn.SETTINGS).is_file():
            return crdnn.load(folder, name)
        if (folder / "vocab.json").is_file():
            from distill.ctc import recognizer

            return recognizer.load(folder)
        if (folder / whisper.WEIGHTS).is_file():
            return whisper.load(str(folder), name)
        raise EnhanceError(
            f"recogniser {name}: a folder without {crdnn.SETTINGS} (speechbrain), without "
            f"{whisper.WEIGHTS} (faster-whisper) and without vocab.json (enhance teacher "
            "finetune-ctc)"
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        if "whisper" in name.lower():
            return whisper.load(name, name)
        return crdnn.load(crdnn.download(name), name)
    raise EnhanceError(
        f"recogniser {name}: no such folder, and no hub id like {DEFAULT}; leave it out to go "
        "without, or name a folder that enhance teacher finetune-ctc wrote"
    )


def references(path: Path, clips: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """What is said in the clips of a set, each a name and an audio file.

    An `EnhanceError` if the file of transcripts (`distill.ctc.transcripts.read_transcripts`) cannot
    be used, or names none of the clips.
    """
    texts = {row.path.resolve(): row.text for row in read_transcripts(path)}
    found = {name: texts[p.resolve()] for name, p in clips if p.resolve() in texts}
    if not found:
        first = clips[0][1] if clips else "none"
        raise EnhanceError(
            f"{path}: names none of the {len(clips)} clips of the set, such as {first}; paths are "
            f"relative to the folder of {path.name}"
        )
    return found
