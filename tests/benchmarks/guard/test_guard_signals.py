"""What is played to find harm: levels, SNR, made signals, groups."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_harm import RATE, voice, write_set

from benchmarks.guard import cases as c
from benchmarks.guard import run as harm
from benchmarks.guard import signals as s
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import NOISY, Candidate
from benchmarks.quality.clips import Pair
from enhance.data.formulas import KINDS, make
from enhance.errors import EnhanceError
from enhance.measure.metrics import measure
from enhance.parallel import Workers


def files(folder: Path) -> tuple[str, str]:
    folder = write_set(folder)
    return str(folder / "clean/002.wav"), str(folder / "noisy/002.wav")


@pytest.mark.parametrize("level", [None, s.Level("rms", -50.0), s.Level("peak", -3.0)])
def test_mixtures_have_their_snr_and_level(level: s.Level | None, tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    played = s.Mixture(clean, s.Noise(noisy, clean), 15.0, level).make()
    assert played.reference.shape == played.wave.shape
    wave, speech = played.wave.astype(float), played.reference.astype(float)
    snr = 10 * np.log10(np.sum(speech**2) / np.sum((wave - speech) ** 2))
    assert snr == pytest.approx(15, abs=1e-3)
    if level:
        now = s.rms_dbfs(wave) if level.kind == "rms" else s.peak_dbfs(wave)
        assert now == pytest.approx(level.dbfs, abs=1e-4)
    else:
        np.testing.assert_allclose(speech, soundfile.read(clean)[0], atol=1e-7)
    # Before noise and speech were mixed anew, they were those of the pair.
    noise = soundfile.read(noisy)[0] - soundfile.read(clean)[0]
    assert np.corrcoef(wave - speech, noise)[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["alarm", "clicks", "engine"])
def test_formulas_are_mixed_at_their_snr_and_held_out(kind: str, tmp_path: Path) -> None:
    clean, _ = files(tmp_path)
    stimulus = s.Mixture(clean, s.Formula(kind, 3), -5.0)
    played, again = stimulus.make(), pickle.loads(pickle.dumps(stimulus)).make()
    np.testing.assert_array_equal(played.wave, again.wave)
    assert played.reference.shape == played.wave.shape
    noise = (played.wave - played.reference).astype(float)
    speech = played.reference.astype(float)
    assert 10 * np.log10(np.sum(speech**2) / np.sum(noise**2)) == pytest.approx(-5, abs=1e-3)

    def likeness(held_out: bool) -> float:
        wave = make(kind, 3, noise.size, RATE, held_out=held_out)
        return abs(float(np.corrcoef(noise, wave)[0, 1]))

    assert likeness(True) > 0.9999
    assert likeness(False) < 0.5  # what training draws for the same seed


def test_every_kind_is_heard_on_the_same_speech(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    pairs = [
        Pair(f"{i:03d}", str(folder / f"clean/{i:03d}.wav"), str(folder / f"noisy/{i:03d}.wav"),
             {}, "", "")
        for i in range(6)
    ]  # fmt: skip
    cases = {case.name: case for case in c.make_cases(pairs, 5 * c.KIND_SHARE)}
    assert set(c.KINDS) <= set(cases)
    heard = {tuple(pair.name for pair, _ in cases[name].stimuli) for name in c.KINDS}
    assert len(heard) == 1
    assert len(heard.pop()) == 5
    stimuli = [stimulus for name in c.KINDS for _, stimulus in cases[name].stimuli]
    noises = {stimulus.noise for stimulus in stimuli if isinstance(stimulus, s.Mixture)}
    assert len(noises) == 5 * len(c.KINDS)
    assert {noise.kind for noise in noises if isinstance(noise, s.Formula)} == set(KINDS)


def test_noise_is_repeated_and_mixtures_do_not_clip(tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, 0.9 * np.sin(np.arange(4000)), RATE, subtype="FLOAT")
    long = tmp_path / "long.wav"
    soundfile.write(long, voice(3), RATE, subtype="FLOAT")
    played = s.Mixture(str(long), s.Noise(str(short)), -20.0).make()
    noise = played.wave - played.reference
    np.testing.assert_allclose(noise[:4000], noise[4000:8000], atol=1e-6)
    played = s.Mixture(str(long), s.Noise(str(short)), -40.0).make()
    assert np.abs(played.wave).max() == pytest.approx(0.99, abs=1e-6)


def test_made_signals_are_what_they_are_called() -> None:
    for what, level in (("silence", s.FLOOR_DBFS), ("room", -60.0), ("music", -20.0)):
        played = s.Made(what, 6.0).make()
        assert played.wave.shape == (6 * RATE,)
        assert played.wave.dtype == np.float32
        assert s.rms_dbfs(played.wave) == pytest.approx(level, abs=1e-3)
        np.testing.assert_array_equal(played.wave, s.Made(what, 6.0).make().wave)
        assert (played.reference is not None) == (what == "music")  # music shall stay
    steps = s.dither(4.0) * 32768
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert s.rms_dbfs(s.dither(4.0)) == pytest.approx(-96.3, abs=0.1)
    tune = s.music(6.0)
    assert np.abs(tune).max() < 1
    beats = np.abs(tune[: 12 * 8000].reshape(12, 8000)[:, :800]).mean(axis=1)
    rests = np.abs(tune[: 12 * 8000].reshape(12, 8000)[:, 7000:]).mean(axis=1)
    assert (beats > rests).all()  # a beat every half second


def test_silence_after_speech_is_measured_in_its_second_half(tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    played = s.SilenceAfter(noisy, 4.0).make()
    assert played.wave.size - played.start == 2 * RATE
    assert not played.wave[-4 * RATE :].any()
    assert played.wave[: -4 * RATE].any()
    with pytest.raises(EnhanceError, match="no noise"):
        s.Noise(clean, clean).make()


def test_a_silent_clip_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "still.wav", np.zeros(RATE), RATE)
    with pytest.raises(EnhanceError, match=r"still\.wav: is silent"):
        s.Recording(str(tmp_path / "still.wav"), s.Level("rms", -25.0)).make()


def test_choice_is_in_proportion() -> None:
    pairs = [
        Pair(f"{i:03d}", "", "", {"speech_group": "abbb"[i % 4], "speaker": str(i % 7)}, "", "")
        for i in range(200)
    ]
    chosen = c.spread(pairs, 40, c.stratum)
    assert Counter(pair.labels["speech_group"] for pair in chosen) == {"a": 10, "b": 30}
    assert len({pair.name for pair in chosen}) == 40
    assert chosen == c.spread(pairs[::-1], 40, c.stratum)
    assert len(c.spread(pairs[:3], 40, c.stratum)) == 3
    cases = {case.name: case for case in c.make_cases(pairs, 10)}
    wide = {pair.name for pair, _ in cases[c.HARD].stimuli}
    assert len(wide) == 10 * c.GROUP_FACTOR
    for name in (*c.CLEAN, *c.LEVELS, "15 dB"):
        assert {pair.name for pair, _ in cases[name].stimuli} < wide
    assert c.LANGUAGE not in cases


def test_what_stays_is_measured_whatever_is_added() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 16000))
    noise -= x * (np.sum(noise * x) / np.sum(x * x))  # nothing of it resembles x
    assert c.kept_db(x, x) == 0
    assert c.kept_db(x, 0.5 * x + 3 * noise) == pytest.approx(-6.0206, abs=1e-4)
    assert c.kept_db(x, noise) < -200 + 1e-9
    assert c.kept_db(x, np.zeros_like(x)) == s.FLOOR_DBFS


def test_made_pieces_differ_by_their_seed() -> None:
    pieces = [s.music(3.0, seed) for seed in range(c.MADE_CLIPS)]
    likeness = np.abs(np.corrcoef(pieces) - np.eye(c.MADE_CLIPS))
    assert likeness.max() < 0.5


def test_labels_tell_the_noise_that_is_played() -> None:
    told = {"speaker": "ann", "noise_name": "rain"}
    cases = {x.name: x for x in c.make_cases([Pair("a", "", "", told, "", "")], 4)}
    labels = {name: case.stimuli[0][0].labels for name, case in cases.items()}
    assert labels["0 dB"] == told
    assert labels[next(iter(c.CLEAN))] == labels[next(iter(c.KINDS))] == {"speaker": "ann"}
    assert labels[c.NOISE] == {"noise_name": "rain"}


def test_files_of_one_name_are_measured_against_their_own_input(tmp_path: Path) -> None:
    """A folder for each speaker, the same names in each: gains are of one clip, not of two."""
    folder = write_set(tmp_path / "set")
    for index in range(4):
        path = tmp_path / "talk" / f"speaker{index}" / f"{index % 2}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, voice(20 + index, 1.5), RATE)
    pairs = [
        Pair(f"{i:03d}", str(folder / f"clean/{i:03d}.wav"), str(folder / f"noisy/{i:03d}.wav"),
             {}, "", "")
        for i in range(4)
    ]  # fmt: skip
    talk = c.find_clips(tmp_path / "talk", "speech")
    cases = [case for case in c.make_cases(pairs, 4, speech=talk) if case.name == c.LANGUAGE]
    assert len({pair.name for pair, _ in cases[0].stimuli}) == 4
    same = Candidate("same", "onnx", "", "same")
    candidates = [Candidate(NOISY, "noisy", "", NOISY), same]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_of, "_loaded", lambda _: lambda wave: wave)
        rows = harm._measure(candidates, cases, Workers(1, quiet=True))
    gains = [row["gains"] for row in rows[c.LANGUAGE, same.sha256]]
    assert len(gains) == 4
    assert all(set(own.values()) == {0.0} for own in gains)


@pytest.mark.parametrize(
    ("labels", "sex"),
    [
        ({"speaker": "an4_fash"}, "female"),
        ({"speaker": "an4_menk"}, "male"),
        ({"speaker": "kerstin"}, ""),
        ({"speaker": "an4_menk", "gender": "F"}, "female"),
        ({"note": "male, close microphone"}, "male"),
        ({"note": "maleware"}, ""),
        ({}, ""),
    ],
)
def test_sex_is_told_or_unknown(labels: dict[str, str], sex: str) -> None:
    assert c.sex_of(labels, harm.SEX) == sex
    assert c.sex_of(labels, f"(?:{harm.SEX})?") == sex  # found everywhere, mostly without its group


def test_heard_by_label_or_else_by_the_training_list() -> None:
    assert c.heard_of({"speaker_in_train": "no", "speaker": "ann"}, {"ann"}) == "unheard"
    assert c.heard_of({"speaker_in_train": "unknown (x)", "speaker": "ann"}, {"ann"}) == ""
    assert c.heard_of({"speaker": "ann"}, {"ann"}) == "heard"
    assert c.heard_of({"speaker": "bob"}, {"ann"}) == "unheard"
    assert c.heard_of({"speaker": "unknown"}, {"ann"}) == ""
    assert c.heard_of({"speaker": "bob"}, None) == ""


def test_probe_travels_and_measures_as_metrics_do(tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    (case,) = [
        case
        for case in c.make_cases([Pair("2", clean, noisy, {}, "", "")], 4)
        if case.name == "0 dB"
    ]
    pair, stimulus = case.stimuli[0]
    probe = c.Probe(pair, 0, case.name, stimulus, case.metrics)
    assert pickle.loads(pickle.dumps(probe)) == probe
    row = probe.measure(harm.resolve_all([])[0], lambda wave: 0.5 * wave)
    played = stimulus.make()
    expected = measure(played.reference, 0.5 * played.wave, RATE)
    kept = row["metrics"].pop(c.KEPT)
    assert row["metrics"] == pytest.approx(expected)
    assert kept == pytest.approx(c.kept_db(played.reference, played.wave) - 6.0206, abs=1e-3)
    assert row["change_db"] == pytest.approx(-6.0206, abs=1e-4)
    json.dumps(row, allow_nan=False)
    still = probe.measure(harm.resolve_all([])[0], np.zeros_like)
    assert still["metrics"] == {c.KEPT: s.FLOOR_DBFS}
    assert {item["metric"] for item in still["refusals"]} == set(case.metrics)
