"""A run's state in half of its size, small enough to be kept beside the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from enhance.config import RunConfig
from enhance.config.settings import dump_yaml, parse, portable, to_dict
from enhance.errors import EnhanceError
from enhance.files import atomic_folder
from enhance.network.tensors import load_tensors, save_tensors
from enhance.training.engine.state import FILE, FORMAT
from enhance.training.run.run_folder import CONFIG, told

README = "README.md"


def snapshot(run: Path, out: Path, *, limit_mb: float = 4.0, force: bool = False) -> dict[str, Any]:
    """Write what a run needs to go on, in half precision.

    A folder with the state (weights and averages in float16, the optimiser's moments in bfloat16,
    as their squares leave float16's range; vectors and counts as they are), config.yaml without
    this machine's places, and a README.md with the command that goes on.

    ``run`` is only read. ``limit_mb`` bounds the folder in 10^6 bytes, ``force`` replaces what
    stands at ``out``. Returns ``step``, ``seconds`` of training, and ``bytes`` of the folder.
    An `EnhanceError` if ``run`` has no state, a value leaves float16's range, the folder would be
    larger, or something stands at ``out`` already.
    """
    if not limit_mb > 0:
        raise EnhanceError(f"--limit-mb {limit_mb:g}: must be more than 0")
    tensors, header = load_tensors(run / FILE, FORMAT)
    config = to_dict(parse(RunConfig, header["config"], str(run / FILE)))
    config["data"] = portable(config["data"])
    config["objective"] = _without_cache(config["objective"])
    header = {**header, "config": config, "objective": _without_cache(header["objective"])}
    small = {name: _half(name, value) for name, value in tensors.items()}
    for name, value in small.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise EnhanceError(f"{run / FILE}: {name} leaves the range of half precision")
    with atomic_folder(out, holds=(FILE, CONFIG, README), reads=[run], force=force) as place:
        save_tensors(place / FILE, small, header, FORMAT)
        (place / CONFIG).write_text(dump_yaml(config), "utf-8")
        (place / README).write_text(_readme(out, header, config), "utf-8")
        size = sum(path.stat().st_size for path in place.iterdir())
        if size > limit_mb * 1e6:
            raise EnhanceError(
                f"{out}: would take {size / 1e6:.1f} MB, the limit is {limit_mb:g}; keep the run "
                "folder elsewhere, or set --limit-mb"
            )
    return {"step": header["step"], "seconds": header["seconds"], "bytes": size}


def _without_cache(objective: Any) -> Any:
    """Settings of an objective that remembers in the user's cache folder, wherever that is."""
    if not isinstance(objective, dict):
        return objective
    return {k: "" if k == "cache" else _without_cache(v) for k, v in objective.items()}


def _half(name: str, value: Tensor) -> Tensor:
    if value.ndim < 2 or not value.is_floating_point():
        return value
    return value.to(torch.bfloat16 if name.startswith("optimizer.") else torch.float16)


def _readme(out: Path, header: dict[str, Any], config: dict[str, Any]) -> str:
    step, seconds = header["step"], header["seconds"]
    mixtures = step * config["training"]["batch_size"]
    places = {"corpus": "DIR", "speech": "[DIR]", "noise": "[DIR]", "rirs": "DIR"}
    return _TEXT.format(
        step=step,
        hours=mixtures * config["mixing"]["segment_seconds"] / 3600,
        trained=seconds / 3600,
        name=told(out),
        data="".join(f"--set data.{k}={v} " for k, v in places.items() if config["data"][k]),
    )


_TEXT = """\
# State of a training run at step {step}

{hours:.1f} h of mixtures in {trained:.2f} h. Weights, their averages and the optimiser's moments, \
in half precision. A new run goes on from here with its own budget, counted from here:

```sh
enhance train --branch {name} {data}--set training.steps=N
```

And a model to ship, by a decay of the rate in N steps:

```sh
enhance train --branch {name} {data}--set training.steps=N \\
  --set training.schedule=wsd --set training.decay_share=1
```

`DIR` is where the audio of `config.yaml` lies; more of it may be there by now.
"""
