"""Audio files: what they say, what they hold, block by block in constant memory.

Whatever libsndfile reads is read (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, ...), and with PyAV
what `enhance.audio.ffmpeg` knows (M4A, WebM, videos, ...). libsndfile is forgiving: it believes
headers that lie (see `enhance.audio.containers`), and passes NaN on. Here that is mended or
refused, and nothing is ever allocated by a header's promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from enhance.audio.containers import ADVICE, look, truncated
from enhance.audio.ffmpeg import decoded
from enhance.audio.resampling import resample
from enhance.audio.samples import LOUDEST, RATES, too_loud
from enhance.audio.write import BLOCK, native, reason
from enhance.errors import EnhanceError
from enhance.files import Kind, kind_of, unreadable

_TRUE = {  # what libsndfile says where it means something else
    # Of what it takes for an MP3; that the file is there was seen before.
    "File does not exist or is not a regular file": "no frame of an MP3 can be decoded",
    "Internal error : SF_INFO struct incomplete": "its header is damaged: the sample rate, the "
    "channels or the format is out of range",
}
_NO_FILE = {
    None: "no such file",
    Kind.FOLDER: "is a folder, an audio file is needed",
    Kind.OTHER: "is no regular file; save the audio to a file first",
}


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
    """Encoding in libsndfile's word, such as ``PCM_16``, or in ffmpeg's, such as ``AAC``."""
    remark: str = ""
    """What is wrong with the header where the audio could be read all the same."""
    tags: dict[str, str] = field(default_factory=dict, compare=False)
    """Title, artist and the like, by libsndfile's names."""
    speakers: int = 0
    """Speaker mask of a WAVE_FORMAT_EXTENSIBLE, 0 for none."""
    fine: bool = False
    """Whether ffmpeg found samples of more than 16 bits; of others `subtype` tells."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate


def info(path: Path | str) -> AudioInfo:
    """Read a file's header.

    An `EnhanceError` if the file is missing, no regular file, unreadable, not audio, holds no
    sample, or is shorter than its header promises (where the container tells; `AudioReader` finds
    the rest).
    """
    with AudioReader(path) as reader:
        return reader.info


class AudioReader:
    """An open audio file: a context manager, iterated by blocks of float32 ``(n, C)``.

    An `EnhanceError` on opening as `info` does; on reading if a sample is NaN, infinite or far
    beyond full scale (`enhance.audio.samples.LOUDEST`), the data are damaged, or there are fewer
    than the header promised.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        kind = kind_of(self.path)
        if kind is not Kind.FILE:
            raise EnhanceError(f"{self.path}: {_NO_FILE[kind]}")
        try:
            self._source = decoded(self.path) or look(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from error
        try:
            self._file = soundfile.SoundFile(
                self._source.file or native(self.path), **self._source.raw
            )
        except (RuntimeError, TypeError, ValueError) as error:
            self._source.close()
            if not self.path.stat().st_size:
                raise EnhanceError(f"{self.path}: is empty; leave it out") from error
            raise EnhanceError(
                f"{self.path}: is not audio that can be read ({_why(error)}); if it is audio, "
                "convert it to WAV"
            ) from error
        try:
            self.info = self._checked_info()
        except BaseException:
            self.close()
            raise

    def _checked_info(self) -> AudioInfo:
        file = self._file
        if file.frames <= 0:
            raise EnhanceError(f"{self.path}: holds no samples; leave it out")
        if file.frames >= 1 << 62:
            raise EnhanceError(
                f"{self.path}: does not say how long it is (saved from a stream); {ADVICE}"
            )
        if file.samplerate not in RATES:
            raise EnhanceError(
                f"{self.path}: a sample rate of {file.samplerate} Hz is out of range "
                f"({RATES[0]} to {RATES[-1]}); {ADVICE}"
            )
        if file.format != "WAV":
            # libsndfile's log of other containers: "SSND : 480008 (should be 239981)".
            for claimed, found in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
                if int(claimed) > int(found) + 1:  # one byte of padding may be left out
                    raise truncated(self.path, int(claimed), int(found))
        frames = file.frames - self._source.skip
        if self._source.frames is not None:
            if self._source.frames > frames:
                raise EnhanceError(
                    f"{self.path}: only {frames} of its {self._source.frames} samples can be read "
                    f"(an MPEG file of variable rate, layer 1 or 2); {ADVICE}"
                )
            frames = self._source.frames
        return AudioInfo(
            self.path,
            file.samplerate,
            file.channels,
            frames,
            file.format,
            self._source.codec or file.subtype,
            self._source.remark,
            self._source.tags or file.copy_metadata(),
            self._source.speakers,
            self._source.fine,
        )

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._source.close()

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
            if start + self._source.skip:
                self._file.seek(start + self._source.skip)
            while position < stop:
                block = self._file.read(min(size, stop - position), "float32", always_2d=True)
                if not len(block):
                    raise EnhanceError(
                        f"{self.path}: is truncated ({total} samples promised, {position} found); "
                        f"{ADVICE}"
                    )
                self._check_block(block, position)
                position += len(block)
                yield block
        except RuntimeError as error:
            raise EnhanceError(
                f"{self.path}: is damaged or truncated after sample {position} "
                f"({reason(error)}); {ADVICE}"
            ) from error

    def _check_block(self, block: np.ndarray, position: int) -> None:
        peak = float(np.abs(block).max())
        if peak <= LOUDEST:
            return
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            first = position + int(np.argmin(finite))
            raise EnhanceError(
                f"{self.path}: sample {first} (at {first / self.info.sample_rate:.3f} s) is NaN or "
                f"infinite; {ADVICE}"
            )
        raise EnhanceError(f"{self.path}: {too_loud(peak)}")


def read(
    path: Path | str,
    sample_rate: int | None = None,
    *,
    start: int = 0,
    frames: int = -1,
    mono: bool = True,
) -> np.ndarray:
    """Read a file, or of it ``frames`` samples (-1: to the end) from ``start`` on.

    Both count at the file's own rate. ``sample_rate`` resamples, ``mono`` averages the channels.
    Gives float32 ``(N,)``, or ``(C, N)`` with ``mono=False``; full scale is 1. An `EnhanceError` as
    of `AudioReader`, or if the part asked for is not in the file.
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


def _why(error: Exception) -> str:
    """libsndfile's reason for not opening a file that is there, in true words."""
    text = reason(error)
    return next((true for said, true in _TRUE.items() if text.startswith(said)), text)
