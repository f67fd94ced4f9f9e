"""Frozen sets: SNR from the files, hashes, refusal of change, foreign folders."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_clips import clip, speech_and_noise

from enhance.config import DataConfig
from enhance.data import evaluation_set, formulas
from enhance.data.corpus import demo_corpus
from enhance.data.corpus.clips import split
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.data.evaluation_set import EvaluationSet, make_set, mix, open_set
from enhance.data.mixing import mixer as mixing
from enhance.errors import EnhanceError


@pytest.fixture
def clips(tmp_path: Path) -> tuple[list[Clip], list[Clip]]:
    return speech_and_noise(tmp_path / "data")


def small(clips: tuple[list[Clip], list[Clip]], folder: Path, **options: object) -> EvaluationSet:
    return make_set(*clips, folder, **{"count": 5, "seconds": 1.0, "quiet": True, **options})


@pytest.mark.parametrize("snr", [-5.0, 2.5, -20.0])
def test_files_have_the_snr(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]], snr: float
) -> None:
    made = small(clips, tmp_path / "set", snr_db=snr)
    assert len(made) == 5
    for name, clean_path, noisy_path, labels in made.pairs:
        assert clean_path.name == noisy_path.name == f"{name}.flac"
        clean, rate = soundfile.read(clean_path, dtype="int16")
        noisy, _ = soundfile.read(noisy_path, dtype="int16")
        assert (rate, len(clean), len(noisy)) == (16000, 16000, 16000)
        s, n = clean.astype(float), noisy.astype(float) - clean
        assert 10 * np.log10(np.sum(s**2) / np.sum(n**2)) == pytest.approx(snr, abs=0.01)
        assert float(labels["snr_db"]) == snr
        assert labels["speaker"] in ("ann", "bob")
        assert all((tmp_path / "data/speech" / f).is_file() for f in labels["speech_files"].split())
        assert all((tmp_path / "data/noise" / f).is_file() for f in labels["noise_files"].split())


def test_same_seed_same_hash_other_seed_other(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]]
) -> None:
    first = small(clips, tmp_path / "a", seed=1)
    assert small(clips, tmp_path / "b", seed=1).hash == first.hash
    assert small(clips, tmp_path / "c", seed=2).hash != first.hash
    assert small(clips, tmp_path / "d", seed=1, snr_db=0.0).hash != first.hash
    assert open_set(tmp_path / "a").hash == first.hash
    digest = hashlib.sha256()
    for name in sorted(p.stem for p in (tmp_path / "a" / "clean").iterdir()):
        parts = [
            hashlib.sha256((tmp_path / "a" / k / f"{name}.flac").read_bytes()).hexdigest()
            for k in ("clean", "noisy")
        ]
        digest.update(f"{name}\t{parts[0]}\t{parts[1]}\t\n".encode())
    assert digest.hexdigest() == first.hash


def test_a_set_is_frozen(tmp_path: Path, clips: tuple[list[Clip], list[Clip]]) -> None:
    made = small(clips, tmp_path / "set")
    with pytest.raises(EnhanceError, match="exists already"):
        small(clips, tmp_path / "set", seed=9)
    assert open_set(tmp_path / "set").hash == made.hash
    assert small(clips, tmp_path / "set", seed=9, force=True).hash != made.hash
    for part in ("clean", "noisy"):
        shutil.copy(tmp_path / "set" / part / "0000.flac", tmp_path / "set" / part / "more.flac")
    with pytest.raises(EnhanceError, match="1 pairs came after the set was made, first more"):
        open_set(tmp_path / "set")
    for part in ("clean", "noisy"):
        (tmp_path / "set" / part / "more.flac").unlink()
    path = tmp_path / "set" / "noisy" / "0003.flac"
    wave, rate = soundfile.read(path)
    wave[100] += 1e-3
    soundfile.write(path, wave, rate)
    with pytest.raises(EnhanceError, match="pair 0003 has changed"):
        open_set(tmp_path / "set")
    for part in ("clean", "noisy"):
        (tmp_path / "set" / part / "0003.flac").unlink()
    with pytest.raises(EnhanceError, match="1 pairs of the manifest are not there, first 0003"):
        open_set(tmp_path / "set")


def test_ctrl_c_leaves_nothing_and_keeps_what_was(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(clips, tmp_path / "sets" / "a")
    render = mixing.Mixer.render

    def interrupt(self: mixing.Mixer, recipe: mixing.Recipe) -> mixing.Mixture:
        if recipe.index == 3:
            raise KeyboardInterrupt
        return render(self, recipe)

    monkeypatch.setattr(mixing.Mixer, "render", interrupt)
    for name, force in (("a", True), ("b", False)):
        with pytest.raises(KeyboardInterrupt):
            small(clips, tmp_path / "sets" / name, seed=4, force=force)
    assert [p.name for p in (tmp_path / "sets").iterdir()] == ["a"]
    assert open_set(tmp_path / "sets" / "a").hash == made.hash


def test_nonsense_is_refused(tmp_path: Path, clips: tuple[list[Clip], list[Clip]]) -> None:
    with pytest.raises(EnhanceError, match="count 0"):
        small(clips, tmp_path / "x", count=0)
    with pytest.raises(EnhanceError, match=r"^SNR 500 dB: must be from -60 to 60"):
        small(clips, tmp_path / "x", snr_db=500.0)
    with pytest.raises(EnhanceError, match="16-bit"):
        small(clips, tmp_path / "x", snr_db=60.0)
    (tmp_path / "file").write_text("")
    for force in (False, True):
        with pytest.raises(EnhanceError, match="is a file"):
            small(clips, tmp_path / "file", force=force)
    with pytest.raises(EnhanceError, match="cannot be made"):
        small(clips, tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


def test_any_folder_with_clean_and_noisy(tmp_path: Path) -> None:
    for part in ("clean", "noisy"):
        clip(tmp_path / "set" / part, "a", 0.2)
        clip(tmp_path / "set" / part / "deep", "b", 0.2)
    with (tmp_path / "set" / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "seconds", "kind", "group", "noise"])
        writer.writerow(["clean/a.wav", "0.2", "clean", "own", ""])
        writer.writerow(["noisy/a.wav", "0.2", "noisy", "other", "rain"])
    found = open_set(tmp_path / "set")
    assert [pair[0] for pair in found.pairs] == ["a", "deep/b"]
    assert found.pairs[0][3] == {"group": "own", "noise": "rain"}
    assert found.pairs[1][3] == {}
    (tmp_path / "set" / "noisy" / "a.wav").unlink()
    with pytest.raises(
        EnhanceError, match=r"1 files stand in only one .* first a; a pair has one name"
    ):
        open_set(tmp_path / "set")
    with pytest.raises(EnhanceError, match="no such evaluation set"):
        open_set(tmp_path / "none")
    (tmp_path / "half" / "clean").mkdir(parents=True)
    with pytest.raises(EnhanceError, match="noisy/ is missing"):
        open_set(tmp_path / "half")
    (tmp_path / "half" / "noisy").mkdir()
    with pytest.raises(EnhanceError, match="no audio"):
        open_set(tmp_path / "half")


def test_names_need_not_be_utf_8(tmp_path: Path, clips: tuple[list[Clip], list[Clip]]) -> None:
    made = small(clips, tmp_path / "set", count=1)
    for part, path in zip(("clean", "noisy"), made.pairs[0][1:3], strict=True):
        (tmp_path / "own" / part).mkdir(parents=True)
        shutil.copy(path, tmp_path / "own" / part / os.fsdecode(b"caf\xe9.flac"))
    assert open_set(tmp_path / "own").pairs[0][0] == os.fsdecode(b"caf\xe9")


def test_held_back_takes_only_what_training_does_not_hear(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]]
) -> None:
    data = DataConfig(corpus=str(tmp_path / "data"), held_back=0.3)
    made = mix(data, tmp_path / "set", held_back=True, count=12, seconds=0.5, quiet=True)
    from enhance.data.corpus.clips import load_clips

    speech, noise = load_clips(data, quiet=True)
    heard = {c.path.name for c in (*split(speech, 0.3)[0], *split(noise, 0.3, "path")[0])}
    for _, _, _, labels in made.pairs:
        assert not heard & set((labels["speech_files"] + " " + labels["noise_files"]).split())


def test_a_set_of_the_sources_held_out(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]]
) -> None:
    write_manifest(tmp_path / "data" / "manifest.jsonl", [*clips[0], *clips[1]])
    data = DataConfig(corpus=str(tmp_path / "data"), held_out=["b", "x"])
    made = mix(data, tmp_path / "set", held_out=True, count=6, seconds=0.5, quiet=True)
    labels = [row for _, _, _, row in made.pairs]
    assert {(row["source"], row["noise_source"]) for row in labels} == {("b", "x")}
    with pytest.raises(EnhanceError, match="one of the two"):
        mix(data, tmp_path / "other", held_out=True, held_back=True, quiet=True)
    with pytest.raises(EnhanceError, match="names no source of speech"):
        mix(replace(data, held_out=[]), tmp_path / "other", held_out=True, quiet=True)
    assert not (tmp_path / "other").exists()


def test_pairs_tell_what_they_are_clustered_and_grouped_by(tmp_path: Path) -> None:
    spoken = clip(tmp_path, "a", 2.0, speaker="ann", language="nl")
    noises = [
        clip(tmp_path, f"n{i}", 2.0, kind="noise", source="x", **labels)
        for i, labels in enumerate(({"source_files": "rain/1.ogg"}, {"note": "dog; 2 joined"}))
    ]
    made = small(([spoken], noises), tmp_path / "set", count=8)
    told = {(row["noise_name"], row.get("noise_kind", "")) for _, _, _, row in made.pairs}
    assert told == {("x/rain/1.ogg", ""), ("n1.wav", "dog")}
    assert {(row["speaker"], row["language"]) for _, _, _, row in made.pairs} == {("ann", "nl")}


def test_a_share_of_the_noises_is_made_of_streams_that_training_never_draws(
    tmp_path: Path, clips: tuple[list[Clip], list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = formulas.make, []

    def note(*arguments: object, held_out: bool = False) -> np.ndarray:
        asked.append(held_out)
        return real(*arguments, held_out=held_out)  # type: ignore[arg-type]

    monkeypatch.setattr(formulas, "make", note)
    made = small(clips, tmp_path / "all", formulas=1.0)
    assert asked and all(asked)
    for _, _, _, row in made.pairs:
        kind = row["noise_name"].removeprefix("formula:")
        family = row["noise_kind"].removeprefix("formula: ")
        assert kind in formulas.FAMILIES[family] and kind in row["noise_formulas"].split()
        assert row["noise_source"] == "formula" and "noise_files" not in row
    some = small(clips, tmp_path / "some", formulas=0.4, count=40, seconds=0.5)
    share = sum(row["noise_name"].startswith("formula:") for _, _, _, row in some.pairs)
    assert 6 <= share <= 27  # 16 are expected, the standard deviation is 3
    assert small(clips, tmp_path / "none").hash == small(clips, tmp_path / "x", formulas=0.0).hash
    with pytest.raises(EnhanceError, match="share of formulas"):
        small(clips, tmp_path / "y", formulas=1.5)


def test_a_manifest_without_paths_names_the_column(tmp_path: Path) -> None:
    for part in ("clean", "noisy"):
        clip(tmp_path / "set" / part, "a", 0.2)
    path = tmp_path / "set" / "manifest.csv"
    path.write_text("path;speaker\nclean/a.wav;ann\n")
    with pytest.raises(EnhanceError, match="parted by semicolons"):
        open_set(tmp_path / "set")
    path.write_text("file,speaker\nclean/a.wav,ann\n")
    with pytest.raises(EnhanceError, match=r"no column `path` \(it has file, speaker\)$"):
        open_set(tmp_path / "set")


@pytest.mark.parametrize("labels", ['"rain"', "[1]", "3"])
def test_labels_that_name_nothing_are_refused(tmp_path: Path, labels: str) -> None:
    for part in ("clean", "noisy"):
        clip(tmp_path / part, "a", 0.2)
    (tmp_path / "manifest.jsonl").write_text(f'{{"path": "noisy/a.wav", "labels": {labels}}}\n')
    with pytest.raises(EnhanceError, match="entry 1: `labels` must hold names and values"):
        open_set(tmp_path)


def test_the_builtin_set_is_held_out_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = demo_corpus.make

    def tiny(folder: Path, speech: float, noise: float, seed: int, **options: object) -> Path:
        return real(folder, 0.1, 0.1, seed, **{**options, "speakers": 2})  # type: ignore[arg-type]

    monkeypatch.setattr(demo_corpus, "make", tiny)
    first = evaluation_set.builtin_set(-5.0, 4, quiet=True)
    assert evaluation_set.builtin_set(-5.0, 4, quiet=True).hash == first.hash
    trained_on = {p.name for p in demo_corpus.ensure(quiet=True).rglob("*.flac")}
    for _, _, _, labels in first.pairs:
        assert labels["synthetic"] == "yes"
        assert not trained_on & set((labels["speech_files"] + labels["noise_files"]).split())
    other = evaluation_set.builtin_set(0.0, 4, quiet=True)
    assert other.hash != first.hash
    options = {"held_back": True, "count": 2, "seconds": 1.0, "quiet": True}
    held = mix(DataConfig(held_back=0.3), tmp_path / "held", **options)
    for _, _, _, labels in held.pairs:
        assert set(labels["speech_files"].split()) <= trained_on  # of the corpus itself


def test_the_corpus_dev_set_opens(corpus: Path) -> None:
    dev = open_set(corpus / "dev")
    assert len(dev) == 227
    name, clean, noisy, labels = dev.pairs[0]
    assert (name, clean.name, noisy.name) == ("000", "000.flac", "000.flac")
    assert labels["speech_group"] == "myc_el-tocino"
    assert labels["speaker_in_train"] == "no"
    assert labels["noise_name"] == "animals_dog-barking"
