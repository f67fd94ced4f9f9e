"""Reading, writing and resampling: what is exact, and what is refused."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from enhance.audio import read as audio
from enhance.audio.read import AudioReader, info, read
from enhance.audio.resampling import StreamingResampler, resample
from enhance.audio.write import write, writer
from enhance.errors import EnhanceError

RNG = np.random.default_rng(1)


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


def wav(path: Path, promised: int, data: bytes, *, bits: int = 16, rf64: bool = False) -> Path:
    """A mono WAV at 16 kHz, written by hand, whose data chunk promises ``promised`` bytes."""
    fmt = struct.pack("<HHIIHH", 1, 1, 16000, 16000 * bits // 8, bits // 8, bits)
    name, sizes, size = b"RIFF", b"", promised
    if rf64:
        name, size = b"RF64", 0xFFFFFFFF
        sizes = b"ds64" + struct.pack("<IQQQI", 28, promised + 72, promised, promised // 2, 0)
    body = b"WAVE" + sizes + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    odd = 4 if rf64 else 3  # an odd chunk is padded; libsndfile does not know it of RF64
    body += b"LIST" + struct.pack("<I", odd) + b"abc\0"
    body += b"data" + struct.pack("<I", size) + data
    path.write_bytes(name + struct.pack("<I", min(0xFFFFFFFF, size + 36)) + body)
    return path


def refused(path: Path, message: str) -> None:
    """`read` raises one clear line that names the file."""
    with pytest.raises(EnhanceError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [1, 7, 1000, audio.BLOCK + 1])
def test_what_is_written_is_read(tmp_path: Path, length: int) -> None:
    wave = noise(2, length)
    assert write(tmp_path / "a.wav", wave, 44100) == 0
    about = info(tmp_path / "a.wav")
    assert (about.sample_rate, about.channels, about.frames) == (44100, 2, length)
    assert (about.format, about.subtype) == ("WAV", "PCM_16")
    assert about.duration == length / 44100
    back = read(tmp_path / "a.wav", mono=False)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, wave, atol=1 / 32768)  # one step of 16 bits
    np.testing.assert_allclose(read(tmp_path / "a.wav"), back.mean(axis=0), atol=1e-7)
    write(tmp_path / "f.wav", wave, 44100, "FLOAT")
    np.testing.assert_array_equal(read(tmp_path / "f.wav", mono=False), wave)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "caf", "w64"])
@pytest.mark.parametrize("bits", [16, 24])
def test_samples_are_rounded_to_the_nearest(tmp_path: Path, suffix: str, bits: int) -> None:
    """libsndfile rounds floats down in most containers: half a step of DC, twice the noise."""
    wave = noise(1, 20_000).astype(np.float64)
    write(tmp_path / f"a.{suffix}", wave, 16000, f"PCM_{bits}")
    back = soundfile.read(tmp_path / f"a.{suffix}", dtype="float64", always_2d=True)[0].T
    assert np.abs(back - wave).max() <= 0.5001 * 2.0 ** (1 - bits)


@pytest.mark.parametrize(
    ("name", "container", "subtype"),
    [
        ("a.FLAC", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("a.aif", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.caf", "CAF", "PCM_16"),
        ("a.w64", "W64", "PCM_16"),
    ],
)
def test_formats_keep_length_and_place(
    tmp_path: Path, name: str, container: str, subtype: str
) -> None:
    time = np.arange(48000) / 48000
    wave = (0.3 * np.sin(2 * np.pi * 200 * time * (1 + time))).astype(np.float32)  # a chirp
    write(tmp_path / name, wave, 48000)
    about = info(tmp_path / name)
    assert (about.format, about.subtype, about.frames) == (container, subtype, 48000)
    back = read(tmp_path / name)
    assert back.shape == wave.shape
    lags = range(-40, 41)
    inner = slice(1000, -1000)
    errors = [np.square(np.roll(back, lag) - wave)[inner].sum() for lag in lags]
    assert lags[int(np.argmin(errors))] == 0


def test_parts_are_read_at_the_files_own_rate(tmp_path: Path) -> None:
    wave = noise(1, 3000)
    write(tmp_path / "a.wav", wave, 8000, "FLOAT")
    part = read(tmp_path / "a.wav", start=1000, frames=500)
    np.testing.assert_array_equal(part, wave[0, 1000:1500])
    assert read(tmp_path / "a.wav", 16000, start=2999).shape == (2,)
    for start, frames in [(3000, -1), (2999, 2), (-1, 5), (0, 0)]:
        with pytest.raises(EnhanceError, match="it holds 3000"):
            read(tmp_path / "a.wav", start=start, frames=frames)


def test_blocks_are_small_and_whole(tmp_path: Path) -> None:
    wave = noise(3, 70001)
    write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    with AudioReader(tmp_path / "a.wav") as reader:
        blocks = list(reader)
    assert all(block.size <= audio.BLOCK for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks).T, wave)


def test_clipping_is_counted_and_floats_are_not_clipped(tmp_path: Path) -> None:
    wave = np.array([0, 1, -1, 1.01, -2, 0.5], np.float32)
    assert write(tmp_path / "a.wav", wave, 16000) == 2
    clipped = read(tmp_path / "a.wav")
    np.testing.assert_allclose(clipped, np.clip(wave, -1, 1), atol=1 / 32768)
    assert write(tmp_path / "f.wav", wave, 16000, "FLOAT") == 0
    np.testing.assert_array_equal(read(tmp_path / "f.wav"), wave)


@pytest.mark.parametrize(
    ("bits", "promised"), [(16, 0xFFFF0000), (8, 2_880_000_000), (16, 2_000_000), (16, 2002)]
)
def test_wav_that_promises_more_than_it_holds_is_refused(
    tmp_path: Path, bits: int, promised: int
) -> None:
    path = wav(tmp_path / "lie.wav", promised, bytes(2000), bits=bits)
    refused(path, f"is truncated .its header promises {promised} bytes of audio, 2000 are there")
    with pytest.raises(EnhanceError, match="is truncated"):
        info(path)


def test_rf64_of_a_hundred_hours_is_refused(tmp_path: Path) -> None:
    refused(wav(tmp_path / "lie.wav", 11_520_000_000, bytes(2000), rf64=True), "is truncated")
    assert len(read(wav(tmp_path / "true.wav", 2000, bytes(2000), rf64=True))) == 1000
    assert len(read(wav(tmp_path / "plain.wav", 2000, bytes(2000)))) == 1000


@pytest.mark.parametrize("suffix", ["flac", "aiff", "au", "caf", "w64", "mp3"])
def test_cut_files_of_other_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path, noise(200_000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "truncated|malformed")


def test_flac_of_a_hundred_hours_is_refused_without_allocating(tmp_path: Path) -> None:
    path = tmp_path / "lie.flac"
    write(path, noise(50_000), 16000)
    data = bytearray(path.read_bytes())
    for total in (100 * 3600 * 16000, 0):  # the last 36 bits of this word count samples
        word = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
        data[18:26] = word.to_bytes(8, "big")
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(path, "truncated" if total else "does not say how long it is")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_what_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is not audio\n" * 50)
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "head.wav").write_bytes(b"RIFF\x10\0\0\0WAVE")
    (tmp_path / "noise.raw").write_bytes(b"12345678")
    for name in ("text.wav", "head.wav", "noise.raw"):
        refused(tmp_path / name, "is not audio that can be read")
    refused(tmp_path / "nothing.wav", "is empty; leave it out")
    refused(tmp_path / "missing.wav", "no such file")
    refused(tmp_path, "is a folder")
    refused(Path("/dev/null"), "is no regular file")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    refused(tmp_path / "empty.wav", "holds no samples")
    soundfile.write(tmp_path / "rate.wav", np.zeros(5), 7)
    refused(tmp_path / "rate.wav", "7 Hz is out of range")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, noise(10), 16000)
    path.chmod(0)
    refused(path, "cannot be read .Permission denied")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 99_999])
def test_nan_is_refused_where_it_is(tmp_path: Path, bad: float, where: int) -> None:
    wave = noise(2, 100_000)
    wave[1, where] = bad
    soundfile.write(tmp_path / "a.wav", wave.T, 16000, "FLOAT")
    refused(tmp_path / "a.wav", f"sample {where} .at {where / 16000:.3f} s. is NaN or infinite")


def test_writing_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    old = tmp_path / "old.wav"
    write(old, noise(10), 16000)
    kept = old.read_bytes()
    for path, wave, rate, subtype, message in [
        (tmp_path / "file" / "a.wav", noise(5), 16000, None, "cannot be written"),
        (tmp_path, noise(5), 16000, None, "has no suffix|is a folder"),
        (tmp_path / "a.xyz", noise(5), 16000, None, "suffix '.xyz'"),
        (tmp_path / "a.flac", noise(5), 16000, "FLOAT", "FLAC cannot hold FLOAT"),
        (tmp_path / "a.opus", noise(5), 44100, None, "OGG OPUS cannot be written"),
        (tmp_path / "a.wav", noise(2, 2, 2), 16000, None, "shape"),
        (tmp_path / "a.wav", noise(2000, 2), 16000, None, "shape"),
        (tmp_path / "a.wav", np.zeros(5, np.int16), 16000, None, "int16"),
        (old, np.array([0, np.nan]), 16000, None, "NaN"),
    ]:
        with pytest.raises(EnhanceError, match=message) as caught:
            write(path, wave, rate, subtype)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old.wav"]
    assert old.read_bytes() == kept


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the size of files is the disk that can be filled in a test; a process of its own.
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from enhance.audio.write import write\n"
        "from enhance.errors import EnhanceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write(sys.argv[1], np.zeros(500_000, np.float32), 16000)\n"
        "except EnhanceError as error:\n"
        "    print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.wav")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert out.stdout.startswith(f"{tmp_path / 'a.wav'}: cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_long_wav_becomes_rf64(tmp_path: Path) -> None:
    with writer(tmp_path / "a.wav", 16000, 1, frames=1 << 32) as out:
        out.write(noise(100, 1))
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RF64"
    assert len(read(tmp_path / "a.wav")) == 100
    with writer(tmp_path / "b.wav", 16000, 1, frames=1 << 30) as out:
        out.write(noise(100, 1))
    assert info(tmp_path / "b.wav").format == "WAV"


def test_long_aiff_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(EnhanceError, match=r"AIFF holds at most 4 GB, these are 8\.6; use \.wav"),
        writer(tmp_path / "a.aiff", 16000, 1, frames=1 << 32),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rates", [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 11025)])
@pytest.mark.parametrize("length", [1, 2, 17, 1000, 44100])
def test_resampled_length_is_rounded_up(rates: tuple[int, int], length: int) -> None:
    out = resample(noise(2, 3, length), *rates)
    assert out.shape == (2, 3, -(-length * rates[1] // rates[0]))
    assert out.dtype == np.float32


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (48000, 16000), (8000, 16000)])
def test_resampled_sine_is_the_sine_at_the_new_rate(rates: tuple[int, int]) -> None:
    old, new = (np.arange(rate) / rate for rate in rates)
    out = resample(np.sin(2 * np.pi * 1234.5 * old + 0.4), *rates)
    inner = slice(rates[1] // 10, -rates[1] // 10)  # the ends ring
    expected = np.sin(2 * np.pi * 1234.5 * new + 0.4)
    np.testing.assert_allclose(out[inner], expected[inner], atol=1e-4)


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 48000), (16000, 16000)])
def test_resampling_a_stream_gives_the_same_bits(rates: tuple[int, int]) -> None:
    wave = noise(20_011, 2)
    whole = resample(wave.T, *rates).T
    stream = StreamingResampler(*rates, 2)
    for cuts in (range(1, 20_011, 7), sorted(RNG.integers(0, 20_011, 20)), []):
        pieces = [stream.process(piece) for piece in np.split(wave, list(cuts))]
        np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush()]), whole)
    assert stream.flush().shape == (0, 2)


def test_reads_every_real_pair(corpus: Path) -> None:
    for path in sorted((corpus / "dev" / "noisy").glob("*.flac"))[:20]:
        assert len(read(path, 16000)) == info(path).frames == 64000
