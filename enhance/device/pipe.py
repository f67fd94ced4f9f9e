"""Clean what comes out of a pipe into another: ``enhance run - -`` and ``enhance stream``.

Each block goes on as soon as a hop of it is done; nothing waits for a buffer to fill.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from enhance.audio.pcm import WIDTHS, FrameReader, encode
from enhance.audio.read import AudioReader
from enhance.audio.resampling import held_back, resampled_length
from enhance.audio.samples import MOST_CHANNELS, check_samples, rate_of, whole_number
from enhance.audio.wav_pipe import STDIN, WavReader, WavWriter
from enhance.audio.write import AudioWriter
from enhance.device.aligned_stream import AlignedStream
from enhance.device.clean import check_target, clipped_line, kept_subtype, writer_like
from enhance.device.offline import Model, OfflineEnhancer
from enhance.errors import EnhanceError
from enhance.files import is_folder

PIPE = Path("-")
"""Standard input or output, in the place of a file."""
FORMATS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
"""Raw samples by FFmpeg's names."""


def clean_piped(source: Path, target: Path, enhancer: Model, *, force: bool = False) -> list[str]:
    """Enhance WAV from standard input, or a file, into standard output as WAV, or a file.

    Rate, channels, length and, as far as it is known to WAV, encoding are kept; the output is
    aligned with the input. The arguments are those of `enhance.device.clean.clean_file`; one of the
    first two at least is `PIPE`. Given are lines that the user should know. An `EnhanceError` tells
    that the input cannot be read or ends too early, or the output cannot be written.
    """
    if target == PIPE:
        _check_terminal(sys.stdout, "standard output is a terminal: pipe it on, or name a file")
    elif is_folder(target):
        raise EnhanceError(f"{target}: is a folder; name a file to write standard input to")
    else:
        check_target(source, target, force)
    with contextlib.ExitStack() as stack:
        reader: AudioReader | WavReader
        out: AudioWriter | WavWriter
        if source == PIPE:
            _check_terminal(sys.stdin, "standard input is a terminal: pipe a WAV in")
            reader = WavReader(sys.stdin.buffer)
        else:
            reader = stack.enter_context(AudioReader(source))
        about = reader.info
        remarks = [f"{source}: warning: {about.remark}"] if about.remark else []
        form = about.sample_rate, about.channels
        stream = AlignedStream(enhancer, *form)
        if target == PIPE:
            kept = kept_subtype(about, Path("-.wav"))
            subtype = kept if kept and kept in WIDTHS else "PCM_16"
            wav = WavWriter(sys.stdout.buffer, *form, subtype, about.frames, about.speakers)
            out = stack.enter_context(contextlib.closing(wav))
        else:
            out = stack.enter_context(writer_like(about, target, force))
        for block in reader:
            out.write(stream.process(block))
        out.write(stream.flush())
    return [*remarks, *_ends(getattr(reader, "odd", 0), out.clipped)]


def clean_raw(
    enhancer: Model,
    source: BinaryIO,
    sink: BinaryIO,
    sample_rate: int,
    form: str,
    channels: int = 1,
    *,
    align: bool = False,
) -> list[str]:
    """Enhance raw samples from one pipe into another, until the first ends.

    ``form``, one of `FORMATS`, rate and channels are those of both. With ``align`` the model's
    delay is left out; otherwise the output begins with that much silence, and is longer by it than
    the input. The enhancer's own stream is not touched. Given are lines that the user should know.
    An `EnhanceError` tells that a number or the format is none, the model cannot stream, or a
    sample cannot be taken.
    """
    subtype = check_raw(enhancer, sample_rate, form, channels)
    stream = AlignedStream(enhancer, sample_rate, channels, low_delay=True)
    reader = FrameReader(source, subtype, channels)
    clipped = 0

    def put(block: np.ndarray) -> None:
        nonlocal clipped
        data, cut = encode(block, subtype)
        clipped += cut
        if data:
            sink.write(data)
            sink.flush()

    if not align:
        late = resampled_length(enhancer.latency_samples, enhancer.sample_rate, sample_rate)
        put(np.zeros((late, channels), np.float32))
    for block in reader:
        check_samples(str(STDIN), block)
        put(stream.process(block))
    put(stream.flush())
    return _ends(reader.odd, clipped)


def raw_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output; an `EnhanceError` if one is closed or a terminal."""
    _check_terminal(sys.stdin, "standard input is a terminal: pipe samples in")
    _check_terminal(sys.stdout, "standard output is a terminal: pipe it on")
    return sys.stdin.buffer, sys.stdout.buffer


def check_raw(enhancer: Model, sample_rate: int, form: str, channels: int) -> str:
    """The encoding of a format; an `EnhanceError` refuses what `clean_raw` does not take."""
    if form not in FORMATS:
        raise EnhanceError(f"format {form!r}: is unknown; choose {', '.join(FORMATS)}")
    rate_of(sample_rate)
    whole_number("channels", channels, 1, MOST_CHANNELS)
    if isinstance(enhancer, OfflineEnhancer):
        raise EnhanceError(
            f"{enhancer.path}: hears whole recordings and cannot stream; use enhance run"
        )
    return FORMATS[form]


def latency(enhancer: Model, sample_rate: int) -> str:
    """How late a stream is, in words: the model's own delay, and what resampling holds back."""
    own = enhancer.latency_samples + enhancer.hop_length
    line = f"latency: {1000 * own / enhancer.sample_rate:g} ms"
    if sample_rate == enhancer.sample_rate:
        return line
    held = 1000 * held_back(sample_rate, enhancer.sample_rate, low_delay=True)
    return f"{line}, and up to {held:.0f} ms for resampling from {sample_rate} Hz and back"


def _check_terminal(file: object, message: str) -> None:
    if file is None or getattr(file, "closed", False):
        raise EnhanceError(f"{message.partition(' is')[0]} is closed: open it, or name a file")
    if getattr(file, "isatty", lambda: False)():
        raise EnhanceError(message)


def _ends(odd: int, clipped: int) -> list[str]:
    """Warnings of bytes left over, and of samples beyond full scale."""
    lines = []
    if odd:
        lines.append(
            f"{STDIN}: warning: {odd} bytes at the end are no whole sample and were left out"
        )
    if clipped:
        lines.append(clipped_line(STDIN, clipped))
    return lines
