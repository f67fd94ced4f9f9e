"""`export_offline`: checkpoint in, one certified ONNX file for whole recordings out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from enhance.device.offline import KIND, OfflineEnhancer
from enhance.errors import EnhanceError
from enhance.files import temporary_folder
from enhance.network.checkpoint import CheckpointInfo, identity, load_model, read_info
from enhance.network.companion import Factory
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import torch_threads
from enhance.progress import progress_bar
from export import certificate as proof
from export.certificate import Bounds, Clip, Streams
from export.graph.step import operators, save
from export.graph.whole import Whole, whole_graph
from export.metadata import describe
from export.stream import Artefact, identified, refuse_places, remember, with_clips, write


def export_offline(
    checkpoint: Path | str,
    out: Path | str,
    companion: Factory | None = None,
    *,
    clips: Path | str | None = None,
    clip_count: int = 4,
    bounds: Bounds | None = None,
    licence: str = "",
    force: bool = False,
    quiet: bool = False,
) -> Artefact:
    """Export a checkpoint of any mode for whole recordings, its teacher inside, with a certificate.

    The file takes ``audio`` (1, samples), any number of samples from `least_samples` of its
    metadata on, and gives as many back. The whole recording goes through at once: memory grows
    with its length, for attention with the square. Torch hears recordings beyond
    ``longest_samples`` in windows, the file does not: up to there the two are equal.

    Parameters
    ----------
    checkpoint
        Run or checkpoint folder.
    out
        The file, ``NAME.onnx``; ``NAME.certificate.json`` stands beside it.
    companion
        Finds the teacher of a concat model (`distill.modes.choose.find_companion`).
    clips, clip_count, bounds, licence, force, quiet
        As `export.stream.export_model` has them.

    Raises
    ------
    EnhanceError
        If the checkpoint, its teacher or the set cannot be used, the file exists, or it differs
        from torch: nothing is written then.
    """
    bounds = bounds or Bounds()
    out = Path(out)
    refuse_places(checkpoint, [out], force, read_info)
    model, info = load_model(checkpoint, companion)
    least, longest = _range(model)
    subject = with_clips((model, info), clips, clip_count, quiet)
    pairs = _lengths(subject.clips, least, longest)
    subject = replace(subject, clips=pairs)
    with progress_bar(quiet=quiet) as bar, temporary_folder() as folder, torch_threads(1):
        task = bar.add_task("export", total=3, speed="tracing (minutes)")
        graph = whole_graph(model, _metadata(model, info, licence, least, longest))
        bar.update(task, advance=1, speed="torch on the clips")
        reference = proof.offline(model, pairs).score(pairs, subject.rate)
        bar.update(task, advance=1, speed=f"{out.name}: proving")
        trial = save(graph, folder / out.name)
        enhancer = OfflineEnhancer(trial)
        found = Streams([enhancer(clip.noisy) for clip in pairs]).score(pairs, subject.rate)
        record: dict[str, Any] = {
            "file": out.name,
            "kind": KIND,
            **identified(trial),
            "quantization": "none",
            "operators": operators(graph),
            "measured_on": subject.measured_on() | {"samples": [len(c.noisy) for c in pairs]},
            "least_samples": least,
            "equal_up_to_samples": longest,
            "equality": {"onnx_fp32": {"max_abs_error": proof.max_error(reference, found)}},
            "metrics": {"onnx_fp32": proof.compare_scores(reference, found, pairs)},
            "bounds": {"max_abs_error": bounds.stream_error},
            "versions": proof.made_with(),
        }
        error = record["equality"]["onnx_fp32"]["max_abs_error"]
        if not error <= bounds.stream_error:
            raise EnhanceError(
                f"{out.name}: refused, it differs from torch by {error:.2g} "
                f"(bound {bounds.stream_error:.2g}); it was not written"
            )
        artefact = write(graph, out, record)
        bar.update(task, advance=1, speed="")
    remember(info, out)
    if not quiet:
        print(
            f"{out.name}: {record['bytes'] / 1e6:.2f} MB, whole recordings only, = torch to "
            f"{error:.1e} at {len(pairs)} lengths",
            file=sys.stderr,
        )
    return artefact


def _range(model: WaveformModel) -> tuple[int, int | None]:
    """Shortest recording, and the longest that torch hears at once (None: any)."""
    whole = Whole(model)
    return whole.least_samples, whole.beside.longest_samples if whole.beside else None


def _lengths(pairs: list[Clip], least: int, longest: int | None) -> list[Clip]:
    """The clips, the longest as torch hears them at once, and the first cut to odd lengths."""
    cut = [Clip(c.name, c.clean[:longest], c.noisy[:longest]) for c in pairs]
    first = cut[0]
    total = len(first.noisy)
    for count in sorted({least, total // 3 + 1, total - 1}):
        if least <= count < total:
            # From a third on, where the recording is no longer silent.
            part = slice(total // 3, None) if count < total // 2 else slice(None)
            clean, noisy = first.clean[part][:count], first.noisy[part][:count]
            name = f"{first.name}[{count} samples]"
            cut.append(Clip(name, np.ascontiguousarray(clean), np.ascontiguousarray(noisy)))
    return cut


def _metadata(
    model: WaveformModel, info: CheckpointInfo, licence: str, least: int, longest: int | None
) -> dict[str, str]:
    found = describe(model, info, licence)
    found["model_type"] = KIND
    found["least_samples"] = str(least)
    if longest is not None:
        found["equal_up_to_samples"] = str(longest)
    if info.companion is not None:
        del found["macs_per_second"]  # the teacher's are not in it
        found["companion"] = json.dumps(identity(info.companion), sort_keys=True)
    # Where the teacher lay on this machine is nobody's business, unless it has a name.
    record: dict[str, Any] = json.loads(found["training"])
    found["training"] = json.dumps(_without_places(record), sort_keys=True, ensure_ascii=False)
    return found


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: _without_places(v) for k, v in value.items() if k != "cache"}
        if isinstance(kept.get("teacher"), str) and Path(kept["teacher"]).is_absolute():
            kept["teacher"] = Path(kept["teacher"]).name
        return kept
    return value
