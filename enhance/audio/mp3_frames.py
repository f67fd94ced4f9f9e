"""How much audio an MP3 holds, by its frames.

An MP3 has no length. Encoders may put a first frame without sound (Xing's, "Info" at a constant
rate) that counts the others; where it is missing libsndfile guesses from the first frame's size,
and plays no more than its guess: of a file of variable rate a part. Here the frames are counted,
and where a count is missing or wrong libsndfile is given a first frame that has it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from enhance.errors import EnhanceError

# kbit/s by index, of MPEG-1 layers I, II, III and MPEG-2 layers I, II and III.
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
_SEARCH = 1 << 16  # bytes of rubbish between frames that are looked through
_DELAY = 529  # samples that libsndfile's decoder cuts off the front of a file that is counted
_LARGEST_TAG = 1 << 24
_LAME_DELAYS = 21  # bytes of LAME's own part of a first frame before its delays


@dataclass(frozen=True)
class Frame:
    """What the four bytes before each frame say."""

    version: int
    """1, or 2 for MPEG-2 and 2.5."""
    layer: int
    rate: int
    """Samples per second."""
    size: int
    """Bytes, these four included."""
    mono: bool

    @property
    def kind(self) -> tuple[int, int, int]:
        """What does not change within a file."""
        return self.version, self.layer, self.rate

    @property
    def samples(self) -> int:
        """Samples per channel."""
        if self.layer == 1:
            return 384
        return 576 if self.version == 2 and self.layer == 3 else 1152

    @property
    def side(self) -> int:
        """Where in a frame of layer III the count of frames stands, after header and side data."""
        if self.version == 1:
            return 4 + (17 if self.mono else 32)
        return 4 + (9 if self.mono else 17)


def parse(head: bytes) -> Frame | None:
    """The header of a frame, None where there is none; free format is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    code, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if code == 1 or layer == 4 or not 0 < bits < 15 or rate == 3:
        return None
    version = 1 if code == 3 else 2
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[code]
    speed = 1000 * _KBITS[version, layer][bits - 1]
    padding = head[2] >> 1 & 1
    if layer == 1:
        size = 4 * (12 * speed // hertz + padding)
    else:
        size = (72 if version == 2 and layer == 3 else 144) * speed // hertz + padding
    return Frame(version, layer, hertz, size, head[3] >> 6 == 3)


@dataclass(frozen=True)
class Counted:
    """How an MP3 is to be read."""

    frames: int
    """Samples per channel."""
    head: bytes | None = None
    """What is read instead of the bytes before `start`; None if the file is read as it is."""
    start: int = 0
    stop: int = 0
    """Where the last whole frame ends."""
    skip: int = 0
    """Samples at the front that are none of the file's."""
    remark: str = ""


def count_mp3(path: Path, file: BinaryIO, size: int) -> Counted | None:
    """Count the frames of a file; None if it is no MP3, or counts them rightly itself.

    An `EnhanceError` if it promises more frames than it holds, or frames of another kind follow.
    """
    begin = _behind_tags(file, 0)
    start = _first_frame(file, begin, min(size, begin + _SEARCH))
    if start is None or (first := _read(file, start)) is None:
        return None
    counted, stop, whole = _count(path, file, start, size, first)
    if first.layer != 3:  # nobody counts there; at constant rates the guess is good
        return Counted(counted * first.samples)
    file.seek(0)
    tags = file.read(begin if begin < _LARGEST_TAG else 0)
    file.seek(start)
    body = bytearray(file.read(first.size))
    promised = _promise(bytes(body), first)
    if promised is None:
        uncounted = body[first.side : first.side + 4] in (b"Xing", b"Info")
        counted -= uncounted
        begin = start + first.size if uncounted else start
        cut, begin = _without_past(file, begin, stop)
        head = tags + _counting_frames(bytes(body[:4]), counted) + cut
        skip = first.samples - _DELAY
        return Counted(counted * first.samples, head, begin, stop, skip)
    counted -= 1  # the one that counts
    if promised == counted:
        return None
    if promised > counted + 1 or (promised > counted and not whole):
        raise EnhanceError(
            f"{path}: is truncated ({promised} frames of MP3 promised, {counted} found); "
            "convert or record it again"
        )
    remark = ""
    if 0 < promised < counted:  # 0 is what an encoder into a pipe leaves there
        remark = f"its header counts {promised} frames of MP3, {counted} are there and were read"
    head = tags + _recounted(body, first, counted, grown=promised < counted)
    return Counted(0, head, start + first.size, stop, remark=remark)


def _behind_tags(file: BinaryIO, position: int) -> int:
    """Position behind the ID3 tags that begin at one."""
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return position
        length = sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        position += 10 + length + (10 if head[5] & 16 else 0)


def _read(file: BinaryIO, position: int) -> Frame | None:
    file.seek(position)
    return parse(file.read(4))


def _first_frame(
    file: BinaryIO, begin: int, end: int, kind: tuple[int, int, int] | None = None
) -> int | None:
    """The first position where a frame stands that two others of its kind follow."""
    file.seek(begin)
    data = file.read(end - begin)
    at = data.find(b"\xff")
    while at >= 0:
        frame = parse(data[at : at + 4])
        if frame is not None and kind in (None, frame.kind):
            second = _read(file, begin + at + frame.size)
            if second is not None and second.kind == frame.kind:
                behind = begin + at + frame.size + second.size
                third = _read(file, behind)
                at_end = file.seek(0, os.SEEK_END) <= behind
                if at_end or (third is not None and third.kind == frame.kind):
                    return begin + at
        at = data.find(b"\xff", at + 1)
    return None


def _count(
    path: Path, file: BinaryIO, start: int, size: int, first: Frame
) -> tuple[int, int, bool]:
    """Frames that are there whole, where the last ends, and whether none is cut off behind it.

    Between files that were joined stand tags, with pictures of any size.
    """
    counted, position, stop = 0, start, start
    while position + 4 <= size:
        frame = _read(file, position)
        if frame is not None and frame.kind == first.kind:
            if position + frame.size > size:
                return counted, stop, False
            position += frame.size
            counted, stop = counted + 1, position
        else:
            begin = _behind_tags(file, position)
            end = min(size, begin + _SEARCH)
            found = _first_frame(file, begin, end, first.kind)
            if found is None and _first_frame(file, begin, end) is not None:
                raise EnhanceError(
                    f"{path}: holds several recordings one after another, of different rates or "
                    "layers; take them apart, or join their samples"
                )
            position = size if found is None else found
    return counted, stop, True


def _without_past(file: BinaryIO, position: int, stop: int) -> tuple[bytes, int]:
    """Frames at the front that need data of frames that were cut off: silent, their data kept.

    Decoded with the wrong data they would be loud. Gives also the position behind them.
    """
    silent, kept = b"", 0
    while position < stop and (frame := _read(file, position)) is not None:
        file.seek(position)
        body = bytearray(file.read(frame.size))
        side = 4 if body[1] & 1 else 6  # behind header and checksum
        needs = body[side] << 1 | body[side + 1] >> 7 if frame.version == 1 else body[side]
        if needs <= kept:
            break
        length = frame.side - 4
        pointer = bytes([body[side], body[side + 1] & 0x80 if frame.version == 1 else 0])
        body[side : side + length] = pointer.ljust(length, b"\0")
        kept += frame.size - side - length
        silent += bytes(body)
        position += frame.size
    return silent, position


def _promise(body: bytes, first: Frame) -> int | None:
    """Frames that a first frame counts, 0 if it did not know; None if it is no such frame."""
    side = first.side
    if body[side : side + 4] not in (b"Xing", b"Info") or not body[side + 7] & 1:
        return None
    return int.from_bytes(body[side + 8 : side + 12], "big")


def _recounted(body: bytearray, first: Frame, counted: int, *, grown: bool) -> bytes:
    """A first frame that counts with another count.

    The size and the table of places, which belong to the old one, are left out. Behind them stands
    what LAME says of its delay and of the filling at the end, to be cut off: it moves up, and where
    the file has `grown` since, nothing is known of its end.
    """
    at = first.side + 8
    flags = body[at - 1]
    rest = body[at + 4 + (4 if flags & 2 else 0) + (100 if flags & 4 else 0) :]
    filling = (4 if flags & 8 else 0) + _LAME_DELAYS + 1  # of 12 bits, as the delay before it
    if grown and filling < len(rest):
        rest[filling : filling + 2] = bytes([rest[filling] & 0xF0, 0])
    head = body[: at - 1] + bytes([flags & ~6]) + counted.to_bytes(4, "big")
    return bytes(head + rest).ljust(first.size, b"\0")


def _counting_frames(raw: bytes, counted: int) -> bytes:
    """Two frames of the kind of the header ``raw``: one that counts the others, and a silent one.

    libsndfile's decoder takes its own delay off the front of a file that is counted; without it
    the first samples would be lost. Of the silent frame `samples` less `_DELAY` are left.
    """
    # Without checksum, and at a rate that gives room: 128 kbit/s, 80 of MPEG-2.
    head = bytes([raw[0], raw[1] | 1, 9 << 4 | raw[2] & 0x0C, raw[3]])
    frame = parse(head)
    assert frame is not None
    silent = head.ljust(frame.size, b"\0")
    body = bytearray(silent)
    body[frame.side : frame.side + 12] = b"Xing\0\0\0\1" + (counted + 1).to_bytes(4, "big")
    return bytes(body) + silent
