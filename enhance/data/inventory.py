"""Which sources a model heard, with hours and licences: for the cards of all kinds of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enhance.data.manifest import Clip

LANGUAGES = {"en": "English", "de": "German", "nl": "Dutch", "fr": "French", "es": "Spanish"}
"""Names of language codes; another code stands for itself."""

USES = {
    "train": "speech, trained on",
    "held_back": "speech, held back",
    "noise": "noise, mixed in",
    "noise_held_back": "noise, held back",
}
"""What the parts of a run's data are used for."""


def by_source(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """One row per source: `source`, `files`, `hours`, `speakers`, `languages`, `licences`.

    Languages and licences are those of the manifest's columns `language` and `licence`.
    """
    rows = []
    for source in sorted({clip.source for clip in clips}):
        members = [clip for clip in clips if clip.source == source]
        rows.append(
            {
                "source": source,
                "files": len(members),
                "hours": round(sum(c.duration for c in members) / 3600, 4),
                "speakers": len({c.speaker for c in members if c.speaker}),
                "languages": sorted({c.labels.get("language", "") for c in members} - {"", "none"}),
                "licences": sorted({c.labels.get("licence", "") for c in members} - {""}),
            }
        )
    return rows


def source_table(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Markdown lines: every source of each part of `USES`, and the hours trained on."""
    lines = ["| source | use | languages | files | hours | licence |", "|" + "---|" * 6]
    for key, use in USES.items():
        for row in data[key]:
            languages = ", ".join(LANGUAGES.get(x, x) for x in row["languages"])
            licences = "; ".join(row["licences"]) or "not stated in the manifest"
            lines.append(
                f"| {row['source']} | {use} | {languages} | {row['files']} | {row['hours']:.2f} "
                f"| {licences} |"
            )
    total = {key: sum(row["hours"] for row in data[key]) for key in USES}
    lines += ["", f"Trained on {total['train']:.2f} h of speech, {total['noise']:.2f} h of noise."]
    return lines
