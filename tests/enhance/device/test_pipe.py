"""Pipes: what goes in comes out at once, whole, aligned on request, and ends are clean."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_cli import refusals
from tiny_onnx import build

from enhance.audio.pcm import FrameReader, decode, encode
from enhance.audio.resampling import held_back, resample
from enhance.audio.wav_pipe import WavReader, WavWriter
from enhance.device.enhancer import Enhancer
from enhance.device.pipe import clean_raw, latency

RNG = np.random.default_rng(11)
ROOT = Path(__file__).parents[3]
HOP, LATE = 256, 256
FFMPEG, SOX = shutil.which("ffmpeg"), shutil.which("sox")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="NO FFMPEG: apt-get install ffmpeg")
needs_sox = pytest.mark.skipif(SOX is None, reason="NO SOX: apt-get install sox")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A low-pass, 16 ms late."""
    place = tmp_path_factory.mktemp("m") / "m.onnx"
    return build(place, pole=0.6, gain=0.4, hop=HOP, overlap=LATE)


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


def enhance(*words: object, given: bytes = b"", **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "enhance", *map(str, words)]
    return subprocess.run(command, input=given, capture_output=True, cwd=ROOT, **options)


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "enhance", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, bufsize=0)


def wav(wave: np.ndarray, rate: int, subtype: str, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, subtype, format=kind)
    return file.getvalue()


