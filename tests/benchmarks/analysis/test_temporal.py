"""Temporal structure: a process whose autocorrelation is known, the direct computation, a run."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from audio_clips import clip

from benchmarks.analysis import temporal
from benchmarks.analysis.parts import heard, record
from benchmarks.analysis.parts.pairs import Pairs, waves
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.temporal import _half, curves, half_lag
from benchmarks.figures.statistics import Cells
from benchmarks.figures.tables import number
from benchmarks.quality.clips import snr_db
from enhance.data.corpus.manifest import write_manifest
from enhance.errors import EnhanceError


def autoregressive(rho: float, frames: int, width: int, seed: int) -> np.ndarray:
    """x_t = rho x_(t-1) + noise, of variance 1: the correlation at lag k is rho^k."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(frames, width))
    for t in range(1, frames):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * x[t]
    return x


def test_a_process_of_known_autocorrelation() -> None:
    rho, lags = 0.8, np.arange(8)
    x = autoregressive(rho, 1500, 200, 0)
    mean = np.random.default_rng(1).normal(size=200)
    mean -= mean.mean()
    raw, centred, distance = curves(x + mean, x + mean, mean, mean, len(lags))
    assert centred == pytest.approx(rho**lags, abs=0.01)
    # Features have variance 1 about a mean of variance v: correlation (rho^k + v) / (1 + v)
    v = mean.var()
    assert raw == pytest.approx((rho**lags + v) / (1 + v), abs=0.01)
    # E |x_t - x_(t+k)|^2 = 2 D (1 - rho^k); of unrelated frames 2 D
    assert distance / np.sqrt(400) == pytest.approx(np.sqrt(1 - rho**lags), abs=0.01)


def test_noisy_with_clean_is_scaled_by_the_share_of_the_clean() -> None:
    x = autoregressive(0.8, 1500, 200, 2)
    noisy = x + np.random.default_rng(3).normal(size=x.shape)
    zero = np.zeros(200)
    found = curves(x, noisy, zero, zero, 4)[1]
    assert found == pytest.approx(np.sqrt(0.5) * 0.8 ** np.arange(4), abs=0.01)


def test_equals_the_direct_computation() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 6, 5)) + np.arange(5)
    means = rng.normal(size=(2, 5))
    found = curves(x, y, *means, 3)
    for k in range(3):
        pairs = [(t, t + k) for t in range(6 - k)] + [(t + k, t) for t in range(6 - k)]
        expected = [
            np.mean([np.corrcoef(x[i], y[j])[0, 1] for i, j in pairs]),
            np.mean([np.corrcoef(x[i] - means[0], y[j] - means[1])[0, 1] for i, j in pairs]),
            np.mean([np.linalg.norm(x[i] - y[j]) for i, j in pairs]),
        ]
        assert found[:, k] == pytest.approx(np.array(expected), rel=1e-10)


def test_where_it_halves() -> None:
    ms = 20.0 * np.arange(6)
    cells = Cells({"speaker": [0, 0, 1, 1, 2, 3]})
    for i, slower in enumerate((0.9, 1.1, 1.0, 0.95, 1.05, 1.0)):
        line = 1 - ms / (100 * slower)  # from 1 to 0: half at 50 ms of the mean line
        cells.add(i, np.stack([line, line / 2 + 0.5, line]))
    found = half_lag(cells, 0, ms)
    mean = np.mean([1 / x for x in (0.9, 1.1, 1.0, 0.95, 1.05, 1.0)])
    assert found["mean"] == pytest.approx(50 / mean)
    assert found["low"] < found["mean"] < found["high"] < 60
    never = half_lag(cells, 1, ms)  # falls to half at 100 ms, the last lag, or a little before
    assert never["low"] < 100 and never["high"] is None


def test_an_end_of_the_interval_is_told_beyond_the_largest_lag_too() -> None:
    row = {"lags_ms": [0.0, 300.0], "half_mean": 80.0, "half_low": 40.0, "half_high": None}
    assert _half(row) == "80 [40, -]"
    assert _half(row | {"half_mean": None}) == "> 300 [40, -]"
    assert _half(row | {"half_mean": None, "half_low": None}) == "> 300"


