"""What all model cards have in common: a measured record and a jinja2 template in, a page out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from enhance.files import atomic, read_json, write_json

Text = Callable[[dict[str, Any], str, int], str]
"""Card of a record (as in ``record.json``), the model's name and the bytes of its weights."""

LINES = 12
"""Lines of a learning curve that a card shows."""

WATCH = {"log_every", "validate_every", "checkpoint_seconds"}
"""Settings that do not decide the weights."""


def read(folder: Path) -> dict[str, Any]:
    """The record of a model folder; an `EnhanceError` if there is none."""
    return read_json(folder / "record.json", "no record to write a card from")


def write(folder: Path, text: Text, found: Mapping[str, Any] | None = None) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``; first that, if it is given.

    An `EnhanceError` if there is no record.
    """
    if found is not None:
        write_json(folder / "record.json", found)
    record = read(folder)
    size = (folder / "model.safetensors").stat().st_size
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(text(record, folder.resolve().name, size), "utf-8")
    return folder / "README.md"


def fill(template: Path, **facts: Any) -> str:
    """A page of Markdown or HTML: a jinja2 template, which may import ``macros.md.jinja`` of this
    folder. A fact that it names and does not get is an error, never an empty place.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        undefined=jinja2.StrictUndefined,
        autoescape=template.name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fmt": format, "share": share, "thin": thin}
    return environment.get_template(template.name).render(**facts)


def render(template: Path, front: Mapping[str, Any], **facts: Any) -> str:
    """The card: front matter of the Hugging Face hub (fields of `huggingface_hub.ModelCardData`,
    empty ones left out), then Markdown as by `fill`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    body = fill(template, **facts)
    data = ModelCardData(**{key: value for key, value in front.items() if value})
    frame = "---\n{{ card_data }}\n---\n\n{{ body }}"
    return f"{ModelCard.from_template(data, template_str=frame, body=body.strip())}\n"


def languages(data: Mapping[str, Any]) -> list[str]:
    """Codes of the languages that a model was trained on, of its sources by use."""
    return sorted({x for row in data["train"] for x in row["languages"]})


def share(row: Mapping[str, float], key: str = "mean") -> str:
    """A share or a rate with its interval."""
    return f"{100 * row[key]:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def thin(rows: Sequence[Any]) -> Sequence[Any]:
    """At most `LINES` of the rows, evenly spread, the last among them."""
    return rows[::-1][:: max(1, -(-len(rows) // LINES))][::-1]


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested settings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def changes(
    config: Mapping[str, Any], usual: Mapping[str, Any], skip: Collection[str]
) -> list[str]:
    """Settings that differ from the usual ones, as words of a command: ``--set 'key=value'``.

    Top-level keys of `WATCH` and ``skip``, for which the command has options, are left out.
    """
    plain = dict(leaves(usual))
    return [
        f"--set '{key}={json.dumps(value)}'"
        for key, value in leaves(config)
        if key.split(".")[0] not in {*skip, *WATCH} and plain.get(key) != value
    ]


def options(config: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Settings as options of a command: ``--learning-rate 0.001``, ``--from-scratch``."""
    words = []
    for name in names:
        value, option = config[name], f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] * value
        elif not isinstance(value, str):
            words.append(f"{option} {repr(value).removesuffix('.0')}")  # to the last digit
        elif value:
            words.append(f"{option} {shlex.quote(value)}")
    return words
