"""Speech codecs: a clip really encoded and decoded in memory, its delay and loudness put right.

What comes back has the clip's length, RMS level and place in time, so that none of the three
tells which codec it was. Encoders are FFmpeg's, through PyAV, and libsndfile's. Each codec's delay
is a constant of its encoder and decoder, measured (the tests measure it again): `Codec.delay`.

Two controls go the same way: `none` is the clip rounded to 16 bits, as every encoder is given it;
`8k` is resampled down and up and not coded. A codec that works at 8 kHz takes away all above
4 kHz: whoever tells it from `none` may have heard the bandwidth only, from `8k` the codec.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile

from enhance.audio.resampling import resample
from enhance.errors import EnhanceError, require

SAMPLE_RATE = 16000
NONE, NARROW = "none", "8k"
CONTROLS = (NONE, NARROW)
_TAIL = 4000  # zeros behind the clip, samples at 16 kHz: more than any delay, so no end is lost


@dataclass(frozen=True)
class Codec:
    """How a clip is coded."""

    name: str
    encoder: str
    """FFmpeg's name, or container and coding of libsndfile with a slash between."""
    rate: int
    """Samples per second at which it works."""
    bit_rate: int = 0
    """Bits per second asked for; 0 where there is no choice."""
    decoder: str = ""
    """FFmpeg's name where it is another."""
    delay: int = 0
    """Samples at 16 kHz by which what is decoded comes late."""


CODECS = {
    codec.name: codec
    for codec in (
        Codec(NONE, "", 16000),
        Codec(NARROW, "", 8000),
        Codec("opus-6k", "libopus", 16000, 6000),
        Codec("opus-12k", "libopus", 16000, 12000),
        Codec("opus-24k", "libopus", 16000, 24000),
        Codec("mp3-16k", "libmp3lame", 16000, 16000, "mp3float"),
        Codec("mp3-32k", "libmp3lame", 16000, 32000, "mp3float"),
        Codec("mp2-32k", "mp2", 16000, 32000, delay=481),
        Codec("aac-16k", "aac", 16000, 16000, delay=1024),
        Codec("aac-32k", "aac", 16000, 32000, delay=1024),
        Codec("vorbis", "OGG/VORBIS", 16000),
        Codec("g722", "g722", 16000, delay=22),
        Codec("sbc", "sbc", 16000, delay=73),
        Codec("nellymoser", "nellymoser", 16000, delay=128),
        Codec("amr-4.75k", "libopencore_amrnb", 8000, 4750, "amrnb", 80),
        Codec("amr-12.2k", "libopencore_amrnb", 8000, 12200, "amrnb", 80),
        Codec("gsm", "WAV/GSM610", 8000),
        Codec("g723.1", "g723_1", 8000, 6300, delay=120),
        Codec("g726-24k", "AU/G723_24", 8000),
        Codec("g726-32k", "AU/G721_32", 8000),
        Codec("real-8k", "real_144", 8000, delay=320),
        Codec("ima-adpcm", "WAV/IMA_ADPCM", 8000),
        Codec("mu-law", "WAV/ULAW", 8000),
        Codec("a-law", "WAV/ALAW", 8000),
    )
}
"""All that is known here; `available` says which of them this machine's libraries have."""

