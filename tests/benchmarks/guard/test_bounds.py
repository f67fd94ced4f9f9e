"""Verdicts and the statistics below them, from rows that are written here by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.guard import cases as c
from benchmarks.guard.bounds import Check, Harm, Sign, judge, verdict
from benchmarks.guard.summary import gap, signals_and_noise, worst_tenth
from benchmarks.guard.tables import SIGNS
from enhance.device.hub import find_model, shipped_models
from enhance.files import sha256


@pytest.mark.parametrize(
    ("low", "high", "sign", "told"),
    [
        (0.1, 0.5, ">=", "pass"),
        (0.0996, 0.5, ">=", "pass"),  # as shown: 0.100
        (0.05, 0.5, ">=", "not shown"),
        (-0.5, 0.0994, ">=", "fail"),
        (-0.5, 0.1004, "<=", "pass"),
        (-0.5, 0.101, "<=", "not shown"),
        (0.101, 0.5, "<=", "fail"),
        (-0.1, 0.1, "within", "pass"),
        (-0.11, 0.1, "within", "not shown"),
        (-0.3, 0.3, "within", "not shown"),
        (-0.3, -0.101, "within", "fail"),
        (0.101, 0.3, "within", "fail"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(
    low: float, high: float, sign: Sign, told: str
) -> None:
    assert verdict(low, high, sign, 0.1) == told


def test_what_was_not_measured_or_has_no_interval_passes_nothing() -> None:
    none = {"mean": None, "n": 0}
    entry = {**none, "worst_tenth_interval": none, "lost": 0, "reason": "", "gain": none}
    case = {
        "metrics": dict.fromkeys(c.FIGURES, entry),
        "errors": [], "overshoot_db": None, "peak_out_dbfs": None, "change_db": none,
    }  # fmt: skip
    names = [*c.CLEAN, *c.SNRS, *c.LEVELS, *c.KINDS, c.NOISE, c.MUSIC]
    names += [c.SILENCE, c.TAIL, c.DITHER, c.ROOM]
    gap = {"mean": 0.0, "low": None, "high": None}
    summary: dict[str, Any] = {
        "cases": dict.fromkeys(names, case),
        "levels": {case: {"pesq_wb": None, "si_sdr": None} for case in c.LEVELS},
        "groups": {"sex": {"difference": {"pesq_wb": gap}}},
    }
    silent = {**case, "peak_out_dbfs": -89.9996}
    loud = {**case, "peak_out_dbfs": -89.999}
    summary["cases"] = {**summary["cases"], c.SILENCE: silent, c.TAIL: loud}
    checks = {check.name: check for check in judge(summary, Harm())}
    assert checks.pop("silence: largest sample").verdict == "pass"
    assert checks.pop("silence after speech: largest sample").verdict == "fail"
    single = checks.pop("women less men: PESQ-WB gain")
    assert (single.verdict, single.detail) == ("not shown", "too few clips for an interval")
    assert checks.pop("inputs without a finite output").verdict == "pass"
    assert {check.verdict for check in checks.values()} == {"not measured"}
    assert isinstance(checks["rise of a peak"], Check)


@pytest.mark.parametrize("model", shipped_models())
def test_the_shipped_cards_say_what_their_intervals_say(model: str) -> None:
    file = find_model(model)
    card = file.parent.joinpath(f"{model}.md").read_text("utf-8")
    certificate = json.loads(file.with_suffix(".certificate.json").read_text("utf-8"))
    assert certificate["sha256"] == sha256(file) and sha256(file) in card
    number = r"(-?[\d.]+)"
    form = (
        rf"\| (.+) \| ([≥≤±]) {number}[^|]* \| {number}(?: \[{number}, {number}\])? ([a-zA-Z ]+) \|"
    )
    signs = {shown: sign for sign, shown in SIGNS.items()}
    told = {}
    for name, sign, bound, mean, low, high, said in re.findall(form, card):
        expected = verdict(float(low or mean), float(high or mean), signs[sign], float(bound))
        assert said.lower() == expected, name
        told[name] = expected
    assert len(told) > 60
    assert {f"women less men: {x}" for x in ("PESQ-WB gain", "level of what should stay")} <= {
        *told
    }
    limits = card.partition("## Limits")[2]
    for name, said in told.items():
        case, _, figure = name.partition(": ")
        assert said == "pass" or f"{case} ({figure}" in limits or f"; {figure}" in limits, name
    assert told["music: level of what should stay"] == "fail" and "fails: music" in limits


def test_alarms_are_held_against_other_noise_clip_by_clip() -> None:
    """Gains by clip: 1 and 3 dB with every signal, 2 and 5 dB with all else, one clip not
    measured; the hardest kind does not hide behind the number of kinds."""

    def rows(case: str) -> list[dict[str, Any]]:
        gains = {"a": 1.0, "b": 3.0} if case in c.SIGNALS else {"a": 2.0, "b": 5.0, "z": 9.0}
        found = [{"clip": k, "gains": {"si_sdr": v}, "labels": {}} for k, v in gains.items()]
        return [*found, {"clip": "lost", "gains": {}, "labels": {}}]

    own = {case: rows(case) for case in c.KINDS}
    group = signals_and_noise(own)
    apart = group["difference"]["si_sdr"]
    assert apart["mean"] == pytest.approx(-1.5)
    interval = stats.ttest_rel([1.0, 3.0], [2.0, 5.0]).confidence_interval()
    assert (apart["low"], apart["high"]) == pytest.approx((interval.low, interval.high))
    assert group["difference"]["pesq_wb"] is None
    assert group["values"]["signals"]["gain"]["si_sdr"]["mean"] == pytest.approx(2)
    assert group["values"]["other noise"]["clips"] == 3
    # One kind of ten that gains nothing moves the mean of signals by a tenth.
    first = sorted(c.SIGNALS)[0]
    own[first] = [{"clip": k, "gains": {"si_sdr": 0.0}, "labels": {}} for k in "ab"]
    moved = signals_and_noise(own)["difference"]["si_sdr"]["mean"]
    assert moved == pytest.approx(-1.5 - 2 / len(c.SIGNALS))


def test_the_gap_between_groups_is_welchs_and_clustered_where_labels_tell() -> None:
    def rows(values: Any, **labels: str) -> list[dict[str, Any]]:
        return [
            {"gains": {"stoi": float(v)}, "labels": {k: x[i] for k, x in labels.items()}}
            for i, v in enumerate(values)
        ]

    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 9), rng.normal(0, 0.5, 23)
    found = gap(rows(a), rows(b), "stoi")
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert (found["mean"], found["n"]) == (pytest.approx(a.mean() - b.mean()), [9, 23])
    assert gap([], rows(b), "stoi") is None
    single = {"mean": 1.0, "low": None, "high": None, "n": [1, 1]}
    assert gap(rows([1.0]), rows([0.0]), "stoi") == single
    # Four clips each of two women and two men: what a speaker does is seen twice, not eight times.
    women = rows([1, 1.1, 1, 1.1, 3, 3.1, 3, 3.1], speaker="aaaabbbb")
    men = rows([1, 1.1, 1, 1.1, 2, 2.1, 2, 2.1], speaker="ccccdddd")
    wide = gap(women, men, "stoi")
    means = stats.ttest_ind([1.05, 3.05], [1.05, 2.05], equal_var=False).confidence_interval()
    assert (wide["low"], wide["high"]) == pytest.approx((means.low, means.high))


def rows_of_values(values: Any) -> list[dict[str, Any]]:
    return [{"metrics": {"estoi": float(v)}, "labels": {}} for v in values]


def test_the_worst_tenth_has_an_interval_that_covers() -> None:
    """Of a normal distribution, the mean of the lowest tenth lies at -1.755 standard deviations."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = rng.normal(0, 1, 100)
        found = worst_tenth(rows_of_values(values), "estoi")
        assert found["mean"] == pytest.approx(np.sort(values)[:10].mean())
        covered += found["low"] <= -1.755 <= found["high"]
    assert 0.85 <= covered / 200 <= 0.99
    few = worst_tenth(rows_of_values([1, 3]), "estoi")
    assert (few["mean"], few["low"] < 1) == (1, True)
    assert worst_tenth(rows_of_values([1]), "estoi")["low"] is None
