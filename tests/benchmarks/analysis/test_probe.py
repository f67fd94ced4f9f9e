"""Probes: what is planted is found where it is, splits do not leak, and a run from end to end."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.analysis.parts import heard, linear
from benchmarks.analysis.parts.linear import fit
from benchmarks.analysis.parts.record import read as read_record
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probe import _controls, plots, probe, tables
from benchmarks.analysis.probes.answers import answer, by_clip
from benchmarks.analysis.probes.read import mixtures, pitch_at, read, read_trials
from benchmarks.analysis.probes.tasks import TASKS, Data, Task, column, fold_of, of_clips
from distill.backbones import find
from distill.backbones.frozen import FrozenTeacher
from enhance.data.corpus.manifest import Clip, read_manifest
from enhance.errors import EnhanceError


def planted(
    labels: np.ndarray, states: int, where: int, width: int = 6, spread: float = 0.4
) -> np.ndarray:
    """Noise, but for one state that tells the label by its first features: (K, M, D)."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(states, len(labels), width))
    found[where] = np.eye(width)[labels] + spread * found[where]
    return found.astype(np.float32)


def test_the_sum_turns_to_the_state_that_knows() -> None:
    labels = np.random.default_rng(1).integers(4, size=600)
    states = planted(labels, 4, 2, spread=0.2)
    right = [
        (fit(s[None, :400], labels[:400], 4, 0)(s[None, 400:]).argmax(1) == labels[400:]).mean()
        for s in states
    ]
    assert right[2] > 0.95 and max(right[0], right[1], right[3]) < 0.4
    probe = fit(states[:, :400], labels[:400], 4, 0)
    assert probe.shares.argmax() == 2 and probe.shares[2] > 0.6
    assert probe.shares.sum() == pytest.approx(1)
    assert (probe(states[:, 400:]).argmax(1) == labels[400:]).mean() > 0.9


def test_the_head_sees_the_raw_sum() -> None:
    """Centring and scaling are affine: the scores are a linear map of the weighted raw states."""
    rng = np.random.default_rng(2)
    states = (5 + rng.normal(size=(3, 200, 4)) * [[[1]], [[10]], [[0.1]]]).astype(np.float32)
    probe = fit(states, rng.integers(2, size=200), 2, 0)
    summed = np.einsum("k,kmd->md", probe.shares, states)
    plain = np.c_[summed, np.ones(200)]
    left = probe(states) - plain @ np.linalg.lstsq(plain, probe(states), rcond=None)[0]
    assert np.abs(left).max() < 1e-4


def test_a_regression_is_least_squares() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 500, 3)).astype(np.float32)
    y = 20 + x[0] @ np.array([3.0, -1.0, 0.0])
    assert np.abs(fit(x, y, 0, 0)(x) - y).max() < 0.15
    # Of noise nothing is learned by heart: more features than units, and no better than the mean.
    x, y = rng.normal(size=(1, 400, 200)).astype(np.float32), rng.normal(size=400)
    left = fit(x[:, :100], y[:100], 0, 0)(x[:, 100:]) - y[100:]
    assert np.square(left).mean() < 1.5 * y[100:].var()


def question(labels: np.ndarray, groups: Sequence[str], name: str = "label") -> Data:
    clips = [Clip(Path(f"/{i}.wav"), 1.0, 16000, speaker=g) for i, g in enumerate(groups)]
    classes = [str(k) for k in range(labels.max() + 1)]
    return Data(TASKS[name], clips, labels, np.arange(len(labels)), classes, list(groups))


def test_a_group_is_never_tested_on_itself() -> None:
    # The state tells (group, label) pairs: of no use for a group that was not heard.
    rng = np.random.default_rng(4)
    labels, group = rng.integers(3, size=240), np.arange(240) % 6
    data = question(labels, [f"g{g}" for g in group])
    pairs = np.eye(18, dtype=np.float32)[3 * group + labels][None]
    assert answer(data, [0], pairs, 3, 0).values.mean() < 0.5
    assert answer(data, [0], np.eye(3, dtype=np.float32)[labels][None], 3, 0).values.mean() == 1
    for train, test in data.splits(3, 5):
        assert not {data.groups[i] for i in train} & {data.groups[i] for i in test}
    assert np.sort(np.concatenate([test for _, test in data.splits(3, 5)])).tolist() == list(
        range(240)
    )
    with pytest.raises(EnhanceError, match="one group"):
        fold_of(["a"] * 5, np.zeros(5, int), 3, 0)


