"""The phone probe: labels on frames, speakers left out, and a run from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.analysis import phone_probe
from benchmarks.analysis.phone_probe import Aligned, classify, hits, majority_hits, phone_of_frames
from distill.backbones.hf import HfTeacher
from distill.ssl import card as ssl_card
from distill.ssl.families import transformer
from enhance.errors import EnhanceError


def test_a_frame_has_the_phone_at_its_centre() -> None:
    # centres at 12.5, 32.5, 52.5, ... ms
    rows = [(0.0, 0.0325, 7), (0.0325, 0.06, 3), (0.09, 0.1, 5)]
    assert phone_of_frames(rows, 6).tolist() == [7, 3, 3, -1, 5, -1]


def test_classifier_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=3000)
    features = 40 + 3 * np.eye(5)[labels] + rng.normal(size=(3000, 5))
    guess = classify(features[:2000], labels[:2000], features[2000:], 5, seed=0)
    # Bayes for equal, isotropic Gaussians: the nearest mean
    bayes = (features[2000:] - 40).argmax(axis=1)
    right = labels[2000:]
    assert abs((guess == right).mean() - (bayes == right).mean()) < 0.02


def aligned(labels: np.ndarray, speaker: np.ndarray) -> Aligned:
    utterance = np.arange(len(labels)) // 10
    return Aligned([], [], labels, utterance, speaker, list("abcd"), ["x", "y", "z"])


def test_a_speaker_is_never_tested_on_itself() -> None:
    # The feature tells (speaker, phone) pairs: of no use for a speaker who was not heard.
    rng = np.random.default_rng(1)
    labels, speaker = rng.integers(4, size=3000), np.repeat(np.arange(3), 1000)
    features = np.eye(12)[4 * speaker + labels].astype(np.float32)
    assert hits(features, aligned(labels, speaker), 0).mean() < 0.4
    assert hits(np.eye(4)[labels], aligned(labels, speaker), 0).mean() > 0.99


def test_majority_guess_counts_the_other_speakers() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    speaker = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    # others of x: 1; of y: 0; of z: 1
    expected = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert majority_hits(aligned(labels, speaker)).astype(int).tolist() == expected


def test_probe_and_card(tmp_path: Path, monkeypatch) -> None:
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
    found = phone_probe.probe(model, folder, cache=tmp_path / "cache", quiet=True)
    # The model's two states of eight files are kept, those of its twin are not.
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2 * 8
    heard: list[str] = []
    forward = HfTeacher.forward
    monkeypatch.setattr(
        HfTeacher, "forward", lambda self, *args: heard.append(self.name) or forward(self, *args)
    )
    assert phone_probe.probe(model, folder, cache=tmp_path / "cache", quiet=True) == found
    assert heard == [f"random:{model}:0"] * 8
    assert found["frames"] == 8 * 44  # of 49 frames, five have their centre in the silence
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
        phone_probe.read_aligned(folder)
