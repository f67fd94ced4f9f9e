"""The records that a model card is made of, each checked to be of this very model.

A card whose certificate, run or measurements belong to another file is worse than none: whatever
is missing or does not fit is refused, with the command that makes it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures.results import Row, read_results
from benchmarks.quality.candidates import NOISY
from enhance.config import DataConfig, ModelConfig, RunConfig
from enhance.config.settings import CORPUS, load_run, load_yaml, parse, portable, to_dict
from enhance.data.corpus.clips import load_clips
from enhance.data.corpus.inventory import by_source
from enhance.data.corpus.manifest import Clip
from enhance.device.enhancer import Enhancer
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.files import read_json, read_jsonl, read_text, sha256
from enhance.network import checkpoint
from enhance.network.tensors import load_tensors
from enhance.training.engine.record import HISTORY, TIMING
from enhance.training.run.run_folder import CONFIG, HARMLESS, below_common

HOURS_TOLERANCE = 0.01
"""Relative difference of hours by manifest and by the run's own record that is let pass."""


@dataclass(frozen=True)
class Records:
    """Everything a card says, as data."""

    path: Path
    """The ONNX file."""
    sha256: str
    metadata: dict[str, str]
    """What the ONNX file says of itself."""
    training: Row
    """Its record of training, with the score of the weights."""
    certificate: Row
    config: Row
    """The run's configuration as it wrote it, without paths of the machine."""
    command: str
    """Trains the model again."""
    newer: list[str]
    """Settings that came after the run: the command leaves them at their defaults of today."""
    curve: list[Row]
    """Validation rows of the run, in order."""
    last_step: int
    """Steps of the whole run; the kept weights may be of an earlier one."""
    seconds: float | None
    """Time trained; None where the run does not tell."""
    data: dict[str, list[Row]]
    """Rows of `enhance.data.corpus.inventory.by_source` for each use that the card's table has."""
    quality: list[list[Row]]
    """One list for each evaluation set: the noisy input, then the model."""
    harm: list[list[Row]]
    """The same for guards."""
    latency: Row
    notes: str
    """Markdown by the author; empty without."""

    @property
    def name(self) -> str:
        """Name of the model: its file's without endings."""
        return model_name(self.path)

    @property
    def hours_heard(self) -> float:
        """Hours of mixtures that the kept weights were trained on."""
        mixtures = int(self.training["score"]["step"]) * int(self.config["training"]["batch_size"])
        return mixtures * float(self.config["mixing"]["segment_seconds"]) / 3600


def model_name(path: Path) -> str:
    """File name without ``.onnx`` and the quantisation before it."""
    return path.name.removesuffix(".onnx").removesuffix(".int8").removesuffix(".int8w")


def gather(
    model: str | Path,
    run: Path | str,
    results: Sequence[Path | str],
    *,
    corpus: Path | str | None = None,
    config: Path | str | None = None,
    notes: Path | str | None = None,
) -> Records:
    """Read and check all records; see `benchmarks.pages.card.write_card`.

    The `EnhanceError` names the first record that is missing or belongs to another model.
    """
    path, run = find_model(model), Path(run)
    metadata = Enhancer(path).metadata
    training = _json_of(metadata, "training", path)
    if "step" not in training.get("score", {}):
        raise EnhanceError(f"{path}: its metadata do not name the step of its weights")
    written = _check_run(run, path, training, _json_of(metadata, "config", path))
    settings = parse(RunConfig, written, str(run / "config.yaml"))
    curve, last_step = _history(run, training["score"])
    rows = [row for place in results for row in read_results(place)]
    return Records(
        path=path,
        sha256=sha256(path),
        metadata=metadata,
        training=training,
        certificate=_certificate(path),
        config=portable(written),
        command=_command(portable(written), config, run, training),
        newer=_absent(written, to_dict(settings)),
        curve=curve,
        last_step=last_step,
        seconds=_seconds(run),
        data=_data(run, settings.data, training, corpus),
        quality=_by_set(_wanted(rows, path, "quality"), rows),
        harm=gather_guards(path, results),
        latency=max(_wanted(rows, path, "latency"), key=lambda row: row["time"]),
        notes="" if notes is None else read_text(notes).strip(),
    )


def gather_guards(path: Path, results: Sequence[Path | str]) -> list[list[Row]]:
    """Guard rows of one ONNX file, one list for each set: the noisy input, then the model.

    An `EnhanceError` if there are none of this very file.
    """
    rows = [row for place in results for row in read_results(place)]
    return _by_set(_wanted(rows, path, "harm"), rows)


