"""Maps: neighbours of other clips, blind choice by hand, and a run on tones that are told apart."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.analysis import maps
from benchmarks.analysis.parts import record
from benchmarks.analysis.parts.phones import read_phones
from benchmarks.analysis.parts.work import Work
from enhance.data.corpus.manifest import make_manifest, read_rows
from enhance.errors import EnhanceError

TONES = {"A": 300, "B": 1200, "C": 3000}


def test_neighbours_are_the_nearest_frames_of_other_clips() -> None:
    rng = np.random.default_rng(0)
    frames, owner = rng.normal(size=(700, 6)), rng.integers(9, size=700)
    found = maps._nearest(frames, owner, 4)
    for i in (0, 350, 699):
        far = np.linalg.norm(frames - frames[i], axis=1)
        far[owner == owner[i]] = np.inf
        assert set(found[i]) == set(np.argsort(far)[:4])


def test_blind_choice() -> None:
    # Clips a a b; b; a. Each frame of the first meets its label with 1/2, b alone with 1/4, a alone
    # with 2/4; a clip counts once, as where the shares of neighbours are averaged.
    found = maps._chance(["a", "a", "b", "b", "a"], np.array([0, 0, 0, 1, 2]))
    assert found == pytest.approx((1 / 2 + 1 / 4 + 2 / 4) / 3)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of tones as phones, by two speakers; the column ``lot`` means nothing."""
    folder = tmp_path_factory.mktemp("tones")
    (folder / "speech").mkdir()
    rng = np.random.default_rng(2)
    manifest = [["path", "seconds", "source", "speaker", "lot"]]
    phones = [["file", "start_s", "end_s", "phone", "phone_base"]]
    t = np.arange(1600) / 16000
    for i in range(8):
        name, parts = f"speech/{i}.wav", []
        for k in range(10):
            phone = "ABC"[(i + k) % 3]
            tone = 0.2 * np.sin(2 * np.pi * TONES[phone] * t)
            parts.append((k > 0) * tone + rng.normal(0, 0.01, 1600))
            label = phone if k else "SIL"
            phones.append([name, 0.1 * k, 0.1 * (k + 1), label, label])
        soundfile.write(folder / name, np.concatenate(parts), 16000)
        manifest.append([name, 1.0, "tones", "xy"[i % 2], "pq"[i // 4]])
    for name, rows in (("manifest.csv", manifest), ("phones.csv", phones)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def test_a_run(tones: Path, tmp_path: Path) -> None:
    work = Work(features=tmp_path / "cache", quiet=True)
    asked = {"by": ["phone", "lot"], "frames": 200, "perplexity": 20}
    made = maps.maps(["log-mel:320"], tones, tmp_path / "out", work, **asked)
    kept = record.read(tmp_path / "out", "maps")
    assert kept["rows"] == made["rows"] and kept["labels"] == made["labels"]
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".json", ".md", ".svg"}
    row, chance = made["rows"][0], made["about"]["chance"]
    assert len(made["labels"]["phone"]) == len(row["points"]) == 200
    assert set(made["labels"]["phone"]) == set(TONES)  # no silence
    assert row["phone_mean"] > 0.9 and chance["phone"] == pytest.approx(1 / 3, abs=0.05)
    assert row["lot_mean"] == pytest.approx(chance["lot"], abs=0.1)
    # On the map, too, most of the nearest ten have the phone.
    points, phones = np.array(row["points"]), np.array(made["labels"]["phone"])
    far = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.argsort(far, axis=1)[:, 1:11]
    assert (phones[near] == phones[:, None]).mean() > 0.85
    # The same seed draws the same map; a column named twice is one.
    again = maps.maps(["log-mel:320"], tones, tmp_path / "again", work,
                      **asked | {"by": ["phone", "lot", "lot"]})  # fmt: skip
    assert again["rows"] == made["rows"]


def test_a_manifest_stands_for_its_folder(tones: Path) -> None:
    assert read_phones(tones / "manifest.csv") == read_phones(tones)
    with pytest.raises(EnhanceError, match="nowhere: no such manifest"):
        read_phones(tones / "nowhere")


def test_phones_beside_a_manifest_as_data_manifest_writes_it(tones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tones"
    shutil.copytree(tones, folder)
    (folder / "manifest.csv").unlink()
    make_manifest(folder, quiet=True)
    clips, spans, phones = read_phones(folder)
    assert phones == read_phones(tones)[2] and all(spans) and len(clips) == len(spans)


def test_what_cannot_be_mapped_is_refused(tones: Path, tmp_path: Path) -> None:
    work = Work(features=tmp_path / "cache", quiet=True)
    with pytest.raises(EnhanceError, match="tells no codec"):
        maps.maps(["log-mel"], tones, tmp_path / "out", work, by=["codec"])
    with pytest.raises(EnhanceError, match="raise --frames, or lower --perplexity"):
        maps.maps(["log-mel"], tones, tmp_path / "out", work, frames=80)
    rows = [row for row in read_rows(tones / "phones.csv") if row["file"] == "speech/0.wav"]
    shutil.copytree(tones, tmp_path / "one")
    with (tmp_path / "one/phones.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(EnhanceError, match="frames of one clip only"):
        maps.maps(["log-mel"], tmp_path / "one", tmp_path / "out", work, by=["phone"], perplexity=5)
    assert not (tmp_path / "out").exists()
