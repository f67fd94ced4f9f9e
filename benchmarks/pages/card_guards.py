"""What a model card tells of guards, written with the card or anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.results import Row
from benchmarks.guard.tables import harm_tables, notes
from benchmarks.pages.card_records import gather_guards, model_name
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.files import sha256, write_text

GUARDS, LIMITS = "Does it harm?", "Limits"
"""Sections that tell of guards."""

GUARDED = "- On "
"""Lines of the limits that tell of guards begin so."""


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
        card = target.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnhanceError(f"{target}: no card to renew ({error}); leave out --guards") from error
    head, *sections = card.rstrip("\n").split("\n\n## ")
    titles = [section.partition("\n")[0] for section in sections]
    if f"`{sha256(path)}`" not in head or not {GUARDS, LIMITS} <= set(titles):
        raise EnhanceError(f"{target}: is no card of this {path.name}; leave out --guards")
    guards, limits = titles.index(GUARDS), titles.index(LIMITS)
    sections[guards] = guard_section(found).removeprefix("## ")
    told = [line for line in sections[limits].split("\n")[2:] if not line.startswith(GUARDED)]
    sections[limits] = "\n".join([LIMITS, "", *guard_limits(found), *told])
    write_text(target, "\n\n## ".join([head, *sections]) + "\n")
    return target


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
        parts.append("\n".join(f"- {line}" for line in notes(rows)))
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
