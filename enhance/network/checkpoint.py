"""A trained model as a folder: model.safetensors, config.json, and heard.jsonl beside them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from enhance.config import ModelConfig
from enhance.config.settings import parse, to_dict
from enhance.errors import EnhanceError
from enhance.files import is_file, is_folder, read_json, read_jsonl, write_json
from enhance.network.companion import Companion, Factory
from enhance.network.grow import can_hold, grow
from enhance.network.tensors import load_exactly, load_tensors, save_tensors
from enhance.network.waveform_model import WaveformModel

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
HEARD = "heard.jsonl"
FORMAT = "enhance-model-1"


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known about a trained model beside its weights."""

    config: ModelConfig
    """Framing and network."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained: mode, seed, steps, data; the same for the whole run."""
    score: dict[str, Any] = field(default_factory=dict)
    """Of these very weights: `step`, and in runs with validation `si_sdr`, `si_sdr_gain`,
    `pesq_wb`."""
    folder: Path = Path()
    """Where it lies."""
    companion: dict[str, Any] | None = None
    """What made the features beside the recurrent output (`Companion.describe`); None where there
    are none. `save_model` asks the model itself."""

    @property
    def heard(self) -> list[dict[str, Any]]:
        """Every file that training or validation used: `path`, `kind`, `source`, `speaker`,
        `part` ("train" or "validation"), `sha256` of the bytes. Empty without the file."""
        path = self.folder / HEARD
        return read_jsonl(path) if path.is_file() else []


def save_model(folder: Path | str, model: WaveformModel, info: CheckpointInfo) -> None:
    """Write weights and config, each atomically; the folder is made if absent.

    Parameters and running statistics are kept in float32. ``info.folder`` is not looked at.
    """
    folder = Path(folder)
    config = to_dict(info.config)
    beside = {} if model.companion is None else {"companion": model.companion.describe()}
    record = {"format": FORMAT, "model": config, **beside, "training": info.training}
    write_json(folder / CONFIG, record)
    header = {"model": config, **beside, "score": info.score}
    save_tensors(folder / WEIGHTS, dict(model.state_dict()), header, FORMAT)


def load_model(
    path: Path | str, companion: Factory | None = None
) -> tuple[WaveformModel, CheckpointInfo]:
    """Load a model, in evaluation mode on the CPU, and its record.

    ``path`` is a run folder, any folder with model.safetensors and config.json, or that
    model.safetensors. ``companion`` finds what makes the features beside the recurrent output, for
    models that need some (mode concat); `distill.modes.choose.load_model` brings its own.

    An `EnhanceError` if files are missing or damaged, were written by other code, do not belong
    together, hold weights that are not finite, or need a companion and none can be had.
    """
    info = read_info(path)
    weights = info.folder / WEIGHTS
    tensors, _ = load_tensors(weights, FORMAT)
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise EnhanceError(f"{weights}: {bad[0]} is not finite; the training diverged")
    beside = None
    if info.companion is not None:
        if companion is None:
            raise EnhanceError(
                f"{info.folder}: needs {info.companion.get('needs')} beside the audio, which this "
                "way of loading does not bring; load it with distill.modes.choose.load_model"
            )
        beside = companion(info.companion, info.config)
        changed = difference(identity(info.companion), identity(beside.describe()))
        if changed:
            key, theirs, ours = changed[0]
            raise EnhanceError(
                f"{info.folder}: needs {info.companion.get('needs')}, found another one "
                f"({key} was {theirs!r}, is {ours!r}); name the right one in "
                f"{info.folder / CONFIG}, companion.place"
            )
    model = WaveformModel(info.config, beside)
    load_exactly(model, tensors, str(weights))
    return model.eval(), info


def read_info(path: Path | str) -> CheckpointInfo:
    """The record of a checkpoint, without its weights; refused as by `load_model`."""
    path = Path(path)
    folder = path.parent if path.name in (WEIGHTS, CONFIG) else path
    if not is_folder(folder):
        raise EnhanceError(f"{path}: no such checkpoint folder")
    missing = [name for name in (WEIGHTS, CONFIG) if not is_file(folder / name)]
    if missing:
        early = missing == [WEIGHTS] and is_file(folder / "history.jsonl")
        why = "the run has not kept a model yet" if early else "this is no checkpoint of enhance"
        raise EnhanceError(f"{folder}: no {' and no '.join(missing)} ({why}); name a run folder")
    record = read_json(folder / CONFIG)
    found = record.get("format")
    if found != FORMAT or "model" not in record:
        raise EnhanceError(
            f"{folder / CONFIG}: written by other code (its format is {found!r}, need {FORMAT!r})"
        )
    config = parse(ModelConfig, record["model"], str(folder / CONFIG))
    _, header = load_tensors(folder / WEIGHTS, FORMAT, tensors=False)
    beside = record.get("companion")
    same = identity(header.get("companion")) == identity(beside)
    if header.get("model") != record["model"] or not same:
        raise EnhanceError(
            f"{folder}: {WEIGHTS} and {CONFIG} do not belong together (their models differ)"
        )
    score, training = header.get("score", {}), record.get("training", {})
    return CheckpointInfo(config, training, score, folder, beside)


def identity(companion: Any) -> Any:
    """What a companion is, without where it was found (see `Companion.describe`)."""
    if not isinstance(companion, dict):  # None, or what somebody wrote there
        return companion
    return {key: value for key, value in companion.items() if key not in ("place", "needs")}


def newest_run(root: Path | str = Path("runs"), *, kept: bool = True) -> Path:
    """The run below ``root`` that was written last; an `EnhanceError` if there is none.

    Only runs that have kept a model count; without ``kept`` those to resume too, which may not
    have yet.
    """
    root = Path(root)
    names = (WEIGHTS,) if kept else (WEIGHTS, "trainer.safetensors", "config.yaml")
    found = [path for name in names for path in root.glob(f"*/{name}")]
    if not found:
        raise EnhanceError(f"{root}: holds no trained run; name a checkpoint, or train one first")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def start_from(model: WaveformModel, config: ModelConfig, path: Path | str) -> CheckpointInfo:
    """Copy the weights of a checkpoint into ``model``.

    Its framing may be another where no weight depends on the number of bins, as in `dual_path`, and
    its network a smaller one or one of more blocks, see `enhance.network.grow`. Of any other model
    an `EnhanceError` names the first setting that differs.
    """
    info = read_info(path)
    mine = None if model.companion is None else to_dict(model.companion.describe())
    changed = difference(to_dict(info.config), to_dict(config))
    if changed and all(key.startswith("stft.") for key, _, _ in changed):
        there = WaveformModel(info.config).network.state_dict()
        if all(there[key].shape == x.shape for key, x in model.network.state_dict().items()):
            changed = []
    if can_hold(config.gcrn, info.config.gcrn):
        changed = []
    changed += difference({"companion": identity(info.companion)}, {"companion": identity(mine)})
    if changed:
        key, theirs, ours = changed[0]
        raise EnhanceError(
            f"{path}: is another model (model.{key} is {theirs!r} there, {ours!r} here); "
            "give this run the same model settings"
        )
    beside = copy.deepcopy(model.companion)  # the same, as was just seen
    other, info = load_model(path, lambda *_: cast(Companion, beside))
    if config.gcrn == info.config.gcrn:
        model.load_state_dict(other.state_dict())
    else:
        grow(model.network, other.network)
    return info


def difference(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ between two plain mappings, as (dotted key, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            found += difference(old.get(name), new.get(name), inner)
        return found
    return [] if old == new else [(key, old, new)]
