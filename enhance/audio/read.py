"""Audio files: what they say, what they hold, block by block in constant memory.

Whatever libsndfile reads is read (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, ...). libsndfile is
forgiving: it shortens a WAV whose header promises more than the file holds without a word, and
passes NaN on. Here both are refused, and nothing is ever allocated by a header's promise.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from enhance.audio.resampling import StreamingResampler, resample, resampled_length
from enhance.audio.write import BLOCK, SUFFIXES, AudioWriter, output_format, reason, write, writer
from enhance.errors import EnhanceError

__all__ = [
    "BLOCK",
    "SUFFIXES",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "StreamingResampler",
    "info",
    "output_format",
    "read",
    "resample",
    "resampled_length",
    "write",
    "writer",
]

_RATES = range(1000, 768001)
_ADVICE = "convert or record it again"


@dataclass(frozen=True)
class AudioInfo:
    """What an audio file says of itself, checked against its size."""

    path: Path
    sample_rate: int
    """Samples per second."""
    channels: int
    frames: int
    """Samples per channel, at least 1."""
    format: str
    """Container in libsndfile's word, such as ``WAV``."""
    subtype: str
    """Encoding in libsndfile's word, such as ``PCM_16``."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate


def info(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises
    ------
    EnhanceError
        If the file is missing, no regular file, unreadable, not audio, holds no sample, or is
        shorter than its header promises (where the container tells; `AudioReader` finds the rest).
    """
    with AudioReader(path) as reader:
        return reader.info


class AudioReader:
    """An open audio file: a context manager, iterated by blocks of float32 ``(n, C)``.

    Raises
    ------
    EnhanceError
        On opening as `info` does; on reading if a sample is NaN or infinite, the data are
        damaged, or there are fewer than the header promised.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        _check_regular(self.path)
        _check_riff(self.path)
        try:
            self._file = soundfile.SoundFile(str(self.path))
        except (RuntimeError, TypeError, ValueError) as error:
            raise EnhanceError(
                f"{self.path}: is not audio that can be read ({reason(error)})"
            ) from error
        try:
            self.info = self._checked_info()
        except BaseException:
            self._file.close()
            raise
        self._position = 0

    def _checked_info(self) -> AudioInfo:
        file = self._file
        if file.frames <= 0:
            raise EnhanceError(f"{self.path}: holds no samples; leave it out")
        if file.frames >= 1 << 62:
            raise EnhanceError(
                f"{self.path}: does not say how long it is (saved from a stream); {_ADVICE}"
            )
        if file.samplerate not in _RATES:
            raise EnhanceError(
                f"{self.path}: a sample rate of {file.samplerate} Hz is out of range "
                f"({_RATES[0]} to {_RATES[-1]}); {_ADVICE}"
            )
        if file.format != "WAV":
            # libsndfile's log of other containers: "SSND : 480008 (should be 239981)".
            for claimed, found in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
                if int(claimed) > int(found) + 1:  # one byte of padding may be left out
                    raise _truncated(self.path, int(claimed), int(found))
        return AudioInfo(
            self.path, file.samplerate, file.channels, file.frames, file.format, file.subtype
        )

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.blocks()

    def blocks(self, start: int = 0, frames: int = -1) -> Iterator[np.ndarray]:
        """Samples ``[start, start + frames)`` (-1: to the end) by blocks of float32 ``(n, C)``."""
        total = self.info.frames
        stop = total if frames < 0 else start + frames
        if not 0 <= start < stop <= total:
            raise EnhanceError(
                f"{self.path}: samples {start} to {stop} were asked for, it holds {total}"
            )
        size = max(1, BLOCK // self.info.channels)
        position = start
        try:
            if start:
                self._file.seek(start)
            while position < stop:
                block = self._file.read(min(size, stop - position), "float32", always_2d=True)
                if not len(block):
                    raise EnhanceError(
                        f"{self.path}: is truncated ({total} samples promised, {position} found); "
                        f"{_ADVICE}"
                    )
                self._check_finite(block, position)
                position += len(block)
                yield block
        except RuntimeError as error:
            raise EnhanceError(
                f"{self.path}: is damaged or truncated after sample {position} "
                f"({reason(error)}); {_ADVICE}"
            ) from error

    def _check_finite(self, block: np.ndarray, position: int) -> None:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            first = position + int(np.argmin(finite))
            raise EnhanceError(
                f"{self.path}: sample {first} (at {first / self.info.sample_rate:.3f} s) is NaN or "
                f"infinite; {_ADVICE}"
            )


def read(
    path: Path | str,
    sample_rate: int | None = None,
    *,
    start: int = 0,
    frames: int = -1,
    mono: bool = True,
) -> np.ndarray:
    """Read a file, or a part of it.

    Parameters
    ----------
    path
        Any file that libsndfile reads.
    sample_rate
        Resample to this rate; None keeps the file's own.
    start, frames
        The part to read, in samples at the file's own rate; ``frames=-1`` reads to the end.
    mono
        Average the channels.

    Returns
    -------
    numpy.ndarray
        float32 ``(N,)``, or ``(C, N)`` with ``mono=False``. Full scale is 1.

    Raises
    ------
    EnhanceError
        As `AudioReader`; or if the part asked for is not in the file.
    """
    with AudioReader(path) as reader:
        blocks = [
            block.mean(axis=1, keepdims=True) if mono else block
            for block in reader.blocks(start, frames)
        ]
        rate = reader.info.sample_rate
    wave = np.ascontiguousarray(np.concatenate(blocks).T)  # (C, N)
    if sample_rate is not None and sample_rate != rate:
        wave = resample(wave, rate, sample_rate)
    return wave[0] if mono else wave


def _check_regular(path: Path) -> None:
    try:
        if path.is_dir():
            raise EnhanceError(f"{path}: is a folder, an audio file is needed")
        if path.exists() and not path.is_file():
            raise EnhanceError(f"{path}: is no regular file; save the audio to a file first")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise EnhanceError(f"{path}: no such file") from error
    except OSError as error:
        raise EnhanceError(f"{path}: cannot be read ({error.strerror or error})") from error


def _check_riff(path: Path) -> None:
    """Refuse a WAV or RF64 file whose data chunk is longer than the file."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RF64", b"RIFX") or head[8:12] != b"WAVE":
            return
        size = file.seek(0, 2)
        position, order, long_size = 12, ">" if head[:4] == b"RIFX" else "<", 0
        while position + 8 <= size:
            file.seek(position)
            name, length = struct.unpack(order + "4sI", file.read(8))
            position += 8
            if name == b"ds64" and position + 16 <= size:
                long_size = struct.unpack("<8xQ", file.read(16))[0]
            elif name == b"data":
                if head[:4] == b"RF64" and length == 0xFFFFFFFF:
                    length = long_size
                if length > size - position:
                    raise _truncated(path, length, size - position)
                return
            position += length + length % 2


def _truncated(path: Path, claimed: int, found: int) -> EnhanceError:
    return EnhanceError(
        f"{path}: is truncated (its header promises {claimed} bytes of audio, {found} are there); "
        f"{_ADVICE}"
    )
