"""What a model card says of a family: the network, its training, the command that repeats it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distill.ssl.family import config_class
from distill.ssl.presets import PRESETS
from distill.ssl.transformer import KINDS
from distill.training import card
from enhance.settings import merge, parse, to_dict

TITLES = {
    "wav2vec": "wav2vec",
    "vq-wav2vec": "vq-wav2vec",
    "wav2vec2": "wav2vec 2.0",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
}
"""How the papers write them."""

_BUDGET = {"minutes", "steps", "units", "iterations", "seed", "threads", "family"}
_WATCH = {"log_every", "validate_every", "checkpoint_seconds"}  # do not decide the weights


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run; what is newer than its record has its default."""
    config = dict(record["config"])
    plain = json.loads(json.dumps(asdict(config_class(config["family"])())))
    return merge(plain, config)


def command(record: Mapping[str, Any]) -> str:
    """The command that makes the same weights again."""
    config = settings(record)
    family = config["family"]
    choices = {name: _changes(config, name) for name in PRESETS if _family(name) == family}
    preset = min(choices, key=lambda name: len(choices[name]))
    words = [f"enhance teacher pretrain --family {family}"]
    if preset != family:
        words.append(f"--preset {preset}")
    words.append("--corpus DIR --output DIR --minutes 0")
    words += [f"--steps {row['steps']}" for row in record["iterations"]]
    if "units" in config:
        words += [f"--units {row['units']}" for row in record["iterations"]]
        words.append(f"--iterations {len(record['iterations'])}")
    words.append(f"--seed {config['seed']}")
    if config["threads"] > 1:
        words.append(f"--threads {config['threads']}")
    words += card.assignments(choices[preset])
    return " ".join(words)


def _family(preset: str) -> str:
    return str(PRESETS[preset]["family"])


def _changes(config: Mapping[str, Any], preset: str) -> list[tuple[str, Any]]:
    cls = config_class(_family(preset))
    usual = to_dict(parse(cls, PRESETS[preset], preset))
    return card.changes(config, usual, _BUDGET | _WATCH)


def what(record: Mapping[str, Any], name: str, size: int) -> str:
    """The opening section: what the model is and how it is used."""
    config = settings(record)
    family = config["family"]
    precision = "fp16" if family in KINDS else "fp32"
    mini = (
        " It is the default teacher of\n`enhance train --mode distill` where no larger one can be "
        "had; it is no replacement for the\npublished WavLM models, which heard 960 to 94,000 "
        "hours."
        if name == "mini-wavlm"
        else f" It is no replacement for the\npublished {TITLES[family]} models, which heard "
        "hundreds to ten thousands of hours."
    )
    opening = f"""# {name}

A very small {TITLES[family]} ({record["parameters"] / 1e6:.2f} M parameters, {size / 1e6:.1f} MB \
in {precision}),
pre-trained without labels by `enhance teacher pretrain`.{mini}

"""
    return opening + (_transformer if family in KINDS else _convolutional)(config, name)


def _transformer(config: Mapping[str, Any], name: str) -> str:
    a, family = config["architecture"], config["family"]
    states, width = a["layers"] + 1, a["hidden"]
    blocks = f"{a['layers']} blocks of width {width}, {a['heads']} heads, inner {a['feed_forward']}"
    cls = KINDS[family][2]
    quantiser = ""
    if family == "wav2vec2":
        quantiser = (
            f"\n| quantiser | {config['groups']} groups of {config['entries']} entries, in the "
            "same file |"
        )
    return f"""```python
from transformers import {cls}
model = {cls}.from_pretrained("{name}")  # folder; computes in fp32
states = model(wave, output_hidden_states=True).hidden_states  # {states} x (1, T, {width})
```

Input is 16 kHz, each clip at zero mean and unit variance (`do_normalize` in
`preprocessor_config.json`). One frame covers 400 samples, frames are 320 apart. The front end has
layer norm; attention runs in both directions, so no frame is causal. The last of the hidden
states comes before the model's final layer norm, `last_hidden_state` after it.

| | |
|---|---|
| transformer | {blocks}, norm before each sublayer |
| front end | channels {", ".join(map(str, a["conv_channels"]))} |{quantiser}"""


def _convolutional(config: Mapping[str, Any], name: str) -> str:
    a = config["architecture"]
    architecture = parse(type(config_class(config["family"])().architecture), a, "record.json")  # type: ignore[attr-defined]
    field, stride = architecture.geometry
    rows = [
        "| | |",
        "|---|---|",
        f"| encoder | {_layers(a['encoder'])} (channels, kernel, stride) |",
        f"| aggregator | {_layers(a['aggregator'])} |",
    ]
    if "vq_type" in a:
        rows.append(
            f"| quantiser | {a['vq_type']}, {a['vq_groups']} groups of {a['vq_codes']} codewords |"
        )
    return f"""```python
from distill.backbones import find as teacher
model = teacher.load("{name}", left_pad=0)  # folder
states, counts = model(waves, lengths)  # (L + 1, B, T, D)
```

Input is 16 kHz, as it is. One frame covers {field} samples, frames are {stride} apart. No
convolution of the aggregator looks ahead, but every group norm takes its statistics over the whole
clip, so no frame is causal.

""" + "\n".join(rows)


