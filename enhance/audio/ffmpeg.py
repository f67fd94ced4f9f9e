"""What libsndfile does not read: phones' and browsers' recordings and the sound of videos.

PyAV (extra ``formats``) decodes them into a temporary file without a name, which is then read like
any other: lengths are exact and every part can be found. ffmpeg is told that the name is a file's,
and which demuxer to take, so that neither names nor playlists lead it elsewhere.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from enhance.audio.containers import ADVICE, Source
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    import av

SUFFIXES = frozenset(
    {".3gp", ".aac", ".amr", ".avi", ".awb", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov"}
    | {".mp4", ".webm", ".wma", ".wmv", ".wv"}
)
"""Suffixes of such files, lower case; none can be written."""

_DEMUXERS = {  # position and bytes to know a file by, and ffmpeg's name of what it is
    (4, b"ftyp"): "mov",
    (4, b"moov"): "mov",
    (4, b"mdat"): "mov",
    (4, b"wide"): "mov",
    (0, b"\x1aE\xdf\xa3"): "matroska",
    (0, b"0&\xb2u\x8ef\xcf\x11"): "asf",
    (0, b"#!AMR"): "amr",
    (0, b"\xff\xf1"): "aac",
    (0, b"\xff\xf9"): "aac",
    (8, b"AVI "): "avi",
    (0, b"wvpk"): "wv",
}
_SAME_TAGS = ("title", "artist", "album", "date", "genre", "comment", "copyright", "license")
_TAGS = {name: name for name in _SAME_TAGS} | {"track": "tracknumber", "encoder": "software"}
"""ffmpeg's names, and libsndfile's of the same."""
_SHORT = 0.1  # seconds by which containers may round their length, or count what is cut off


def decoded(path: Path) -> Source | None:
    """Decode a file; None if it is none of these.

    `OSError` if it cannot be opened; `EnhanceError` if PyAV is missing, there is no room for the
    samples, or it has no audio, is damaged or shorter than it says.
    """
    with path.open("rb") as file:
        head = file.read(16)
    names = [name for (at, magic), name in _DEMUXERS.items() if head[at:].startswith(magic)]
    if not names:
        return None
    try:
        import av
    except ImportError as error:
        raise EnhanceError(
            f"{path}: is read by PyAV only: pip install 'enhance[formats]', or convert the file: "
            f"ffmpeg -i {quote(path.name)} {quote(path.stem)}.wav"
        ) from error
    try:
        with av.open(f"file:{path}", format=names[0], metadata_errors="replace") as container:
            return _decoded(path, container)
    except av.FFmpegError as error:
        raise EnhanceError(
            f"{path}: is damaged or truncated ({error.strerror}); {ADVICE}"
        ) from error


def _decoded(path: Path, container: av.container.InputContainer) -> Source:
    tracks = container.streams.audio
    if not tracks:
        raise EnhanceError(f"{path}: has no sound; leave it out")
    track = tracks[0]
    if track.codec_context is None or not track.rate or not track.codec_context.channels:
        raise EnhanceError(f"{path}: its sound is damaged, or coded in an unknown way; {ADVICE}")
    rate, channels = track.rate, track.codec_context.channels
    promised = _promised(container, track)
    # What pads the end is known where the length is in samples.
    left = 1 << 62
    if track.duration is not None and track.time_base == Fraction(1, rate):
        left = track.duration
    found = 0
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(tempfile.TemporaryFile(prefix="enhance-"))
        for block in _blocks(container, track):
            kept = block[: left - found]
            _write(path, target, kept)
            found += len(kept)
        if promised is not None and found / rate < promised - _SHORT:
            raise EnhanceError(
                f"{path}: is truncated ({promised:.1f} s promised, {found / rate:.1f} s found); "
                f"{ADVICE}"
            )
        target.seek(0)
        stack.pop_all()  # the source closes it
    remark = f"the first of its {len(tracks)} audio tracks was read" if len(tracks) > 1 else ""
    raw = {"samplerate": rate, "channels": channels, "format": "RAW", "subtype": "FLOAT"}
    return Source(
        target,
        remark,
        codec=track.codec_context.name.upper(),
        fine=_is_fine(track.codec_context),
        raw=raw,
        tags=_tags(container.metadata),
    )


def _is_fine(codec: Any) -> bool:
    """Whether samples are of more than 16 bits; floats are mostly what a lossy codec computes."""
    kind = codec.format.packed.name
    return kind == "s32" or (kind in ("flt", "dbl") and codec.name.startswith(("pcm_", "wavpack")))


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Of the whole file: a track's own title is the name of the track."""
    found = {name.lower(): text for name, text in metadata.items()}  # Matroska shouts
    return {tag: found[name] for name, tag in _TAGS.items() if found.get(name)}


def _promised(container: Any, track: Any) -> float | None:
    """Seconds by the header; None if there is none, where ffmpeg guesses by the first frames."""
    if container.format.name in ("aac", "amr"):
        return None
    if container.format.name == "avi" and track.time_base is not None:
        # As its duration ffmpeg gives what is there. 2^30 is what it writes into a pipe.
        return float(track.frames * track.time_base) if 0 < track.frames < 1 << 30 else None
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    if container.duration is not None and len(container.streams) == 1:  # no picture's
        return float(container.duration) / 1e6
    return None


def _write(path: Path, target: IO[bytes], block: np.ndarray) -> None:
    try:
        target.write(block.tobytes())
    except OSError as error:
        raise EnhanceError(
            f"{path}: no room for its samples in {tempfile.gettempdir()} ({error.strerror}); set "
            "TMPDIR to a folder that has some"
        ) from error


def _blocks(container: Any, track: Any) -> Iterator[np.ndarray]:
    """float32 ``(n, C)``, of the first rate and layout all through: a radio's may change."""
    import av

    form = {"format": "flt", "layout": track.codec_context.layout, "rate": track.rate}
    channels = track.codec_context.channels
    frames = container.decode(track)
    for _, alike in itertools.groupby(frames, lambda f: (f.format.name, f.layout.name, f.rate)):
        to_float = av.AudioResampler(**form)  # it takes frames of one kind
        for frame in itertools.chain(alike, [None]):  # None for what is held back
            for part in to_float.resample(frame):
                yield part.to_ndarray().reshape(-1, channels)
