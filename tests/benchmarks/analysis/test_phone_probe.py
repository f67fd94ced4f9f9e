"""The phone probe: labels on frames, speakers left out, and a run from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.analysis import phone_probe
from benchmarks.analysis.parts import linear
from benchmarks.analysis.parts.linear import fit
from benchmarks.analysis.parts.phones import label_at
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.answers import answer, guess
from benchmarks.analysis.probes.tasks import TASKS, Data
from distill.backbones.hf import HfTeacher
from distill.ssl import card as ssl_card
from distill.ssl.families import transformer
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError


def test_a_frame_has_the_phone_at_its_centre() -> None:
    rows = [(0.0, 0.0325, 7), (0.0325, 0.06, 3), (0.09, 0.1, 5)]
    centres = np.array([12.5, 32.5, 52.5, 72.5, 92.5, 112.5]) / 1000
    assert label_at(rows, centres).tolist() == [7, 3, 3, -1, 5, -1]


def test_classifier_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=3000)
    features = (40 + 3 * np.eye(5)[labels] + rng.normal(size=(3000, 5))).astype(np.float32)
    said = fit(features[None, :2000], labels[:2000], 5, 0)(features[None, 2000:]).argmax(axis=1)
    # Bayes for equal, isotropic Gaussians: the nearest mean
    bayes = (features[2000:] - 40).argmax(axis=1)
    right = labels[2000:]
    assert abs((said == right).mean() - (bayes == right).mean()) < 0.02


def question(labels: np.ndarray, speaker: np.ndarray) -> Data:
    """Utterances of ten frames, each of one speaker."""
    owner = np.arange(len(labels)) // 10
    names = [f"s{s}" for s in speaker[::10]]
    clips = [Clip(Path(f"/{i}.wav"), 1.0, 16000, speaker=s) for i, s in enumerate(names)]
    return Data(TASKS["phone"], clips, labels, owner, list("abcd"), names)


def test_a_speaker_is_never_tested_on_itself() -> None:
    # The feature tells (speaker, phone) pairs: of no use for a speaker who was not heard.
    rng = np.random.default_rng(1)
    labels, speaker = rng.integers(4, size=3000), np.repeat(np.arange(3), 1000)
    data = question(labels, speaker)
    told = np.eye(12, dtype=np.float32)[4 * speaker + labels]
    assert answer(data, [0], told[None], 3, 0).values.mean() < 0.4
    assert answer(data, [0], np.eye(4, dtype=np.float32)[labels][None], 3, 0).values.mean() > 0.99


def test_majority_guess_counts_the_other_speakers() -> None:
    labels = np.repeat([0, 0, 0, 1, 1, 1, 1, 1, 2, 2], 10)
    speaker = np.repeat([0, 0, 0, 0, 1, 1, 1, 1, 2, 2], 10)
    # others of the first: 1; of the second: 0; of the third: 1
    expected = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert guess(question(labels, speaker), 3, 0).values.astype(int).tolist() == expected


def test_probe_and_card(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(linear, "LEAST", 60)  # steps of many probes
    rng = np.random.default_rng(2)
    model = tmp_path / "model"
    architecture = transformer.Architecture(16, 1, 2, 16, (4, 4, 4, 4, 4, 4, 8), 4, 2)
    transformer.save(architecture.build(0), model)
    folder = tmp_path / "corpus"
    (folder / "speech").mkdir(parents=True)
    manifest, phones = [], []
    t = np.arange(1600) / 16000
    for i in range(8):
        name, parts = f"speech/{i}.wav", []
        for k in range(10):
            phone = int(rng.integers(3))
            tone = np.sin(2 * np.pi * (300, 1200, 3000)[phone] * t)
            parts.append(0.2 * tone + rng.normal(0, 0.01, 1600))
            label = "SIL" if k == 0 else "ABC"[phone]
            phones.append([name, 0.1 * k, 0.1 * (k + 1), label, label])
        soundfile.write(folder / name, np.concatenate(parts), 16000)
        manifest.append([name, 1.0, "tones", "xy"[i % 2]])
    for name, head, rows in (
        ("manifest.csv", ["path", "seconds", "source", "speaker"], manifest),
        ("phones.csv", ["file", "start_s", "end_s", "phone", "phone_base"], phones),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    work = Work(features=tmp_path / "cache", quiet=True)
    found = phone_probe.probe(model, folder, work)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2 * 2 * 8  # states, twin, files
    heard: list[str] = []
    forward = HfTeacher.forward
    monkeypatch.setattr(
        HfTeacher, "forward", lambda self, *args: heard.append(self.name) or forward(self, *args)
    )
    assert phone_probe.probe(model, folder, work) == found
    assert not heard  # what was kept is found
    assert found["frames"] == 8 * 45  # of 50 frames, five have their centre in the silence
    names = [row["features"] for row in found["rows"]]
    assert names[0] == "majority guess"
    assert sum(n.startswith("model") for n in names) == 2
    cepstra = next(row for row in found["rows"] if row["features"] == "MFCC, deltas")
    assert cepstra["mean"] > 0.9  # three tones are told apart by their spectrum
    assert found["rows"][0]["mean"] < 0.5
    gain = next(g for g in found["gains"] if g["over"] == "MFCC, deltas")
    best = max(row["mean"] for row in found["rows"] if row["features"].startswith("model"))
    assert gain["mean"] == pytest.approx(best - cepstra["mean"], abs=2e-5)
    with pytest.raises(EnhanceError, match="no record to write a card from"):
        ssl_card.write(model, found)
    (folder / "phones.csv").write_text("a,b\n1,2\n")
    with pytest.raises(EnhanceError, match="not a table of phones"):
        phone_probe.probe(model, folder, work)
    (folder / "phones.csv").unlink()
    with pytest.raises(EnhanceError, match="not there; `enhance data align` makes one"):
        phone_probe.probe(model, folder, work)
