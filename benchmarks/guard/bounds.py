"""What counts as harm: the bounds of `benchmarks.guard.run`, and each figure held against its
own.

A mean over some clips is known to its interval only. It passes where the whole interval lies within
the bound, fails where the whole lies outside, and is *not shown* between; one clip gives no
interval, and shows nothing. A count or a largest sample over all that was played is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.guard import cases as c
from benchmarks.quality.clips import Row

JUDGED = ("pesq_wb", "estoi", "si_sdr")
"""Metrics whose gains are held against a bound."""

DIGITS = 3
"""Decimals that a verdict looks at, and that are shown."""


Sign = Literal[">=", "<=", "within"]
"""Side of the bound that is allowed; ``"within"`` allows up to the bound, up or down."""

Verdict = Literal["pass", "fail", "not shown", "not measured"]


@dataclass(frozen=True)
class Harm:
    """Bounds. Limits are held against them as they are shown, rounded to `DIGITS`."""

    clean_pesq: float = 3.5
    """Least mean PESQ-WB of clean speech against itself: between fair and good in MOS."""
    clean_pesq_worst: float = 3.0
    """Least mean PESQ-WB of the worst tenth of the clips: fair."""
    clean_si_sdr_db: float = 15.0
    """Least mean SI-SDR of clean speech: what is changed lies 15 dB below what stays."""
    clean_si_sdr_worst_db: float = 10.0
    """Least mean SI-SDR of the worst tenth."""
    clean_change_db: float = 1.0
    """Largest mean change of clean speech's level, up or down: about what can just be heard."""
    gain: float = 0.0
    """Least mean gain over the input of PESQ-WB, ESTOI and SI-SDR, at each SNR and level, with
    each kind of noise from a formula, in another language and for speakers never heard: never
    worse than no enhancer."""
    signals: float = 0.0
    """Least mean of the gain of PESQ-WB, ESTOI and SI-SDR with alarms and other signals, minus
    that with other noise from formulas, on the same speech: signals are no worse."""
    level_pesq: float = 0.1
    """Largest mean loss of PESQ-WB gain when the same mixtures are quiet or loud."""
    level_si_sdr_db: float = 1.0
    """Largest mean loss of SI-SDR gain when the same mixtures are quiet or loud."""
    silence_dbfs: float = -90.0
    """Largest sample where digital silence comes in: one step of 16 bits."""
    louder_db: float = 0.1
    """Largest mean rise of dither, room noise and noise alone: no louder than the input."""
    music_db: float = -6.0
    """Least mean level of music in the output against the input: half of its amplitude stays."""
    overshoot_db: float = 3.0
    """Largest rise of any peak over the input's: an input with 3 dB headroom does not clip."""
    sex_pesq: float = 0.1
    """Largest difference of the mean PESQ-WB gain between women and men."""
    sex_estoi: float = 0.05
    """Likewise of ESTOI gain."""
    sex_si_sdr_db: float = 2.0
    """Likewise of SI-SDR gain."""
    sex_level_db: float = 1.0
    """Likewise of the change of the speech's level, which no metric above looks at."""


@dataclass(frozen=True)
class Check:
    """One figure against its bound."""

    name: str
    value: float | None
    """None where nothing was measured."""
    sign: Sign
    bound: float
    unit: str
    verdict: Verdict
    low: float | None = None
    """Lower limit of the value's interval; None for an exact figure, or where there is none."""
    high: float | None = None
    detail: str = ""
    """What the figure does not tell."""


def verdict(low: float, high: float, sign: Sign, bound: float) -> Verdict:
    """Where an interval lies: within the bound, outside, or across it."""
    low, high = round(low, DIGITS), round(high, DIGITS)
    least = -math.inf if sign == "<=" else bound if sign == ">=" else -bound
    most = math.inf if sign == ">=" else bound
    if least <= low and high <= most:
        return "pass"
    return "fail" if high < least or low > most else "not shown"


class _Checks:
    """Collects the checks of one model."""

    def __init__(self, cases: Mapping[str, Row]) -> None:
        self.cases = cases
        self.done: list[Check] = []

    def hold(
        self,
        name: str,
        value: Row | float | None,
        sign: Sign,
        bound: float,
        unit: str = "",
        *,
        broken: str = "",
        detail: str = "",
    ) -> None:
        """Hold a figure against its bound; ``broken`` fails it whatever it is.

        The row of an interval is judged by its limits; a number is a count or a largest value of
        all that was played, and exact.
        """
        exact: Row = {"mean": value, "low": value, "high": value}
        entry = value if isinstance(value, dict) else exact
        mean, low, high = (entry.get(key) for key in ("mean", "low", "high"))
        told: Verdict = "not measured"
        if broken:
            told = "fail"
        elif low is not None and high is not None:
            told = verdict(low, high, sign, bound)
        elif mean is not None:
            told, detail = "not shown", "too few clips for an interval"
        if entry is exact:
            low = high = None
        self.done.append(Check(name, mean, sign, bound, unit, told, low, high, broken or detail))

    def metric(self, name: str, case: str, metric: str, entry: Row | None, bound: float) -> None:
        """Hold a figure that needs a metric of a case: a clip that the model lost fails it."""
        broken = ""
        found = self.cases[case]["metrics"][metric] if case in self.cases else {"lost": 0}
        if found["lost"]:
            broken = f"no {c.NAMES[metric]} for {found['lost']} outputs ({found['reason']})"
        self.hold(name, entry, ">=", bound, c.UNITS[metric], broken=broken)

    def change(self, case: str, sign: Sign, bound: float) -> None:
        """Hold the change of a case's level, for which every output is needed."""
        name, entry = f"{case}: change of level", self.cases[case]["change_db"]
        self.hold(name, entry, sign, bound, "dB", broken=self.missing(case))

    def missing(self, case: str) -> str:
        """Why a case lacks outputs; empty where it has all."""
        errors = self.cases[case]["errors"]
        return f"no output for {len(errors)} inputs ({errors[0]['error']})" if errors else ""


