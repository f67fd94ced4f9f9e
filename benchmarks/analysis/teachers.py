"""A table of teachers: geometry, weights, pre-training metric against chance, throughput.

Everything is asked of the loaded teacher or of the ``record.json`` that pre-training left in its
folder; a teacher without a record (a published one) has no metric here.
"""

from __future__ import annotations

import json
import platform
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.backbones import find as teachers
from distill.ssl.card import GUESSES
from distill.ssl.families.family import FAMILIES
from distill.training.card import share
from enhance.audio import read as files
from enhance.data.corpus.manifest import scan_folder
from enhance.errors import EnhanceError
from enhance.files import atomic, refuse_existing, write_json
from enhance.parallel import torch_threads
from enhance.progress import progress_bar

CLIP_SECONDS = 10.0
"""Recordings are cut to this length to measure throughput: attention grows with its square."""


def describe(
    name: str,
    *,
    audio: Path | None = None,
    seconds: float = 120.0,
    threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """One row of the table, of a teacher as `distill.backbones.find.load` takes it.

    Throughput is measured where there is ``audio``; the rest as `throughput`. An `EnhanceError`
    names a teacher that cannot be had, or a damaged record of it.
    """
    found: Any = teachers.load(name)
    row: dict[str, Any] = {
        "name": teachers.label(name),
        "family": teachers.family(name, found),
        "layers": found.num_layers,
        "widths": list(found.widths),
        "stride_samples": found.stride_samples,
        "field_samples": found.field_samples,
        "sample_rate": found.sample_rate,
        "causal": found.causal,
        "parameters": sum(p.numel() for p in found.parameters()),
        "metric": None,
    }
    control = name.partition(":")[0] in ("log-mel", "encoder", "random")  # without files of its own
    record = None if control else _record(teachers.resolve(name))
    if record is not None:
        row["family"] = record["config"].get("family", row["family"])
        row["metric"] = _metric(record)
    if audio is not None:
        row["throughput"] = throughput(found, audio, seconds, threads, quiet=quiet)
    return row


def _record(where: Path) -> dict[str, Any] | None:
    """What `teacher pretrain` or `pretrain-speaker` wrote; None where neither did."""
    path = where / "record.json"
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        config = record.get("config", {})
        if config.get("family") not in FAMILIES and config.get("objective") not in ("aam", "dino"):
            return None
        _metric(record)
        return record
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EnhanceError(
            f"{path}: not a record of enhance teacher pretrain or pretrain-speaker "
            f"({type(error).__name__}: {error})"
        ) from error


def _metric(record: dict[str, Any]) -> dict[str, Any] | None:
    """The last iteration's accuracy on clean held-back files, or a speaker encoder's EER."""
    if "iterations" not in record:
        return _equal_error_rate(record)
    last = record["iterations"][-1]
    if "clean" not in last:
        return None
    clean = last["clean"]
    guesses = {name: clean[name] for name in GUESSES if name in clean}  # the best: the baseline
    best = max(guesses, key=lambda name: guesses[name]["mean"], default=None)
    return {
        "name": "accuracy",
        "value": clean["accuracy"],
        "chance": clean["chance"],
        "guess": best and {"name": GUESSES[best][0], **guesses[best]},
        "gain": clean.get("gains", {}).get(best),
        "codes": last.get("codes", []),
        "steps": sum(row["steps"] for row in record["iterations"]),
        "minutes": round(sum(row["seconds"] for row in record["iterations"]) / 60, 1),
    }


def _equal_error_rate(record: dict[str, Any]) -> dict[str, Any] | None:
    """Of the speakers of --eval where they were given, else of those held back."""
    measured = {row["embedding"]: row for row in record.get("verification", [])}
    found = measured.get("trained") or record.get("held_back")
    if found is None:
        return None
    return {
        "name": "EER",
        "value": _rate(found),
        "chance": 0.5,
        "guess": _rate(measured.get("mean log-mel spectrum"), "mean spectrum"),
        "gain": None,
        "random_weights": _rate(measured.get("random weights")),
        "held_back": _rate(record.get("held_back")),
        "codes": [],
        "steps": record["steps"],
        "minutes": round(record["seconds"] / 60, 1),
    }


def _rate(found: dict[str, Any] | None, name: str = "") -> dict[str, Any] | None:
    if found is None:
        return None
    rate = {"mean": found["eer"], "low": found["low"], "high": found["high"]}
    return {"name": name, **rate} if name else rate


@torch.inference_mode()
def throughput(
    found: Any, audio: Path, seconds: float, threads: int, *, quiet: bool = False
) -> dict[str, Any]:
    """Audio seconds extracted per second of wall and of CPU time, one clip after another.

    The latter hardly depends on what else the machine does. So many ``seconds`` of a folder of
    recordings are extracted by so many ``threads`` of torch; recordings are cut to `CLIP_SECONDS`,
    decoding is not timed. An `EnhanceError` refuses a folder that holds no recording.
    """
    clips, _ = scan_folder(audio, quiet=True)
    if not clips:
        raise EnhanceError(f"{audio}: holds no recording to measure on")
    rate, total = found.sample_rate, 0.0
    waves: list[torch.Tensor] = []
    for clip in clips:
        read = files.read(clip.path, rate)[: int(CLIP_SECONDS * rate)]
        if found.frames(len(read)):
            waves.append(torch.from_numpy(np.ascontiguousarray(read)))
            total += len(read) / rate
        if total >= seconds:
            break
    if not waves:
        raise EnhanceError(f"{audio}: every recording is too short for one frame of {found.name}")
    with torch_threads(threads), progress_bar(quiet=quiet) as bar:
        task = bar.add_task(f"extracting, {found.name}", total=len(waves), speed="")
        found(waves[0][None], torch.tensor([len(waves[0])]))  # allocations, lazy imports
        spent, computed = -time.perf_counter(), -time.process_time()
        for wave in waves:
            found(wave[None], torch.tensor([len(wave)]))
            bar.update(task, advance=1)
        spent, computed = spent + time.perf_counter(), computed + time.process_time()
    return {
        "audio_seconds_per_second": round(total / spent, 1),
        "audio_seconds_per_cpu_second": round(total / computed, 1),
        "audio_seconds": round(total, 1),
        "clips": len(waves),
        "threads": threads,
        "device": "cpu",
        "machine": platform.machine(),
    }


_MEANING = {
    "accuracy": "Accuracy, of files that trained nothing: units of masked frames (hubert, wavlm), "
    "masked frames told from distractors (wav2vec2), frames to come told from other frames "
    "(wav2vec, vq-wav2vec). Chance: a blind choice. Families do not compare.",
    "EER": "EER: pairs of clips of speakers that were never heard, of a set given to the training "
    "where there was one, with mean spectrum and random weights on the same pairs; held-back: of "
    "speakers of the corpus that were kept out. Lower is better.",
}
"""What each metric is."""


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    timed = [row["throughput"] for row in rows if "throughput" in row]
    head = ["teacher", "family", "L", "widths", "stride", "field", "causal", "parameters"]
    head += ["trained", "metric on unheard audio (95 %)", "chance", "baseline without training"]
    head += ["over it, points", "random weights", "held-back EER", "code perplexity"]
    head += ["audio-s/s", "per CPU s"] if timed else []
    table = [head, ["---"] * len(head)]
    for row in rows:
        metric, speed = row["metric"], row.get("throughput", {})
        cells = [
            row["name"],
            row["family"] or "",
            str(row["layers"]),
            ", ".join(f"{len([*run])} x {width}" for width, run in groupby(row["widths"])),
            str(row["stride_samples"]),
            str(row["field_samples"]),
            "yes" if row["causal"] else "no",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{metric['steps']} steps, {metric['minutes']:g} min" if metric else "",
            *_figures(metric),
            *(str(speed.get(f"audio_seconds_per_{x}", "")) for x in ("second", "cpu_second")),
        ]
        table.append(cells[: len(head)])
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    lines += ["", "Stride and field in samples; L blocks give L + 1 hidden states."]
    metrics = {row["metric"]["name"] for row in rows if row["metric"]}
    lines += [text for name, text in _MEANING.items() if name in metrics]
    if any(row["metric"] and row["metric"]["guess"] for row in rows):
        lines.append(
            "Baseline: the best guess that no training gives. Over it: paired file by file with "
            "its interval where the record holds that, else the difference of the two means."
        )
    if timed:
        threads = timed[0]["threads"]
        lines.append(
            f"Throughput: all hidden states, clip by clip, {threads} CPU thread"
            f"{'s' * (threads > 1)}, clips cut to {CLIP_SECONDS:g} s."
        )
    return "\n".join(lines)


def _figures(metric: dict[str, Any] | None) -> list[str]:
    if metric is None:
        return ["no record", *[""] * 6]
    guess = metric["guess"]
    codes = ", ".join(f"{c['perplexity']:.0f} of {c['size']}" for c in metric["codes"])
    return [
        f"{metric['name']} {_share(metric['value'])}",
        f"{100 * metric['chance']:.1f} %",
        f"{guess['name']} {_share(guess)}" if guess else "",
        _over(metric),
        _share(metric.get("random_weights")),
        _share(metric.get("held_back")),
        codes,
    ]


def _share(value: dict[str, Any] | None) -> str:
    return share(value) if value else ""


def _over(metric: dict[str, Any]) -> str:
    """How much better than its baseline: paired where the record has it; BELOW is said."""
    if not metric["guess"]:
        return ""
    gain = metric["gain"] or {"mean": metric["value"]["mean"] - metric["guess"]["mean"]}
    better = -1 if metric["name"] == "EER" else 1
    points = 100 * better * gain["mean"]
    text = f"{points:+.1f}"
    if "low" in gain:
        text += f" ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
    return f"{text}, BELOW it" if points < 0 else text


def check(out: Path | None, force: bool) -> None:
    """Refuse, without ``force``, a file that is there, before anything is measured."""
    for path in _files(out) if out is not None else ():
        refuse_existing(path, force=force)


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the table: Markdown for ``.md``, JSON for ``.json``, both for another name."""
    for path in _files(out):
        if path.suffix == ".json":
            write_json(path, rows)
        else:
            with atomic(path) as temporary:
                temporary.write_text(markdown(rows) + "\n", "utf-8")


def _files(out: Path) -> list[Path]:
    if out.suffix in (".md", ".json"):
        return [out]
    return [out.with_name(out.name + suffix) for suffix in (".md", ".json")]
