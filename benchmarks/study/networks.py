"""CPU time per frame of every network of a study, all of them in one interleaved bench.

The time of a network does not depend on what it has learned: runs with the same model settings
share one measurement, that of the first of them, exported as an fp32 streaming ONNX file. When a
network is added, all are timed again: times of two benches do not compare.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from benchmarks.latency.bench import bench
from benchmarks.study.file import Trial, digest
from benchmarks.study.trial import lock
from enhance.config import ModelConfig
from enhance.config.settings import parse, to_dict
from enhance.errors import EnhanceError
from enhance.files import read_json, write_json
from enhance.network.checkpoint import CheckpointInfo
from enhance.progress import tracked

FOLDER = "networks"
TIMES = "networks.json"
FORMAT = 1
REGIMES = ("hot", "cold")


def time_networks(
    folder: Path, trials: Sequence[Trial], seconds: float, *, quiet: bool = False
) -> None:
    """Time the networks of finished trials, unless that was done or another process does it.

    The study's folder takes ``networks/`` and ``networks.json`` (`read_times`); ``seconds`` is the
    measuring time per network and regime.
    """
    wanted: dict[str, Trial] = {}
    for trial in trials:
        wanted.setdefault(digest(trial.config.model), trial)
    if set(wanted) <= set(read_times(folder).get("networks", {})):
        return
    with contextlib.suppress(Timeout), lock(folder, "networks"):
        networks: dict[str, Any] = {}
        files: dict[str, Path] = {}
        under_bar = tracked(wanted.items(), "exporting networks", len(wanted), quiet=quiet)
        for key, trial in under_bar:
            try:
                files[key] = _export(folder, trial)
            except EnhanceError as error:
                networks[key] = {"run": trial.key, "refused": str(error)}
        result: dict[str, Any] = {"format": FORMAT, "networks": networks}
        if files:
            measured = bench(
                list(files.values()), seconds, None, regimes=REGIMES, repeats=1, quiet=quiet
            )
            for key, row in zip(files, measured.models, strict=True):
                networks[key] = {**row, "run": wanted[key].key, "path": files[key].name}
                for shared in ("hardware", "settings", "relative"):
                    networks[key].pop(shared)
            settings = measured.models[0]["settings"]
            result |= {"hardware": measured.hardware, "settings": settings}
            # Late frames say how busy the machine was, nothing of CPU time.
            result["warnings"] = [w for w in measured.warnings if "than their hop" not in w]
        for key, row in networks.items():
            row["network"] = to_dict(wanted[key].config.model)
        write_json(folder / TIMES, result)


def read_times(folder: Path) -> dict[str, Any]:
    """What was timed: rows of `benchmarks.latency.bench.bench`, or the reason why not, by hash of
    the model's settings in ``networks``; ``hardware`` and ``settings``. Empty before the first
    time. An `EnhanceError` if the file is damaged.

    A setting that came after the times were taken counts as its default.
    """
    path = folder / TIMES
    value = read_json(path) if path.exists() else {}
    if value.get("format") != FORMAT:
        return {}
    rows = {digest(_network(row, path)) if "network" in row else key: row
            for key, row in value["networks"].items()}  # fmt: skip
    return {**value, "networks": rows}


def _network(row: dict[str, Any], path: Path) -> ModelConfig:
    return parse(ModelConfig, row["network"], f"{path}: network of {row['run']}")


def _export(folder: Path, trial: Trial) -> Path:
    import torch

    from enhance.network.waveform_model import WaveformModel
    from export.graph.step import save, step_graph
    from export.metadata import describe

    config = trial.config.model
    if config.gcrn.extra_features:
        raise EnhanceError("needs features beside the audio, which a stream has not")
    torch.manual_seed(0)
    model = WaveformModel(config).eval()  # what its weights are takes no time
    return save(
        step_graph(model, describe(model, CheckpointInfo(config))),
        folder / FOLDER / f"{trial.key}.onnx",
    )
