"""The model card of a pre-trained model, written from its measured record and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.ssl import card_text
from distill.ssl.transformer import KINDS
from distill.training import card
from enhance.data.inventory import source_table
from enhance.files import write_json

_GUESSES = {
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

_FUTURE = (
    "Share of future frames told from their negatives; a tie with n of them counts 1 / (1 + n)."
)
_QUESTION = {
    "wavlm": "Share of masked frames whose unit is the most likely one.",
    "hubert": "Share of masked frames whose unit is the most likely one.",
    "wav2vec2": "Share of masked frames whose quantised target is told from its distractors; "
    "candidates with the target's codes share the hit with it.",
    "wav2vec": _FUTURE,
    "vq-wav2vec": _FUTURE,
}
"""What accuracy means."""


def write(folder: Path, probe: dict[str, Any] | None = None) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``.

    Parameters
    ----------
    folder
        Model folder.
    probe
        Result of `benchmarks.analysis.phone_probe.probe`; put into the record first. None keeps
        what the record has.

    Raises
    ------
    EnhanceError
        If there is no record.
    """
    if probe is not None:
        record = card.read(folder)
        write_json(folder / "record.json", {**record, "phone_probe": probe})
    return card.write(folder, text)


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
        card_text.what(record, name, size),
        _data(record),
        card_text.training(record),
        _accuracy(record),
        _curve(record),
        _codes(record),
        _probe(record),
        _limits(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: dict[str, Any], name: str) -> str:
    languages = sorted({x for row in record["data"]["train"] for x in row["languages"]})
    family = record["config"]["family"]
    library = "transformers" if family in KINDS else "enhance"
    lines = [
        "---",
        f"license: {record.get('licence', 'unknown')}",
        f"library_name: {library}",
        f"model_name: {name}",
    ]
    if languages:
        lines += ["language:", *(f"- {x}" for x in languages)]
    lines += ["pipeline_tag: feature-extraction", "tags:", "- speech", f"- {family}"]
    return "\n".join([*lines, "- self-supervised", "---"])


def _data(record: dict[str, Any]) -> str:
    data = record["data"]
    rows = ["## Data", "", *source_table(data)]
    if data["held_back_speakers"]:
        rows.append(f"Speakers held back: {', '.join(data['held_back_speakers'])}.")
    rows.append("Where the manifest names no speaker, held-back files may share speakers.")
    return "\n".join(rows)


def _share(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _accuracy(record: dict[str, Any]) -> str:
    rows = [
        (i, row, name)
        for i, row in enumerate(record["iterations"], 1)
        for name in ("clean", "disturbed")
        if name in row
    ]
    if not rows:
        return "## Held-back files\n\nNone were held back: nothing was measured."
    guesses = [name for name in _GUESSES if name in rows[0][1][rows[0][2]]]
    masked = "units" in rows[0][1] or "distractors" in rows[0][1]
    lines = [
        "## Held-back files",
        "",
        f"{_QUESTION[record['config']['family']]} 95 % intervals by bootstrap over "
        f"{'files' if 'files' in rows[0][1][rows[0][2]] else 'clips'}. Chance is a blind choice; "
        f"beside it: {'; '.join(_GUESSES[name][1] for name in guesses)}.",
        "",
        "| iteration | input | model | chance | "
        + "".join(f"{_GUESSES[name][0]} | " for name in guesses)
        + ("masked frames |" if masked else "predictions |"),
        "|" + "---|" * (5 + len(guesses)),
    ]
    for i, row, name in rows:
        x = row[name]
        label = f"{i}, K = {row['units']}" if "units" in row else f"{i}"
        count = x.get("frames", x.get("masked_frames"))
        lines.append(
            f"| {label} | {name} | {_share(x['accuracy'])} | {100 * x['chance']:.1f} % | "
            + "".join(f"{_share(x[guess])} | " for guess in guesses)
            + f"{count} |"
        )
    last = record["iterations"][-1]["clean"]
    best = max(guesses, key=lambda name: last[name]["mean"])
    over_chance = _verdict(last["accuracy"], last["chance"], last["chance"])
    lines += ["", f"On clean held-back speech the last iteration is {over_chance} chance."]
    gain = last.get("gains", {}).get(best)
    if gain:
        lines[-1] += (
            f" It is {_verdict(gain, 0, 0)} the best guess, {_GUESSES[best][0]}: "
            f"{100 * gain['mean']:+.1f} points, paired file by file "
            f"({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})."
        )
    else:  # a record of before paired differences were kept
        points = 100 * (last["accuracy"]["mean"] - last[best]["mean"])
        lines[-1] += (
            f" Over the best guess, {_GUESSES[best][0]}, it has {points:+.1f} points; the record "
            "holds no paired difference, so that nothing is claimed of it."
        )
    return "\n".join(lines)


def _verdict(ours: dict[str, float], low: float, high: float) -> str:
    """Whether the interval ``ours`` lies above, below or across that from low to high."""
    if ours["low"] > high:
        return "better than"
    return "worse than" if ours["high"] < low else "not clearly different from"


def _curve(record: dict[str, Any]) -> str:
    """Validation over the steps, thinned to a dozen lines; history.jsonl has all."""
    curve = record.get("curve") or []
    if not curve:
        return ""
    every = -(-len(curve) // 12)
    kept = curve[::-1][::every][::-1]
    codes = "perplexity" in kept[0]
    lines = [
        "## Learning curve",
        "",
        "Held-back files, clean input; every line of it is in `history.jsonl`.",
        "",
        f"| step | loss, nats | right |{' code perplexity, mean of groups |' if codes else ''}",
        "|" + "---|" * (4 if codes else 3),
    ]
    for row in kept:
        more = f" {row['perplexity']:.1f} |" if codes else ""
        lines.append(f"| {row['step']} | {row['loss']:.3f} | {100 * row['accuracy']:.1f} % |{more}")
    return "\n".join(lines)


def _codes(record: dict[str, Any]) -> str:
    rows = [
        (i, g, code)
        for i, row in enumerate(record["iterations"], 1)
        for g, code in enumerate(row.get("codes", ()), 1)
    ]
    if not rows:
        return ""
    lines = [
        "## Use of the codes on held-back files",
        "",
        "Perplexity is exp of the entropy of how often each entry is taken: the number of entries "
        "in even use, 1 where one is taken always.",
        "",
        "| iteration | codebook | entries | used | perplexity |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {i} | {g} | {code['size']} | {code['used']} | {code['perplexity']:.1f} |"
        for i, g, code in rows
    ]
    last = record["iterations"][-1]
    if "rivals" in last:
        lines += [
            "",
            f"Of {last['distractors']} distractors, {last['rivals']:.1f} on average have other "
            "codes than their target.",
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
