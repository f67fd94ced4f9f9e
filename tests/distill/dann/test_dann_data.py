"""What domain-adversarial training is told of clips, and how its errors are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.dann.config import Adversary, DannConfig, LambdaSchedule
from distill.dann.data import classes_of
from distill.dann.protocols import read, read_protocol
from distill.speaker.eer import Trials, pairs, verify
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.errors import EnhanceError

# Lines as the consortium's files have them: (protocol, [(file, speaker, label, codec, method)]).
LAYOUTS = {
    "2019 LA": (
        "LA_0079 LA_T_1138215 - - bonafide\nLA_0081 LA_T_1272637 - A01 spoof\n",
        [
            ("LA_T_1138215", "LA_0079", "bonafide", "none", "none"),
            ("LA_T_1272637", "LA_0081", "spoof", "none", "A01"),
        ],
    ),
    "2021 LA": (
        "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
        "LA_0020 LA_E_6866159 none - bonafide bonafide notrim eval\n"
        "LA_0021 LA_E_5464494 opus loc_tx A09 spoof notrim progress\n",
        [
            ("LA_E_9332881", "LA_0009", "spoof", "alaw", "A07"),
            ("LA_E_6866159", "LA_0020", "bonafide", "none", "none"),
        ],
    ),
    "2021 DF": (
        "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress "
        "traditional_vocoder - - - -\n"
        "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval "
        "neural_vocoder_nonautoregressive Task1 team20 FF E\n"
        "TGF1 DF_E_2000026 nocodec vcc2020 - bonafide notrim eval bonafide Task1 - - -\n",
        [
            ("DF_E_2000013", "TEF2", "spoof", "low_m4a", "Task1-team20"),
            ("DF_E_2000026", "TGF1", "bonafide", "none", "none"),
        ],
    ),
    "5 train": (
        "T_4850 T_0000000000 F - - - AC3 A05 spoof -\n"
        "T_3734 T_0000000011 F - - - - bonafide bonafide -\n",
        [
            ("T_0000000000", "T_4850", "spoof", "none", "A05"),
            ("T_0000000011", "T_3734", "bonafide", "none", "none"),
        ],
    ),
    "5 eval": (
        "E_1607 E_0009538969 M C05 2 E_0003 AC1 A30 spoof -\n",
        [("E_0009538969", "E_1607", "spoof", "C05", "A30")],
    ),
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_protocols(tmp_path: Path, name: str) -> None:
    text, want = LAYOUTS[name]
    (tmp_path / "protocol.txt").write_text(text)
    for file, *_ in want:
        (tmp_path / "deep").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "deep" / f"{file}.flac", np.zeros(1600), 16000)
    clips = read(tmp_path / "protocol.txt", str(tmp_path), "spoof", "codec")
    found = [
        (c.path.stem, c.speaker, c.labels["label"], c.labels["codec"], c.labels["method"])
        for c in clips
    ]
    assert found == want
    assert all((c.duration, c.sample_rate) == (0.1, 16000) for c in clips)
    assert {c.source for c in clips} == {"ASVspoof" + name.split()[0]}


def test_audio_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/T_0000000011.flac", np.zeros(1600), 16000)
    (tmp_path / "p.txt").write_text("T_3734 T_0000000011 F - - - - bonafide bonafide -\n")
    (clip,) = read_protocol(tmp_path / "p.txt", "~/audio")
    assert clip.path == (tmp_path / "audio/T_0000000011.flac").resolve()


def test_what_is_no_protocol_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trl.txt"
    for text, told in (
        ("LA_0079 LA_T_1138215 - - genuine\n", r"line 1: not of ASVspoof 2019, 2021"),
        ("LA_0079 LA_T_1 - - bonafide\n\nA B\n", r"no LA_T_1.flac below .*; set audio"),
        ("A a none - - bonafide notrim progress\n", r"names no clip \(of ASVspoof 2021"),
    ):
        file.write_text(text)
        with pytest.raises(EnhanceError, match=told) as error:
            read_protocol(file, str(tmp_path))
        assert "\n" not in str(error.value)
    with pytest.raises(EnhanceError, match="a protocol names no folder; set audio"):
        read_protocol(file, "")


def test_manifests_must_say_what_is_needed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    file = tmp_path / "m.jsonl"

    def write(speaker: str, **labels: str) -> None:
        clip = Clip(tmp_path / "a.wav", 0.1, 16000, "speech", "x", speaker, labels)
        write_manifest(file, [clip])

    write("s", codec="gsm")
    with pytest.raises(EnhanceError, match=r"a.wav: label '', not bonafide or spoof"):
        read(file, "", "spoof", "codec")
    assert len(read(file, "", "speaker", "codec")) == 1  # whose label does not matter
    write("s", label="spoof")
    with pytest.raises(EnhanceError, match="has no label 'codec', its domain"):
        read(file, "", "spoof", "codec")
    write("", label="spoof", codec="gsm")
    with pytest.raises(EnhanceError, match="names no speaker"):
        read(file, "", "spoof", "codec")
    write("s", label="spoof", codec="gsm")
    with pytest.raises(EnhanceError, match="has no bona fide speech"):
        read(file, "", "speaker", "codec")


def test_one_domain_has_nothing_to_forget() -> None:
    clips = [
        Clip(Path(f"{k}.wav"), 1.0, 16000, "speech", "x", "s", {"label": k, "codec": "none"})
        for k in ("bonafide", "spoof")
    ]
    assert classes_of(clips, plain()) == (["spoof", "bonafide"], ["none"])
    with pytest.raises(EnhanceError, match="every clip's codec is none; there is nothing to"):
        classes_of(clips, DannConfig())
    with pytest.raises(EnhanceError, match="all clips are spoof"):
        classes_of(clips[1:], plain())


def plain() -> DannConfig:
    return DannConfig(dann=Adversary(lambda_schedule=LambdaSchedule(start=0.0, end=0.0)))


def test_least_cost_by_hand() -> None:
    """Falling: + + - + -. Accepting none, 2, 3, 4, 5 of them gives these misses and alarms."""
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    trials = Trials(scores, np.array([1, 1, 0, 1, 0], bool), np.arange(5)[:, None])
    points = [(1, 0), (2 / 3, 0), (1 / 3, 0), (1 / 3, 1 / 2), (0, 1 / 2), (0, 1)]
    for task, miss, alarm in (("spoof", 0.95, 0.5), ("speaker", 0.01, 0.99)):
        want = min(miss * m + alarm * a for m, a in points) / min(miss, alarm)
        assert trials.least_cost(task) == pytest.approx(want)
    assert trials.least_cost("spoof") == pytest.approx(0.5 * 0.5 / 0.5)
    # Where all scores tie there are two thresholds only: all or none.
    tied = Trials(np.zeros(5), trials.wanted, trials.speakers)
    assert tied.least_cost("spoof") == 1.0


def test_draws_are_of_speakers() -> None:
    """Twenty trials of two speakers, one always right, one always wrong: the EER of a draw is one
    of three, each as often as it is drawn."""
    scores = np.tile([1.0, 0.0], 20)
    wanted = np.concatenate([np.tile([True, False], 10), np.tile([False, True], 10)])
    speakers = np.repeat([0, 1], 20)[:, None]
    draws = Trials(scores, wanted, speakers).draws(rounds=400, seed=1)
    values, counts = np.unique(draws.round(6), return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 400 == pytest.approx([0.25, 0.5, 0.25], abs=0.07)
    np.testing.assert_array_equal(draws, Trials(scores, wanted, speakers).draws(400, 1))


def test_pairs_are_those_of_speaker_verification() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(6), 4)
    embeddings = rng.standard_normal((6, 5))[speakers] + 0.8 * rng.standard_normal((24, 5))
    trials, clips = pairs(embeddings, speakers)
    want = verify(embeddings, [str(s) for s in speakers], rounds=300, seed=2)
    assert trials.eer() == pytest.approx(want.eer)
    assert (len(clips), int(trials.wanted.sum())) == (want.targets + want.nontargets, want.targets)
    low, high = np.quantile(trials.draws(300, 2), [0.025, 0.975])
    assert (low, high) == pytest.approx((want.low, want.high))
