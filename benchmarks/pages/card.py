"""The model card of a shipped enhancer, written from checked records and from nothing else.

Every figure comes out of a record of `benchmarks.pages.card_records`; only sentences that hold for
any model stand here. What its author wants to say beside them is a file of notes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.results import Row
from benchmarks.figures.tables import DIGITS, metric_title, number, size
from benchmarks.guard.tables import harm_tables
from benchmarks.guard.tables import notes as guard_notes
from benchmarks.latency.tables import latency_tables, machine_lines
from benchmarks.pages.card_records import Records, gather, gather_guards, model_name
from benchmarks.quality.tables import gain_table, group_tables, quality_table
from distill.training import card
from enhance.config.settings import dump_yaml
from enhance.device.hub import MODELS, find_model
from enhance.errors import EnhanceError
from enhance.files import refuse_existing, sha256, write_text
from enhance.measure.metrics import METRICS, TITLES
from export.metadata import UNKNOWN

GUARDS, LIMITS = "Does it harm?", "Limits"
"""Sections that tell of guards."""

GUARDED = "- On "
"""Lines of the limits that tell of guards begin so."""


def write_card(
    model: str | Path,
    run: Path | str,
    results: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    corpus: Path | str | None = None,
    config: Path | str | None = None,
    notes: Path | str | None = None,
    force: bool = False,
) -> Path:
    """Write the card of one ONNX file; what ``enhance card`` does.

    Parameters
    ----------
    model
        ONNX file or shipped name; its certificate stands beside it.
    run
        Folder of the run that trained it: config, history, list of files heard.
    results
        Report folders or ``results.jsonl`` files with rows of this very file from
        ``enhance evaluate``, ``enhance guard`` and ``enhance bench``.
    out
        The card. None: ``NAME.md`` beside the model.
    corpus
        Where the run's corpus lies, if not where the run found it: hours, languages and licences
        come from its manifest.
    config
        Preset that the training command names; what the run changed is added to it. None: the
        run's own ``config.yaml``, which the card holds in full.
    notes
        Markdown on intended use and limits, put in as it is.
    force
        Overwrite a card.

    Raises
    ------
    EnhanceError
        If a record is missing or belongs to another model, or ``out`` exists.
    """
    path = find_model(model)
    target = Path(out) if out is not None else path.with_name(f"{model_name(path)}.md")
    refuse_existing(target, force=force)
    records = gather(path, run, results, corpus=corpus, config=config, notes=notes)
    write_text(target, _text(records))
    return target


def renew_guards(
    model: str | Path, results: Sequence[Path | str], out: Path | str | None = None
) -> Path:
    """Write anew what a card tells of guards, all else as it stands; ``enhance card --guards``.

    Arguments as those of `benchmarks.pages.card.write_card`; of the rows only those of ``enhance
    guard`` count.

    Raises
    ------
    EnhanceError
        If there is no card of this very file, or no guard rows of it.
    """
    path = find_model(model)
    target = Path(out) if out is not None else path.with_name(f"{model_name(path)}.md")
    found = gather_guards(path, results)
    try:
        text = target.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{target}: no card to renew ({error}); leave out --guards") from error
    head, *sections = text.rstrip("\n").split("\n\n## ")
    titles = [section.partition("\n")[0] for section in sections]
    if f"`{sha256(path)}`" not in head or not {GUARDS, LIMITS} <= set(titles):
        raise EnhanceError(f"{target}: is no card of this {path.name}; leave out --guards")
    guards, limits = titles.index(GUARDS), titles.index(LIMITS)
    sections[guards] = guard_section(found).removeprefix("## ")
    told = [line for line in sections[limits].split("\n")[2:] if not line.startswith(GUARDED)]
    sections[limits] = "\n".join([LIMITS, "", *guard_limits(found), *told])
    write_text(target, "\n\n## ".join([head, *sections]) + "\n")
    return target


def _text(r: Records) -> str:
    m = r.metadata
    sources = [row["source"] for use in ("train", "noise") for row in r.data[use] if row["source"]]
    tags = ["speech-enhancement", "noise-suppression", "streaming", "onnx"]
    front = {
        "license": m["licence"].lower(),
        "language": card.languages(r.data),
        "library_name": "onnxruntime",
        "pipeline_tag": "audio-to-audio",
        "tags": [*tags, m["model_type"], m["quantization"]],
        "datasets": list(dict.fromkeys(sources)),
        "metrics": list(METRICS),
        "model_name": r.name,
        "eval_results": [result for rows in r.quality for result in _results(rows[-1])],
    }
    return card.render(
        Path(__file__).with_name("card.md.jinja"),
        front,
        r=r,
        m=m,
        rate=int(m["sample_rate"]),
        called=r.name if r.path.resolve().parent == MODELS.resolve() else r.path.name,
        quality=[[{**row, "set": Path(row["set"]).name} for row in pair] for pair in r.quality],
        titles={metric: TITLES[metric] for metric in METRICS},
        export=_export_command(r),
        config=dump_yaml(r.config).rstrip(),
        spoken=front["language"],
        number=number,
        size=size,
        quality_table=quality_table,
        gain_table=gain_table,
        group_tables=group_tables,
        guard_section=guard_section,
        guard_limits=guard_limits,
        latency_tables=latency_tables,
        machine_lines=machine_lines,
    )


def _results(row: Row) -> list[Any]:
    from huggingface_hub import EvalResult

    place = Path(row["set"]).name
    snr = "" if row["snr_db"] is None else f" at {row['snr_db']:g} dB"
    return [
        EvalResult(
            task_type="audio-to-audio",
            task_name="speech enhancement",
            dataset_name=f"{place}{snr}, {row['clips']} clips",
            dataset_type=place,
            dataset_revision=row["set_hash"],
            metric_type=metric,
            metric_name=metric_title(metric),
            metric_value=round(row["metrics"][metric]["mean"], DIGITS[metric]),
        )
        for metric in METRICS
        if row["metrics"][metric]["mean"] is not None
    ]


def _export_command(r: Records) -> str:
    kind = r.metadata["quantization"]
    mode = f" --{kind}" if kind in ("int8", "int8-weights") else ""
    clips = "" if r.certificate["measured_on"]["synthetic"] else " --set DEV"
    run = r.command.rpartition("--run ")[2]
    licence, told = r.metadata["licence"], str(r.training.get("licence", UNKNOWN))
    stated = f" --licence {shlex.quote(licence)}" if licence != told else ""
    return f"enhance export {run} --onnx{mode}{clips}{stated} -o {r.name}.onnx"


def guard_section(guards: Sequence[Sequence[Row]]) -> str:
    """Every check, figure and note, one part for each set: the noisy input, then the model."""
    parts = [f"## {GUARDS}"]
    for pair in guards:
        rows = [{**row, "set": Path(row["set"]).name} for row in pair]
        row = rows[-1]
        parts.append(
            f"`enhance guard` on {row['set']} (set `{row['set_hash'][:12]}`), at most "
            f"{row['limit']} clips of a condition; intervals: {row['interval']}."
        )
        first, *others = harm_tables(rows)
        parts.append(first.markdown())
        for table in others:
            parts += [f"**{table.title}**", table.markdown()]
        parts.append("\n".join(f"- {line}" for line in guard_notes(rows)))
    return "\n\n".join(parts)


def guard_limits(guards: Sequence[Sequence[Row]]) -> list[str]:
    """What fails, is not shown or was not measured."""
    lines = []
    for pair in guards:
        row = pair[-1]
        place = Path(row["set"]).name
        for verdict, words in (
            ("fail", "fails"),
            ("not shown", f"not shown by at most {row['limit']} clips"),
            ("not measured", "was not measured"),
        ):
            found: dict[str, list[str]] = {}
            for check in row["checks"]:
                if check["verdict"] == verdict:
                    case, _, figure = check["name"].partition(": ")
                    found.setdefault(case, []).append(figure)
            told = (f"{case} ({'; '.join(x)})" if any(x) else case for case, x in found.items())
            lines += [f"{GUARDED}{place} {words}: {'; '.join(told)}."] if found else []
        if all(check["verdict"] == "pass" for check in row["checks"]):
            lines.append(
                f"{GUARDED}{place} every guard passes; what no guard measures is not known."
            )
    return lines