_COMMANDS = {
    "quality": "enhance evaluate {} --set DIR -o DIR",
    "harm": "enhance guard {} --set DIR -o DIR",
    "latency": "enhance bench {} -o DIR",
}
"""What writes rows of a kind."""


def _wanted(rows: Sequence[Row], path: Path, kind: str) -> list[Row]:
    digest = sha256(path)
    found = [r for r in rows if r.get("model_hash") == digest and r.get("kind") == kind]
    if not found:
        names = {row.get("model_hash") for row in rows if row.get("model") == path.stem}
        why = " (there are rows of another file with its name)" if names - {digest} else ""
        raise EnhanceError(
            f"{path}: no {kind} rows of this file, {digest[:12]}, in the results named{why}; "
            f"run: {_COMMANDS[kind].format(path)}"
        )
    return found


def _json_of(metadata: Mapping[str, str], key: str, path: Path) -> Row:
    try:
        value = json.loads(metadata.get(key, ""))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EnhanceError(f"{path}: has no {key} record in its metadata; export it anew")
    return value


def _certificate(path: Path) -> Row:
    place, digest = path.with_suffix(".certificate.json"), sha256(path)
    record = read_json(place, f"no certificate of {path.name}; enhance export writes one")
    found = str(record.get("sha256", ""))
    if found != digest:
        raise EnhanceError(
            f"{place}: is the certificate of another file ({found[:12] or 'no hash'}, "
            f"{path.name} is {digest[:12]})"
        )
    if "tried" not in record.get("look_ahead", {}):
        raise EnhanceError(f"{place}: does not say how look-ahead was tried; export it again")
    return record


def _check_run(run: Path, path: Path, training: Row, model: Row) -> Row:
    """The run's configuration as it stands in its folder, if this run trained the file."""
    names = (checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.HEARD, CONFIG, HISTORY)
    missing = [name for name in names if not (run / name).is_file()]
    if missing:
        raise EnhanceError(f"{run}: no {' and no '.join(missing)}; name the folder of the run")
    kept = read_json(run / checkpoint.CONFIG)
    _, header = load_tensors(run / checkpoint.WEIGHTS, checkpoint.FORMAT, tensors=False)
    model = _full(model, str(path))  # an older record lacks the settings that came after it
    theirs = {
        "model": _full(kept.get("model") or {}, str(run / checkpoint.CONFIG)),
        "training": kept.get("training"),
        "score": header.get("score"),
    }
    record = {key: value for key, value in training.items() if key != "score"}
    ours = {"model": model, "training": record, "score": training["score"]}
    _refuse_difference(checkpoint.difference(theirs, ours), f"{run}: did not train {path.name}")
    written = load_yaml(run / CONFIG)
    # The budget may have been extended since the weights were kept.
    names = ("batch_size", "learning_rate", "weight_decay", "ema_decay", "precision")
    told: Row = {name: training[name] for name in names if name in training}
    found: Row = {name: written.get("training", {}).get(name) for name in told}
    if found.get("precision") == "auto":  # the record tells what the machine made of it
        del found["precision"], told["precision"]
    told |= {"model": model, "seed": training.get("seed")}
    own = _full(written.get("model") or {}, str(run / CONFIG))
    found |= {"model": own, "seed": written.get("seed")}
    _refuse_difference(
        checkpoint.difference(found, told), f"{run / CONFIG}: is not of the run that was exported"
    )
    return written


def _full(model: Row, where: str) -> Row:
    return dict(to_dict(parse(ModelConfig, model, where)))


def _refuse_difference(changed: Sequence[tuple[str, Any, Any]], what: str) -> None:
    if changed:
        key, theirs, ours = changed[0]
        raise EnhanceError(f"{what} ({key} is {theirs!r} there, {ours!r} in the ONNX file)")


def _history(run: Path, score: Mapping[str, Any]) -> tuple[list[Row], int]:
    rows = read_jsonl(run / HISTORY)
    curve = [row for row in rows if row.get("type") == "validation"]
    last = max((int(row["step"]) for row in rows), default=0)
    if score["step"] > last:
        raise EnhanceError(f"{run / HISTORY}: ends at step {last}, the weights are of a later one")
    if "si_sdr" in score:
        kept = [row for row in curve if row["step"] == score["step"]]
        if not kept or kept[0].get("si_sdr") != score["si_sdr"]:
            raise EnhanceError(
                f"{run / HISTORY}: does not hold the validation at step {score['step']} that "
                "chose the weights"
            )
    return curve, last


def _seconds(run: Path) -> float | None:
    if not (run / TIMING).is_file():
        return None
    found = [r["seconds"] for r in read_jsonl(run / TIMING) if r.get("type") in ("train", "stop")]
    return float(found[-1]) if found else None


