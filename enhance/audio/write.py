"""Writing audio files: whole or absent, with clipped samples counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from enhance.errors import EnhanceError
from enhance.files import atomic

BLOCK = 1 << 16
"""Samples, all channels together, that are held at a time."""

_FORMATS = {
    ".wav": "WAV",
    ".wave": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".aif": "AIFF",
    ".aiff": "AIFF",
    ".aifc": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".caf": "CAF",
    ".w64": "W64",
    ".rf64": "RF64",
}

SUFFIXES = frozenset(_FORMATS)
"""Suffixes of the files that a folder is searched for, lower case; all can be written too."""

_FLOAT = ("FLOAT", "DOUBLE")
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}


def output_format(path: Path | str, subtype: str | None = None) -> tuple[str, str]:
    """Container and encoding to write under a name.

    Parameters
    ----------
    path
        Its suffix decides the container.
    subtype
        Wished encoding. None: 16 bits where the container knows them, else what is usual in it.

    Raises
    ------
    EnhanceError
        If the suffix is unknown, or the container does not know ``subtype``.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise EnhanceError(
            f"{path}: cannot be written (no audio format has the suffix {suffix or 'none'!r}); "
            "use .wav or .flac"
        )
    container = _FORMATS[suffix]
    if subtype is None:
        if suffix == ".opus":
            subtype = "OPUS"
        elif soundfile.check_format(container, "PCM_16"):
            subtype = "PCM_16"
        else:
            subtype = soundfile.default_subtype(container)
    if not soundfile.check_format(container, subtype):
        raise EnhanceError(f"{path}: {container} cannot hold {subtype}; use another suffix")
    return container, subtype


class AudioWriter:
    """An audio file being written; made by `writer`.

    Attributes
    ----------
    clipped
        Samples so far that were beyond full scale and were cut to it.
    """

    def __init__(self, file: soundfile.SoundFile, path: Path) -> None:
        self._file = file
        self._path = path
        self._clips = file.subtype not in _FLOAT
        self.clipped = 0
        self.frames = 0

    def write(self, block: np.ndarray) -> None:
        """Append samples, float (n, C).

        Raises
        ------
        EnhanceError
            If a sample is NaN or infinite, or the disk is full.
        """
        if not np.isfinite(block).all():
            raise EnhanceError(f"{self._path}: not written (NaN or infinite samples were to go in)")
        if self._clips:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1))
            block = np.clip(block, -1, 1)
        # Small pieces: libvorbis puts a whole call's samples on the stack.
        for piece in np.split(block, range(BLOCK, len(block), BLOCK)):
            try:
                self._file.write(piece)
            except RuntimeError as error:
                raise _unwritable(self._path, error) from error
        self.frames += len(block)


@contextlib.contextmanager
def writer(
    path: Path | str,
    sample_rate: int,
    channels: int,
    *,
    subtype: str | None = None,
    frames: int = 0,
) -> Iterator[AudioWriter]:
    """Write a file block by block; it appears under its name when all went well.

    Parameters
    ----------
    path, subtype
        As `output_format`.
    sample_rate, channels
        Of the file.
    frames
        Expected length: beyond 4 GB a ``.wav`` is written as RF64, which has room for it.

    Raises
    ------
    EnhanceError
        If the place cannot be written, or the format does not know such a rate or channel count.
    """
    path = Path(path)
    container, encoding = output_format(path, subtype)
    if container == "WAV" and frames * channels * _BYTES.get(encoding, 8) > 0xFFFF0000:
        container = "RF64"
    with atomic(path) as temporary:
        try:
            file = soundfile.SoundFile(
                str(temporary), "w", sample_rate, channels, encoding, format=container
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise EnhanceError(
                f"{path}: {container} {encoding} cannot be written with {channels} channels at "
                f"{sample_rate} Hz ({reason(error)}); use .wav"
            ) from error
        with file:
            yield AudioWriter(file, path)


def write(path: Path | str, wave: np.ndarray, sample_rate: int, subtype: str | None = None) -> int:
    """Write a whole signal, atomically.

    Parameters
    ----------
    path, subtype
        As `output_format`.
    wave
        Float ``(N,)`` or ``(C, N)``; full scale is 1.
    sample_rate
        Samples per second.

    Returns
    -------
    int
        Samples that were clipped to full scale (none in float encodings).

    Raises
    ------
    EnhanceError
        If a sample is NaN or infinite, or the file cannot be written.
    """
    wave = np.atleast_2d(wave)
    if wave.ndim != 2 or wave.shape[0] > 1024 or not np.issubdtype(wave.dtype, np.floating):
        raise EnhanceError(
            f"{path}: a wave of shape {wave.shape} and type {wave.dtype} cannot be written; "
            "give floats of shape (N,) or (C, N)"
        )
    channels, frames = wave.shape
    with writer(path, sample_rate, channels, subtype=subtype, frames=frames) as out:
        out.write(wave.T)
    return out.clipped


def _unwritable(path: Path, error: Exception) -> EnhanceError:
    return EnhanceError(f"{path}: cannot be written ({reason(error)}); choose another place")


def reason(error: Exception) -> str:
    """The library's own words, without the path it repeats, in one line."""
    text = getattr(error, "error_string", "") or str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
