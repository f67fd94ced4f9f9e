"""The decoded cache on disk: bit for bit, of these files only, safe against damage and company."""

from __future__ import annotations

import logging
import math
import mmap
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_clips import clip, make_odd_files, speech_and_noise, tone

from enhance.cache import STAMP
from enhance.config import DataConfig, MixingConfig
from enhance.data.corpus import decoded_cache
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.decoded_cache import DecodedCache
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError


@pytest.fixture
def odd_files(tmp_path: Path) -> list[Clip]:
    """One clip for each way in which a file can differ."""
    return make_odd_files(tmp_path)


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of decoded clips, one for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "enhance" / "decoded"


def kept(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def must_not_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(store: ClipStore, i: int) -> np.ndarray:
        raise AssertionError(f"{store.clips[i].path} was decoded")

    monkeypatch.setattr(ClipStore, "_decode", fail)


def assert_same(store: ClipStore, expected: ClipStore) -> None:
    assert len(store) == len(expected)
    for i in range(len(store)):
        np.testing.assert_array_equal(store.whole(i), expected.whole(i))


def test_decoded_clips_come_from_disk_bit_for_bit(
    odd_files: list[Clip], decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ClipStore(odd_files, quiet=True)
    assert kept(decoded) == []  # not unless asked for
    first = ClipStore(odd_files, cache_gb=1, quiet=True)
    assert_same(first, plain)
    (path,) = kept(decoded)
    must_not_decode(monkeypatch)
    second = ClipStore(odd_files, cache_gb=1, quiet=True)
    assert_same(second, plain)
    assert kept(decoded) == [path]
    for store in (first, second):
        assert store.cached == len(odd_files)
        for wave in store._waves:
            assert wave.dtype == np.int16
            assert not wave.flags.writeable
            base = wave
            while isinstance(base.base, np.ndarray):
                base = base.base
            assert isinstance(base.base, mmap.mmap)  # shared pages, not a copy
    shutil.rmtree(path)  # as another process might, to make room
    assert_same(second, first)


def test_cache_is_of_these_files_at_this_rate_by_this_decoder(
    odd_files: list[Clip], decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClipStore(odd_files, cache_gb=1, quiet=True)
    assert_same(
        ClipStore(odd_files, 8000, cache_gb=1, quiet=True), ClipStore(odd_files, 8000, quiet=True)
    )
    assert len(kept(decoded)) == 2
    some = odd_files[:3]
    assert_same(ClipStore(some, cache_gb=1, quiet=True), ClipStore(some, quiet=True))
    assert len(kept(decoded)) == 3
    path = some[0].path
    before, size = path.stat().st_mtime_ns, path.stat().st_size
    soundfile.write(path, np.clip(tone(0.8, 6), -1, 1), 16000, subtype="PCM_16")
    assert path.stat().st_size == size
    os.utime(path, ns=(before, before + 1000))
    changed = ClipStore(some, cache_gb=1, quiet=True)
    assert_same(changed, ClipStore(some, quiet=True))
    assert len(kept(decoded)) == 4
    monkeypatch.setattr(soundfile, "__libsndfile_version__", "99")
    ClipStore(some, cache_gb=1, quiet=True)
    monkeypatch.setattr(decoded_cache, "DECODING", 99)
    ClipStore(some, cache_gb=1, quiet=True)
    assert len(kept(decoded)) == 6


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[: size if size >= 0 else len(data) + size]


@pytest.mark.parametrize(
    "harm",
    [
        *map(cut, (0, 1, 15, 1000, 100_000, -1, -17, -200)),
        lambda data: data + b"\0",
        lambda data: data[:1000] + bytes(4096) + data[5096:],  # a page that was never written
        lambda data: data[2:],
        lambda data: data.replace(b"'shape'", b"'shapf'"),
        lambda data: data.replace(b"'<i2'", b"'>i2'"),
        lambda data: b"text" * 5000,
    ],
)
def test_damaged_cache_is_seen_and_made_anew(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture, harm: Callable
) -> None:
    plain = ClipStore(odd_files, quiet=True)
    ClipStore(odd_files, cache_gb=1, quiet=True)
    (folder,) = kept(decoded)
    path = folder / "sa" / "samples.npy"
    good = path.read_bytes()
    assert harm(good) != good
    path.write_bytes(harm(good))
    assert_same(ClipStore(odd_files, cache_gb=1, quiet=True), plain)
    assert "cannot be used" in caplog.text
    assert str(path) in caplog.text
    assert kept(decoded) == [folder]
    assert path.read_bytes() == good


def test_cache_of_other_clips_under_this_name_is_refused(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (DecodedCache(found, 16000, 1) for found in (odd_files[:2], odd_files[2:3]))
    ClipStore(odd_files[:2], cache_gb=1, quiet=True)
    one.folder.rename(other.folder)
    assert other.load() is None
    assert "other clips" in caplog.text


def test_longest_unused_are_removed_for_a_new_one(
    tmp_path: Path, decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = [[clip(tmp_path, f"c{i}", 0.5)] for i in range(4)]  # 16 kB each
    paths = [DecodedCache(clips, 16000, 1).folder for clips in sets]
    limit = 50e-6  # room for three
    for i in range(3):
        ClipStore(sets[i], cache_gb=limit, quiet=True)
        os.utime(paths[i] / STAMP, (1000 + i, 1000 + i))
    ClipStore(sets[0], cache_gb=limit, quiet=True)  # used: now the youngest
    dead, alive = (paths[2] / "sa" / f".{name}.part.npy" for name in ("dead", "alive"))
    for path, age in ((dead, 1e5), (alive, 5)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    ClipStore(sets[3], cache_gb=limit, quiet=True)
    assert kept(decoded) == sorted([paths[0], paths[2], paths[3]])
    assert alive.exists() and not dead.exists()
    assert not caplog.records
    # One that is larger than the bound is not kept, and drives nothing out.
    big = [clip(tmp_path, "big", 2)]
    store = ClipStore(big, cache_gb=limit, quiet=True)
    assert "data.cache_gb" in caplog.text
    assert_same(store, ClipStore(big, quiet=True))
    assert kept(decoded) == sorted([paths[0], paths[2], paths[3]])


def test_place_that_cannot_be_written_is_noted(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decoded.parent.parent.mkdir()
    decoded.parent.write_text("in the way")
    store = ClipStore(odd_files, cache_gb=1, quiet=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "not kept on disk" in record.message
    assert str(decoded) in record.message
    assert_same(store, ClipStore(odd_files, quiet=True))


def test_full_disk_is_noted_and_leaves_nothing(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # a real refusal of the system, in the middle of the samples
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        store = ClipStore(odd_files, cache_gb=1, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "not kept on disk" in caplog.text
    assert not [path for path in decoded.rglob("*") if path.suffix == ".npy"]
    assert_same(store, ClipStore(odd_files, quiet=True))
    assert store.cached == len(odd_files)


def test_file_that_changes_while_decoded_is_not_kept(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DecodedCache(odd_files, 16000, 1)
    waves = [np.zeros(10, np.int16)] * len(odd_files)
    os.utime(odd_files[1].path, (1000, 1000))
    assert all(a is b for a, b in zip(cache.save(waves), waves, strict=True))
    assert "just changed" in caplog.text
    assert kept(decoded) == []


def test_missing_file_is_named_with_the_cache_on(odd_files: list[Clip], decoded: Path) -> None:
    odd_files[2].path.unlink()
    with pytest.raises(EnhanceError, match=r"float\.wav: no such file"):
        ClipStore(odd_files, cache_gb=1, quiet=True)
    assert kept(decoded) == []


def test_processes_started_together_share_one_good_file(
    odd_files: list[Clip], decoded: Path, tmp_path: Path
) -> None:
    (tmp_path / "clips.pickle").write_bytes(pickle.dumps(odd_files))
    code = (
        "import hashlib, pickle, sys; from pathlib import Path\n"
        "from enhance.data.corpus.clip_store import ClipStore\n"
        "clips = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print('ready', flush=True); sys.stdin.read(1)\n"
        "store = ClipStore(clips, cache_gb=1, quiet=True)\n"
        "waves = [store.whole(i).tobytes() for i in range(len(store))]\n"
        "print(hashlib.sha256(b''.join(waves)).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clips.pickle")]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in running:
        print("g", end="", flush=True, file=process.stdin)
    found = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    plain = ClipStore(odd_files, quiet=True)
    assert_same(ClipStore(odd_files, cache_gb=1, quiet=True), plain)
    assert len(found) == 1
    assert len(kept(decoded)) == 1


def test_reader_never_sees_half_a_file(
    odd_files: list[Clip], decoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waves = [np.full(50_000, i, np.int16) for i in range(len(odd_files))]
    writer, reader = (DecodedCache(odd_files, 16000, 1) for _ in range(2))
    writer.save(waves)
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            writer.save(waves)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(100):
            got = reader.load()
            assert [wave[[0, -1]].tolist() for wave in got or ()] == [
                [i, i] for i in range(len(waves))
            ]
    finally:
        enough.set()
        writing.join()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_cache_size_is_refused(bad: float) -> None:
    with pytest.raises(EnhanceError, match=f"cache_gb: expected .*, found {bad}"):
        DataConfig(cache_gb=bad)


def test_training_keeps_what_it_decodes(
    tmp_path: Path, decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from enhance.training.data import TrainingData

    speech_and_noise(tmp_path)

    def hear(**options: Any) -> None:
        data = DataConfig(corpus=str(tmp_path), held_back=0, **options)
        TrainingData(data, MixingConfig(), validates=False, quiet=True)

    hear(cache_gb=0)
    assert kept(decoded) == []
    hear()
    assert len(kept(decoded)) == 2
    must_not_decode(monkeypatch)
    hear()