def test_there_are_no_more_folds_than_clips_of_the_largest_class() -> None:
    labels = np.repeat(np.arange(3), 4)
    data = question(labels, [f"take {i}" for i in range(12)])
    assert len(data.splits(5, 0)) == 4
    assert all(np.bincount(labels[test]).tolist() == [1, 1, 1] for _, test in data.splits(5, 0))
    assert len(np.unique(fold_of(data.groups, np.arange(12), 5, 0))) == 5  # no class has two clips


def test_speakers_never_heard_are_verified() -> None:
    owner = np.repeat(np.arange(12), 6)
    data = question(owner, [f"s{s}" for s in owner], "verification")
    rng = np.random.default_rng(5)
    voices = rng.normal(size=(12, 8))[owner] + 0.1 * rng.normal(size=(72, 8))
    states = np.stack([rng.normal(size=(72, 8)), voices]).astype(np.float32)
    found = [answer(data, [k], states[k : k + 1], 3, 0) for k in range(2)]
    first, second = found[1].trials or (np.array([]), np.array([]))
    same = owner[first] == owner[second]
    assert len(first) == 3 * (24 * 23 // 2)  # all pairs of the four speakers of each fold
    assert found[1].values[same].min() > found[1].values[~same].max()
    assert abs(found[0].values[same].mean() - found[0].values[~same].mean()) < 0.2
    assert answer(data, [0, 1], states, 3, 0).shares.argmax() == 1


@pytest.mark.parametrize(("speakers", "folds"), [(2, 3), (3, 2)])
def test_who_verifies_was_trained_on_two_speakers(speakers: int, folds: int) -> None:
    owner = np.repeat(np.arange(speakers), 4)
    data = question(owner, [f"s{s}" for s in owner], "verification")
    with pytest.raises(EnhanceError, match=f"{speakers} speakers: one alone would be left"):
        data.splits(folds, 0)


def test_frames_count_by_clip() -> None:
    data = Data(TASKS["phone"], [], np.array([0, 1, 1, 0]), np.array([0, 0, 0, 1]), ["a", "b"], [])
    data.clips.extend(question(np.array([0, 1]), "xy").clips)
    assert by_clip(data, np.array([0, 1, 0, 1])).tolist() == pytest.approx([2 / 3, 0])


class Planted(FrozenTeacher):
    """Three states of noise; the middle one of the model itself tells the frame's level."""

    family = "planted"

    def __init__(self, name: str, knows: bool) -> None:
        super().__init__(
            nn.Identity(), name, sample_rate=16000, field_samples=400, stride_samples=320,
            widths=(6, 6, 6), equal_lengths_only=True, left_pad=None, reach_frames=0,
        )  # fmt: skip
        self.knows = knows
        self.fingerprint = name

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        waves = nn.functional.pad(torch.stack(clips), (self.left_pad, 0))
        level = waves.unfold(-1, 400, 320).square().mean(-1).clamp_min(1e-9).log10()
        noise = torch.randn(3, *level.shape, 6, generator=torch.Generator().manual_seed(0))
        if self.knows:
            centres = torch.tensor([-2.0, -3.0, -4.0])
            noise[1, ..., :3] += 5 * torch.exp(-((level[..., None] - centres) ** 2) * 4)
        return list(noise)


def write_corpus(folder: Path, rows: list[list[str]], waves: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for row, wave in zip(rows, waves, strict=True):
        soundfile.write(folder / row[0], wave, 16000)
    with (folder / "manifest.csv").open("w", newline="") as file:
        head = ["path", "kind", "source", "speaker", "word", "source_files"]
        csv.writer(file).writerows([head, *rows])


def loud(tmp_path: Path) -> Path:
    """Noise at three levels, called words, by six speakers; two recordings of each speaker."""
    rng, rows, waves = np.random.default_rng(6), [], []
    for i in range(24):
        level = i % 3
        waves.append(10 ** (-1 - level / 2) * rng.normal(size=9600).clip(-3, 3))
        name, word, take = f"s{i // 4}", ("no", "yes", "go")[level], f"{i // 2}.wav"
        rows.append([f"{i}.wav", "speech", "here", name, word, take])
    write_corpus(tmp_path / "loud", rows, waves)
    return tmp_path / "loud"


def plant(monkeypatch: pytest.MonkeyPatch, knowing: str) -> None:
    """Put `Planted` in the place of all models but log-mel; the one of this name knows."""
    real = find.load

    def load(name: str) -> FrozenTeacher:
        return real(name) if name.startswith("log-mel") else Planted(name, name == knowing)

    monkeypatch.setattr(find, "load", load)
    monkeypatch.setattr(linear, "LEAST", 60)  # many probes of few clips
    heard.features.cache_clear()


def test_folders_of_one_name_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{tmp_path / run / 'last'}" for run in "ab"]
    for name in names:
        Path(name).mkdir(parents=True)
    plant(monkeypatch, names[1])
    work = Work(features=tmp_path / "cache", quiet=True)
    record = probe(names, "label", loud(tmp_path), tmp_path / "out", work, label="word")
    assert list(record["about"]["backbones"]) == names
    knows = {r["backbone"]: r["mean"] == 1 for r in record["rows"] if r["features"] == "state 1"
             and r["kind"] == "model"}  # fmt: skip
    assert knows == dict(zip(names, (False, True), strict=True))


def test_a_name_that_begins_as_a_control_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "random-walk")
    for name, kinds in (
        ("random-walk", ["model", "random", "log-mel"]),
        ("random:random-walk", ["model"]),
        ("log-mel:320", ["model"]),
    ):
        assert [kind for _, kind, _, _ in _controls(name, name, tmp_path, [0])] == kinds


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "planted")
    corpus, output = loud(tmp_path), tmp_path / "out"

    def run(**more: object) -> dict:
        work = Work(features=tmp_path / "cache", quiet=True)
        return probe(["planted"], "label", corpus, output, work, label="word", **more)  # type: ignore[arg-type]

    record = run()
    rows = {(row["kind"], row["features"]): row for row in record["rows"]}
    assert rows["model", "state 1"]["mean"] == 1
    assert max(rows["model", f"state {k}"]["mean"] for k in (0, 2)) < 0.75
    for features in ("weighted, raw", "weighted, normalised"):
        row = rows["model", features]
        assert row["states"] == [0, 1, 2] and np.argmax(row["shares"]) == 1
        assert row["mean"] > rows["random", features]["mean"]
    assert max(row["mean"] for (kind, _), row in rows.items() if kind == "random") < 0.75
    assert rows["log-mel", "state 0"]["mean"] < 0.75  # it normalises the level
    assert rows["guess", ""]["mean"] < 0.5
    best = next(g for g in record["gains"] if g["features"] == "state 1" and g["over"] == "random")
    twin = max(rows["random", f"state {k}"]["mean"] for k in range(3))
    assert best["mean"] == pytest.approx(1 - twin)
    assert (record["about"]["clips"], record["about"]["speakers"]) == (24, 6)
    found = read_record(output, "probe-word")
    assert [t.markdown() for t in tables(found)] == [t.markdown() for t in tables(record)]
    assert plots(found).keys() == {"layers", "weights"}
    assert (output / "probe-word-weights.svg").read_text().startswith("<svg")
    two = run(seeds=2)  # the first of two seeds gives what it gave alone
    assert [row["seeds"][0] for row in two["rows"]] == [row["seeds"][0] for row in record["rows"]]
    assert [len(row["seeds"]) for row in two["rows"]] == [2] * len(two["rows"])


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    corpus, place, work = loud(tmp_path), {"folder": tmp_path / "mixed"}, Work(quiet=True)
    data = read("speaker", corpus, work, **place)
    assert len(set(data.groups)) == 12 and len(data.classes) == 6
    with pytest.raises(EnhanceError, match="without a leak"):  # a speaker heard by whom else?
        read("speaker", corpus, work, group="speaker", **place)
    with pytest.raises(EnhanceError, match="no clip has both mood and speaker; columns there"):
        read("label", corpus, work, label="mood", **place)
    with pytest.raises(EnhanceError, match="is no number"):
        of_clips(
            Task("word", "speaker", "mean error"), read_manifest(corpus / "manifest.csv"), 0, 0, ""
        )
    with pytest.raises(EnhanceError, match="no noise there"):
        read("snr", corpus, work, **place)
    with pytest.raises(EnhanceError, match="--label"):
        read("label", corpus, work, **place)
    with pytest.raises(EnhanceError, match="unknown; take phone"):
        read("mood", corpus, work, **place)
    # Classes take turns, and within them speakers; but two of eight clips before four of four.
    data = read("label", corpus, replace(work, limit=18), label="word", **place)
    assert np.bincount(data.labels).tolist() == [6, 6, 6] and len(set(data.groups)) == 6
    data = read("label", corpus, replace(work, limit=12), label="word", **place)
    assert np.bincount(data.labels).tolist() == [6, 6]


