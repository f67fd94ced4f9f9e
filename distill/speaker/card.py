"""The card of a speaker encoder, written from its measured record and from nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.speaker.config import SpeakerConfig
from distill.training import card
from enhance.data.inventory import source_table

_HOW = {
    "aam": "with speaker labels, by additive angular margin softmax (margin {margin:g} rad, scale "
    "{scale:g}) over crops of {crop_seconds:g} s",
    "dino": "without labels, by DINO: {global_crops} crops of {global_seconds:g} s and "
    "{local_crops} of {local_seconds:g} s of each clip, {outputs} outputs, a teacher that is the "
    "moving average of the student; the teacher is what is kept here",
}

_NUMBERS = ("batch", "learning_rate", "seed", "threads")
_BUDGET = {"objective", "minutes", "steps", "preset", "source"}
_WATCH = {"log_every", "validate_every", "checkpoint_seconds"}  # do not decide the weights
_GIVEN = {*_NUMBERS, *_BUDGET, *_WATCH}
"""Settings that the command has options for, or that change nothing."""


def write(folder: Path) -> Path:
    """Write ``README.md`` of a model folder from its ``record.json``.

    Raises
    ------
    EnhanceError
        If there is no record.
    """
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
    parts = [_front_matter(record, name), _what(record, name, size), _data(record)]
    parts += [_training(record), _verification(record), _limits(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: dict[str, Any], name: str) -> str:
    languages = sorted({x for row in record["data"]["train"] for x in row["languages"]})
    lines = ["---", f"license: {record.get('licence', 'unknown')}", f"model_name: {name}"]
    if languages:
        lines += ["language:", *(f"- {x}" for x in languages)]
    lines += ["pipeline_tag: feature-extraction", "tags:", "- speech", "- speaker-verification"]
    return "\n".join([*lines, "- ecapa-tdnn", "---"])


def _what(record: dict[str, Any], name: str, size: int) -> str:
    how = _HOW[record["config"]["objective"]].format(
        **record["config"][record["config"]["objective"]]
    )
    return f"""# {name}

A speaker encoder: ECAPA-TDNN ({record["parameters"] / 1e6:.2f} M parameters, {size / 1e6:.1f} MB),
trained
{how}.

```python
from distill.backbones.find import load
teacher = load("{name}")  # folder
vectors = teacher.embedding(waves)  # (B, N) at 16 kHz to (B, E): compare by cosine
hidden, counts = teacher(waves, lengths)  # outputs of every block, 100 frames a second
```

No output is causal: log-mel means and squeeze-excitation run over the whole clip."""


def _data(record: dict[str, Any]) -> str:
    data = record["data"]
    rows = ["## Data", "", *source_table(data)]
    if data["held_back_speakers"]:
        rows.append(f"Speakers held back: {', '.join(data['held_back_speakers'])}.")
    return "\n".join(rows)


def _training(record: dict[str, Any]) -> str:
    config, mixing = record["config"], record["config"]["mixing"]
    speed = record["audio_seconds"] / max(record["seconds"], 1)
    noise = (
        f"{100 * (1 - config['clean_probability']):.0f} % of the crops with noise at "
        f"{mixing['snr'][0]:g} to {mixing['snr'][1]:g} dB, {100 * mixing['rir_probability']:.0f} % "
        "of those in a simulated room"
        if record["data"]["noise"]
        else "no noise, no rooms"
    )
    again = " ".join(_again(record))
    speakers = f"{record['speakers']} speakers. " if record["speakers"] else ""
    return f"""## Training

{speakers}{record["steps"]} steps of {config["batch"]} clips in {record["seconds"] / 60:.1f} minutes
on {config["threads"]} CPU thread{"s" * (config["threads"] > 1)} ({speed:.0f} seconds of audio a
second, all crops counted), {noise}. AdamW, peak rate {config["learning_rate"]:g}. The same weights
again (same machine type and versions): `enhance teacher pretrain-speaker {again} --corpus DIR
--output DIR`."""


def _again(record: dict[str, Any]) -> list[str]:
    """Options that make the same weights again."""
    config = record["config"]
    words = [f"--objective {config['objective']} --minutes 0 --steps {record['steps']}"]
    words += [f"--{name.replace('_', '-')} {config[name]:g}" for name in _NUMBERS]
    words += [f"--{name} {config[name]}" for name in ("preset", "source") if config[name]]
    usual = asdict(SpeakerConfig())
    return words + card.assignments(card.changes(config, usual, _GIVEN))


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['eer']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _verification(record: dict[str, Any]) -> str:
    lines = ["## Speaker verification", ""]
    lines += [
        "Equal error rate on all pairs of clips of speakers that were never heard, scored by "
        "cosine, with 95 % intervals (bootstrap over speakers). Guessing gives 50 %.",
        "",
        "| speakers | embedding | EER | pairs of one speaker | of two |",
        "|" + "---|" * 5,
    ]
    rows = []
    if "held_back" in record:
        rows += [("held back from training", {"embedding": "trained", **record["held_back"]})]
    rows += [("evaluation set", row) for row in record.get("verification", [])]
    if not rows:
        return "## Speaker verification\n\nNot measured."
    for which, row in rows:
        lines.append(
            f"| {which}, {row['speakers']} | {row['embedding']} | {_share(row)} "
            f"| {row['targets']} | {row['nontargets']} |"
        )
    return "\n".join(lines)


def _limits(record: dict[str, Any]) -> str:
    hours = sum(row["hours"] for row in record["data"]["train"])
    return f"""## Limits

- {hours:.1f} h of speech; published models heard thousands of hours of thousands of speakers.
- One seed, one run.
- Where each speaker of a set was recorded in one session, its EER measures the microphone and the
  room as well as the voice: the mean spectrum in the table above shows how far that alone goes.
- Not for identifying people."""
