"""What `enhance info` prints: size, arithmetic, framing and latency of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import util
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from enhance.device.hub import shipped_models
from enhance.errors import EnhanceError, require
from enhance.files import is_folder
from enhance.stft import FRAMINGS, StftConfig

if TYPE_CHECKING:
    from enhance.config import ModelConfig
    from enhance.device.enhancer import Enhancer


_COLUMNS = ("parameters", "MAC/s", "size", "window/hop", "latency", "kind")
_REMARK = re.compile(r" of | at | algorithmic| quantisation")
_WIDTH = 200


def describe(model: str | None, framing: str = "25-20") -> None:
    """Print one model, or all presets and shipped models that can be used here.

    A ``model`` is a preset, checkpoint folder, ONNX file or shipped name, ``framing`` that of a
    preset. An `EnhanceError` if there is no such model or framing.
    """
    if framing not in FRAMINGS:
        raise EnhanceError(f"--framing {framing}: known: {', '.join(FRAMINGS)}")
    table = Table(box=None, header_style="bold", show_header=model is None)
    if model is not None:
        for row in _facts(model, framing).items():
            table.add_row(*row)
    else:
        names = shipped_models()
        if all(util.find_spec(name) for name in ("torch", "pydantic")):
            from enhance.config import MODELS

            names = [*MODELS, *names]  # without them nothing can be made of a preset
        for key in ("model", *_COLUMNS):
            table.add_column(key, justify="left" if key in ("model", "kind") else "right")
        for fact in [_facts(name, framing) for name in names]:
            # What is before the remark behind a figure.
            table.add_row(fact["model"], *(_REMARK.split(fact[key])[0] for key in _COLUMNS))
    # A pipe has no width, and a figure that is cut is none; a name may hold [ and :.
    Console(width=_WIDTH, soft_wrap=True, markup=False, emoji=False).print(table)


def _facts(model: str, framing: str) -> dict[str, str]:
    """What is printed of a model, in this order."""
    if is_folder(model) or model.endswith(".safetensors"):  # or a file of one
        require("train", "torch", "safetensors")
        from enhance.network.checkpoint import read_info

        info = read_info(model)
        facts = _of_config(model, "checkpoint", info.config)
        if info.companion is not None:
            facts["needs"] = f"{info.companion.get('needs')}, at run time: offline only"
        return facts
    if util.find_spec("pydantic") is not None:  # without it there are only ONNX files
        from enhance.config import MODELS, ModelConfig

        if model in MODELS:
            return _of_config(model, "preset", ModelConfig(FRAMINGS[framing], MODELS[model]))
    from enhance.device.enhancer import Enhancer

    enhancer = Enhancer.from_pretrained(model)
    if enhancer.metadata.get("model_type") != "gcrn":
        raise EnhanceError(f"{model}: is a streaming enhancer of another kind than gcrn")
    try:
        return _of_metadata(model, enhancer)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise EnhanceError(
            f"{model}: its metadata are not what enhance export writes ({why}); export it anew"
        ) from error


def _of_metadata(model: str, enhancer: Enhancer) -> dict[str, str]:
    m = enhancer.metadata
    stft = StftConfig(
        *(int(m[k]) for k in ("sample_rate", "window_length", "hop_length", "fft_size"))
    )
    return {
        "model": model,
        "kind": f"ONNX, {m['quantization']} quantisation",
        "parameters": f"{int(m['parameters']):,}",
        "MAC/s": f"{int(m['macs_per_second']) / 1e6:,.1f} M",
        "size": f"{enhancer.path.stat().st_size / 1e6:.2f} MB",
        **_framing(stft),
        "network": _network(json.loads(m["config"])["gcrn"]),
        "licence": m.get("licence", ""),
    }


def _of_config(name: str, kind: str, config: ModelConfig) -> dict[str, str]:
    require("train", "torch")
    from enhance.network.waveform_model import WaveformModel, macs_per_second

    parameters = sum(p.numel() for p in WaveformModel(config).parameters())
    return {
        "model": name,
        "kind": kind,
        "parameters": f"{parameters:,}",
        "MAC/s": f"{macs_per_second(config) / 1e6:,.1f} M",
        "size": f"{4 * parameters / 1e6:.2f} MB of fp32 weights",
        **_framing(config.stft),
        "network": _network(asdict(config.gcrn)),
    }


def _network(c: Mapping[str, Any]) -> str:
    channels = "-".join(map(str, c["channels"]))
    rnn = f"{c['rnn_layers']} x {c['cell']} {c['hidden']}"
    kind = f"in {c['groups']} groups"
    if c.get("bottleneck") == "dual_path":  # files from before there was a choice name none
        kind = f"over time, {c['mixing']} over frequency"
    return f"{channels}, {rnn} {kind}, {c['output']}"


def _framing(c: StftConfig) -> dict[str, str]:
    ms = 1000 / c.sample_rate
    return {
        "window/hop": f"{c.window_length}/{c.hop_length} at {c.sample_rate} Hz",
        "latency": f"{c.algorithmic_latency_samples * ms:.0f} ms algorithmic "
        f"({c.latency_samples} samples late)",
    }