def test_columns() -> None:
    clips = [
        Clip(Path("/a/water_1.wav"), 1, 1, source="s", labels={"note": "water; loud",
                                                               "source_files": "x y"}),
        Clip(Path("/a/b.wav"), 1, 1, source="s", speaker="p", labels={"source_files": "y z"}),
        Clip(Path("/a/c.wav"), 1, 1, source="s", labels={"source_files": "w"}),
    ]  # fmt: skip
    assert column(clips, r"note:^(\w+);") == ["water", "", ""]
    assert column(clips, "speaker") == ["", "s/p", ""]
    assert column(clips, r"path:([a-z]+)[_\d]*\.wav") == ["water", "b", "c"]
    first, second, third = column(clips, "recording")
    assert first == second != third
    with pytest.raises(EnhanceError, match="not a regular expression"):
        column(clips, "note:(")


def test_trials_of_a_list(tmp_path: Path) -> None:
    corpus, lists = loud(tmp_path), tmp_path / "trials.txt"
    lists.write_text("1 0.wav 1.wav\n0 loud/0.wav 4.wav\n")
    data = read("verification", corpus, Work(quiet=True), trials=lists, folder=tmp_path)
    assert data.trials is not None and [x.tolist() for x in data.trials] == [[0, 0], [1, 4]]
    [(train, test)] = data.splits(3, 0)
    assert {data.groups[i] for i in train} == {f"here/s{k}" for k in range(2, 6)}
    assert test.tolist() == [0, 1, 4]
    for text, why in (
        ("1 0.wav 4.wav", "speakers say otherwise"),
        ("1 0.wav x.wav", "line 1: x.wav is none of the .* clips taken"),
        ("0.wav 1.wav", "write 1 or 0"),
        ("", "holds no trial"),
    ):
        lists.write_text(text)
        with pytest.raises(EnhanceError, match=why):
            read_trials(lists, data.clips)


