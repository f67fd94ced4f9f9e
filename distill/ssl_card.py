"""The model card of a pre-trained model, written from its measured record and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enhance.data.inventory import source_table
from enhance.errors import EnhanceError
from enhance.files import atomic, write_json


def write(folder: Path, probe: dict[str, Any] | None = None) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``.

    Parameters
    ----------
    folder
        Model folder.
    probe
        Result of `distill.phone_probe.probe`; put into the record first. None keeps what the
        record has.

    Raises
    ------
    EnhanceError
        If there is no record.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EnhanceError(f"{path}: no record to write a card from ({error})") from error
    if probe is not None:
        record["phone_probe"] = probe
        write_json(path, record)
    size = (folder / "model.safetensors").stat().st_size
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(text(record, folder.name, size), "utf-8")
    return folder / "README.md"


def text(record: dict[str, Any], name: str, size: int) -> str:
    """The card: front matter of the Hugging Face hub, then Markdown.

    Parameters
    ----------
    record
        As in ``record.json``.
    name
        Of the model.
    size
        Bytes of its weights.
    """
    parts = [
        _front_matter(record, name),
        _what(record, name, size),
        _data(record),
        _training(record),
        _accuracy(record),
        _probe(record),
        _limits(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: dict[str, Any], name: str) -> str:
    languages = sorted({x for row in record["data"]["train"] for x in row["languages"]})
    lines = ["---", "license: mit", "library_name: transformers", f"model_name: {name}"]
    if languages:
        lines += ["language:", *(f"- {x}" for x in languages)]
    lines += ["pipeline_tag: feature-extraction", "tags:", "- speech", "- wavlm"]
    return "\n".join([*lines, "- self-supervised", "---"])


def _what(record: dict[str, Any], name: str, size: int) -> str:
    a = record["config"]["architecture"]
    states, width = a["layers"] + 1, a["hidden"]
    blocks = f"{a['layers']} blocks of width {width}, {a['heads']} heads, inner {a['feed_forward']}"
    return f"""# {name}

A very small WavLM ({record["parameters"] / 1e6:.2f} M parameters, {size / 1e6:.1f} MB in fp16),
pre-trained without labels by `enhance pretrain-ssl`. It is the default teacher of
`enhance train --mode distill` where no larger one can be had; it is no replacement for the
published WavLM models, which heard 960 to 94,000 hours.

```python
from transformers import WavLMModel
model = WavLMModel.from_pretrained("{name}")  # folder; computes in fp32
states = model(wave, output_hidden_states=True).hidden_states  # {states} x (1, T, {width})
```

Input is 16 kHz, each clip at zero mean and unit variance (`do_normalize` in
`preprocessor_config.json`). One frame covers 400 samples, frames are 320 apart. The front end has
layer norm; attention runs in both directions, so no frame is causal. The last of the hidden
states comes before the model's final layer norm, `last_hidden_state` after it.

