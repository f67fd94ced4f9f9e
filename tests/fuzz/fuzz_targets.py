"""Readers of what users bring, each as a function of bytes: an `EnhanceError` of one line or a
good value, anything else is a fault. `run.py` looks for faults, `test_replay.py` repeats them."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from enhance.audio import read as audio
from enhance.config.settings import load_run
from enhance.data.corpus.manifest import read_manifest, write_manifest
from enhance.device.offline import OfflineEnhancer, open_model
from enhance.errors import EnhanceError
from enhance.network.checkpoint import CONFIG, WEIGHTS, read_info

CRASHES = Path(__file__).with_name("crashes")
MOST_SAMPLES = 1 << 22  # of one file: a FLAC of silence is long, which is no fault


def audio_file(data: bytes, folder: Path) -> None:
    """Any container, whatever its name says."""
    path = folder / "a.wav"
    path.write_bytes(data)
    with audio.AudioReader(path) as reader:
        about, got = reader.info, 0
        for block in reader:
            assert block.dtype == np.float32 and block.shape[1] == about.channels and len(block)
            assert np.isfinite(block).all()
            got += len(block)
            if got * about.channels > MOST_SAMPLES:
                return
    assert got == about.frames
    last = audio.read(path, start=about.frames - 1, frames=1)
    assert last.shape == (1,)


def manifest(data: bytes, folder: Path) -> None:
    """The first byte chooses the kind of table."""
    suffix = (".jsonl", ".csv", ".tsv")[data[0] % 3 if data else 0]
    path = folder / f"m{suffix}"
    path.write_bytes(data[1:])
    (folder / "a.wav").write_bytes(wav(8))
    clips = read_manifest(path)
    assert all(clip.duration > 0 and clip.path.is_absolute() for clip in clips)
    write_manifest(folder / "again.jsonl", clips)
    again = read_manifest(folder / "again.jsonl")
    assert [clip.path for clip in again] == [clip.path for clip in clips]


def config(data: bytes, folder: Path) -> None:
    """As a run's YAML, and as a checkpoint's config.json."""
    for name in ("c.yaml", CONFIG, WEIGHTS):
        (folder / name).write_bytes(data)
    if told := _refused(lambda: read_info(folder)):
        load_run(folder / "c.yaml", [])
        assert told.startswith(str(folder))


def model(data: bytes, folder: Path) -> None:
    """An ONNX file, and three hops of it."""
    path = folder / "m.onnx"
    path.write_bytes(data)
    enhancer = open_model(path)
    if isinstance(enhancer, OfflineEnhancer):
        out = enhancer(np.full(max(100, enhancer.least_samples), 0.1, np.float32))
    else:
        hops = 3 if enhancer.hop_length < 1 << 14 else 1
        wave = np.full(hops * enhancer.hop_length, 0.1, np.float32)
        out = np.concatenate([enhancer.process(wave), enhancer.flush()])
        assert len(out) == len(wave) + enhancer.latency_samples
    assert out.dtype == np.float32


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "audio": audio_file,
    "manifest": manifest,
    "config": config,
    "model": model,
}


def attempt(target: str, data: bytes) -> str | None:
    """Give a reader bytes; its refusal, or None where they are good.

    Raises
    ------
    BaseException
        Whatever is a fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _refused(lambda: TARGETS[target](data, Path(folder)))


def _refused(read: Callable[[], object]) -> str | None:
    told = None
    try:
        read()
    except EnhanceError as error:
        told = str(error)
    assert told is None or (told and "\n" not in told), repr(told)
    return told


def wav(samples: int) -> bytes:
    """A small good file."""
    pcm = b"\1\0" * samples
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    body = b"WAVE" + fmt + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", len(body)) + body


def seeds(target: str) -> list[bytes]:
    """Small good inputs, of every kind that the reader tells apart."""
    if target == "audio":
        return [wav(64), *_encoded()]
    if target == "manifest":
        row = {"path": "a.wav", "duration": 1, "kind": "speech", "speaker": "s", "labels": {"x": 1}}
        table = "path{0}seconds{0}sample_rate{0}source\na.wav{0}2{0}16000{0}s\na.wav{0}{0}{0}\n"
        return [
            b"\0" + json.dumps(row).encode() + b'\n{"path": "a.wav"}\n',
            b"\1" + table.format(",").encode(),
            b"\2" + table.format("\t").encode(),
        ]
    if target == "config":
        return [
            b"mode: base\nmodel: {preset: gcrn-micro, framing: '25-20'}\nseed: 100\n",
            b"training: {<<: [{steps: 3}], minutes: .5}\nloss: &l {}\nobjective: *l\ncurriculum:\n"
            b"- step: 5\n  mixing: {snr: [-5, 5]}\nmixing: {segment_seconds: 1}\n"
            b"data: {corpus: c}\n",
            b'{"format": "enhance-model-1", "model": {"gcrn": {"channels": [4, 4], "hidden": 8},'
            b' "stft": {"sample_rate": 16000}}, "training": {}}',
        ]
    from tiny_onnx import build, metadata

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.onnx")
        offline = {**metadata(), "model_type": "gcrn-offline", "least_samples": "8"}
        return [build(path, pole=0.9).read_bytes(), build(path, props=offline).read_bytes()]


def _encoded() -> Iterator[bytes]:
    wave = 0.1 * np.sin(np.arange(600) / 5)
    for container, subtype in [
        ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_24"), ("AIFF", "PCM_16"),
        ("CAF", "PCM_16"), ("AU", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
    ]:  # fmt: skip
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", 16000, 1, subtype, format=container) as out:
            out.write(wave)
        yield file.getvalue()


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Cut, repeated, overwritten and struck bytes; the same for a seed."""
    draw = random.Random(seed)
    for _ in range(count):
        work = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at, much = draw.randrange(len(work) + 1), draw.choice((1, 2, 4, 8, 64))
            kind = draw.randrange(5)
            if kind == 0:
                del work[at : at + much]
            elif kind == 1:
                work[at:at] = work[at : at + much]
            elif kind == 2:
                work[at : at + much] = draw.randbytes(much)
            elif kind == 3:
                work[at : at + much] = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * much
            elif at < len(work):
                work[at] ^= 1 << draw.randrange(8)
        yield bytes(work)
