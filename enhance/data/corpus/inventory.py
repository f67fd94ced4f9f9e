"""Which sources a model heard, with hours and licences: for the cards of all kinds of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from enhance.data.corpus.manifest import Clip


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


def of_parts(
    train: Sequence[Clip],
    held: Sequence[Clip],
    noise: Sequence[Clip] = (),
    held_noise: Sequence[Clip] = (),
) -> dict[str, Any]:
    """`by_source` of what is trained on and what only measures, and the speakers held back."""
    return {
        "train": by_source(train),
        "held_back": by_source(held),
        "noise": by_source(noise),
        "noise_held_back": by_source(held_noise),
        "held_back_speakers": sorted({clip.speaker for clip in held if clip.speaker}),
    }
