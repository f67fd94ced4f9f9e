"""The model card of a pre-trained model, written from its measured record and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.backbones.hf import CLASSES
from distill.ssl.families.family import PRESETS, config_class
from distill.ssl.families.transformer import KINDS
from distill.training import card
from enhance.config.settings import merge, parse, to_dict

TITLES = {
    "wav2vec": "wav2vec",
    "vq-wav2vec": "vq-wav2vec",
    "wav2vec2": "wav2vec 2.0",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
}
"""How the papers write them."""

GUESSES = {
    "majority": ("majority", "the most frequent unit of the training files"),
    "nearest_visible": (
        "nearest visible frame",
        "what the nearest frame that is not masked would say (units last several frames)",
    ),
    "present_frame": (
        "present frame",
        "the candidate most like the frame that predicts (sounds last several frames)",
    ),
}
"""Heading and meaning of each guess that needs no model."""

_BUDGET = {"minutes", "steps", "units", "iterations", "seed", "threads", "family"}


def write(folder: Path, probe: dict[str, Any] | None = None) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``.

    A result of `benchmarks.analysis.phone_probe.probe` is put into the record first. An
    `EnhanceError` if there is no record.
    """
    more = None if probe is None else {**card.read(folder), "phone_probe": probe}
    return card.write(folder, text, more)


def text(record: dict[str, Any], name: str, size: int) -> str:
    """The card of a record; arguments as in `distill.training.card.Text`."""
    config = settings(record)
    family = config["family"]
    own = family in KINDS  # a network of transformers
    architecture = type(config_class(family)().architecture)  # type: ignore[attr-defined]
    geometry = None if own else parse(architecture, config["architecture"], "record.json").geometry
    measured = [
        (i, row, kind, row[kind])
        for i, row in enumerate(record["iterations"], 1)
        for kind in ("clean", "disturbed")
        if kind in row
    ]
    guesses = {key: told for key, told in GUESSES.items() if measured and key in measured[0][3]}
    clean = record["iterations"][-1].get("clean", {})
    front = {
        "license": record.get("licence", "unknown"),
        "library_name": "transformers" if own else "enhance",
        "model_name": name,
        "language": card.languages(record["data"]),
        "pipeline_tag": "feature-extraction",
        "tags": ["speech", family, "self-supervised"],
    }
    return card.render(
        Path(__file__).with_name("card.md.jinja"),
        front,
        record=record,
        name=name,
        size=size,
        config=config,
        family=family,
        title=TITLES[family],
        network=CLASSES[family] if own else None,
        geometry=geometry,
        rows=record["iterations"],
        measured=measured,
        guesses=guesses,
        best=max(guesses, key=lambda name: clean[name]["mean"], default=None),
        command=command(record),
    )


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run; what is newer than its record has its default."""
    config = record["config"]
    return merge(to_dict(config_class(config["family"])()), config)


def command(record: Mapping[str, Any]) -> str:
    """The command that makes the same weights again."""
    config, rows = settings(record), record["iterations"]
    family = config["family"]
    usual = {
        name: to_dict(parse(config_class(family), preset, name))
        for name, preset in PRESETS.items()
        if preset["family"] == family
    }
    choices = {name: card.changes(config, given, _BUDGET) for name, given in usual.items()}
    preset = min(choices, key=lambda name: len(choices[name]))
    words = [f"enhance teacher pretrain --family {family}"]
    words += [f"--preset {preset}"] if preset != family else []
    words.append("--corpus DIR --output DIR --minutes 0")
    words += [f"--steps {row['steps']}" for row in rows]
    if "units" in config:
        words += [f"--units {row['units']}" for row in rows]
        words.append(f"--iterations {len(rows)}")
    words.append(f"--seed {config['seed']}")
    words += [f"--threads {config['threads']}"] if config["threads"] > 1 else []
    return " ".join(words + choices[preset])
