"""The card of a fine-tuned model, written from its measured record and from nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from distill.ctc.config import CtcConfig
from distill.training import card
from enhance.config.settings import to_dict

_NUMBERS = (
    "learning_rate", "batch_seconds", "freeze_steps", "mask", "dropout", "seed", "threads",
)  # fmt: skip
_FLAGS = ("train_front_end", "from_scratch")
_BUDGET = {"backbone", "units", "minutes", "steps"}


def text(record: dict[str, Any], name: str, size: int) -> str:
    """The card of a record; arguments as in `distill.training.card.Text`."""
    # No licence: it follows from the backbone and the recordings, which a record does not know.
    front = {
        "library_name": "transformers",
        "model_name": name,
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["speech", "ctc", record["backbone"]["family"]],
    }
    facts = {"record": record, "name": name, "size": size, "command": command(record)}
    return card.render(Path(__file__).with_name("card.md.jinja"), front, **facts)


def command(record: dict[str, Any]) -> str:
    """The command that makes the same weights again."""
    config = record["config"]
    words = [f"enhance teacher finetune-ctc {shlex.quote(config['backbone'])} --transcripts FILE"]
    words += ["--eval FILE"] * record["data"]["evaluation_file"]
    words.append(f"-o DIR --units {config['units']} --minutes 0 --steps {record['steps']}")
    words += card.options(config, [*_NUMBERS, *_FLAGS])
    words += card.changes(config, to_dict(CtcConfig()), {*_NUMBERS, *_FLAGS, *_BUDGET})
    return " ".join(words)
