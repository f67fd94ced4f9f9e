"""Manifests, splits and stores, on files made here and on the corpus."""

from __future__ import annotations

import csv
import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_clips import RATE, clip, make_odd_files, speech_and_noise

from enhance.config import DataConfig
from enhance.data.corpus import demo_corpus
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips, split
from enhance.data.corpus.manifest import (
    Clip,
    make_manifest,
    read_manifest,
    scan_folder,
    write_manifest,
)
from enhance.errors import EnhanceError


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_manifest_round_trip(tmp_path: Path) -> None:
    clips = [
        clip(tmp_path / "d", "one", 0.5, speaker="ann", recording="r1"),
        clip(tmp_path / "elsewhere", "two", 0.7, kind="noise", source="b"),
    ]
    (tmp_path / "d").mkdir(exist_ok=True)
    write_manifest(tmp_path / "d" / "manifest.jsonl", clips)
    assert read_manifest(tmp_path / "d" / "manifest.jsonl") == clips
    rows = [json.loads(x) for x in (tmp_path / "d" / "manifest.jsonl").read_text().splitlines()]
    assert rows[0]["path"] == "one.wav"  # relative where it can be
    assert Path(rows[1]["path"]).is_absolute()


def test_csv_like_the_corpus(tmp_path: Path) -> None:
    clip(tmp_path, "a", 0.5)
    clip(tmp_path, "b", 0.5)
    row = {"path": "a.wav", "seconds": "0.50", "source": "s", "speaker": "unknown",
           "kind": "clean", "note": "x", "source_files": "p.wav q.wav"}  # fmt: skip
    write_csv(tmp_path / "m.csv", [row, row | {"path": "b.wav", "speaker": "eve", "kind": "noise"}])
    first, second = read_manifest(tmp_path / "m.csv")
    assert (first.kind, first.speaker, first.duration) == ("speech", "", 0.5)
    assert (second.kind, second.speaker) == ("noise", "eve")
    assert first.labels == {"note": "x", "source_files": "p.wav q.wav"}
    assert first.recordings == ("s/p.wav", "s/q.wav")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"duration": 1}', "lacks `path`"),
        ('{"path": "a.wav", "duration": -1}', "no positive number"),
        ("[1]", "expected a JSON object"),
        ("{", "line 1: not JSON"),
        ("", "empty"),
        ('{"path": "x.wav", "duration": 1}\n{"path": "y.wav", "duration": 1}', "2 of 2 .*x.wav"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, text: str, message: str) -> None:
    clip(tmp_path, "a", 0.1)
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(EnhanceError, match=message) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert "\n" not in str(caught.value)


