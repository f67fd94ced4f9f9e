"""Manifests by hand: lengths left out or rounded, marks and separators of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audio_clips import RATE, clip

from enhance.data.clip_store import ClipStore
from enhance.data.manifest import read_manifest
from enhance.errors import EnhanceError

ROWS = {
    "manifest.jsonl": '{"path": "a.wav", "kind": "speech", "speaker": "ann"}\n',
    "manifest.csv": "path,kind,speaker\na.wav,speech,ann\n",
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ROWS)
def test_lengths_are_read_from_the_files(tmp_path: Path, name: str, mark: bytes) -> None:
    clip(tmp_path, "a", 0.7501)
    (tmp_path / name).write_bytes(mark + ROWS[name].encode())
    (found,) = read_manifest(tmp_path / name)
    assert (found.duration, found.sample_rate) == (12002 / RATE, RATE)
    assert (found.kind, found.speaker, found.labels) == ("speech", "ann", {})


def test_a_length_that_is_none_is_still_refused(tmp_path: Path) -> None:
    clip(tmp_path, "a", 0.5)
    (tmp_path / "m.csv").write_text("path,seconds\na.wav,long\n")
    with pytest.raises(EnhanceError, match=r"entry 1: `duration` .*'long' is no positive number"):
        read_manifest(tmp_path / "m.csv")


def test_semicolons_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path;seconds\na.wav;1,5\n")
    with pytest.raises(EnhanceError, match="semicolons"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("seconds", ["1.51", "1.50"])
def test_the_file_is_believed_where_a_length_is_rounded(
    tmp_path: Path, seconds: str, cache_mb: int
) -> None:
    wave = np.random.default_rng(0).integers(-9000, 9000, 24123) / 32768
    clip(tmp_path, "a", 0, wave=wave)
    (tmp_path / "m.csv").write_text(f"path,seconds,sample_rate\na.wav,{seconds},16000\n")
    store = ClipStore(read_manifest(tmp_path / "m.csv"), cache_mb=cache_mb, quiet=True)
    assert store.length(0) == 24123
    np.testing.assert_array_equal(store.whole(0), wave.astype(np.float32))
