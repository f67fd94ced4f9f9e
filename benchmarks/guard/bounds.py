"""What counts as harm: the bounds of `benchmarks.guard.run`, and each figure held against its
own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.figures.tables import with_interval
from benchmarks.guard import cases as c
from benchmarks.quality.clips import Row
from enhance.measure.metrics import TITLES, UNITS

JUDGED = ("pesq_wb", "estoi", "si_sdr")
"""Metrics whose gains are held against a bound."""

DIGITS = 3
"""Decimals that a verdict looks at, and that are shown."""


@dataclass(frozen=True)
class Harm:
    """Bounds. A figure is held against its bound as it is shown, rounded to `DIGITS`."""

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
    overshoot_db: float = 3.0
    """Largest rise of any peak over the input's: an input with 3 dB headroom does not clip."""
    sex_pesq: float = 0.1
    """Largest difference of PESQ-WB gain between women and men; fails where the whole interval
    of the difference lies beyond it."""
    sex_estoi: float = 0.05
    """Likewise of ESTOI gain."""
    sex_si_sdr_db: float = 2.0
    """Likewise of SI-SDR gain."""


@dataclass(frozen=True)
class Check:
    """One figure against its bound."""

    name: str
    value: float | None
    """None where nothing was measured."""
    sign: Literal[">=", "<="]
    bound: float
    unit: str
    verdict: Literal["pass", "fail", "not measured"]
    detail: str = ""
    """What the figure does not tell."""


class _Checks:
    """Collects the checks of one model."""

    def __init__(self, cases: Mapping[str, Row]) -> None:
        self.cases = cases
        self.done: list[Check] = []

    def add(
        self,
        name: str,
        value: float | None,
        sign: Literal[">=", "<="],
        bound: float,
        unit: str = "",
        *,
        broken: str = "",
        detail: str = "",
    ) -> None:
        """Hold a figure against its bound; ``broken`` fails it whatever the figure."""
        verdict: Literal["pass", "fail", "not measured"] = "not measured"
        if broken:
            verdict = "fail"
        elif value is not None:
            figure = round(value, DIGITS)
            verdict = "pass" if (figure >= bound if sign == ">=" else figure <= bound) else "fail"
        self.done.append(Check(name, value, sign, bound, unit, verdict, broken or detail))

    def metric(self, name: str, case: str, metric: str, value: Any, bound: float) -> None:
        """Hold a figure that needs a metric of a case: a clip that the model lost fails it."""
        broken = ""
        entry = self.cases[case]["metrics"][metric] if case in self.cases else {"lost": 0}
        if entry["lost"]:
            broken = f"no {TITLES[metric]} for {entry['lost']} outputs ({entry['reason']})"
        self.add(name, value, ">=", bound, UNITS[metric], broken=broken)

    def output(self, name: str, case: str, value: float | None, bound: float, unit: str) -> None:
        """Hold a figure that needs every output of a case."""
        errors = self.cases[case]["errors"]
        broken = f"no output for {len(errors)} inputs ({errors[0]['error']})" if errors else ""
        self.add(name, value, "<=", bound, unit, broken=broken)


def judge(summary: Mapping[str, Any], bounds: Harm) -> list[Check]:
    """Hold one model's figures against the bounds.

    Parameters
    ----------
    summary
        Its `cases`, `groups` and `levels`, as in a row of kind ``harm``.
    bounds
        What to hold them against.

    Returns
    -------
    list of Check
        Always the same checks in the same order; what was not measured says so.
    """
    cases: Mapping[str, Row] = summary["cases"]
    groups: Mapping[str, Row] = summary["groups"]
    checks = _Checks(cases)
    failed = [error for case in cases.values() for error in case["errors"]]
    first = f"{failed[0]['clip']}: {failed[0]['error']}" if failed else ""
    checks.add("inputs without a finite output", len(failed), "<=", 0, detail=first)
    over = [case["overshoot_db"] for case in cases.values() if case["overshoot_db"] is not None]
    checks.add("rise of a peak", max(over, default=None), "<=", bounds.overshoot_db, "dB")
    _clean(checks, bounds)
    for case in (*c.SNRS, *c.LEVELS, *c.KINDS, c.LANGUAGE):
        for metric in JUDGED:
            gain = cases[case]["metrics"][metric]["gain"]["mean"] if case in cases else None
            checks.metric(f"{case}: gain of {TITLES[metric]}", case, metric, gain, bounds.gain)
    unheard = groups["speaker"]["values"]["unheard"]["gain"] if "speaker" in groups else {}
    for metric in JUDGED:
        entry = unheard.get(metric)
        name = f"speakers never heard: gain of {TITLES[metric]}"
        checks.metric(name, c.HARD, metric, entry and entry["mean"], bounds.gain)
    apart = groups["signals"]["difference"] if "signals" in groups else {}
    for metric in JUDGED:
        entry = apart.get(metric)
        name = f"alarms against other noise: {TITLES[metric]} gain"
        detail = f"paired {with_interval(entry, DIGITS, True)}" if entry else ""
        value = entry and entry["mean"]
        checks.add(name, value, ">=", bounds.signals, UNITS[metric], detail=detail)
    for case in c.LEVELS:
        for metric, bound in (
            ("pesq_wb", bounds.level_pesq),
            ("si_sdr", bounds.level_si_sdr_db),
        ):
            entry = summary["levels"][case][metric]
            name = f"{case}: change of {TITLES[metric]} gain"
            checks.metric(name, case, metric, entry and entry["mean"], -bound)
    for case in (c.SILENCE, c.TAIL):
        peak = cases[case]["peak_out_dbfs"]
        checks.output(f"{case}: largest sample", case, peak, bounds.silence_dbfs, "dBFS")
    for case in (c.DITHER, c.ROOM, c.NOISE):
        change = cases[case]["change_db"]["mean"]
        checks.output(f"{case}: change of level", case, change, bounds.louder_db, "dB")
    difference = groups["sex"]["difference"] if "sex" in groups else {}
    gaps = (bounds.sex_pesq, bounds.sex_estoi, bounds.sex_si_sdr_db)
    for metric, bound in zip(JUDGED, gaps, strict=True):
        entry = difference.get(metric)
        detail = f"women - men {with_interval(entry, DIGITS, True)}" if entry else ""
        name = f"women, men: gap of {TITLES[metric]} gain, at least"
        checks.add(name, _near(entry), "<=", bound, UNITS[metric], detail=detail)
    return checks.done


def _clean(checks: _Checks, bounds: Harm) -> None:
    for case in c.CLEAN:
        figures = checks.cases[case]
        for metric, mean, worst in (
            ("pesq_wb", bounds.clean_pesq, bounds.clean_pesq_worst),
            ("si_sdr", bounds.clean_si_sdr_db, bounds.clean_si_sdr_worst_db),
        ):
            entry, name = figures["metrics"][metric], f"{case}: {TITLES[metric]}"
            checks.metric(name, case, metric, entry["mean"], mean)
            checks.metric(f"{name}, worst tenth", case, metric, entry["worst_tenth"], worst)
        change = figures["change_db"]["mean"]
        size = None if change is None else abs(change)
        checks.output(f"{case}: change of level", case, size, bounds.clean_change_db, "dB")


def _near(entry: Row | None) -> float | None:
    """Distance of zero from the interval; 0 where it holds zero or there is none."""
    if not entry:
        return None
    if entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return 0.0
    return float(min(abs(entry["low"]), abs(entry["high"])))