def test_missing_manifest_and_other_suffix(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="no such manifest"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.txt").write_text("a")
    with pytest.raises(EnhanceError, match=r"\.jsonl or \.csv"):
        read_manifest(tmp_path / "m.txt")


def test_scan_finds_audio_and_names_what_is_broken(tmp_path: Path) -> None:
    clip(tmp_path / "speech" / "ann", "a", 0.5)
    clip(tmp_path / "noise", "b", 0.25)
    clip(tmp_path / ".hidden", "c", 0.25)
    (tmp_path / "noise" / "text.wav").write_text("no audio at all")
    whole = (tmp_path / "speech" / "ann" / "a.wav").read_bytes()
    (tmp_path / "noise" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not looked at")
    clips, problems = scan_folder(tmp_path, speaker=r"^speech/([^/]+)/", quiet=True)
    assert [(c.path.name, c.kind, c.speaker) for c in clips] == [
        ("b.wav", "noise", ""),
        ("a.wav", "speech", "ann"),
    ]
    assert [c.duration for c in clips] == [0.25, 0.5]
    assert sorted(Path(p.split(":")[0]).name for p in problems) == ["cut.wav", "text.wav"]


def test_make_manifest_refuses_to_overwrite_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="no audio"):
        make_manifest(tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
    clip(tmp_path, "a", 0.5)
    path, clips, problems = make_manifest(tmp_path, kind="speech", quiet=True)
    assert read_manifest(path) == clips
    assert not problems
    with pytest.raises(EnhanceError, match="--force"):
        make_manifest(tmp_path, quiet=True)
    make_manifest(tmp_path, force=True, quiet=True)
    with pytest.raises(EnhanceError, match="no such folder"):
        make_manifest(tmp_path / "none", quiet=True)
    with pytest.raises(EnhanceError, match="regular expression"):
        scan_folder(tmp_path, speaker="(", quiet=True)


def fake(name: str, seconds: float, source: str, speaker: str = "", **labels: str) -> Clip:
    return Clip(Path("/nowhere", name), seconds, RATE, "speech", source, speaker, labels)


def many() -> list[Clip]:
    rng = np.random.default_rng(0)
    clips = [
        fake(f"s{k}-{i}", rng.uniform(1, 5), "named", f"spk{k}")
        for k in range(40)
        for i in range(9)
    ]
    clips += [fake(f"solo{i}", 4, "one voice", "solo") for i in range(300)]
    # Joined files that share pieces: 2i and 2i+1 have one in common.
    clips += [
        fake(f"j{i}", 4, "joined", source_files=f"a{i}.wav common{i // 2}.wav") for i in range(200)
    ]
    return clips


@pytest.mark.parametrize("seed", range(5))
def test_no_speaker_and_no_recording_on_both_sides(seed: int) -> None:
    clips = many()
    kept, held = split(clips, 0.1, "speaker", seed)
    assert sorted([*kept, *held], key=lambda c: c.path) == sorted(clips, key=lambda c: c.path)
    assert not {c.speaker for c in kept if c.speaker} & {c.speaker for c in held}
    assert not {r for c in kept for r in c.recordings} & {r for c in held for r in c.recordings}
    for source in ("named", "joined"):
        total, part = (
            sum(c.duration for c in some if c.source == source) for some in (clips, held)
        )
        assert 0.05 < part / total < 0.2
    assert not [c for c in held if c.speaker == "solo"]


def test_split_is_a_function_of_its_seed() -> None:
    clips = many()
    assert split(clips, 0.1, seed=3) == split(clips, 0.1, seed=3)
    assert split(clips, 0.1, seed=3) != split(clips, 0.1, seed=4)
    assert split(clips, 0) == (clips, [])


def test_a_recording_whose_name_has_spaces_is_one() -> None:
    clips = [fake(f"c{i}", 2, "s", recording=f"Room {i // 2}") for i in range(40)]
    assert {c.recordings for c in clips[4:6]} == {("s/Room 2",)}
    kept, held = split(clips, 0.1, "path")
    assert len(held) == 4
    assert not {c.recordings for c in kept} & {c.recordings for c in held}


def test_a_source_keeps_something_to_train_on() -> None:
    clips = [fake(f"{source}{i}", 2, source) for source in "ab" for i in range(2)]
    kept, held = split(clips, 0.75, "path")
    assert [sorted(c.source for c in part) for part in (kept, held)] == [["a", "b"]] * 2


def test_split_where_nothing_fits_or_all_is_one(caplog: pytest.LogCaptureFixture) -> None:
    two = [fake("a", 5, "s", "ann"), fake("b", 3, "s", "bob"), fake("c", 3, "s", "ann")]
    assert split(two, 0.05)[1] == [two[1]]  # the shorter voice
    one = [fake(f"c{i}", 2, "s", "ann") for i in range(20)]
    with caplog.at_level(logging.WARNING, "enhance"):
        kept, held = split(one, 0.1)
    assert len(held) in (1, 2, 3)
    assert len(kept) + len(held) == 20
    assert "only one speaker" in caplog.text
    with pytest.raises(EnhanceError, match="only one recording"):
        split(one[:1], 0.1, "path")


def test_load_clips_from_folders_and_manifests(tmp_path: Path) -> None:
    speech_and_noise(tmp_path)
    speech, noise = load_clips(DataConfig(corpus=str(tmp_path)), quiet=True)
    assert (len(speech), len(noise)) == (8, 3)
    make_manifest(tmp_path, quiet=True)  # now there is a manifest with kinds
    assert load_clips(DataConfig(corpus=str(tmp_path)), quiet=True)[0] == [
        Clip(**{**vars(c), "source": tmp_path.name}) for c in speech
    ]
    named = DataConfig(speech=[str(tmp_path / "speech")] * 2, noise=[str(tmp_path / "noise")])
    assert [len(part) for part in load_clips(named, quiet=True)] == [8, 3]  # no duplicates
    with pytest.raises(EnhanceError, match="no noise named"):
        load_clips(DataConfig(speech=[str(tmp_path / "speech")]), quiet=True)
    shutil.copytree(tmp_path / "speech", tmp_path / "half" / "speech")
    make_manifest(tmp_path / "half", quiet=True)
    with pytest.raises(EnhanceError, match=r"half: no noise there"):
        load_clips(DataConfig(corpus=str(tmp_path / "half")), quiet=True)
    with pytest.raises(EnhanceError, match="no such manifest or folder"):
        load_clips(DataConfig(corpus=str(tmp_path / "none")), quiet=True)
    with pytest.raises(EnhanceError, match=r"here: no such manifest or folder \(below /"):
        load_clips(DataConfig(corpus="not/here"), quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EnhanceError, match="subfolders"):
        load_clips(DataConfig(corpus=str(tmp_path / "empty")), quiet=True)


def test_places_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands what stands in a file, or behind --set KEY=."""
    speech_and_noise(tmp_path / "c")
    monkeypatch.setenv("HOME", str(tmp_path))
    for data in (DataConfig(corpus="~/c"), DataConfig(speech=["~/c/speech"], noise=["~/c/noise"])):
        assert [len(part) for part in load_clips(data, quiet=True)] == [8, 3]
    with pytest.raises(EnhanceError, match=r"^~no-user/c: is in no home folder known here"):
        load_clips(DataConfig(corpus="~no-user/c"), quiet=True)


def test_sources_held_out_are_in_no_part_of_training(tmp_path: Path) -> None:
    speech, noise = speech_and_noise(tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", [*speech, *noise])
    data = DataConfig(corpus=str(tmp_path), held_out=["b", "y"])
    kept = load_clips(data, quiet=True)
    out = load_clips(data, held_out=True, quiet=True)
    assert [{clip.source for clip in part} for part in (*kept, *out)] == [
        {"a"},
        {"x"},
        {"b"},
        {"y"},
    ]
    assert [len(a) + len(b) for a, b in zip(kept, out, strict=True)] == [8, 3]
    with pytest.raises(EnhanceError, match="no clip is of the source 'c'"):
        load_clips(DataConfig(corpus=str(tmp_path), held_out=["b", "c"]), quiet=True)
    with pytest.raises(EnhanceError, match="leaves no speech to train on"):
        load_clips(DataConfig(corpus=str(tmp_path), held_out=["a", "b"]), quiet=True)
    with pytest.raises(EnhanceError, match="names no source of noise"):
        load_clips(DataConfig(corpus=str(tmp_path), held_out=["a"]), held_out=True, quiet=True)


def test_nothing_named_is_the_synthetic_corpus_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = demo_corpus.make(tmp_path / "c", 0.1, 0.1, speakers=2, quiet=True)
    monkeypatch.setattr(demo_corpus, "ensure", lambda **_: small)
    with caplog.at_level(logging.WARNING, "enhance"):
        speech, noise = load_clips(DataConfig(), quiet=True)
    assert speech
    assert noise
    assert {c.source for c in [*speech, *noise]} == {"synthetic"}
    assert "SYNTHETIC" in caplog.text


@pytest.fixture
def odd_files(tmp_path: Path) -> list[Clip]:
    """One clip for each way in which a file can differ."""
    return make_odd_files(tmp_path)


def test_store_reads_the_same_from_memory_and_from_files(odd_files: list[Clip]) -> None:
    memory, disk = ClipStore(odd_files, quiet=True), ClipStore(odd_files, cache_mb=0, quiet=True)
    assert (memory.cached, disk.cached) == (len(odd_files), 0)
    spawned = pickle.loads(pickle.dumps(memory))
    assert spawned.cached == 0
    for i, found in enumerate(odd_files):
        assert (
            memory.length(i) == disk.length(i) == -(-round(found.duration * 16000 * 1e6) // 10**6)
        )
        for store in (disk, spawned):
            np.testing.assert_array_equal(store.whole(i), memory.whole(i))
            np.testing.assert_array_equal(store.read(i, 640, 2000), memory.whole(i)[640:2640])


def test_store_holds_what_soundfile_reads(odd_files: list[Clip]) -> None:
    store = ClipStore(odd_files, quiet=True)
    for i in (0, 1, 2, 5):
        expected, _ = soundfile.read(odd_files[i].path)
        assert store.read(i, 0, 5).dtype == np.float32
        # half a step of 16 bits
        np.testing.assert_allclose(store.whole(i), expected, atol=0.5001 / 32768, rtol=0)
    expected = soundfile.read(odd_files[3].path)[0].mean(1)
    np.testing.assert_allclose(store.whole(3), expected, atol=0.5001 / 32768, rtol=0)


def test_store_keeps_to_its_memory_and_prefers_costly_files(odd_files: list[Clip]) -> None:
    store = ClipStore(odd_files, cache_mb=4 * 0.8 * 2 * 16000 / 1e6, quiet=True)
    kept = [c.path.name for c, w in zip(store.clips, store._waves, strict=True) if w is not None]
    assert "lossy.ogg" in kept
    assert "fast.wav" in kept
    assert "plain.wav" not in kept
    assert sum(w.nbytes for w in store._waves if w is not None) <= store.cache_mb * 1e6


def test_store_keeps_few_bytes_of_what_it_read_last(
    odd_files: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ClipStore(odd_files, quiet=True)
    store = ClipStore(odd_files, cache_mb=0, quiet=True)
    for most, count in ((80_000, 2), (20_000, 1)):  # the last file takes 51,200, others 25,600
        monkeypatch.setattr("enhance.data.corpus.clip_store._RECENT_BYTES", most)
        for i in [*range(len(store)), *range(len(store))]:
            np.testing.assert_array_equal(store.whole(i), whole.whole(i))
        assert len(store._recent) == count


def test_store_refuses(tmp_path: Path, odd_files: list[Clip]) -> None:
    store = ClipStore(odd_files[:1], quiet=True)
    for start, length in ((-1, 10), (0, 10**6), (12799, 2)):
        with pytest.raises(EnhanceError, match="asked for"):
            store.read(0, start, length)
    with pytest.raises(EnhanceError, match="no clip"):
        ClipStore([], quiet=True)
    (tmp_path / "bad.wav").write_text("text")
    with pytest.raises(EnhanceError, match=r"bad\.wav"):
        ClipStore([Clip(tmp_path / "bad.wav", 1.0, 16000)], quiet=True)
    place = tmp_path / "changed.ogg"
    place.write_bytes(odd_files[5].path.read_bytes())
    store = ClipStore([Clip(place, 0.8, 16000)], cache_mb=0, quiet=True)
    soundfile.write(place, np.zeros(9000), 16000, subtype="VORBIS")
    with pytest.raises(EnhanceError, match="has 9000 samples, its header said 12800"):
        store.whole(0)


def test_what_the_configuration_holds_out_is_in_the_corpus(corpus: Path) -> None:
    from enhance.config.settings import load_run

    path = Path(__file__).parents[4] / "configs" / "held-out.yaml"
    data = load_run(path, [f"data.corpus={corpus / 'train'}"]).data
    (speech, noise), out = load_clips(data, quiet=True), load_clips(data, held_out=True, quiet=True)
    assert {clip.source for part in out for clip in part} == set(data.held_out)
    assert not {clip.source for clip in (*speech, *noise)} & set(data.held_out)


def test_corpus_splits_without_a_leak(corpus: Path) -> None:
    speech, noise = load_clips(DataConfig(corpus=str(corpus / "train")))
    assert len(speech) >= 3000
    assert len(noise) >= 100
    kept, held = split(speech, 0.05)
    assert not {c.speaker for c in kept} & {c.speaker for c in held} - {""}
    assert not {r for c in kept for r in c.recordings} & {r for c in held for r in c.recordings}
    assert 0.01 < sum(c.duration for c in held) / sum(c.duration for c in speech) < 0.08
    kept, held = split(noise, 0.05, "path")
    assert not {r for c in kept for r in c.recordings} & {r for c in held for r in c.recordings}
    assert len(held) >= 2


def test_corpus_store_decodes_opus_to_the_sample(corpus: Path) -> None:
    speech, _ = load_clips(DataConfig(corpus=str(corpus / "train")))
    some = speech[::500]
    memory, disk = ClipStore(some, quiet=True), ClipStore(some, cache_mb=0, quiet=True)
    for i, found in enumerate(some):
        expected, rate = soundfile.read(found.path)
        assert rate == 16000
        np.testing.assert_allclose(memory.whole(i), expected, atol=0.5001 / 32768, rtol=0)
        np.testing.assert_array_equal(disk.read(i, 320, 9000), memory.read(i, 320, 9000))