def test_the_interval_of_the_halving_covers_the_truth() -> None:
    rho, ms, inside = 0.85, 20.0 * np.arange(9), 0
    truth = 20 * np.log(0.5) / np.log(rho)
    for trial in range(30):
        cells = Cells({"speaker": [i // 2 for i in range(16)]})
        for i in range(16):
            x = autoregressive(rho, 60, 40, 100 * trial + i)
            cells.add(i, curves(x, x, np.zeros(40), np.zeros(40), 9))
        found = half_lag(cells, 1, ms)
        # On straight lines the curve halves a little later than it does.
        inside += found["low"] - 1 < truth < found["high"]
    assert inside >= 26


def test_sums_of_cells_give_the_interval_of_clips() -> None:
    from benchmarks.figures.statistics import mean_interval

    rng = np.random.default_rng(5)
    clusters = {
        "speaker": rng.integers(4, size=40).tolist(),
        "noise": rng.integers(5, size=40).tolist(),
    }
    values = rng.normal(size=40) + np.array(clusters["speaker"])
    cells = Cells(clusters)
    for i in rng.permutation(40):
        cells.add(i, np.array([values[i], 0]))
    found, expected = cells.interval(lambda x: x[0]), mean_interval(values, clusters)
    assert (found.n, found.method) == (expected.n, expected.method)
    assert [found.mean, found.low, found.high] == pytest.approx(
        [expected.mean, expected.low, expected.high], rel=1e-12
    )


@pytest.fixture
def material(tmp_path: Path) -> Path:
    clips = [
        clip(tmp_path / "speech", f"{who}{i}", 0.7 + 0.1 * i, speaker=who)
        for who, i in itertools.product(("ann", "bob", "cy"), range(3))
    ]
    clips.append(clip(tmp_path / "speech", "short", 0.4, speaker="ann"))
    noise = [clip(tmp_path / "noise", f"n{i}", 1 + i, kind="noise") for i in range(3)]
    write_manifest(tmp_path / "manifest.jsonl", [*clips, *noise])
    return tmp_path


def test_noise_is_mixed_at_its_ratio_and_is_the_same_at_each(material: Path) -> None:
    found = Pairs.open(material, None, [-5, 10], Work(quiet=True))
    assert len(found.items) == 9  # the short one is left out
    clean, low, high = waves(found.noise, found.snrs, found.items[0])
    assert snr_db(clean, low) == pytest.approx(-5, abs=0.01)
    assert snr_db(clean, high) == pytest.approx(10, abs=0.01)
    assert (low - clean) == pytest.approx((high - clean) * 10**0.75, abs=1e-5)


def test_a_run(material: Path, tmp_path: Path) -> None:
    out, cache, names = tmp_path / "out", tmp_path / "cache", ["log-mel:320", "log-mel"]
    work = Work(features=cache, quiet=True)
    made = temporal.temporal(names, out, work, corpus=material, snrs=[0.0])
    assert record.read(out, "temporal")["rows"] == made["rows"]
    assert (out / "temporal-clean.svg").is_file() and (out / "temporal-noisy.svg").is_file()
    assert len(made["rows"]) == 2 * 2 * 3  # backbones, conditions, quantities
    # The figures of one state, over again: means of all frames, then curves clip by clip
    clips = Pairs.open(material, None, [0.0], work)
    states = [
        [heard.states_of("log-mel:320", cache, w)[0] for w in waves(clips.noise, clips.snrs, item)]
        for item in clips.items
    ]
    means = [np.concatenate([own[c] for own in states]).mean(axis=0) for c in (0, 1)]
    expected = np.mean([curves(own[0], own[1], *means, 16) for own in states], axis=0)
    for q, quantity in enumerate(temporal.QUANTITIES):
        row = next(r for r in made["rows"] if r["quantity"] == quantity and r["heard"] == "noisy")
        assert row["lags_ms"] == pytest.approx(20 * np.arange(16))
        assert row["mean"] == pytest.approx(expected[q], abs=2e-5 * max(1, expected[q].max()))
    frames = [np.concatenate([own[c] for own in states]) for c in (0, 1)]
    unrelated = np.corrcoef(*frames)[: len(frames[0]), len(frames[0]) :].mean()
    row = next(r for r in made["rows"] if r["quantity"] == "raw" and r["heard"] == "noisy")
    assert row["unrelated"] == pytest.approx(unrelated, abs=1e-4)


def test_lags_reach_what_the_tables_name_whatever_the_stride(
    material: Path, tmp_path: Path
) -> None:
    work = Work(features=tmp_path / "cache", limit=4, quiet=True)
    made = temporal.temporal(["log-mel:256"], tmp_path / "out", work, corpus=material, snrs=[0.0])
    row = next(r for r in made["rows"] if r["quantity"] == "centred" and r["heard"] == "clean")
    assert row["lags_ms"][-2:] == [288, 304]
    (cells,) = temporal.tables(made)[0].rows
    assert cells[6] == number(row["mean"][-2] / 4 + 3 * row["mean"][-1] / 4, 2)


def test_pairs_of_a_set(material: Path, tmp_path: Path) -> None:
    import soundfile

    folder = tmp_path / "set"
    for part in ("clean", "noisy"):
        (folder / part).mkdir(parents=True)
        for i in range(3):
            wave = np.random.default_rng(i).normal(0, 0.1, 12000)
            soundfile.write(folder / part / f"{i}.wav", wave * (2 if part == "noisy" else 1), 16000)
    work = Work(features=tmp_path / "cache", quiet=True)
    made = temporal.temporal(["log-mel:320"], tmp_path / "out", work, pairs=folder)
    row = next(r for r in made["rows"] if r["quantity"] == "raw" and r["heard"] == "noisy")
    assert row["snr_db"] is None
    assert row["mean"][0] == pytest.approx(1, abs=1e-3)  # log-mel does not hear the level


@pytest.mark.parametrize(("told", "snr"), [("-5.000", -5.0), ("none", None), ("", None)])
def test_pairs_tell_their_snr_or_none(tmp_path: Path, told: str, snr: float | None) -> None:
    places = itertools.product(("clean", "noisy"), "ab")
    rows = [clip(tmp_path / part, name, 1.0, snr_db=told) for part, name in places]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert Pairs.open(None, tmp_path, [], Work(quiet=True)).snrs == [snr]


def test_what_cannot_be_measured_is_refused(material: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="--corpus DIR"):
        temporal.temporal(["log-mel"], tmp_path / "out", Work())
    with pytest.raises(EnhanceError, match="--corpus DIR with speech and noise, or --set DIR, not"):
        temporal.temporal(["log-mel"], tmp_path / "out", Work(), corpus=material, pairs=material)
    with pytest.raises(EnhanceError, match="--snr: pairs of a --set have their own SNR"):
        temporal.temporal(["log-mel"], tmp_path / "out", Work(), pairs=material, snrs=[5.0])
    with pytest.raises(EnhanceError, match="--snr: give numbers of dB"):
        temporal.temporal(
            ["log-mel"], tmp_path / "out", Work(), corpus=material, snrs=[float("nan")]
        )
    with pytest.raises(EnhanceError, match="two or more"):
        Pairs.open(material, None, [0], Work(limit=1, quiet=True))
