"""Writing audio files: whole or absent, with clipped samples counted."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

from enhance.audio.containers import RIFF_LIMIT
from enhance.audio.pcm import WIDTHS, rounded
from enhance.audio.samples import check_layout, rate_of
from enhance.errors import EnhanceError
from enhance.files import atomic, unwritable

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
_ASCII_TAGS = ("MP3", "AIFF")  # others come back as other letters
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def output_format(path: Path | str, subtype: str | None = None) -> tuple[str, str]:
    """Container, by the suffix, and encoding to write under a name.

    Without a wished encoding ``subtype``: 16 bits where the container knows them, else what is
    usual in it. An `EnhanceError` if the suffix is unknown, or the container does not know it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        wrong = f"no audio format has the suffix {suffix!r}" if suffix else "its name has no suffix"
        raise EnhanceError(f"{path}: cannot be written ({wrong}); use .wav or .flac")
    container = _FORMATS[suffix]
    if suffix == ".opus":  # a name that promises the codec, not just the container
        if subtype not in (None, "OPUS"):
            raise EnhanceError(f"{path}: OPUS cannot hold {subtype}; use another suffix")
        return container, "OPUS"
    if subtype is None:
        can_16 = soundfile.check_format(container, "PCM_16")
        return container, "PCM_16" if can_16 else soundfile.default_subtype(container)
    if not soundfile.check_format(container, subtype):
        raise EnhanceError(f"{path}: {container} cannot hold {subtype}; use another suffix")
    return container, subtype


@functools.lru_cache(maxsize=256)
def can_write(container: str, subtype: str, sample_rate: int, channels: int) -> bool:
    """Whether libsndfile writes such a file: tried, its tables promise more than it does."""
    try:
        with soundfile.SoundFile(
            io.BytesIO(), "w", sample_rate, channels, subtype, format=container
        ) as file:
            file.write(np.zeros((64, channels), np.float32))
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def native(path: Path) -> str | bytes:
    """A path as libsndfile takes it: soundfile itself refuses names that are not UTF-8."""
    return str(path) if sys.platform == "win32" else os.fsencode(path)


class AudioWriter:
    """An audio file being written; made by `writer`."""

    def __init__(self, file: soundfile.SoundFile, path: Path, temporary: Path) -> None:
        self._file = file
        self._path = path
        self._temporary = temporary
        self._clips = file.subtype not in _FLOAT
        self._bits = _BITS.get(file.subtype, 0)
        self.clipped = 0
        """Samples so far that were beyond full scale and were cut to it."""

    def write(self, block: np.ndarray) -> None:
        """Append samples, float (n, C); an `EnhanceError` if one is not finite or the disk full."""
        if not np.isfinite(block).all():
            raise EnhanceError(f"{self._path}: not written (NaN or infinite samples were to go in)")
        if self._clips:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1))
            block = np.clip(block, -1, 1)
        if self._bits:  # libsndfile rounds down: half a step of DC, and twice the noise
            block = np.left_shift(rounded(block, self._bits), 32 - self._bits)
        # Small pieces: libvorbis puts a whole call's samples on the stack.
        for piece in np.split(block, range(BLOCK, len(block), BLOCK)):
            try:
                self._file.write(piece)
            except RuntimeError as error:
                raise _failed(self._path, self._temporary, error) from error


