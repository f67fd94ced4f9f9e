"""WAV through a pipe: read without seeking, written before its length is known.

What writers put for a length that they do not know is believed to be none (see
`enhance.audio.containers`). What is written here says 0xFFFFFFFF, as FFmpeg's does; where the
output turns out to be a file, the sizes are put in at the end.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from enhance.audio.containers import RIFF_LIMIT, UNKNOWN_LONG, not_known, truncated
from enhance.audio.pcm import WIDTHS, FrameReader, encode
from enhance.audio.read import AudioInfo
from enhance.audio.samples import MOST_CHANNELS, RATES, check_samples
from enhance.errors import EnhanceError

STDIN = Path("standard input")
_UNKNOWN = 0xFFFFFFFF
_SUBTYPES = {
    (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32",
    (3, 32): "FLOAT", (3, 64): "DOUBLE",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE
# What follows the format's number in the name of an extensible WAV's encoding.
_GUID = bytes.fromhex("000000001000800000aa00389b71")


class WavReader:
    """A WAV that cannot be seeked, iterated by blocks of float32 (n, C).

    Of what its header says, `AudioInfo.frames` is 0 where that does not know the length. An
    `EnhanceError` if it is no WAV, or of an encoding that is not known; on reading, if a sample
    cannot be taken (`check_samples`) or the end comes before its time. What came before has been
    given.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
            what = "is empty" if not head else "is no WAV"
            raise EnhanceError(
                f"{STDIN}: {what}; pipe WAV into it, such as of: ffmpeg -i FILE -f wav -"
            )
        self._bytes: int | None = None
        riff = struct.unpack_from("<I", head, 4)[0]
        long_size, info = 0, None
        while True:
            chunk = self._exactly(8)
            name, length = chunk[:4], struct.unpack_from("<I", chunk, 4)[0]
            if name == b"data":
                break
            body = self._exactly(length + length % 2)
            if name == b"fmt ":
                info = _read_format(body)
            elif name == b"ds64" and len(body) >= 16:
                long_size = struct.unpack_from("<8xQ", body)[0]
        if info is None:
            raise EnhanceError(f"{STDIN}: is a WAV without its format before the samples")
        if head[:4] != b"RIFF" and length == _UNKNOWN:
            self._bytes = None if long_size in UNKNOWN_LONG else long_size
        elif not not_known(length, riff):
            self._bytes = length
        frame = WIDTHS[info.subtype] * info.channels
        frames = 0 if self._bytes is None else self._bytes // frame
        self.info = replace(info, frames=frames)
        self._frames = FrameReader(file, info.subtype, info.channels, self._bytes)

    @property
    def odd(self) -> int:
        """Bytes at the end that were no whole frame."""
        return self._frames.odd

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._frames:
            check_samples(str(STDIN), block)
            yield block
        width = WIDTHS[self.info.subtype] * self.info.channels
        if self._frames.frames < self.info.frames:
            raise truncated(STDIN, self._bytes or 0, self._frames.frames * width)
        if not self._frames.frames:
            raise EnhanceError(f"{STDIN}: holds no samples")
        while self._file.read(1 << 16):  # chunks behind the samples: who writes them is let finish
            pass

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count) if count <= 1 << 24 else b""
        if len(data) < count:
            raise EnhanceError(f"{STDIN}: is a WAV that ends within its header")
        return data


def _read_format(body: bytes) -> AudioInfo:
    if len(body) < 16:
        raise EnhanceError(f"{STDIN}: is a WAV that ends within its header")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    speakers = 0
    if tag == _EXTENSIBLE and len(body) >= 26:
        speakers, tag = struct.unpack_from("<IH", body, 20)
    if (tag, bits) not in _SUBTYPES:
        raise EnhanceError(
            f"{STDIN}: is a WAV of encoding {tag} with {bits} bits, which a pipe does not take; "
            "give 16 bits, such as by: ffmpeg -i FILE -c:a pcm_s16le -f wav -"
        )
    if rate not in RATES or not 1 <= channels <= MOST_CHANNELS:
        raise EnhanceError(f"{STDIN}: is a WAV of {channels} channels at {rate} Hz; give another")
    return AudioInfo(STDIN, rate, channels, 0, "WAV", _SUBTYPES[tag, bits], speakers=speakers)


class WavWriter:
    """A WAV into a pipe; each block is passed on at once.

    ``subtype`` is as `enhance.audio.pcm.WIDTHS` names it; 0 ``frames`` are a length that is not
    known, 0 ``speakers`` no mask.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate: int,
        channels: int,
        subtype: str,
        frames: int = 0,
        speakers: int = 0,
    ) -> None:
        self._file = file
        self._subtype = subtype
        self._written = 0
        self.clipped = 0
        """Samples so far that were cut to full scale."""
        width, tag = WIDTHS[subtype], 3 if subtype in ("FLOAT", "DOUBLE") else 1
        frame, kind = channels * width, _EXTENSIBLE if speakers else tag
        head = struct.pack(
            "<HHIIHH", kind, channels, sample_rate, sample_rate * frame, frame, 8 * width
        )
        if speakers:
            head += struct.pack("<HHIH", 22, 8 * width, speakers, tag) + _GUID
        elif tag == 3:
            head += struct.pack("<H", 0)
        size = frames * frame
        self._known = 0 < size <= RIFF_LIMIT
        self._start = 12 + 8 + len(head) + 8
        self._head = head
        self._put(self._header(size if self._known else None))

    def write(self, block: np.ndarray) -> None:
        """Append samples, float (n, C).

        `OSError` if the pipe is closed (`BrokenPipeError`) or the disk behind it is full.
        """
        data, clipped = encode(block, self._subtype)
        self.clipped += clipped
        self._written += len(data)
        self._put(data)

    def close(self) -> None:
        """Pad, and tell the length where there is a way back to the header."""
        if self._written % 2:
            self._put(b"\0")
        if not self._known and self._written <= RIFF_LIMIT and _can_go_back(self._file):
            self._file.seek(-(self._start + self._written + self._written % 2), 1)
            self._put(self._header(self._written))
            self._file.seek(0, 2)

    def _header(self, size: int | None) -> bytes:
        riff = _UNKNOWN if size is None else self._start - 8 + size + size % 2
        return (
            struct.pack("<4sI8sI", b"RIFF", riff, b"WAVEfmt ", len(self._head))
            + self._head
            + struct.pack("<4sI", b"data", _UNKNOWN if size is None else size)
        )

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


def _can_go_back(file: BinaryIO) -> bool:
    """Whether what was written can be written over: not where all goes to the end (``>>``)."""
    with contextlib.suppress(ImportError, OSError):  # another system, or no file of this one
        import fcntl

        if fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND:
            return False
    return file.seekable()
