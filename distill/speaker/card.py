"""The card of a speaker encoder, written from its measured record and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.speaker.config import SpeakerConfig
from distill.training import card
from enhance.config.settings import to_dict

_OPTIONS = ("batch", "learning_rate", "seed", "threads", "preset", "source")
_BUDGET = {"objective", "minutes", "steps"}


def text(record: dict[str, Any], name: str, size: int) -> str:
    """The card of a record; arguments as in `distill.training.card.Text`."""
    front = {
        "license": record.get("licence", "unknown"),
        "model_name": name,
        "language": card.languages(record["data"]),
        "pipeline_tag": "feature-extraction",
        "tags": ["speech", "speaker-verification", "ecapa-tdnn"],
    }
    config = record["config"]
    words = [f"--objective {config['objective']} --minutes 0 --steps {record['steps']}"]
    given = [name for name in _OPTIONS if config[name] != ""]  # no preset is a change, no option
    words += card.options(config, given)
    words += card.changes(config, to_dict(SpeakerConfig()), {*given, *_BUDGET})
    facts = {"record": record, "name": name, "size": size, "again": " ".join(words)}
    return card.render(Path(__file__).with_name("card.md.jinja"), front, **facts)
