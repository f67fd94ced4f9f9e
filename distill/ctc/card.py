"""The card of a fine-tuned model, written from its measured record and from nothing else."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.ctc.config import CtcConfig
from distill.training import card

_TOKENS = {"char": "characters (`|` between words)", "word": "tokens parted by spaces"}
_FEW = 60  # tokens that a card lists

_NUMBERS = (
    "learning_rate", "batch_seconds", "freeze_steps", "mask", "dropout", "seed", "threads",
)  # fmt: skip
_FLAGS = ("train_front_end", "from_scratch")
_BUDGET = {"backbone", "units", "minutes", "steps"}
_WATCH = {"log_every", "validate_every", "checkpoint_seconds"}  # do not decide the weights
_GIVEN = {*_NUMBERS, *_FLAGS, *_BUDGET, *_WATCH}
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
    parts += [_training(record), _errors(record), _curve(record), _limits(record)]
    return "\n\n".join(parts) + "\n"


def _front_matter(record: dict[str, Any], name: str) -> str:
    # No licence: it follows from the backbone and the recordings, which a record does not know.
    lines = ["---", "library_name: transformers", f"model_name: {name}"]
    lines += ["pipeline_tag: automatic-speech-recognition", "tags:", "- speech", "- ctc"]
    return "\n".join([*lines, f"- {record['backbone']['family']}", "---"])


def _what(record: dict[str, Any], name: str, size: int) -> str:
    config, tokens = record["config"], record["vocabulary"]
    listed = " ".join(f"`{token}`" for token in tokens[:_FEW])
    more = f" and {len(tokens) - _FEW} more" if len(tokens) > _FEW else ""
    start = f"the architecture of {config['backbone']} with random weights"
    if not config["from_scratch"]:
        start = f"the pre-trained {config['backbone']}"
    stride = record["backbone"]["stride_samples"] / 16
    spaces = ", spaces_between_special_tokens=True" if config["units"] == "word" else ""
    return f"""# {name}

A recogniser of {_TOKENS[config["units"]]}: {start} and one
linear layer, trained by CTC ({record["parameters"] / 1e6:.2f} M parameters, {size / 1e6:.1f} MB).

```python
from distill.ctc import recognizer
text = recognizer.load("{name}").transcribe(wave)  # folder; (N,) float32 at 16 kHz

from transformers import AutoModelForCTC, AutoProcessor
model = AutoModelForCTC.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
logits = model(**processor(wave, sampling_rate=16000, return_tensors="pt")).logits
text = processor.batch_decode(logits.argmax(-1){spaces})[0]

from distill.backbones.find import load
teacher = load("{name}")  # its hidden states, without the linear layer
```

Frames are {stride:g} ms apart; attention runs in both directions, so nothing is causal. Vocabulary
({len(tokens)}): {listed}{more}."""


def _data(record: dict[str, Any]) -> str:
    data = record["data"]
    lines = [
        "## Data",
        "",
        "| file | use | recordings | hours | speakers | tokens |",
        "|" + "---|" * 6,
    ]
    for key, use in (("train", "trained on"), ("held_back", "only measured")):
        for row in data[key]:
            lines.append(
                f"| {row['source']} | {use} | {row['files']} | {row['hours']:.3f} | "
                f"{row['speakers'] or 'unknown'} | {data[f'{key}_tokens']} |"
            )
    lines.append("")
    shared, unknown = data["shared_speakers"], data["unknown_speakers"]
    if unknown:
        lines.append(f"{unknown} recordings name no speaker: a voice may stand on both sides.")
    if shared:
        lines.append(f"{len(shared)} speakers stand on both sides: their voices were heard.")
    if not shared and not unknown:
        lines.append("No speaker stands on both sides.")
    strange = record["unknown_tokens"]
    if strange:
        lines.append(
            f"{sum(strange.values())} of the measured tokens ({len(strange)} kinds) were never "
            "trained on and count as errors."
        )
    return "\n".join(lines)


def _training(record: dict[str, Any]) -> str:
    config = record["config"]
    speed = record["audio_seconds"] / max(record["seconds"], 1)
    front = "" if config["train_front_end"] or config["from_scratch"] else ", its front end frozen"
    mask = "no spans masked"
    if config["mask"]:
        mask = (
            f"spans of {config['mask_length']} frames masked (a share of "
            f"{config['mask']:g} starts one)"
        )
    return f"""## Training