@contextlib.contextmanager
def writer(
    path: Path | str,
    sample_rate: int,
    channels: int,
    *,
    subtype: str | None = None,
    frames: int = 0,
    tags: Mapping[str, str] | None = None,
    speakers: int = 0,
    force: bool = True,
) -> Iterator[AudioWriter]:
    """Write a file block by block; it appears under its name when all went well.

    ``path`` and ``subtype`` are as `output_format` takes them. ``frames`` is the expected length:
    beyond 4 GB a ``.wav`` is written as RF64, which has room for it; ``speakers`` a mask, 0 for
    none, that a ``.wav`` of at most 4 GB takes. ``tags`` are title, artist and the like
    (`enhance.audio.read.AudioInfo.tags`), as far as the container takes them. ``force`` replaces a
    file that is there at the end.

    An `EnhanceError` if the place cannot be written, or the format does not know such a rate,
    channel count or length.
    """
    path = Path(path)
    sample_rate = rate_of(sample_rate)
    container, encoding = output_format(path, subtype)
    size = frames * channels * WIDTHS.get(encoding, 8)
    if container == "AIFF" and size > RIFF_LIMIT:  # libsndfile would write the size modulo 2^32
        raise EnhanceError(f"{path}: AIFF holds at most 4 GB, these are {size / 1e9:.1f}; use .wav")
    if container == "WAV" and size > RIFF_LIMIT:
        container = "RF64"
    elif container == "WAV" and speakers and can_write("WAVEX", encoding, sample_rate, channels):
        container = "WAVEX"
    with atomic(path, force=force) as temporary:
        try:
            file = soundfile.SoundFile(
                native(temporary), "w", sample_rate, channels, encoding, format=container
            )
        except (RuntimeError, TypeError, ValueError) as error:
            why = _disk_says(temporary)
            if why is not None:
                raise unwritable(path, why) from error
            raise EnhanceError(
                f"{path}: {container} {encoding} cannot be written with {channels} channels at "
                f"{sample_rate} Hz ({reason(error)}); use .wav"
            ) from error
        try:
            with file:
                _set_tags(file, tags or {})
                yield AudioWriter(file, path, temporary)
        except soundfile.LibsndfileError as error:  # what was held back until the end
            raise _failed(path, temporary, error) from error
        if container == "WAVEX":
            _set_speakers(temporary, speakers)


def _set_tags(file: soundfile.SoundFile, tags: Mapping[str, str]) -> None:
    """Tags as far as libsndfile can write them; which program wrote the input is no such tag."""
    for name, text in tags.items():
        fits = text.isascii() or file.format not in _ASCII_TAGS
        if text and fits and name != "software":
            with contextlib.suppress(RuntimeError):  # a container without such a tag
                setattr(file, name, text)


def _set_speakers(path: Path, speakers: int) -> None:
    """libsndfile puts the usual mask for a number of channels; the header's place is fixed."""
    with path.open("r+b") as file:
        head = file.read(60)
        at = head.find(b"fmt ")
        if at > 0 and struct.unpack_from("<H", head, at + 8)[0] == 0xFFFE:
            file.seek(at + 28)
            file.write(struct.pack("<I", speakers))


def write(path: Path | str, wave: np.ndarray, sample_rate: int, subtype: str | None = None) -> int:
    """Write a whole signal, float ``(N,)`` or ``(C, N)`` with full scale 1, atomically.

    ``path`` and ``subtype`` are as `output_format` takes them. Returns how many samples were
    clipped to full scale (none in float encodings). An `EnhanceError` if a sample is NaN or
    infinite, or the file cannot be written.
    """
    wave = np.atleast_2d(wave)
    if wave.ndim != 2 or not np.issubdtype(wave.dtype, np.floating):
        raise EnhanceError(
            f"{path}: a wave of shape {wave.shape} and type {wave.dtype} cannot be written; "
            "give floats of shape (N,) or (C, N)"
        )
    check_layout(f"{path}: a wave", *wave.shape)
    channels, frames = wave.shape
    with writer(path, sample_rate, channels, subtype=subtype, frames=frames) as out:
        out.write(wave.T)
    return out.clipped


def _failed(path: Path, temporary: Path, error: Exception) -> EnhanceError:
    """libsndfile calls a full disk a system error; the system itself says more."""
    return unwritable(path, _disk_says(temporary) or RuntimeError(reason(error)))


def _disk_says(temporary: Path) -> OSError | None:
    """What the system says of more bytes in a file."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def reason(error: Exception) -> str:
    """The library's own words, without the path it repeats, in one line."""
    text = getattr(error, "error_string", "") or str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