def test_mixtures_of_a_fold_are_its_own(tmp_path: Path) -> None:
    rng, rows, waves = np.random.default_rng(7), [], []
    for i in range(6):
        waves.append(0.1 * rng.normal(size=16000))
        rows.append([f"s{i}.wav", "speech", "here", f"s{i}", "", f"s{i}"])
    for i in range(8):
        waves.append(0.1 * rng.normal(size=64000))
        rows.append([f"n{i}.wav", "noise", "there", "", ("rain", "wind")[i % 2], f"n{i}"])
    write_corpus(tmp_path / "c", rows, waves)
    out = tmp_path / "mixed"
    clips = read_manifest(mixtures(tmp_path / "c", out, "word", Work(limit=9, quiet=True)))
    assert len(clips) == 9 and {c.labels["fold"] for c in clips} == {f"fold {k}" for k in range(3)}
    for key in ("noise_name", "speaker"):
        where: dict[str, set[str]] = {}
        for clip in clips:
            name = clip.speaker if key == "speaker" else clip.labels[key]
            where.setdefault(name, set()).add(clip.labels["fold"])
        assert all(len(folds) == 1 for folds in where.values())
    for clip in clips:
        kind = ("rain", "wind")[int(clip.labels["noise_name"][1:]) % 2]
        assert clip.labels["type"] == kind and -5 <= float(clip.labels["snr_db"]) <= 20


def test_of_two_recordings_of_noise_as_many_mixtures_are_made(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(8), []
    for name in "abcd":
        kind, speaker = ("speech", name) if name in "ab" else ("noise", "")
        rows.append([f"{name}.wav", kind, "here", speaker, "", name])
    write_corpus(tmp_path / "c", rows, list(0.1 * rng.normal(size=(4, 64000))))
    clips = read_manifest(mixtures(tmp_path / "c", tmp_path / "m", "", Work(limit=7, quiet=True)))
    assert len(clips) == 7 and {clip.labels["fold"] for clip in clips} == {"fold 0", "fold 1"}


def test_pitch_of_a_pulse_train() -> None:
    pytest.importorskip("pyworld")
    wave = np.zeros(16000, np.float32)
    wave[2000:14000:80] = 0.5  # 200 Hz
    seconds = np.array([0.05, 0.3, 0.5, 0.7])
    found = pitch_at(wave, seconds)
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([12 * np.log2(200)] * 3, abs=0.1)