def judge(summary: Mapping[str, Any], bounds: Harm) -> list[Check]:
    """Hold `cases`, `groups` and `levels` of one model's row of kind ``harm`` against bounds.

    Always the same checks in the same order; what was not measured says so.
    """
    cases: Mapping[str, Row] = summary["cases"]
    groups: Mapping[str, Row] = summary["groups"]
    checks = _Checks(cases)
    failed = [error for case in cases.values() for error in case["errors"]]
    first = f"{failed[0]['clip']}: {failed[0]['error']}" if failed else ""
    checks.hold("inputs without a finite output", len(failed), "<=", 0, detail=first)
    over = [case["overshoot_db"] for case in cases.values() if case["overshoot_db"] is not None]
    checks.hold("rise of a peak", max(over, default=None), "<=", bounds.overshoot_db, "dB")
    _clean(checks, bounds)
    for case in (*c.SNRS, *c.LEVELS, *c.KINDS, c.LANGUAGE):
        for metric in JUDGED:
            gain = cases[case]["metrics"][metric]["gain"] if case in cases else None
            checks.metric(f"{case}: gain of {c.NAMES[metric]}", case, metric, gain, bounds.gain)
    unheard = groups["speaker"]["values"]["unheard"]["gain"] if "speaker" in groups else {}
    for metric in JUDGED:
        name = f"speakers never heard: gain of {c.NAMES[metric]}"
        checks.metric(name, c.HARD, metric, unheard.get(metric), bounds.gain)
    apart = groups["signals"]["difference"] if "signals" in groups else {}
    for metric in JUDGED:
        name = f"alarms against other noise: {c.NAMES[metric]} gain"
        checks.hold(name, apart.get(metric), ">=", bounds.signals, c.UNITS[metric])
    for case in c.LEVELS:
        for metric, bound in (("pesq_wb", bounds.level_pesq), ("si_sdr", bounds.level_si_sdr_db)):
            name = f"{case}: change of {c.NAMES[metric]} gain"
            checks.metric(name, case, metric, summary["levels"][case][metric], -bound)
    for case in (c.SILENCE, c.TAIL):
        name, peak = f"{case}: largest sample", cases[case]["peak_out_dbfs"]
        checks.hold(name, peak, "<=", bounds.silence_dbfs, "dBFS", broken=checks.missing(case))
    for case in (c.DITHER, c.ROOM, c.NOISE):
        checks.change(case, "<=", bounds.louder_db)
    kept = cases[c.MUSIC]["metrics"][c.KEPT]["gain"]
    checks.metric(f"{c.MUSIC}: {c.NAMES[c.KEPT]}", c.MUSIC, c.KEPT, kept, bounds.music_db)
    difference = groups["sex"]["difference"] if "sex" in groups else {}
    for metric, bound in (
        ("pesq_wb", bounds.sex_pesq),
        ("estoi", bounds.sex_estoi),
        ("si_sdr", bounds.sex_si_sdr_db),
        (c.KEPT, bounds.sex_level_db),
    ):
        what = c.NAMES[metric] if metric == c.KEPT else f"{c.NAMES[metric]} gain"
        name = f"women less men: {what}"
        checks.hold(name, difference.get(metric), "within", bound, c.UNITS[metric])
    return checks.done


def _clean(checks: _Checks, bounds: Harm) -> None:
    for case in c.CLEAN:
        figures = checks.cases[case]
        for metric, mean, worst in (
            ("pesq_wb", bounds.clean_pesq, bounds.clean_pesq_worst),
            ("si_sdr", bounds.clean_si_sdr_db, bounds.clean_si_sdr_worst_db),
        ):
            entry, name = figures["metrics"][metric], f"{case}: {c.NAMES[metric]}"
            checks.metric(name, case, metric, entry, mean)
            tail = entry["worst_tenth_interval"]
            checks.metric(f"{name}, worst tenth", case, metric, tail, worst)
        checks.change(case, "within", bounds.clean_change_db)
