"""Tables of what `benchmarks.guard.run` found: nothing here measures anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.figures.results import Row
from benchmarks.figures.tables import (
    DIGITS,
    Table,
    metric_cell,
    metric_title,
    number,
    plus_minus,
    show,
    with_interval,
)
from benchmarks.guard import bounds
from benchmarks.guard.cases import EXACT_DB, FIGURES
from enhance.measure.metrics import METRICS

if TYPE_CHECKING:
    from benchmarks.guard.run import Guard

SIGNS = {">=": "≥", "<=": "≤", "within": "±"}


def checks_table(rows: Sequence[Row]) -> Table:
    """Every check with its bound, one column per model; empty without a model.

    A dash where a model was not asked, by a version that had no such check.
    """
    judged = [row for row in rows if row["checks"]]
    table = Table("harm guards", ["check", "bound", *(row["model"] for row in judged)])
    by_name = [{check["name"]: check for check in row["checks"]} for row in judged]
    for name in dict.fromkeys(name for own in by_name for name in own):
        first = next(own[name] for own in by_name if name in own)
        unit = first["unit"] if first["unit"].startswith("dB") else ""
        bound = f"{SIGNS[first['sign']]} {first['bound']:g} {unit}".strip()
        cells = (_verdict(own[name]) if name in own else "-" for own in by_name)
        table.rows.append([name, bound, *cells])
    return table


def _verdict(check: Row) -> str:
    told, value = check["verdict"], check["value"]
    if told == "not measured":
        return told
    entry = {"mean": value, "low": check.get("low"), "high": check.get("high")}
    figure = str(value) if isinstance(value, int) else with_interval(entry, bounds.DIGITS)
    return f"{figure} {'FAIL' if told == 'fail' else told}"


def cases_table(rows: Sequence[Row]) -> Table:
    """Every condition, one line per model, the input first."""
    headers = ["condition", "clips", "model", *(metric_title(metric) for metric in METRICS)]
    headers += ["worst tenth PESQ-WB", "worst tenth SI-SDR", "level dB", "peak rise dB"]
    table = Table("figures by condition: mean and 95 % interval", [*headers, "peak dBFS"])
    for case, model in _by_case(rows):
        entry = model["cases"][case]
        metrics = entry["metrics"]
        worst = (
            number(metrics.get(metric, {}).get("worst_tenth"), DIGITS[metric])
            for metric in ("pesq_wb", "si_sdr")
        )
        levels = (
            plus_minus(entry["change_db"], 2, True),
            number(entry["overshoot_db"], 2, True),
            number(entry["peak_out_dbfs"], 1),
        )
        cells = (metric_cell(metrics.get(metric), metric) for metric in METRICS)
        table.rows.append([*_start(case, model), *cells, *worst, *levels])
    return table


def gains_table(rows: Sequence[Row]) -> Table:
    """Gain over the input where metrics have a meaning, and its change with the level."""
    headers = ["condition", "clips", "model", *(metric_title(metric) for metric in METRICS)]
    table = Table("gain over the input (paired)", headers)
    for case, model in _by_case(rows):
        entry = model["cases"][case]
        if model["model_kind"] == "noisy" or not set(METRICS) <= entry["metrics"].keys():
            continue
        gains = (metric_cell(entry["metrics"][m]["gain"], m, True) for m in METRICS)
        table.rows.append([*_start(case, model), *gains])
        if case in model["levels"]:
            changes = model["levels"][case]
            cells = (metric_cell(changes[m], m, True) for m in METRICS)
            least = min((changes[m]["n"] for m in METRICS if changes[m]), default=0)
            table.rows.append(["... against the usual level", str(least), model["model"], *cells])
    return table


def group_tables(rows: Sequence[Row]) -> list[Table]:
    """Gains of groups apart, and their difference with its interval."""
    titles = {
        "sex": "women and men: gain at -5 dB",
        "speaker": "speakers that training heard, and others: gain at -5 dB",
        "language": "another language, and the set's: gain at -5 dB",
        "signals": "alarms and other signals, and other noise from formulas: gain at -5 dB",
    }
    tables = []
    for key, title in titles.items():
        headers = ["group", "clips", "speakers", "model", *map(metric_title, METRICS)]
        headers.append("speech level dB")
        table = Table(title, headers)
        for row in rows:
            group = row["groups"].get(key)
            if not group or row["model_kind"] == "noisy":
                continue
            for name, value in group["values"].items():
                cells = (metric_cell(value["gain"].get(m), m, True) for m in FIGURES)
                counts = [str(value["clips"]), str(value["speakers"] or "-")]
                table.rows.append([name, *counts, row["model"], *cells])
            gap = group["difference"]
            cells = (with_interval(gap.get(m), DIGITS.get(m, 2), True) for m in FIGURES)
            table.rows.append([gap["of"], "", "", row["model"], *cells])
        if table.rows:
            tables.append(table)
    return tables


def harm_tables(rows: Sequence[Row]) -> list[Table]:
    """All tables of one guard run, the verdicts first."""
    tables = [checks_table(rows), cases_table(rows), gains_table(rows), *group_tables(rows)]
    return [table for table in tables if table.rows]


def notes(rows: Sequence[Row]) -> list[str]:
    """What the tables do not tell: why checks failed, what was made, where recordings are from."""
    first = rows[0]
    lines = [
        f"{row['model']}: {check['name']}: {check['detail']}"
        for row in rows
        for check in row["checks"]
        if check["detail"]
    ]
    lines.append(
        "level: output against input, rms; peak rise: the largest of all clips; worst tenth: mean "
        "of the tenth of the clips with the lowest values; clean speech is measured against "
        f"itself, and {EXACT_DB:g} dB stands for an exact copy"
    )
    lines.append(
        "not shown: the interval lies across the bound, so that more clips could show either; "
        "each interval is one of 95 % by itself, however many checks there are"
    )
    made = [case for case, entry in first["cases"].items() if entry["synthetic"]]
    if made:
        lines.append(f"made from formulas, not recorded: {', '.join(made)}")
    for kind, given in first["given"].items():
        if given:
            told = [f"{given['files']} files"]
            told += [", ".join(given[key]) for key in ("sources", "languages") if given[key]]
            told += ["licence: " + "; ".join(given["licences"])] if given["licences"] else []
            lines.append(f"{kind}: {', '.join(told)}")
    lines.append("groups differ in their noises too, where the set does not cross the two; level "
                 "of what should stay: the part of the output that is the clean signal, against "
                 "the input's")  # fmt: skip
    return lines


def harm_section(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown report on rows of one set."""
    first = rows[0]
    parts = [f"## Harm guards: {first['set']}, set {first['set_hash'][:12]}", ""]
    parts += [f"At most {first['limit']} clips of a condition; intervals: {first['interval']}.", ""]
    parts += [line for table in harm_tables(rows) for line in table.section()]
    return [*parts, *(f"- {line}" for line in notes(rows)), ""]


def show_guard(found: Guard) -> None:
    """Print what `benchmarks.guard.run.guard` found."""
    show(harm_tables(found.models), found.warnings)
    for line in notes(found.models):
        print(f"- {line}")
    for row in found.models:
        counts = Counter(check["verdict"] for check in row["checks"])
        if counts:
            print(
                f"{row['model']}: {counts['pass']} passed, {counts['fail']} failed, "
                f"{counts['not shown']} not shown, {counts['not measured']} not measured"
            )
    print(f"set hash {found.models[0]['set_hash']}; report: {found.folder / 'report.md'}")


def _by_case(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    names = dict.fromkeys(case for row in rows for case in row["cases"])
    return [(case, row) for case in names for row in rows if case in row["cases"]]


def _start(case: str, model: Row) -> list[str]:
    """Condition, clips and model: what a line begins with."""
    entry = model["cases"][case]
    name = f"{case} (made)" if entry["synthetic"] else case
    return [name, str(entry["clips"]), model["model"]]
