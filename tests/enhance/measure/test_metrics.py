"""Metrics against independent formulas, known values and goldens; what they refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from enhance.errors import EnhanceError
from enhance.measure import metrics
from enhance.measure.metrics import METRICS, MetricRefusal, MetricRefused, measure

RATE = 16000


def voice(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """A buzz of 130 Hz with syllables of 4 Hz: enough for every metric to call it speech."""
    t = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 130 * k * t + k * k) / k for k in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, None) ** 0.5
    breath = np.random.default_rng(seed).standard_normal(t.size)
    return (0.1 * syllables * (buzz + 0.05 * breath)).astype(np.float32)


def noise(count: int, seed: int = 1) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies() -> None:
    n = np.arange(1600)
    clean = np.sin(2 * np.pi * n / 16)  # whole periods: orthogonal to the cosine, mean zero
    other = np.cos(2 * np.pi * n / 16)
    for ratio_db in (-5.0, 0.0, 17.0):
        estimate = clean + other * 10 ** (-ratio_db / 20)
        assert metrics.si_sdr(clean, estimate) == pytest.approx(ratio_db, abs=1e-9)


def test_si_sdr_equals_correlation_form() -> None:
    # With r the correlation coefficient: SI-SDR = 10 log10(r^2 / (1 - r^2)).
    clean, rest = voice(), noise(2 * RATE)
    estimate = 0.3 * clean + rest
    r = np.corrcoef(clean.astype(np.float64), estimate.astype(np.float64))[0, 1]
    expected = 10 * math.log10(r * r / (1 - r * r))
    assert metrics.si_sdr(clean, estimate) == pytest.approx(expected, abs=1e-9)


def test_si_sdr_ignores_scale_and_offset() -> None:
    clean = voice()
    estimate = clean + noise(clean.size)
    value = metrics.si_sdr(clean, estimate)
    assert metrics.si_sdr(7.0 * clean.astype(np.float64) + 3, -2.0 * estimate + 0.5) == (
        pytest.approx(value, abs=1e-5)
    )  # float32 estimate + 0.5 rounds at 3e-8


def test_perfect_scores_are_the_published_ends_of_the_scales() -> None:
    clean = voice()
    assert metrics.stoi(clean, clean) == pytest.approx(1, abs=1e-9)
    assert metrics.estoi(clean, clean) == pytest.approx(1, abs=1e-9)
    # P.862.2, equation 1, maps a raw score of 4.5: 0.999 + 4 / (1 + exp(-1.3669 * 4.5 + 3.8224)).
    best = 0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224))
    assert metrics.pesq_wb(clean, clean) == pytest.approx(best, abs=1e-5)


# One value per metric, of the libraries of the day (pesq 0.0.4, pystoi 0.4.1). Tolerance: PESQ
# computes in float32 (1e-3 is far above its rounding, far below the 0.02 that matters), STOI in
# float64 after a resampling whose filter may change in the fifth digit.
# The noise levels put each value in the middle of its scale, where it moves.
GOLDENS = {
    "pesq_wb": (0.03, 1.58442, 1e-3),
    "stoi": (1.0, 0.799124, 1e-4),
    "estoi": (0.1, 0.700622, 1e-4),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_on_a_generated_signal(name: str) -> None:
    clean = voice()
    level, expected, tolerance = GOLDENS[name]
    value = measure(clean, clean + level * noise(clean.size), metrics=[name])[name]
    assert value == pytest.approx(expected, abs=tolerance)


def test_more_noise_is_worse_on_every_metric() -> None:
    clean = voice()
    quiet = measure(clean, clean + 0.3 * noise(clean.size))
    loud = measure(clean, clean + 3.0 * noise(clean.size))
    assert list(quiet) == list(METRICS)
    for name in METRICS:
        assert quiet[name] > loud[name], name


def refusal(results: dict, name: str) -> str:
    assert isinstance(results[name], MetricRefusal), results[name]
    assert results[name].row()["metric"] == name
    return results[name].reason


def test_short_clip_is_refused_by_name() -> None:
    clean = voice()[500:2000]  # 94 ms of speech
    results = measure(clean, clean + noise(clean.size))
    assert "too little speech" in refusal(results, "stoi")
    assert "too little speech" in refusal(results, "estoi")
    assert "BufferTooShort" in refusal(results, "pesq_wb")
    assert isinstance(results["si_sdr"], float)


def test_half_a_second_that_is_mostly_silent_holds_too_little_speech() -> None:
    clean = np.zeros(RATE // 2)
    clean[:300] = voice()[500:800]  # pystoi finds no frame of it and fails on its own shapes
    results = measure(clean, clean + noise(clean.size), metrics=["stoi", "estoi"])
    assert all("too little speech" in refusal(results, name) for name in ("stoi", "estoi"))


@pytest.mark.parametrize("count", [0, 1, 100])
def test_shorter_than_a_frame_is_refused_not_raised(count: int) -> None:
    clean = voice()[3000 : 3000 + count]
    results = measure(clean, clean + noise(count))
    assert all(refusal(results, name) for name in ("pesq_wb", "stoi", "estoi"))


def test_silence_is_refused() -> None:
    clean, silent = voice(), np.zeros(2 * RATE, np.float32)
    for pair, word in (((silent, clean), "reference"), ((clean, silent), "estimate")):
        results = measure(*pair)
        assert all(f"the {word} is silent" in refusal(results, name) for name in METRICS)
    offset = measure(clean, np.full_like(clean, 0.25))
    assert "the estimate is silent" in refusal(offset, "si_sdr")


def test_infinite_ratios_and_broken_samples_are_refused() -> None:
    clean = voice()
    with pytest.raises(MetricRefused, match="scaled copy"):
        metrics.si_sdr(clean, 0.5 * clean)
    broken = clean.copy()
    broken[5] = np.nan
    assert "NaN" in refusal(measure(clean, broken), "pesq_wb")


def test_pesq_is_not_given_clips_that_crash_the_library() -> None:
    clean = np.tile(voice(1.0), 21)
    with pytest.raises(MetricRefused, match="50 utterances"):
        metrics.pesq_wb(clean, clean)


def test_errors_of_the_library_become_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    def nothing(*_: object) -> float:
        raise pesq.NoUtterancesError(b"No utterances detected")

    monkeypatch.setattr(pesq, "pesq", nothing)
    reason = refusal(measure(voice(), voice() + noise(2 * RATE)), "pesq_wb")
    assert reason == "pesq NoUtterancesError: No utterances detected"


def test_estoi_repeats_and_leaves_the_global_generator_alone() -> None:
    clean = voice()
    gated = clean.copy()
    gated[RATE // 2 :] = 0  # digital silence, where the library's noise decides
    np.random.seed(3)  # noqa: NPY002 - the global generator is what is tested
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = metrics.estoi(clean, gated)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    assert metrics.estoi(clean, gated) == first


def test_misuse_is_an_error_not_a_refusal() -> None:
    clean = voice()
    with pytest.raises(EnhanceError, match="align"):
        measure(clean, clean[1:])
    with pytest.raises(EnhanceError, match="8000 Hz"):
        measure(clean, clean, 8000)
    with pytest.raises(EnhanceError, match="unknown"):
        measure(clean, clean, metrics=["mos"])
    with pytest.raises(EnhanceError, match="'wer': give words"):
        measure(clean, clean, metrics=["wer"])


def test_noisy_dev_clips_stand_at_minus_five_db(corpus: Path) -> None:
    from enhance.audio.read import read

    values = []
    for path in sorted((corpus / "dev" / "clean").iterdir())[:6]:
        clean, noisy = read(path, RATE), read(corpus / "dev" / "noisy" / path.name, RATE)
        values.append(metrics.si_sdr(clean, noisy))
    # The SNR is -5 by construction; speech and noise correlate a little, so that SI-SDR differs.
    assert np.mean(values) == pytest.approx(-5, abs=0.15)
