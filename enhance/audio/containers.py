"""What the bytes of an audio file say of its length, held against its header.

libsndfile believes headers. A WAV whose data chunk is shorter than what follows it loses the rest
without a word, one that was piped promises 2 GB, an Ogg file of two streams ends after the first.
Here the containers are walked, chunk by chunk or page by page, before libsndfile opens them: it is
then given a file whose header tells the truth, or the file is refused. The samples stay in place.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from enhance.audio.mp3_frames import count_mp3
from enhance.errors import EnhanceError

ADVICE = "convert or record it again"
_TAIL = 1 << 16  # bytes at the end of a file that are searched for chunks
RIFF_LIMIT = 0xFFFF0000
"""Most bytes of samples: a RIFF file has 32 bits for its size."""
UNKNOWN_LONG = (0, (1 << 64) - 1)
"""What stands for a size that an RF64 does not know."""
_PADDING = 4096  # zeros up to the end of a sector
# What writers put behind the samples.
_TRAILERS = (
    b"LIST", b"bext", b"id3 ", b"ID3 ", b"iXML", b"cue ", b"smpl", b"inst", b"fact", b"PEAK",
    b"JUNK", b"junk", b"PAD ", b"FLLR", b"_PMX", b"axml", b"chna", b"afsp", b"DISP", b"acid",
)  # fmt: skip


class Spliced(io.RawIOBase):
    """Bytes ``head``, then a part of a file, as one file to read: a header that is mended."""

    def __init__(self, head: bytes, path: Path, start: int, stop: int) -> None:
        self._head, self._start = head, start
        self._size = len(head) + stop - start
        self._file = path.open("rb")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._position))
        data = self._head[self._position : self._position + wanted]
        if len(data) < wanted:
            self._file.seek(self._start + self._position + len(data) - len(self._head))
            data += self._file.read(wanted - len(data))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class Source:
    """What libsndfile is to open."""

    file: Spliced | BinaryIO | None = None
    """Instead of the file itself, None for the file."""
    remark: str = ""
    """What was wrong with the header, if the audio could be had all the same."""
    speakers: int = 0
    """Speaker mask of a WAVE_FORMAT_EXTENSIBLE, 0 for none."""
    skip: int = 0
    """Samples at the front of ``file`` that are none of the audio."""
    frames: int | None = None
    """Samples per channel, where libsndfile only guesses them."""
    codec: str = ""
    """What was decoded into ``file``; empty if libsndfile decodes."""
    fine: bool = False
    """Whether that had samples of more than 16 bits."""
    raw: dict[str, Any] = field(default_factory=dict)
    """What soundfile is told of samples without a header."""
    tags: dict[str, str] = field(default_factory=dict)
    """Of what was decoded, by libsndfile's names."""

    def close(self) -> None:
        """Close `file`."""
        if self.file is not None:
            self.file.close()