def _by_set(own: Sequence[Row], rows: Sequence[Row]) -> list[list[Row]]:
    """The newest row of each set, with the row of the untouched input on the same clips."""
    newest: dict[str, Row] = {}
    for row in sorted(own, key=lambda row: row["time"]):
        newest[row["set_hash"]] = row
    found = []
    for row in newest.values():
        keys = ("kind", "set_hash", "settings")
        inputs = [
            other
            for other in rows
            if other.get("model_hash") == NOISY and all(other.get(k) == row.get(k) for k in keys)
        ]
        if not inputs:
            raise EnhanceError(
                f"{row['set']}: the {row['kind']} rows lack the noisy input; name the whole results"
            )
        found.append([max(inputs, key=lambda row: row["time"]), row])
    return found


def _data(
    run: Path, heard: DataConfig, training: Row, corpus: Path | str | None
) -> dict[str, list[Row]]:
    """Hours and licences of what the run's list names, as the corpus tells them."""
    if corpus is not None:
        heard = DataConfig(corpus=str(corpus))
    speech, noise = load_clips(heard, quiet=True)
    clips = [*speech, *noise]
    # As the run wrote them; by their names alone where the corpus has gained or lost a file.
    by_path = dict(zip(below_common([clip.path for clip in clips]), clips, strict=True))
    by_name: dict[tuple[str, str, str], list[Clip]] = {}
    for clip in clips:
        by_name.setdefault((clip.kind, clip.source, clip.path.name), []).append(clip)
    parts: dict[tuple[str, str], list[Clip]] = {}
    listed = run / checkpoint.HEARD
    for row in read_jsonl(listed):
        place = str(row["path"])
        same = by_name.get((row["kind"], row["source"], Path(place).name), [])
        if place in by_path:
            same = [by_path[place]]
        if len(same) != 1:
            why = "holds no such file" if not same else "holds several files of that name"
            raise EnhanceError(
                f"{listed}: names {Path(place).name} of {row['source'] or 'no source'}, the "
                f"corpus {why}; name the run's corpus with --corpus"
            )
        parts.setdefault((row["part"], row["kind"]), []).append(same[0])
    for kind in ("speech", "noise"):
        found = by_source(parts.get(("train", kind), []))
        _check_hours(run, kind, found, training.get("hours", {}).get(kind, {}))
    places = {
        "train": ("train", "speech"),
        "held_back": ("validation", "speech"),
        "noise": ("train", "noise"),
        "noise_held_back": ("validation", "noise"),
    }
    return {use: by_source(parts.get(place, [])) for use, place in places.items()}


def _check_hours(run: Path, kind: str, found: Sequence[Row], told: Mapping[str, float]) -> None:
    hours = {row["source"]: float(row["hours"]) for row in found}
    for source in sorted(hours.keys() | told.keys()):
        a, b = hours.get(source, 0.0), float(told.get(source, 0.0))
        if abs(a - b) > HOURS_TOLERANCE * max(a, b) + 1e-3:
            raise EnhanceError(
                f"{run}: heard {b:.3f} h of {kind} from {source or 'no source'}, by the corpus it "
                f"is {a:.3f} h; name the corpus it was trained on with --corpus"
            )


def _absent(written: Mapping[str, Any], full: Mapping[str, Any], before: str = "") -> list[str]:
    """Dotted keys of ``full`` that ``written`` does not have."""
    found = []
    for name, value in full.items():
        if name not in written:
            found.append(f"{before}{name}")
        elif isinstance(value, dict) and isinstance(written[name], dict):
            found += _absent(written[name], value, f"{before}{name}.")
    return found


def _command(
    written: Row, config: Path | str | None, run: Path, training: Mapping[str, Any]
) -> str:
    """A command whose settings are those of the run, found by comparing them."""
    if config is None:
        preset = "config.yaml"
        assignments = [f"data.corpus={CORPUS}"] if written["data"]["corpus"] else []
    else:
        preset = Path(*Path(config).parts[-2:]).as_posix()
        base = portable(to_dict(load_run(config, [])))
        skipped = HARMLESS | set(_absent(written, base))
        assignments = [
            f"{key}={_flow(value)}"
            for key, _, value in checkpoint.difference(base, written)
            if key not in skipped
        ]
    words = ["enhance", "train", "--config", preset]
    for text in assignments:
        words += ["--set", text]
    option = "branch" if "branch" in training else "init"
    if option in training:
        words += [f"--{option}", training[option]["checkpoint"]]
    return shlex.join([*words, "--run", f"runs/{run.resolve().name}"])


def _flow(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)
