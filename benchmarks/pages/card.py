"""The model card of a shipped enhancer, written from checked records and from nothing else.

Every figure comes out of a record of `benchmarks.pages.card_records`; only sentences that hold for
any model stand here. What its author wants to say beside them is a file of notes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.tables import DIGITS, Table, number, size
from benchmarks.latency.tables import latency_tables, machine_lines
from benchmarks.pages.card_guards import LIMITS, guard_limits, guard_section
from benchmarks.pages.card_records import Records, gather, model_name
from benchmarks.quality.tables import gain_table, group_tables, quality_table
from enhance.data.inventory import LANGUAGES, source_table
from enhance.device.hub import MODELS, find_model
from enhance.errors import EnhanceError
from enhance.files import atomic
from enhance.measure.metrics import METRICS, TITLES
from enhance.settings import dump_yaml
from export.metadata import UNKNOWN

Row = dict[str, Any]

CURVE_ROWS = 12
"""Validations of a long run that are shown, evenly spread, beside that of the kept weights."""


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
    if target.exists() and not force:
        raise EnhanceError(f"{target}: exists already; overwrite it with --force")
    records = gather(path, run, results, corpus=corpus, config=config, notes=notes)
    with atomic(target) as temporary:
        temporary.write_text(text(records), "utf-8")
    return target


def text(records: Records) -> str:
    """The card: front matter of the Hugging Face hub, then Markdown."""
    parts = [
        _front_matter(records),
        _what(records),
        f"## Intended use\n\n{records.notes}" if records.notes else "",
        _quality(records),
        guard_section(records.harm),
        _speed(records),
        _proof(records),
        _data(records),
        _training(records),
        _limits(records),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(r: Records) -> str:
    spoken = [language for row in r.data["train"] for language in row["languages"]]
    sources = [row["source"] for use in ("train", "noise") for row in r.data[use] if row["source"]]
    tags = ["speech-enhancement", "noise-suppression", "streaming", "onnx"]
    values = {
        "license": r.metadata["licence"].lower(),
        "language": sorted(set(spoken)),
        "library_name": "onnxruntime",
        "pipeline_tag": "audio-to-audio",
        "tags": [*tags, r.metadata["model_type"], r.metadata["quantization"]],
        "datasets": list(dict.fromkeys(sources)),
        "metrics": list(METRICS),
        "model-index": [{"name": r.name, "results": [_result(rows[-1]) for rows in r.quality]}],
    }
    return f"---\n{dump_yaml({key: value for key, value in values.items() if value})}---"


def _result(row: Row) -> Row:
    place = Path(row["set"]).name
    snr = "" if row["snr_db"] is None else f" at {row['snr_db']:g} dB"
    return {
        "task": {"type": "audio-to-audio", "name": "speech enhancement"},
        "dataset": {
            "name": f"{place}{snr}, {row['clips']} clips",
            "type": place,
            "revision": row["set_hash"],
        },
        "metrics": [
            {
                "type": metric,
                "name": TITLES[metric] + (" dB" if metric == "si_sdr" else ""),
                "value": round(row["metrics"][metric]["mean"], DIGITS[metric]),
            }
            for metric in METRICS
            if row["metrics"][metric]["mean"] is not None
        ],
    }


def _what(r: Records) -> str:
    m = r.metadata
    rate = int(m["sample_rate"])
    called = r.name if r.path.resolve().parent == MODELS.resolve() else r.path.name
    lengths = {
        name: f"{1000 * int(m[key]) / rate:g} ms"
        for name, key in (
            ("window", "window_length"),
            ("hop", "hop_length"),
            ("algorithmic latency", "algorithmic_latency_samples"),
        )
    }
    table = Table(
        "",
        ["", ""],
        [
            ["file", f"`{r.path.name}`, {size(r.certificate['bytes'])}"],
            ["SHA-256", f"`{r.sha256}`"],
            ["parameters", f"{int(m['parameters']):,}"],
            ["arithmetic", size(int(m["macs_per_second"]), "MAC/s")],
            ["weights", m["quantization"]],
            ["sample rate", f"{rate} Hz: nothing above {rate // 2} Hz is kept"],
            *([name, value] for name, value in lengths.items()),
            ["made by", f"{m['producer']}, opset {m['opset']}"],
            ["licence", m["licence"]],
        ],
    )
    return "\n".join(
        [
            f"# {r.name}",
            "",
            "A causal speech enhancer: one streaming ONNX file, a hop of audio and named states "
            "in, a hop of audio and the states out. This page is generated from records of this "
            "very file by `enhance card`.",
            "",
            "```sh",
            f"enhance run --model {called} noisy.wav",
            "```",
            "",
            table.markdown(),
        ]
    )


def _quality(r: Records) -> str:
    parts = ["## Quality"]
    for pair in r.quality:
        rows = [{**row, "set": Path(row["set"]).name} for row in pair]
        table, row = quality_table(rows), rows[-1]
        interval = f"Intervals: {row['interval']}. Set hash `{row['set_hash']}`."
        parts += [f"{table.title}. {interval}", table.markdown()]
        for other in (gain_table(rows), *group_tables(rows)):
            parts += [f"**{other.title}**", other.markdown()]
        refused = [f"{x['metric']} refused {x['clip']} ({x['reason']})" for x in row["refusals"]]
        parts += ["; ".join(refused)] if refused else []
        parts.append(_heard(row))
    return "\n\n".join(parts)


def _heard(row: Row) -> str:
    heard = row["heard"]
    if not heard["checked"]:
        return "Whether training heard files of this set was not checked: no list was found."
    return (
        f"Of the {row['clips']} test clips, {len({clip for clip, _ in heard['same_bytes']})} hold "
        f"a file of training by bytes and {len({clip for clip, _ in heard['same_name']})} by name "
        f"({heard['files']} files heard)."
    )


def _speed(r: Records) -> str:
    row = r.latency
    parts = ["## Speed", "  \n".join(machine_lines(row["hardware"]))]
    if row["first"] == row["model"]:
        first = "first of its bench run, so that ratios are to itself"
    else:
        first = f"measured against {row['first']} in one run"
    parts.append(
        f"One thread; {first}. Hot: frames back to back; cold: caches used by something else "
        "between frames; paced: real time, sleeping between frames."
    )
    for table in latency_tables([row]):
        parts += [f"**{table.title}**", table.markdown()]
    parts += ["\n".join(f"- {line}" for line in row["warnings"])] if row["warnings"] else []
    return "\n\n".join(parts)


def _proof(r: Records) -> str:
    record = r.certificate
    on, equality, ahead = record["measured_on"], record["equality"], record["look_ahead"]
    kind = "synthetic" if on["synthetic"] else "real"
    lines = [
        "## Proof that the file is the trained model",
        "",
        f"From `{r.path.with_suffix('.certificate.json').name}`, on {len(on['clips'])} {kind} "
        f"clips ({on['seconds']:g} s) of {on['set']}, set `{on['set_sha256'][:12]}`:",
        "",
    ]
    names = {
        "torch_streaming": "torch, hop by hop",
        "onnx_fp32": "ONNX fp32, streamed",
        "onnx_quantized": f"ONNX {record['quantization']}, streamed",
    }
    headers = ["against torch offline", "largest difference", *(f"Δ {TITLES[m]}" for m in METRICS)]
    table = Table("", headers)
    for key, name in names.items():
        if key in equality:
            scores = record["metrics"][key]
            cells = (number(scores.get(m, {}).get("difference"), 4, True) for m in METRICS)
            table.rows.append([name, f"{equality[key]['max_abs_error']:.1e}", *cells])
    lines.append(table.markdown())
    lines += [
        "",
        f"- Looks {ahead['measured_samples']} samples ahead, measured on torch over whole signals "
        f"by changing the future of {ahead['tried']['positions']} samples, every one of a hop "
        f"among them; {ahead['algorithmic_samples']} by design.",
    ]
    if "onnx_quantized" in equality:
        snr, speed = equality["onnx_quantized"]["snr_db"], record["speed"]
        share = record["operators"]["int8_weight_share"]
        fidelity = "equal on every clip"
        if snr["worst"] is not None:
            fidelity = f"SNR {snr['worst']:.1f} dB on the worst clip, mean {snr['mean']:.1f} dB"
        lines += [
            f"- Quantised against fp32: {fidelity}; "
            f"{100 * share:.0f} % of the weights in int8; "
            f"{record['bytes'] / record['fp32_bytes']:.2f} of fp32's size, "
            f"{speed['ratio']:.2f} of its time ({speed['processor']})."
        ]
    return "\n".join(lines)


def _data(r: Records) -> str:
    lines = ["## Data", "", *source_table(r.data)]
    lines += ["No audio is contained in the model. Licences are those that the corpus's manifest "
              "states."]  # fmt: skip
    return "\n".join(lines)


def _training(r: Records) -> str:
    training, score = r.training, r.training["score"]
    time = "" if r.seconds is None else f", {r.seconds / 60:.1f} minutes"
    if "device" in training:
        time += f" on {training['device']}"
    lines = [
        "## Training",
        "",
        "```sh",
        r.command,
        _export_command(r),
        "```",
        "",
        f"Mode {training['mode']}, seed {training['seed']}. The weights are those of step "
        f"{score['step']} of {r.last_step}{time}: {r.hours_heard:.1f} h of mixtures "
        f"(steps of {r.config['training']['batch_size']} mixtures of "
        f"{r.config['mixing']['segment_seconds']:g} s), SNR "
        f"{r.config['mixing']['snr'][0]:g} to {r.config['mixing']['snr'][1]:g} dB.",
    ]
    if "init" in training:
        lines += ["", f"It began with the weights of {training['init']['checkpoint']} (SHA-256 "
                  f"{training['init']['sha256'][:12]}); the figures count from there."]  # fmt: skip
    if "branch" in training:
        source = training["branch"]
        lines += ["", f"It went on from step {source['step']} of {source['checkpoint']} (state "
                  f"{source['sha256'][:12]}); the figures count that run's steps too."]  # fmt: skip
    if r.newer:
        lines += ["", f"These settings came after the run, which had no such thing; the command "
                  f"leaves them at today's defaults: {', '.join(r.newer)}."]  # fmt: skip
    if r.curve:
        lines += ["", "Validation on what training holds back:", "", _curve(r).markdown()]
    lines += ["", "<details><summary>config.yaml</summary>", "", "```yaml"]
    return "\n".join([*lines, dump_yaml(r.config).rstrip(), "```", "", "</details>"])


def _curve(r: Records) -> Table:
    kept = r.training["score"]["step"]
    step = max(1, -(-len(r.curve) // CURVE_ROWS))
    table = Table("", ["step", "SI-SDR dB", "gain dB", "PESQ-WB", ""])
    for index, row in enumerate(r.curve):
        if (len(r.curve) - 1 - index) % step and row["step"] != kept:
            continue
        cells = [number(row["si_sdr"], 2), number(row["si_sdr_gain"], 2, True)]
        cells += [number(row["pesq_wb"], 3), "kept" if row["step"] == kept else ""]
        table.rows.append([str(row["step"]), *cells])
    return table


def _export_command(r: Records) -> str:
    mode = {"int8": " --int8", "int8-weights": " --int8-weights"}.get(
        r.metadata["quantization"], ""
    )
    clips = "" if r.certificate["measured_on"]["synthetic"] else " --set DEV"
    run = r.command.rpartition("--run ")[2]
    licence, told = r.metadata["licence"], str(r.training.get("licence", UNKNOWN))
    stated = f" --licence {shlex.quote(licence)}" if licence != told else ""
    return f"enhance export {run} --onnx{mode}{clips}{stated} -o {r.name}.onnx"


def _limits(r: Records) -> str:
    spoken = sorted({x for row in r.data["train"] for x in row["languages"]})
    hours = {use: sum(row["hours"] for row in r.data[use]) for use in ("train", "noise")}
    lines = [f"## {LIMITS}", "", *guard_limits(r.harm)]
    if spoken:
        lines.append(f"- Heard {', '.join(LANGUAGES.get(x, x) for x in spoken)}.")
    largest = max(r.data["train"], key=lambda row: row["hours"])
    lines += [
        f"- {hours['train']:.2f} h of speech and {hours['noise']:.2f} h of noise, of which "
        f"{largest['source']} is {100 * largest['hours'] / hours['train']:.0f} % of the speech.",
        "- One seed, one run: nothing here says how another seed would do.",
    ]
    return "\n".join(lines)