{record["steps"]} steps of up to {config["batch_seconds"]:g} s in {record["seconds"] / 60:.1f}
minutes on {config["threads"]} CPU thread{"s" * (config["threads"] > 1)} ({speed:.0f} seconds of
audio a second){front}; {mask}; in the first {config["freeze_steps"]} steps the linear layer alone.
AdamW, peak rate {config["learning_rate"]:g}. The last weights are kept; the measured recordings
chose nothing. The same weights again (same machine type and versions): `{command(record)}`."""


def command(record: dict[str, Any]) -> str:
    """The command that makes the same weights again."""
    config = record["config"]
    words = [f"enhance teacher finetune-ctc {shlex.quote(config['backbone'])} --transcripts FILE"]
    words += ["--eval FILE"] * record["data"]["evaluation_file"]
    words.append(f"-o DIR --units {config['units']} --minutes 0 --steps {record['steps']}")
    words += [f"--{name.replace('_', '-')} {config[name]:g}" for name in _NUMBERS]
    words += [f"--{name.replace('_', '-')}" for name in _FLAGS if config[name]]
    found = card.changes(config, asdict(CtcConfig()), _GIVEN)
    return " ".join(words + card.assignments(found))


def share(row: dict[str, Any]) -> str:
    """An error rate with its interval."""
    return f"{100 * row['mean']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _errors(record: dict[str, Any]) -> str:
    constant = record["constant"]
    kind = "character" if record["config"]["units"] == "char" else "token"
    lines = [
        "## Error rates",
        "",
        "Substitutions, deletions and insertions over the tokens of the measured recordings, by "
        "greedy decoding; 95 % intervals by bootstrap over recordings.",
        "",
        "| answer | tokens are | error rate | of |",
        "|" + "---|" * 4,
        f"| this model | {kind}s | {share(record['token_error'])} | "
        f"{record['token_error']['tokens']} |",
    ]
    if "word_error" in record:
        row = record["word_error"]
        lines.append(f"| this model | words | {share(row)} | {row['tokens']} |")
    lines += [
        f"| one text for every recording | {kind}s | {share(constant)} | {constant['tokens']} |",
        "| none at all | any | 100.0 % | |",
        "",
        "The one text is that of the training texts which serves the others best, without hearing "
        "anything. Recognised, for example:",
        "",
        "| said | recognised |",
        "|---|---|",
    ]
    lines += [
        f"| {_cell(row['text'])} | {_cell(row['recognised'])} |" for row in record["examples"]
    ]
    return "\n".join(lines)


def _cell(words: str) -> str:
    words = words.replace("|", "\\|")
    return words if len(words) <= 120 else words[:117] + "..."


def _curve(record: dict[str, Any]) -> str:
    curve = record["curve"]
    if not curve:
        return "## Learning curve\n\nNothing was measured before the end."
    every = -(-len(curve) // 12)
    lines = [
        "## Learning curve",
        "",
        "The same recordings; every line of it is in `history.jsonl`.",
        "",
        "| step | loss, nats a token | error rate of tokens |",
        "|" + "---|" * 3,
    ]
    lines += [
        f"| {row['step']} | {row['loss']:.3f} | {100 * row['token_error']:.1f} % |"
        for row in curve[::-1][::every][::-1]
    ]
    return "\n".join(lines)


def _limits(record: dict[str, Any]) -> str:
    hours = sum(row["hours"] for row in record["data"]["train"])
    return f"""## Limits

- {hours:.2f} h of transcribed speech, one seed, one run.
- Greedy decoding without a language model.
- The licence of these weights follows from those of the backbone and of the recordings; whether
  they may be passed on is not a question this card can answer."""