DEFAULT = (NONE, NARROW, "opus-12k", "mp3-16k", "aac-16k", "g722", "amr-4.75k", "gsm", "mu-law")
"""What analyses take where nothing is named: both controls, and what telephones and files use."""


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Names of the codecs that the installed libraries can encode and decode."""
    require("analysis", "av")
    import av

    containers = {kind: soundfile.available_subtypes(kind) for kind in ("WAV", "AU", "OGG")}

    def here(codec: Codec) -> bool:
        if "/" in codec.encoder:
            container, coding = codec.encoder.split("/")
            return coding in containers[container]
        try:
            if codec.encoder:
                av.Codec(codec.encoder, "w")
                av.Codec(codec.decoder or codec.encoder, "r")
        except av.codec.codec.UnknownCodecError:
            return False
        return True

    return tuple(name for name, codec in CODECS.items() if here(codec))


def check(names: Sequence[str]) -> tuple[str, ...]:
    """The names, once each; `DEFAULT` for none.

    An `EnhanceError` refuses one that is unknown or not in this build, and names those that are.
    """
    for name in names:
        if name not in available():
            raise EnhanceError(f"codec {name}: not in this build; it has {', '.join(available())}")
    return tuple(dict.fromkeys(names or DEFAULT))


def through(wave: np.ndarray, name: str) -> np.ndarray:
    """A clip as it comes out of a codec: same length, same place in time, same RMS level.

    An `EnhanceError` refuses a codec that is not in this build, or cannot code this clip.

    Shape: mono at 16 kHz (N,) to float32 (N,)
    """
    codec = CODECS[check([name])[0]]
    clip = rounded(wave)
    # Down before zeros follow, and up as one: soxr keeps every sample in its place.
    given = np.concatenate([clip, np.zeros(_TAIL, np.float32)])
    given = resample(given, SAMPLE_RATE, codec.rate)
    if "/" in codec.encoder:
        coded = _by_libsndfile(given, codec)
    else:
        coded = _by_ffmpeg(given, codec) if codec.encoder else given
    late = resample(coded, codec.rate, SAMPLE_RATE)[codec.delay :][: len(clip)]
    if len(late) < len(clip):
        raise EnhanceError(f"codec {name}: gave {len(late)} samples back of {len(clip)}")
    loud, found = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (clip, late))
    return (late * np.float32(loud / found if found > 0 else 1.0)).astype(np.float32)


def rounded(wave: np.ndarray) -> np.ndarray:
    """Samples of 16 bits, as float32 of the same shape."""
    whole = np.clip(np.rint(np.asarray(wave, np.float64) * 32768), -32768, 32767)
    return (whole / 32768).astype(np.float32)


def _by_libsndfile(wave: np.ndarray, codec: Codec) -> np.ndarray:
    container, coding = codec.encoder.split("/")
    file = io.BytesIO()
    soundfile.write(file, wave, codec.rate, format=container, subtype=coding)
    file.seek(0)
    decoded: np.ndarray = soundfile.read(file, dtype="float32")[0]
    return decoded


def _by_ffmpeg(wave: np.ndarray, codec: Codec) -> np.ndarray:
    import av

    encoder: Any = av.CodecContext.create(codec.encoder, "w")
    encoder.sample_rate, encoder.layout = codec.rate, "mono"
    encoder.format = encoder.codec.audio_formats[0]
    encoder.time_base = Fraction(1, codec.rate)
    if codec.bit_rate:
        encoder.bit_rate = codec.bit_rate
    encoder.options = {"strict": "experimental"}  # for FFmpeg, sbc and nellymoser are
    try:
        encoder.open()
        # In the encoder's sample format, and in frames of its size.
        size = encoder.frame_size or None
        cut = av.AudioResampler(encoder.format.name, "mono", codec.rate, frame_size=size)
        samples = np.rint(np.clip(wave, -1, 1 - 2**-15) * 32768).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = codec.rate, 0, encoder.time_base
        packets = []
        for part in (*cut.resample(frame), *cut.resample(None), None):
            packets += encoder.encode(part)
        decoder: Any = av.CodecContext.create(codec.decoder or codec.encoder, "r")
        decoder.sample_rate, decoder.layout = codec.rate, "mono"
        if encoder.extradata:
            decoder.extradata = encoder.extradata
        join = av.AudioResampler("flt", "mono", codec.rate)
        parts = []
        for packet in (*packets, None):
            for decoded in decoder.decode(packet):
                parts += join.resample(decoded)
        parts += join.resample(None)
    except av.FFmpegError as error:
        raise EnhanceError(f"codec {codec.name}: FFmpeg refuses the clip ({error})") from error
    return np.concatenate([part.to_ndarray()[0] for part in parts])
