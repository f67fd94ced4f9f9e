"""The built-in corpus: deterministic, labelled, and voices that behave like voices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enhance.audio import read as audio
from enhance.data.corpus import demo_corpus
from enhance.data.corpus.manifest import read_manifest
from enhance.data.synthetic.noise import NOISES
from enhance.data.synthetic.voice import Voice, utterance
from enhance.errors import EnhanceError
from enhance.files import sha256


def hashes(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    return demo_corpus.make(folder, 0.3, 0.2, 5, speakers=3, quiet=True)


def test_everything_is_labelled_synthetic(small: Path) -> None:
    clips = read_manifest(small / "manifest.jsonl")
    assert {c.kind for c in clips} == {"speech", "noise"}
    for clip in clips:
        assert clip.source == "synthetic"
        assert clip.labels["synthetic"] == "yes"
        assert clip.path.name.startswith("synthetic-5-")
        found = audio.info(clip.path)
        assert (found.sample_rate, found.channels) == (16000, 1)
        assert found.frames == round(clip.duration * 16000)
    assert {c.speaker for c in clips if c.kind == "speech"} == {
        f"synthetic-5-{k:03d}" for k in range(3)
    }
    assert {c.labels["type"] for c in clips if c.kind == "noise"} == set(NOISES)
    speech, noise = (
        sum(c.duration for c in clips if c.kind == kind) for kind in ("speech", "noise")
    )
    assert 18 <= speech <= 18 + 7
    assert noise == pytest.approx(12, abs=0.01)


def test_same_seed_same_bytes_other_seed_other_sound(small: Path, tmp_path: Path) -> None:
    again = demo_corpus.make(tmp_path / "again", 0.3, 0.2, 5, speakers=3, quiet=True)
    assert hashes(again) == hashes(small)
    other = demo_corpus.make(tmp_path / "other", 0.3, 0.2, 6, speakers=3, quiet=True)
    assert not set(hashes(other).values()) & set(hashes(small).values())


@pytest.mark.parametrize("name", ["link/corpus", "corpus"])
def test_a_folder_may_be_named_by_a_link_or_from_here(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As a cache whose folder is a link to another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / name if "/" in name else Path(name)
    made = demo_corpus.make(place, 0.3, 0.2, 5, speakers=3, quiet=True)
    assert hashes(made) == hashes(small)
    assert len(read_manifest(made / "manifest.jsonl")) == len(hashes(small)) - 1


def test_voices_have_their_pitch() -> None:
    """The median pitch found by autocorrelation, an independent way, is the voice's."""
    for seed, pitch in ((0, 100.0), (1, 150.0), (2, 220.0)):
        voice = Voice(pitch, 1.0, 1.0, 0.02, 0.6, 0.5)
        wave = utterance(voice, 4.0, np.random.default_rng(seed)).astype(np.float64)
        found = []
        for start in range(0, len(wave) - 1600, 800):
            frame = wave[start : start + 1600] - wave[start : start + 1600].mean()
            r = np.correlate(frame, frame, "full")[1599:]
            lags = np.arange(16000 // 320, 16000 // 70)
            best = lags[r[lags].argmax()]
            if r[0] > 0.5 and r[best] > 0.6 * r[0]:  # loud and periodic
                found.append(16000 / best)
        assert len(found) > 10
        assert np.median(found) == pytest.approx(pitch, rel=0.15)


def test_a_voice_pauses_and_hisses() -> None:
    wave = utterance(Voice.draw(np.random.default_rng(3)), 8.0, np.random.default_rng(3))
    assert wave.dtype == np.float32
    assert wave.shape == (128000,)
    power = np.abs(np.fft.rfft(wave.reshape(-1, 400), axis=1)) ** 2  # (320, 201)
    total = power.sum(1)
    assert 0.03 < np.mean(total < 1e-4 * total.max()) < 0.6  # pauses
    high = power[:, 100:].sum(1) / np.maximum(total, 1e-12)
    loud = total > 1e-3 * total.max()
    assert np.mean(high[loud] > 0.5) > 0.02  # fricatives
    assert np.mean(high[loud] < 0.1) > 0.4  # vowels


@pytest.mark.parametrize("name", list(NOISES))
def test_noises_sound_and_differ(name: str) -> None:
    first, again, other = (NOISES[name](24000, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (24000,)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.sqrt(np.mean(first.astype(np.float64) ** 2)) == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupt(*_: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.full(16000, 0.1, np.float32)

    monkeypatch.setattr(demo_corpus, "utterance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo_corpus.make(tmp_path / "corpus", 1, 1, quiet=True)
    assert not list(tmp_path.iterdir())


def test_existing_folders_are_kept(small: Path, tmp_path: Path) -> None:
    before = hashes(small)
    with pytest.raises(EnhanceError, match="exists already"):
        demo_corpus.make(small, quiet=True)
    assert hashes(small) == before
    with pytest.raises(EnhanceError, match="positive"):
        demo_corpus.make(tmp_path / "x", 0, 1)


def test_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def fake(folder: Path, *_: object, **__: object) -> Path:
        made.append(folder)
        folder.mkdir(parents=True)
        (folder / "manifest.jsonl").write_text("{}")
        return folder

    monkeypatch.setattr(demo_corpus, "make", fake)
    assert demo_corpus.ensure() == demo_corpus.ensure()
    assert demo_corpus.ensure_held_out(1) != demo_corpus.ensure()
    assert len(made) == 2