def look(path: Path) -> Source:
    """Hold a file's header against its bytes.

    An `EnhanceError` if it is shorter or longer than that promises and cannot be read whole.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        head = _at(file, 0, 16)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _wav(path, file, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            _check_aiff(path, file, size)
        elif head[:4] == b"caff":
            _check_long(path, file, size, _caf_chunks(file, size))
        elif head[:4] == b"riff" and size >= 40:
            _check_long(path, file, size, _w64_chunks(file, size))
        elif head[:4] in (b".snd", b"dns."):
            _check_au(path, size, head)
        elif head[:4] == b"OggS":
            return Source(remark=_check_ogg(path, file, size))
        elif head[:4] == b"fLaC":
            _check_flac(path, file, size)
        elif (found := count_mp3(path, file, size)) is not None:
            if found.head is None:
                return Source(frames=found.frames)
            spliced = Spliced(found.head, path, found.start, found.stop)
            return Source(spliced, found.remark, skip=found.skip)
    return Source()


def truncated(path: Path, claimed: int, found: int) -> EnhanceError:
    """The refusal of a file that is shorter than its header promises, both in bytes."""
    return EnhanceError(
        f"{path}: is truncated (its header promises {claimed} bytes of audio, {found} are there); "
        f"{ADVICE}"
    )


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _wav(path: Path, file: BinaryIO, size: int) -> Source:
    head = _at(file, 0, 12)
    order = ">" if head[:4] == b"RIFX" else "<"
    long = head[:4] in (b"RF64", b"BW64")
    speakers, long_size = 0, 0
    riff = struct.unpack_from(order + "I", head, 4)[0]
    for name, position, length in _riff_chunks(file, 12, size, order):
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", _at(file, position, 16).ljust(16, b"\0"))[0]
        elif name == b"fmt ":
            fmt = _at(file, position, 24)
            if len(fmt) == 24 and struct.unpack_from(order + "H", fmt)[0] == 0xFFFE:
                speakers = struct.unpack_from(order + "I", fmt, 20)[0]
        elif name == b"data":
            if long and length == 0xFFFFFFFF:
                length, unknown = long_size, long_size in UNKNOWN_LONG
            else:
                unknown = not_known(length, riff)
            found = size - position
            if length > found and not unknown:
                raise truncated(path, length, found)
            fits = length <= found and _only_chunks(file, position + length, size, order, path)
            if fits and (length or not unknown or found):
                break
            stop = _chunks_at_end(file, position, size, order)
            whole = stop - position
            if whole == length:  # a RIFF piped, as long as such a promise by chance
                break
            mended = _mended(file, position, whole, order)
            remark = ""
            if not unknown:
                remark = (
                    f"its header promises {length} bytes of audio, {whole} are there and were read"
                )
            return Source(Spliced(mended, path, position, stop), remark, speakers)
    # libsndfile knows that kind by its older name alone.
    renamed = Spliced(b"RF64", path, 4, size) if head[:4] == b"BW64" else None
    return Source(renamed, speakers=speakers)


def not_known(length: int, riff: int) -> bool:
    """Whether a size is what pipes and recorders write before they know it.

    0, and the largest number with or without sign, rounded down by some (sox, espeak). Others take
    the header off it: that is believed where the size of the whole file, ``riff``, is such too.
    """
    if length in (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF):
        return True
    return all(0x7FFFF000 <= size <= 0x80001000 or size >= 0xFFFFF000 for size in (length, riff))


def _riff_chunks(
    file: BinaryIO, position: int, size: int, order: str
) -> Iterator[tuple[bytes, int, int]]:
    """Name, position and length of what each chunk holds; odd ones are padded."""
    while position + 8 <= size:
        name, length = struct.unpack(order + "4sI", _at(file, position, 8))
        yield name, position + 8, length
        position += 8 + length + length % 2


def _w64_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    position = 40
    while position + 24 <= size:
        name, length = struct.unpack("<4s12xQ", _at(file, position, 24))
        yield name, position + 24, max(0, length - 24)
        position += max(24, length + -length % 8)


def _caf_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    position = 8
    while position + 12 <= size:
        name, length = struct.unpack(">4sq", _at(file, position, 12))
        yield name, position + 12, size - position - 12 if length < 0 else length
        position += 12 + max(0, length) if length >= 0 else size


def _only_chunks(file: BinaryIO, end: int, size: int, order: str, path: Path) -> bool:
    """Whether nothing but chunks, tags and padding stand between the samples and the end."""
    if _is_padding(file, end, size):
        return True
    for position in (end + (end & 1), end):  # the byte of padding is left out by some
        start = position
        for name, begin, length in _riff_chunks(file, start, size, order):
            if name in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
                raise EnhanceError(
                    f"{path}: holds several recordings one after another; take them apart, or join "
                    "their samples"
                )
            if not _is_name(name) or begin + length > size:
                break
            position = begin + length + length % 2
        if position >= size or (position > start and _is_padding(file, position, size)):
            return True
    return False


def _is_padding(file: BinaryIO, position: int, size: int) -> bool:
    """Whether the rest is a tag that is no chunk, a byte, or zeros up to the end of a sector."""
    rest = size - position
    if rest <= 1:
        return True
    start = _at(file, position, 12)
    if start[:3] == b"TAG" and rest == 128:
        return True
    if start[:8] == b"APETAGEX" or (start[:3] == b"ID3" and start[3] < 5):
        return True
    return rest < _PADDING and size % 512 == 0 and not any(_at(file, position, rest))


def _is_name(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name)


def _chunks_at_end(file: BinaryIO, begin: int, size: int, order: str) -> int:
    """Where samples of unknown length end: before chunks that reach exactly to the end."""
    first = max(begin, size - _TAIL)
    tail = _at(file, first, size - first)
    found = size
    for name in _TRAILERS:
        at = tail.find(name)
        while at >= 0:
            position = at
            while position + 8 <= len(tail) and _is_name(tail[position : position + 4]):
                length = struct.unpack_from(order + "I", tail, position + 4)[0]
                position += 8 + length
                if position < len(tail):
                    position += length % 2
            if position == len(tail):
                found = min(found, first + at)
            at = tail.find(name, at + 1)
    return found


def _mended(file: BinaryIO, position: int, length: int, order: str) -> bytes:
    """What stands before the samples, with their true size; RF64 beyond 4 GB."""
    chunks = bytearray(_at(file, 0, position))
    if position + length <= RIFF_LIMIT or order == ">":
        if chunks[:4] in (b"RF64", b"BW64"):
            chunks[:4] = b"RIFF"
        room = min(position + length - 8, 0xFFFFFFFF)
        struct.pack_into(order + "I", chunks, 4, room)
        struct.pack_into(order + "I", chunks, position - 4, min(length, 0xFFFFFFFF))
        return bytes(chunks)
    sizes = b"ds64" + struct.pack("<IQQQI", 28, position + length + 28, length, 0, 0)
    start = 12
    if chunks[12:16] == b"ds64":
        start = 20 + struct.unpack_from("<I", chunks, 16)[0]
    struct.pack_into("<I", chunks, position - 4, 0xFFFFFFFF)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + bytes(chunks[start:])


def _check_aiff(path: Path, file: BinaryIO, size: int) -> None:
    for name, position, length in _riff_chunks(file, 12, size, ">"):
        if name == b"SSND":
            end = position + length
            if end < size and not _only_chunks(file, end, size, ">", path):
                raise _longer(path, length, size - position)
            return


def _check_long(
    path: Path, file: BinaryIO, size: int, chunks: Iterator[tuple[bytes, int, int]]
) -> None:
    """Refuse bytes behind the samples of CAF or W64 that are no chunk."""
    audio = None
    for name, position, length in chunks:
        if audio is not None and (not _is_name(name) or position + length > size):
            raise _longer(path, audio[1], size - audio[0])
        if name == b"data":
            audio = position, length
            if position + length < size and _is_padding(file, position + length, size):
                return


def _check_au(path: Path, size: int, head: bytes) -> None:
    begin, length = struct.unpack((">" if head[:4] == b".snd" else "<") + "4xII", head[:12])
    if length != 0xFFFFFFFF and begin + length + 1 < size:
        raise _longer(path, length, size - begin)


def _longer(path: Path, claimed: int, found: int) -> EnhanceError:
    return EnhanceError(
        f"{path}: has a wrong size in its header ({claimed} bytes of audio promised, {found} "
        f"follow); {ADVICE}"
    )


def _check_ogg(path: Path, file: BinaryIO, size: int) -> str:
    """Refuse a stream that is cut within a page, and a second stream behind the first.

    Gives a remark on one that ends between two pages, as of a recorder that was stopped by force.
    """
    position, data, ended = 0, False, True
    while position < size:
        head = _at(file, position, 27)
        if head[:4] != b"OggS":
            return ""  # a tag, or damage, which libsndfile finds
        lacing = file.read(head[26]) if len(head) == 27 else b""
        end = position + 27 + len(lacing) + sum(lacing)
        if len(head) < 27 or len(lacing) < head[26] or end > size:
            raise EnhanceError(f"{path}: is truncated (it ends within a page of Ogg); {ADVICE}")
        first, ended = bool(head[5] & 2), bool(head[5] & 4)
        if first and data:
            raise _several(path, "streams")
        data = data or not first
        position = end
    return "" if ended else "its last page does not end the stream, the rest may be missing"


def _check_flac(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse a second file behind the first."""
    overlap, before = 7, b""
    file.seek(4)
    while block := file.read(1 << 20):
        if b"fLaC\0\0\0\x22" in before + block:
            raise _several(path, "recordings")
        before = block[-overlap:]


def _several(path: Path, what: str) -> EnhanceError:
    return EnhanceError(
        f"{path}: holds several {what} one after another, of which only the first can be read; "
        "join their samples"
    )
