"""Folders as VoiceBank-DEMAND and the DNS Challenge are unpacked, a tiny copy of each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_layouts import RATE, make_dns, make_voicebank, put
from typer.testing import CliRunner

from enhance.cli.app import app
from enhance.config import DataConfig
from enhance.data.corpus.clips import load_clips, split
from enhance.data.evaluation_set import open_set
from enhance.data.layouts import import_layout
from enhance.errors import EnhanceError
from enhance.files import read_jsonl


@pytest.fixture
def voicebank(tmp_path: Path) -> Path:
    return make_voicebank(tmp_path / "vb")


@pytest.fixture
def dns(tmp_path: Path) -> Path:
    return make_dns(tmp_path / "DNS-Challenge")


def done(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, str(result.exception or "")


def test_voicebank_trains_on_its_clean_files_and_the_noise_of_the_others(
    voicebank: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, said, _ = done("data", "layout", "voicebank", voicebank, "-o", out, "-q")
    assert code == 0
    assert said == f"{out / 'train'}: 6 files, 0.00 h of speech\n{out / 'test'}: 2 pairs\n"
    speech, noise = load_clips(DataConfig(corpus=str(out / "train")), quiet=True)
    assert [(clip.path.parent.name, clip.speaker) for clip in speech] == [
        ("clean_trainset_28spk_wav", name) for name in ("p226", "p226", "p287")
    ]
    for clip, seed in zip(noise, (100, 101, 102), strict=True):
        wanted = np.random.default_rng(seed).integers(-3000, 3000, 4800)
        found, rate = soundfile.read(clip.path, dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(found, wanted)
    assert [clip.labels["type"] for clip in noise] == ["babble", "ssn", "babble"]
    # Babble is one recording: validation hears the other.
    kept, held = split(noise, 0.34, "path")
    assert {c.labels["type"] for c in kept}.isdisjoint(c.labels["type"] for c in held)
    assert len(held) > 0
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(load_clips(DataConfig(corpus=str(tmp_path / "moved/train")), quiet=True)[1]) == 3


def test_voicebank_test_set_is_linked_labelled_and_frozen(voicebank: Path, tmp_path: Path) -> None:
    import_layout("voicebank", voicebank, tmp_path / "out", quiet=True)
    found = open_set(tmp_path / "out" / "test")
    assert [(name, labels) for name, _, _, labels in found.pairs] == [
        (
            name,
            {"source": "voicebank-demand", "speaker": who, "noise_name": noise, "snr_db": snr},
        )
        for name, who, noise, snr in (
            ("p232_001", "p232", "bus", "17.5"),
            ("p257_003", "p257", "living", "2.5"),
        )
    ]
    for _, clean, noisy, _ in found.pairs:
        assert clean.is_symlink() and noisy.is_symlink()
        assert clean.resolve().parent == voicebank / "clean_testset_wav"
        assert noisy.resolve().parent == voicebank / "noisy_testset_wav"
    put(voicebank / "noisy_testset_wav" / "p232_001.wav", 9)
    with pytest.raises(EnhanceError, match="pair p232_001 has changed"):
        open_set(tmp_path / "out" / "test")


def test_voicebank_pairs_that_are_none_are_left_out_and_named(
    voicebank: Path, tmp_path: Path
) -> None:
    put(voicebank / "noisy_trainset_28spk_wav" / "p226_001.wav", 0, samples=100)
    code, said, error = done("data", "layout", "voicebank", voicebank, "-o", tmp_path / "out", "-q")
    assert code == 1 and "1 files were left out" in error
    assert "train: 5 files" in said
    (voicebank / "noisy_testset_wav" / "p232_001.wav").unlink()
    with pytest.raises(EnhanceError, match="1 files have no partner, first p232_001"):
        import_layout("voicebank", voicebank, tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_dns_trains_on_files_where_they_are(dns: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert done("data", "layout", "dns", dns, "-o", out, "-q")[0] == 0
    speech, noise = load_clips(DataConfig(corpus=str(out / "train")), quiet=True)
    assert [(clip.source, clip.speaker) for clip in speech] == [
        ("dns-clean", "06709"), ("dns-clean", "06709"), ("dns-emotional_speech", ""),
    ]  # fmt: skip
    assert all(dns in clip.path.parents for clip in (*speech, *noise))
    # Two cuts of one recording; a name of a video that ends in a number would be its own.
    assert len({clip.recordings for clip in noise}) == 2
    assert [path.name for path in (out / "train").iterdir()] == ["manifest.jsonl"]


def test_dns_test_set_is_paired_by_number(dns: Path, tmp_path: Path) -> None:
    import_layout("dns", dns / "datasets", tmp_path / "out", quiet=True)
    found = open_set(tmp_path / "out" / "test")
    assert [(name, clean.resolve().name, noisy.resolve().name)
            for name, clean, noisy, _ in found.pairs] == [
        ("fileid_158", "clean_fileid_158.wav", "clnsp1_train_69005_1_snr15_tl-21_fileid_158.wav"),
        ("fileid_2", "clean_fileid_2.wav", "clnsp44_amMeH4u6AO4_snr5_tl-18_fileid_2.wav"),
    ]  # fmt: skip
    assert [labels for *_, labels in found.pairs] == [
        {"source": "dns", "speech_files": "clnsp1", "noise_name": "train_69005", "snr_db": "15"},
        {"source": "dns", "speech_files": "clnsp44", "noise_name": "amMeH4u6AO4", "snr_db": "5"},
    ]
    assert len(read_jsonl(tmp_path / "out" / "test" / "manifest.jsonl")) == 2


def test_full_band_edition(tmp_path: Path) -> None:
    data = tmp_path / "dns" / "datasets_fullband"
    put(data / "clean_fullband" / "read_speech" / "book_1_chp_2_reader_3_0.wav", 0)
    put(data / "noise_fullband" / "fan_Freesound_validated_1_0.wav", 1)
    import_layout("dns", tmp_path / "dns", tmp_path / "out", quiet=True)
    speech, _ = load_clips(DataConfig(corpus=str(tmp_path / "out" / "train")), quiet=True)
    assert [(clip.source, clip.speaker) for clip in speech] == [("dns-read_speech", "3")]


@pytest.mark.parametrize(
    ("layout", "make", "words"),
    [
        ("voicebank", [], "no VoiceBank-DEMAND"),
        ("voicebank", ["noisy_testset_wav"], "clean_testset_wav is missing"),
        ("dns", [], "no DNS Challenge"),
        ("dns", ["datasets/clean"], "no DNS Challenge"),
        ("dns", ["test_set/synthetic/no_reverb/clean"], "noisy: is missing"),
        ("timit", [], "no known layout; give one of voicebank, dns"),
    ],
)
def test_what_is_no_such_corpus_is_refused(
    layout: str, make: list[str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    for name in make:
        (tmp_path / "src" / name).mkdir(parents=True)
    with pytest.raises(EnhanceError, match=words):
        import_layout(layout, tmp_path / "src", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_test_file_without_a_number_is_refused(dns: Path, tmp_path: Path) -> None:
    put(dns / "datasets/test_set/synthetic/no_reverb/noisy/other.wav", 1)
    with pytest.raises(EnhanceError, match=r"other.wav: has no number"):
        import_layout("dns", dns, tmp_path / "out", quiet=True)


def test_a_log_that_is_none_is_refused(voicebank: Path, tmp_path: Path) -> None:
    (voicebank / "log_testset.txt").write_text("p232_001 bus\n")
    with pytest.raises(EnhanceError, match=r"log_testset.txt, line 1: expected"):
        import_layout("voicebank", voicebank, tmp_path / "out", quiet=True)


def test_two_files_of_one_name_are_refused(voicebank: Path, tmp_path: Path) -> None:
    first = next((voicebank / "noisy_testset_wav").rglob("*.wav"))
    put(first.with_suffix(".flac"), 1)
    with pytest.raises(EnhanceError, match="has the same name; keep one"):
        import_layout("voicebank", voicebank, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("part", ["test_set/synthetic/no_reverb", "noise"])
def test_two_editions_at_once_are_refused(part: str, dns: Path, tmp_path: Path) -> None:
    shutil.copytree(dns / "datasets" / part, dns / "datasets_fullband" / part)
    with pytest.raises(EnhanceError, match="name one edition"):
        import_layout("dns", dns, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