def _layers(rows: list[list[int]]) -> str:
    return ", ".join("-".join(map(str, row)) for row in rows)


def training(record: Mapping[str, Any]) -> str:
    """The section on the objective and the budget."""
    config, rows = settings(record), record["iterations"]
    about = {
        "wavlm": _masked_units,
        "hubert": _masked_units,
        "wav2vec2": _contrastive,
        "wav2vec": _future,
        "vq-wav2vec": _future,
    }[config["family"]](config, rows)
    units = "units" in config
    threads = f"{config['threads']} CPU thread{'s' * (config['threads'] > 1)}"
    lines = [
        "## Training",
        "",
        about,
        "",
        f"| iteration | {'units | made from | ' if units else ''}steps | minutes, {threads} |",
        "|" + "---|" * (5 if units else 3),
    ]
    for i, row in enumerate(rows, 1):
        made = f"{row['units']} | {row['features']} | " if units else ""
        lines.append(f"| {i} | {made}{row['steps']} | {row['seconds'] / 60:.1f} |")
    lines += [
        "",
        f"AdamW, peak rate {config['learning_rate']:g}, {config['batch_seconds']:g} s of audio a "
        f"step, seed {config['seed']}. The same weights again (same machine type and versions): "
        f"`{command(record)}`.",
    ]
    return "\n".join(lines)


def _masked_units(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    mix = config["disturbance"]
    weights = config["visible_weight"][: len(rows)]
    count = config["front_end_steps"]
    text = (
        "Predict the k-means unit of masked frames (spans of 10 frames, 6.5 % of the frames start "
        "one)"
    )
    if config["family"] == "wavlm":
        low, high = (100 * x for x in mix["speech_overlap"])
        over = f"up to {high:.0f} %" if low == 0 else f"{low:.0f} to {high:.0f} %"
        heard = 100 * mix["reverberation_probability"]
        rooms = f"{heard:.0f} % heard in a simulated room, " if heard else ""
        text = (
            "HuBERT's recipe with WavLM's mixing: predict the k-means unit of masked frames (spans "
            "of 10 frames, 6.5 % of the frames start one), "
            f"{100 * mix['noise_probability']:.0f} % of the crops with noise at "
            f"{mix['noise_snr'][0]:.0f} to {mix['noise_snr'][1]:.0f} dB and "
            f"{100 * mix['speech_probability']:.0f} % with other speech over {over} of them, "
            f"{rooms}targets always from the clean crop"
        )
    text += (
        f". The loss over visible frames counts {' and '.join(f'{w:g}' for w in weights)} (by "
        "iteration) beside that over masked ones. "
    )
    if count:
        text += f"Before, the convolutions alone learnt the units for {count} steps. "
    return text + "Every later iteration goes on from the weights of the one before."


def _contrastive(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    first = ""
    if config.get("front_end_steps"):
        first = (
            f" Before, the convolutions alone learnt {config['front_end_units']} k-means units of "
            f"MFCC for {config['front_end_steps']} steps, which the paper does not do."
        )
    return (
        f"Tell the quantised target of each masked frame (spans of {config['mask_length']} frames, "
        f"{100 * config['mask_probability']:.1f} % of the frames start one) from "
        f"{config['distractors']} distractors of the same crop, temperature "
        f"{config['similarity_temperature']:g}; diversity loss with weight "
        f"{config['diversity_weight']:g}; Gumbel temperature {config['gumbel'][0]:g} to "
        f"{config['gumbel'][1]:g} over {config['gumbel_steps']} steps. The same loss over visible "
        f"frames counts {config['visible_weight']:g} (in the paper 0).{first}"
    )


def _future(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    a = config["architecture"]
    codes = ""
    if "vq_type" in a:
        codes = f" Frames are codewords of a {a['vq_type']} codebook"
        if a["vq_type"] == "gumbel":
            first, last, factor = a["vq_temperature"]
            codes += (
                f" (straight-through, temperature {first:g} to {last:g} by {factor:g} a step, "
                f"diversity loss with weight {config['diversity_weight']:g})"
            )
        else:
            codes += " that begins with frames of the first batch"
        codes += "."
    kind = "a softmax" if config["infonce"] else "the logistic loss"
    return (
        f"Tell each of the {config['prediction_steps']} frames to come from {config['negatives']} "
        f"other frames of the same crop, by {kind} over scalar products with its prediction.{codes}"
    )