| | |
|---|---|
| transformer | {blocks}, norm before each sublayer |
| front end | channels {", ".join(map(str, a["conv_channels"]))} |"""


def _data(record: dict[str, Any]) -> str:
    data = record["data"]
    rows = ["## Data", "", *source_table(data)]
    if data["held_back_speakers"]:
        rows.append(f"Speakers held back: {', '.join(data['held_back_speakers'])}.")
    rows.append("Where the manifest names no speaker, held-back files may share speakers.")
    return "\n".join(rows)


def _training(record: dict[str, Any]) -> str:
    config, mix = record["config"], record["config"]["disturbance"]
    count = config.get("front_end_steps", 0)
    warm = f"Before, the convolutions alone learnt the units for {count} steps. " if count else ""
    weights = config["visible_weight"][: len(record["iterations"])]
    lines = [
        "## Training",
        "",
        "HuBERT's recipe with WavLM's mixing: predict the k-means unit of masked frames (spans of "
        "10 frames, 6.5 % of the frames start one), "
        f"{100 * mix['noise_probability']:.0f} % of the crops with noise at "
        f"{mix['noise_snr'][0]:.0f} to {mix['noise_snr'][1]:.0f} dB and "
        f"{100 * mix['speech_probability']:.0f} % with other speech over up to half of them, "
        f"targets always from the clean crop. The loss over visible frames counts "
        f"{' and '.join(f'{w:g}' for w in weights)} (by iteration) beside that "
        f"over masked ones. {warm}The later iteration goes on from the weights of the one before.",
        "",
        "| iteration | units | made from | steps | minutes, "
        f"{config['threads']} CPU thread{'s' * (config['threads'] > 1)} |",
        "|---|---|---|---|---|",
    ]
    for i, row in enumerate(record["iterations"], 1):
        lines.append(
            f"| {i} | {row['units']} | {row['features']} | {row['steps']} "
            f"| {row['seconds'] / 60:.1f} |"
        )
    steps = " ".join(f"--steps {row['steps']}" for row in record["iterations"])
    units = " ".join(f"--units {row['units']}" for row in record["iterations"])
    lines += [
        "",
        f"AdamW, peak rate {config['learning_rate']:g}, {config['batch_seconds']:g} s of audio a "
        f"step, seed {config['seed']}. The same weights again (same machine type and versions): "
        f"`enhance pretrain-ssl --family wavlm --corpus DIR --output DIR --minutes 0 "
        f"{steps} {units} --iterations {len(record['iterations'])} "
        f"--seed {config['seed']}`.",
    ]
    return "\n".join(lines)


def _share(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _accuracy(record: dict[str, Any]) -> str:
    lines = [
        "## Masked units on held-back files",
        "",
        "Share of masked frames whose unit is the most likely one, with 95 % intervals (bootstrap "
        "over clips). The guesses need no model: one unit at random, the most frequent unit of the "
        "training files, the unit of the nearest frame that is not masked.",
        "",
        "| iteration | input | model | chance | majority | nearest visible frame | frames |",
        "|" + "---|" * 7,
    ]
    count = 0
    for i, row in enumerate(record["iterations"], 1):
        for name in ("clean", "disturbed"):
            if name in row:
                x, count = row[name], count + 1
                lines.append(
                    f"| {i}, K = {row['units']} | {name} | {_share(x['accuracy'])} "
                    f"| {100 * x['chance']:.1f} % | {_share(x['majority'])} "
                    f"| {_share(x['nearest_visible'])} | {x['masked_frames']} |"
                )
    if not count:
        return ""
    last = record["iterations"][-1]["clean"]
    ours, near = last["accuracy"], last["nearest_visible"]
    if ours["low"] > near["high"]:
        verdict = "better than"
    elif ours["high"] < near["low"]:
        verdict = "worse than"
    else:
        verdict = "not clearly different from"
    lines += [
        "",
        f"On clean held-back speech the last iteration is {verdict} copying the nearest visible "
        "frame, a guess that profits from units lasting several frames.",
    ]
    return "\n".join(lines)


def _probe(record: dict[str, Any]) -> str:
    probe = record.get("phone_probe")
    if probe is None:
        return "## Phone probe\n\nNot measured."
    lines = [
        "## Phone probe",
        "",
        f"Linear classifier (multinomial logistic regression) from one frame to its phone: "
        f"{', '.join(probe['corpus'])}, {probe['phones']} phones, {probe['frames']} frames of "
        f"{probe['utterances']} utterances, silence left out, {probe['split']} "
        f"({probe['speakers']} speakers). The corpus was never trained on; its alignments are "
        "forced ones, and its language is in no training file. 95 % intervals by bootstrap over "
        "utterances. The random twin has the same architecture with random weights.",
        "",
        "| features | frames right |",
        "|---|---|",
    ]
    lines += [f"| {row['features']} | {_share(row)} |" for row in probe["rows"]]
    lines += ["", f"Gain of the best layer ({probe['best']}), paired, in points:", ""]
    for row in probe["gains"]:
        lines.append(
            f"- over {row['over']}: {100 * row['mean']:+.1f} "
            f"({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        )
    lines += ["", "The best layer was chosen on these same frames."]
    return "\n".join(lines)


def _limits(record: dict[str, Any]) -> str:
    hours = sum(row["hours"] for row in record["data"]["train"])
    largest = max(record["data"]["train"], key=lambda row: row["hours"])
    minutes = sum(row["seconds"] for row in record["iterations"]) / 60
    return f"""## Limits

- {hours:.1f} h of speech and {minutes:.0f} minutes on a CPU: thousands of times less than the
  published models. {largest["source"]} alone is {100 * largest["hours"] / hours:.0f} % of it.
- One seed, one run. Nothing here says how another seed would do.
- Not tested on speaker, emotion or recognition tasks. Not for use on its own.
- Licences of the recordings are listed above as their manifest states them; whether weights
  inherit anything from them is not a question this card can answer."""