def raw(enhancer: Enhancer, data: bytes, rate: int, form: str, channels: int, align: bool) -> bytes:
    out = io.BytesIO()
    source = io.BufferedReader(io.BytesIO(data))
    assert clean_raw(enhancer, source, out, rate, form, channels, align=align) == []
    return out.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_samples_as_libsndfile_reads_them_and_back(subtype: str) -> None:
    wave = noise(501, 2)
    wave[:2] = [[1, -1], [-1, 1]]
    data = wav(wave, 16000, subtype)
    samples = data[data.index(b"data") + 8 :][: 1002 * len(encode(wave[:1, :1], subtype)[0])]
    out = decode(samples, subtype, 2)
    np.testing.assert_array_equal(out, soundfile.read(io.BytesIO(data), dtype="float32")[0])
    if subtype != "PCM_U8":  # is never written
        assert encode(out, subtype) == (samples, 0)
    loud = np.array([[1.5, -1.5, 1.0]], np.float32)
    coded, clipped = encode(loud, subtype)
    if subtype in ("PCM_16", "PCM_24", "PCM_32"):
        assert clipped == 2
        np.testing.assert_allclose(decode(coded, subtype, 3), [[1, -1, 1]], atol=4e-5)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(
    ("rate", "form", "channels"),
    [(16000, "f32le", 1), (48000, "f32le", 2), (44100, "s16le", 1), (8000, "s24le", 3)],
)
def test_raw_is_the_call_and_the_delay_is_told(
    model: Path, rate: int, form: str, channels: int, align: bool
) -> None:
    enhancer = Enhancer(model, bandwidth="16k")
    subtype = {"f32le": "FLOAT", "s16le": "PCM_16", "s24le": "PCM_24"}[form]
    data = encode(noise(rate // 2 + 7, channels), subtype)[0]
    wave = decode(data, subtype, channels)
    out = decode(raw(enhancer, data, rate, form, channels, align), subtype, channels)
    late = 0 if align else -(-LATE * rate // 16000)
    assert len(out) == len(wave) + late
    assert not out[:late].any()
    expected = enhancer(np.ascontiguousarray(wave.T), rate).T
    inner = slice(0, None) if rate == 16000 else slice(rate // 20, -rate // 20)  # the ends ring
    error = (out[late:] - expected)[inner]
    # The resamplers differ in the last eighth of the band: noise of .4 x .29 there.
    limit = 1e-6 if rate == 16000 else 0.06
    assert np.abs(error).max() < limit
    assert np.sqrt(np.mean(np.square(expected))) > 0.08


@pytest.mark.parametrize("rate", [16000, 48000])
def test_output_comes_as_soon_as_a_hop_is_there(model: Path, rate: int) -> None:
    """The pipe stays open: what has come by then needed no end."""
    process = start("stream", "--rate", rate, "--format", "f32le", "--align", "-m", model)
    held = held_back(rate, 16000, low_delay=True) if rate != 16000 else 0
    hop = HOP * rate // 16000
    expected = f"latency: {1000 * (HOP + LATE) / 16000:g} ms"
    assert expected in process.stderr.readline().decode()
    wave = noise(20 * hop, 1)
    got = 0
    try:
        for k in range(20):
            process.stdin.write(wave[k * hop : (k + 1) * hop].tobytes())
            due = (k + 1) * hop - LATE * rate // 16000 - hop * (rate != 16000) - int(held * rate)
            while got < 4 * due:
                piece = os.read(process.stdout.fileno(), 1 << 16)
                assert piece
                got += len(piece)
        assert got >= 4 * 17 * hop
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert got + len(rest) == wave.nbytes
    assert (process.returncode, errors) == (0, b"")


def test_latency_in_words(model: Path) -> None:
    enhancer = Enhancer(model)
    assert latency(enhancer, 16000) == "latency: 32 ms"
    assert latency(enhancer, 48000) == (
        "latency: 32 ms, and up to 4 ms for resampling from 48000 Hz and back"
    )


def test_bytes_in_any_pieces_and_odd_ones_at_the_end(model: Path) -> None:
    class Dripping(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:
            return self.data.readinto(memoryview(buffer)[: int(RNG.integers(1, 50))])

    wave = noise(1003, 2)
    data = wave.tobytes()
    enhancer = Enhancer(model)
    whole = raw(enhancer, data, 16000, "f32le", 2, True)
    out = io.BytesIO()
    source = io.BufferedReader(Dripping(data + b"abcde"))
    remarks = clean_raw(enhancer, source, out, 16000, "f32le", 2, align=True)
    assert out.getvalue() == whole
    assert remarks == [
        "standard input: warning: 5 bytes at the end are no whole sample and were left out"
    ]
    assert raw(enhancer, b"", 16000, "f32le", 2, True) == b""
    assert raw(enhancer, b"", 48000, "s16le", 2, False) == bytes(2 * 2 * 768)


def test_raw_refuses_in_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = np.full(100, np.nan, np.float32).tobytes()
    for words, given, message in [
        (["--rate", 0], b"", "sample_rate 0"),
        (["--rate", 16000, "--format", "mp3"], b"", "format 'mp3': is unknown; choose s16le"),
        (["--rate", 16000, "--channels", 0], b"", "channels 0"),
        (["--rate", 16000, "--strength", 2], b"", "strength 2"),
        (["--rate", 16000, "--bandwidth", "8k"], b"", "bandwidth '8k'"),
        (["--rate", 16000, "--format", "f32le"], bad, "standard input: holds NaN"),
    ]:
        words = ["stream", "-q", "-m", model, *words]
        done = refusals(words, given, monkeypatch)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
        assert message in done.stderr.decode()
    real = enhance(*words, given=given)  # the last, as a process
    assert (real.returncode, real.stderr) == (done.returncode, done.stderr)


def test_closed_output_and_interrupt_end_it_quietly(model: Path) -> None:
    process = start("stream", "-q", "--rate", 16000, "-m", model)
    os.read(process.stdout.fileno(), 2 * LATE)  # it runs: the delay's silence
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(1000):
            process.stdin.write(bytes(8192))
            time.sleep(0.01)
    assert process.wait(30) == 1
    assert process.stderr.read() == b""

    process = start("stream", "-q", "--rate", 16000, "-m", model)
    os.read(process.stdout.fileno(), 2 * LATE)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.count(b"\n") <= 1 and b"Traceback" not in errors


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "kind"),
    [
        (16000, 1, "FLOAT", "WAV"), (48000, 2, "FLOAT", "WAVEX"), (44100, 1, "PCM_16", "WAV"),
        (16000, 2, "PCM_24", "WAVEX"), (8000, 1, "PCM_32", "WAV"), (16000, 1, "DOUBLE", "RF64"),
        (16000, 1, "PCM_U8", "WAV"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unknown", [None, 0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_through_pipes_is_the_file(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch,
    rate: int, channels: int, subtype: str, kind: str, unknown: int | None,
) -> None:  # fmt: skip
    from enhance.cli.streams import Settings, run_piped
    from enhance.device.clean import run_path

    data = bytearray(wav(noise(rate // 3 + 1, channels), rate, subtype, kind))
    (tmp_path / "in.wav").write_bytes(data)
    run_path(tmp_path / "in.wav", tmp_path / "out.wav", model=model, quiet=True)
    if unknown is not None:
        at = data.index(b"data")
        data[at + 4 : at + 8] = struct.pack("<I", unknown)
        if kind == "RF64":
            data[20:36] = bytes(16)
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(bytes(data))))
    with (tmp_path / "piped.wav").open("wb") as file:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file))
        run_piped(Path("-"), None, Settings(str(model), 1, 1.0, None, "full"), force=False)
    one, other = soundfile.info(tmp_path / "out.wav"), soundfile.info(tmp_path / "piped.wav")
    told = ("samplerate", "channels", "subtype", "frames")
    assert [getattr(one, key) for key in told] == [getattr(other, key) for key in told]
    files = [soundfile.read(tmp_path / n, dtype="float64")[0] for n in ("out.wav", "piped.wav")]
    # libsndfile cuts, a pipe rounds: one step apart
    step = {"PCM_16": 2**-15, "PCM_U8": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-24}.get(subtype, 0)
    assert np.abs(files[0] - files[1]).max() <= step
    assert np.abs(files[0]).max() > 0.1


def test_wav_header_tells_no_length_into_a_pipe_and_keeps_speakers() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    for frames in (0, 3):
        out = Pipe()
        writer = WavWriter(out, 16000, 1, "PCM_24", frames, speakers=4)
        writer.write(noise(3, 1))
        writer.close()
        data = out.getvalue()
        at = data.index(b"data")
        told = struct.unpack("<I", data[at + 4 : at + 8])[0]
        assert told == (9 if frames else 0xFFFFFFFF)
        assert len(data) == at + 8 + 10  # padded
        if frames:
            assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
        reader = WavReader(io.BufferedReader(io.BytesIO(data)))
        assert (reader.info.speakers, reader.info.channels, reader.info.frames) == (4, 1, frames)
        assert sum(len(block) for block in reader) == 3


def test_wav_pipe_refuses_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = wav(noise(4000), 16000, "PCM_16")
    for given, message, left in [
        (b"", "is empty", 0),
        (b"ID3" + bytes(100), "is no WAV; pipe WAV", 0),
        (good[:30], "ends within its header", 0),
        (wav(noise(400), 16000, "ALAW"), "encoding 6 with 8 bits", 0),
        (good[:2000], "truncated (its header promises 8000 bytes of audio, 1956", 4 * 256),
        (wav(noise(0), 16000, "PCM_16"), "holds no samples", 0),
    ]:
        words = ["run", "-", "-", "-m", model]
        # As a process where something came out before.
        done = enhance(*words, given=given) if left else refusals(words, given, monkeypatch)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1 and message in done.stderr.decode(), done.stderr
        assert len(done.stdout) >= left
        done = refusals(["run", "-", tmp_path / "out.wav", "-m", model], given, monkeypatch)
        assert done.returncode == 2 and message in done.stderr.decode()
        assert not (tmp_path / "out.wav").exists()  # a file is whole or absent


def test_one_end_may_be_a_file(model: Path, tmp_path: Path) -> None:
    wave = noise(5001)
    soundfile.write(tmp_path / "in.wav", wave, 16000, "FLOAT")
    data = (tmp_path / "in.wav").read_bytes()
    expected = Enhancer(model)(wave, 16000)
    out = tmp_path / "out.wav"
    assert enhance("run", "-", out, "-m", model, given=data).returncode == 0
    np.testing.assert_array_equal(soundfile.read(out, dtype="float32")[0], expected)
    refused = enhance("run", "-", out, "-m", model, given=data)
    assert refused.returncode == 2 and b"exists already" in refused.stderr
    done = enhance("run", tmp_path / "in.wav", "-", "-m", model)
    np.testing.assert_array_equal(
        soundfile.read(io.BytesIO(done.stdout), dtype="float32")[0], expected
    )


def ffmpeg(*words: object) -> list[str]:
    return [str(FFMPEG), "-nostdin", "-loglevel", "error", *map(str, words)]


def piped(*commands: list[str], given: bytes | None = None) -> bytes:
    """The output of commands joined by pipes, all of which must succeed."""
    running: list[subprocess.Popen] = []
    for k, command in enumerate(commands):
        source = running[-1].stdout if k else subprocess.PIPE
        running.append(subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, cwd=ROOT))
        if k:
            source.close()  # so that an end is seen
    feed = threading.Thread(target=lambda: (running[0].stdin.write(given or b""),
                                            running[0].stdin.close()))  # fmt: skip
    feed.start()
    out = running[-1].stdout.read()
    feed.join()
    assert [process.wait(60) for process in running] == [0] * len(running)
    return out


@needs_ffmpeg
@pytest.mark.parametrize("rate", [16000, 48000])
def test_between_two_ffmpegs(model: Path, tmp_path: Path, rate: int) -> None:
    """Exact to 16 bits, and aligned."""
    coded = encode(noise(2 * rate + 5, 1), "PCM_16")[0]
    wave = decode(coded, "PCM_16", 1)[:, 0]
    soundfile.write(tmp_path / "in.flac", wave, rate, "PCM_16")
    enhanced = [sys.executable, "-m", "enhance"]
    form = ["-f", "s16le", "-ar", rate, "-ac", "1"]
    out = piped(
        ffmpeg("-i", tmp_path / "in.flac", *form, "-"),
        [*enhanced, "stream", "-q", "--align", "--rate", str(rate), "-m", str(model)],
        ffmpeg(*form, "-i", "-", *form, "-"),
    )
    assert out == raw(Enhancer(model), coded, rate, "s16le", 1, True)
    assert len(out) == 2 * len(wave)
    # WAV: FFmpeg's header into a pipe says that the length is not known, and it takes ours.
    out = piped(
        ffmpeg("-i", tmp_path / "in.flac", "-f", "wav", "-"),
        [*enhanced, "run", "-", "-", "-m", str(model)],
        ffmpeg("-f", "wav", "-i", "-", "-f", "s16le", "-"),
    )
    expected = Enhancer(model)(wave, rate)
    assert np.abs(decode(out, "PCM_16", 1)[:, 0] - expected).max() <= 2**-15


@needs_sox
def test_between_two_soxes(model: Path, tmp_path: Path) -> None:
    wave = decode(encode(noise(32005, 1), "PCM_16")[0], "PCM_16", 1)[:, 0]
    soundfile.write(tmp_path / "in.wav", wave, 16000, "PCM_16")
    expected = Enhancer(model)(wave, 16000)
    enhanced = [sys.executable, "-m", "enhance"]
    form = ["-t", "raw", "-e", "signed", "-b", "16", "-r", "16000", "-c", "1"]
    out = piped(
        [str(SOX), "-D", str(tmp_path / "in.wav"), *form, "-"],
        [*enhanced, "stream", "-q", "--align", "--rate", "16000", "-m", str(model)],
        [str(SOX), "-D", *form, "-", *form, "-"],
    )
    assert np.abs(decode(out, "PCM_16", 1)[:, 0] - expected).max() <= 2**-15
    out = piped(
        [str(SOX), "-D", *form, "-", "-t", "wav", "-"],
        [*enhanced, "run", "-", "-", "-m", str(model)],
        [str(SOX), "-D", "--ignore-length", "-t", "wav", "-", *form, "-"],
        given=encode(wave[:, None], "PCM_16")[0],
    )
    assert len(out) == 2 * len(wave)
    assert np.abs(decode(out, "PCM_16", 1)[:, 0] - expected).max() <= 2**-15


@needs_ffmpeg
def test_ffmpeg_with_the_flags_of_the_page_does_not_wait(model: Path) -> None:
    """A second of sound, pipe left open: with the flags it is through, without its end."""
    flags = ["-probesize", "32", "-analyzeduration", "0", "-fflags", "nobuffer"]
    form = ["-f", "s16le", "-ar", "16000", "-ac", "1"]
    pipe = subprocess.PIPE
    first = subprocess.Popen(
        ffmpeg(*flags, *form, "-i", "pipe:0", *form, "-flush_packets", "1", "-"),
        stdin=pipe, stdout=pipe, bufsize=0,
    )  # fmt: skip
    words = ["-m", "enhance", "stream", "-q", "--rate", "16000", "-m", str(model)]
    second = subprocess.Popen(
        [sys.executable, *words], stdin=first.stdout, stdout=pipe, bufsize=0, cwd=ROOT
    )
    got = threading.Event()

    def listen() -> None:
        count = 0
        while piece := os.read(second.stdout.fileno(), 1 << 16):
            count += len(piece)
            if count >= 2 * 16000:
                got.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    page = (ROOT / "docs" / "device.md").read_text("utf-8")
    assert " ".join(flags) in page and "-flush_packets 1" in page
    try:
        first.stdin.write(bytes(2 * 17600))  # 1.1 s
        assert got.wait(60)
    finally:
        first.stdin.close()
        assert first.wait(30) == second.wait(30) == 0
        listener.join(30)


def test_whole_signal_and_frame_reader_limit() -> None:
    reader = FrameReader(io.BufferedReader(io.BytesIO(bytes(100))), "PCM_16", 1, limit=31)
    assert (sum(len(block) for block in reader), reader.frames, reader.odd) == (15, 15, 1)
    np.testing.assert_allclose(resample(noise(100), 16000, 16000).shape, (100,))
