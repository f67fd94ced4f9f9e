"""Debiased linear CKA: the direct computation, what leaves it alone, and a run from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audio_clips import clip

from benchmarks.analysis import cka
from benchmarks.analysis.cka import extend, hsic, jackknife
from benchmarks.analysis.parts import heard, record
from benchmarks.analysis.parts.work import Work
from enhance.data.corpus.manifest import Clip, read_manifest, write_manifest
from enhance.errors import EnhanceError


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    sums = {(a, b): hsic(extend(p).T @ extend(q))
            for a, p in (("x", x), ("y", y)) for b, q in (("x", x), ("y", y))}  # fmt: skip
    return sums["x", "y"] / np.sqrt(sums["x", "x"] * sums["y", "y"])


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased H from the n x n kernels: the mean of Song's eq. 5 as it stands there."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    found = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((found - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3)))


def related(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)) * np.arange(1, 8) + 3
    return x, x[:, :4] @ rng.normal(size=(4, 5)) + rng.normal(size=(n, 5)) - 2


def test_equals_the_gram_computation() -> None:
    x, y = related(0)
    for a, b in ((x, y), (x, x), (y, y)):
        assert hsic(extend(a).T @ extend(b)) == pytest.approx(direct(a, b), rel=1e-10)
    # ... and the mean over all ordered quadruples, of which it is the U-statistic (eq. 4)
    x, y = x[:7], y[:7]
    k, m = x @ x.T, y @ y.T
    total = count = 0.0
    for i in range(7):
        for j in {*range(7)} - {i}:
            for q in {*range(7)} - {i, j}:
                for r in {*range(7)} - {i, j, q}:
                    total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                    count += 1
    assert hsic(extend(x).T @ extend(y)) == pytest.approx(total / count, rel=1e-10)


def test_orthogonal_maps_scale_and_shift_leave_it_alone() -> None:
    x, y = related(1)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    known = similarity(x, y)
    assert 0.1 < known < 0.95
    assert similarity(x, y @ turn) == pytest.approx(known, rel=1e-10)
    assert similarity(0.01 * x, 30 * y + 4) == pytest.approx(known, rel=1e-8)
    assert similarity(x, -3 * x @ np.linalg.qr(np.random.default_rng(3).normal(size=(7, 7)))[0]) \
        == pytest.approx(1)  # fmt: skip
    # A map that is not orthogonal does change it.
    assert abs(similarity(x, y * np.array([1, 1, 1, 1, 20])) - known) > 0.02


def test_independent_data_give_nothing_where_the_plug_in_gives_two_thirds() -> None:
    rng = np.random.default_rng(0)
    found, plain = [], []
    for _ in range(20):
        x, y = rng.normal(size=(2, 100, 192))
        found.append(similarity(x, y))
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        norm = np.linalg.norm
        plain.append(norm(x.T @ y) ** 2 / norm(x.T @ x) / norm(y.T @ y))
    assert np.mean(plain) == pytest.approx(0.66, abs=0.01)
    assert abs(np.mean(found)) < 0.01 and np.max(np.abs(found)) < 0.05


def test_pieces_in_any_order_give_the_same() -> None:
    x, y = related(4)
    whole = hsic(extend(x).T @ extend(y))
    cuts = [slice(0, 1), slice(30, 60), slice(1, 30)]
    assert hsic(sum(extend(x[c]).T @ extend(y[c]) for c in cuts)) == pytest.approx(whole, rel=1e-10)


def test_too_few_frames_and_a_constant_state_are_refused() -> None:
    x, y = related(5, 3)
    with pytest.raises(EnhanceError, match="needs 4 or more"):
        hsic(extend(x).T @ extend(y))
    with pytest.raises(EnhanceError, match="hardly varies"):
        jackknife(np.zeros(3), np.zeros(3), np.ones(3), "speaker")


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(6).normal(size=9)
    left = [np.delete(values, i).mean() for i in range(9)]
    found = jackknife(np.array([values.mean(), *left]), np.ones(10), np.ones(10), "speaker")
    assert found.errors[0] == (pytest.approx(values.std(ddof=1) / 3), 8)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    clips: list[Clip] = [
        clip(tmp_path / "speech", f"{who}{i}", 0.9 + 0.1 * i, speaker=who)
        for who in ("ann", "bob", "cy")
        for i in range(2)
    ]
    write_manifest(tmp_path / "manifest.jsonl", clips)
    return tmp_path / "manifest.jsonl"


def test_a_run(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbones = ["log-mel", "log-mel:320"]
    work = Work(features=tmp_path / "cache", quiet=True)
    made = cka.cka(backbones, speech, tmp_path / "out", work)
    assert record.read(tmp_path / "out", "cka")["rows"] == made["rows"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cka.json", "cka.md", "cka-cka.svg"}
    states = [
        heard.aligned(backbones, tmp_path / "cache", heard.wave_of(c.path))
        for c in read_manifest(speech)
    ]
    x, y = (np.concatenate([own[k] for own in states]).astype(np.float64) for k in (0, 1))
    assert made["about"]["frames"] == len(x) == len(y)
    known = direct(x, y) / np.sqrt(direct(x, x) * direct(y, y))
    row = next(r for r in made["rows"] if r["backbone_a"] != r["backbone_b"])
    assert row["cka"] == pytest.approx(known, rel=1e-9)
    assert row["low"] < row["cka"] < row["high"]
    assert next(r for r in made["rows"] if r["backbone_a"] == r["backbone_b"])["cka"] == 1
    # Passes of one pair each, in other processes, find the same.
    monkeypatch.setattr(cka, "BUDGET_BYTES", 1)
    again = cka.cka(backbones, speech, tmp_path / "again", replace(work, jobs=2))
    assert again["about"].pop("passes") == 3 and made["about"].pop("passes") == 1
    assert again == made


def test_what_cannot_be_measured_is_refused(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="each once"):
        cka.cka(["log-mel", "log-mel"], speech, tmp_path / "out", Work())
    with pytest.raises(EnhanceError, match="two or more"):
        cka.cka(["log-mel"], speech, tmp_path / "out", Work(limit=1))
