"""Manifests by hand: lengths left out or rounded, marks and separators of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audio_clips import RATE, clip

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import read_manifest
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


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_columns_are_seen_however_they_are_written(tmp_path: Path, name: str) -> None:
    clip(tmp_path, "a", 0.5)
    rows = {
        "m.csv": "path, Kind, Speaker,Sample_Rate,Room\na.wav, clean, ann,16000.0,hall\n",
        "m.jsonl": '{"path": "a.wav", " Kind": " clean", "Speaker": "ann", "Sample_Rate": 16000.0, '
        '"Room": "hall"}\n',
    }
    (tmp_path / name).write_text(rows[name])
    (found,) = read_manifest(tmp_path / name)
    assert (found.kind, found.speaker, found.sample_rate) == ("speech", "ann", RATE)
    assert (found.duration, found.labels) == (0.5, {"Room": "hall"})


@pytest.mark.parametrize("rate", ["16000.5", "-1", "nan", "fast"])
@pytest.mark.parametrize(
    "form", ["path,sample_rate\na.wav,{}\n", '{{"path": "a", "sample_rate": "{}"}}']
)
def test_a_rate_that_is_none_is_refused(tmp_path: Path, form: str, rate: str) -> None:
    place = tmp_path / ("m.csv" if form.startswith("path") else "m.jsonl")
    place.write_text(form.format(rate))
    with pytest.raises(EnhanceError, match="entry 1: `sample_rate` is no whole number"):
        read_manifest(place)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,Speaker,speaker\na.wav,ann,bob\n")
    with pytest.raises(EnhanceError, match="entry 1: has `speaker` twice"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("path,speaker,speaker\na.wav,ann,bob\n")
    with pytest.raises(EnhanceError, match="has the column `speaker` twice"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_named(tmp_path: Path, mark: str, word: str) -> None:
    (tmp_path / "m.csv").write_text(f"path{mark}seconds\na.wav{mark}1.5\n")
    with pytest.raises(EnhanceError, match=word):
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
