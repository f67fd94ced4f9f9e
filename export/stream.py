"""`export_model`: checkpoint in, certified ONNX files out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from enhance.audio import read as audio
from enhance.data.evaluation_set import builtin_set, open_set
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import (
    atomic,
    check_writable,
    refuse_existing,
    resolved,
    sha256,
    temporary_folder,
    to_json,
    write_jsonl,
)
from enhance.network.checkpoint import CheckpointInfo, load_model, read_info
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import torch_threads
from enhance.progress import progress_bar
from export import certificate as proof
from export.causality import look_ahead
from export.certificate import Bounds, Clip, Subject
from export.graph.inspect import compare_speed, inspect
from export.graph.quantize import FLOAT_SHARES, quantize
from export.graph.step import save, step_graph
from export.metadata import describe

SUFFIXES = {"int8": ".int8.onnx", "int8-weights": ".int8w.onnx"}
LEAST_SECONDS = 10.0
"""A certificate on less audio than this says little."""


@dataclass(frozen=True)
class Artefact:
    """A file that was written, with its proof."""

    path: Path
    certificate_path: Path
    certificate: dict[str, Any]


def export_model(
    checkpoint: Path | str,
    out: Path | str,
    *,
    int8: bool = False,
    int8_weights: bool = False,
    clips: Path | str | None = None,
    clip_count: int = 8,
    bounds: Bounds | None = None,
    require_faster: bool = False,
    licence: str = "",
    force: bool = False,
    quiet: bool = False,
) -> list[Artefact]:
    """Export a checkpoint as streaming ONNX, each file with a certificate.

    Parameters
    ----------
    checkpoint
        Run or checkpoint folder.
    out
        The fp32 file, ``NAME.onnx``; ``NAME.int8.onnx`` and ``NAME.int8w.onnx`` stand beside it,
        and ``NAME….certificate.json`` beside each.
    int8, int8_weights
        Make these versions too (see `export.graph.quantize`).
    clips
        Evaluation set (folder with clean/ and noisy/) to certify on; None for the built-in
        synthetic one.
    clip_count
        Pairs taken from the set, evenly spread over it; more where they are too short for 10 s.
    bounds
        Fidelity asked for.
    require_faster
        Refuse an int8 file that is not faster than fp32 here.
    licence
        Of the weights; empty for the training record's, or else unknown.
    force
        Replace files that exist.
    quiet
        Print nothing.

    Returns
    -------
    list of Artefact
        In the order fp32, int8, int8-weights.

    Raises
    ------
    EnhanceError
        If the checkpoint or the set cannot be used, a file exists, or a file is refused: nothing
        of a refused file is written, the others stay.
    """
    bounds = bounds or Bounds()
    out = Path(out)
    modes = [m for m, wanted in (("int8", int8), ("int8-weights", int8_weights)) if wanted]
    paths = {"none": out, **{mode: out.with_suffix(SUFFIXES[mode]) for mode in modes}}
    refuse_places(checkpoint, list(paths.values()), force)
    subject = with_clips(load_model(checkpoint), clips, clip_count, quiet)
    model, pairs = subject.model, subject.clips
    written: list[Artefact] = []
    refused: list[str] = []
    with (
        progress_bar(quiet=quiet) as bar,
        temporary_folder() as folder,
        torch_threads(1),  # thousands of tiny operations, hop by hop
    ):
        task = bar.add_task("export", total=2 + 2 * len(paths), speed="tracing")
        fp32 = step_graph(model, describe(model, subject.info, licence))
        bar.update(task, advance=1, speed="torch on the clips")
        ways = {"torch_offline": proof.offline(model, pairs)}
        ways["torch_streaming"] = proof.streaming(model, pairs)
        if len(paths) > 1:
            ways["torch_offline"].score(pairs, subject.rate)
        ahead = look_ahead(model)
        first: Enhancer | None = None
        for mode, path in paths.items():
            for share in FLOAT_SHARES if mode != "none" else (1.0,):
                bar.update(task, speed=f"{path.name}: making")
                graph = fp32 if mode == "none" else quantize(fp32, mode, share)
                trial = save(graph, folder / path.name)
                enhancer = Enhancer(trial)
                first = first or enhancer
                bar.update(task, speed=f"{path.name}: proving")
                streams = proof.runtime(enhancer, pairs)
                facts = {
                    "file": path.name,
                    **identified(trial),
                    "fp32_bytes": len(fp32.SerializeToString(deterministic=True)),
                    "quantization": mode,
                    "operators": inspect(graph, fp32),
                }
                if mode == "none":
                    ways["onnx_fp32"] = streams
                else:
                    ways["onnx_quantized"] = streams.score(pairs, subject.rate)
                    facts["float_share"] = share
                    facts["speed"] = compare_speed(first, enhancer, pairs[0].noisy)
                record = proof.certificate(subject, ahead, ways, bounds, facts)
                try:
                    proof.judge(record, bounds, path.name, require_faster)
                except EnhanceError as error:
                    if mode == "none":
                        raise
                    if share == FLOAT_SHARES[-1]:
                        refused.append(str(error))
                    continue
                written.append(write(graph, path, record))
                if mode == "none":  # at once: int8 takes minutes, and may be stopped
                    remember(subject.info, out)
                if not quiet:
                    print(summary(record), file=sys.stderr)
                break
            bar.update(task, advance=2)
        bar.update(task, advance=1, speed="")
    if refused:
        raise EnhanceError("; ".join(refused))
    return written


def identified(file: Path) -> dict[str, Any]:
    """Hash and size of an artefact."""
    return {"sha256": sha256(file), "bytes": file.stat().st_size}


def read_streamable(checkpoint: Path | str) -> CheckpointInfo:
    """The record of a checkpoint; refused if it needs more than the audio so far."""
    info = read_info(checkpoint)
    if info.companion is not None:
        raise EnhanceError(
            f"{checkpoint}: cannot be a stream: it needs {info.companion.get('needs')}, which look "
            "ahead over the whole recording; --offline exports it for whole recordings, and models "
            "of modes distill and pretrain stream"
        )
    if info.config.gcrn.extra_features:
        raise EnhanceError(
            f"{checkpoint}: needs features beside the audio at run time (extra_features "
            f"{info.config.gcrn.extra_features}); a stream has none, train without them"
        )
    return info


def refuse_places(
    checkpoint: Path | str,
    paths: Sequence[Path],
    force: bool,
    read: Callable[[Path | str], object] = read_streamable,
) -> None:
    """Refuse before any work what ``read`` refuses of a checkpoint, and places of artefacts.

    The name of the first is what the user gave. What is refused leaves no folder behind.
    """
    if paths[0].suffix != ".onnx":
        raise EnhanceError(
            f"{paths[0]}: must end in .onnx (what stands beside it is named after it)"
        )
    for path in paths:
        refuse_existing(path, force=force)
    read(checkpoint)
    for path in paths:
        check_writable(path)


def remember(info: CheckpointInfo, out: Path) -> None:
    """Write what the checkpoint heard beside the artefact, as file names: `NAME.heard.jsonl`.

    In the run's own folder the run's list is there already. The list of a model that was replaced
    goes.
    """
    beside = out.with_suffix(".heard.jsonl")
    if info.heard and resolved(out.parent) != resolved(info.folder):
        rows = [{**row, "path": Path(row["path"]).name} for row in info.heard]
        write_jsonl(beside, rows)
    else:
        beside.unlink(missing_ok=True)


def summary(record: Mapping[str, Any]) -> str:
    """One line on an artefact."""
    equality = record["equality"]
    line = f"{record['file']}: {record['bytes'] / 1e6:.2f} MB, "
    if record["quantization"] == "none":
        error = equality["onnx_fp32"]["max_abs_error"]
        seconds = record["measured_on"]["seconds"]
        return f"{line}streamed = torch to {error:.1e} over {seconds:.0f} s"
    rows = record["metrics"]["onnx_quantized"]
    changes = ", ".join(
        f"{name} {rows[key]['difference']:+.3f}"
        for key, name in (("si_sdr", "SI-SDR"), ("pesq_wb", "PESQ"), ("stoi", "STOI"))
        if rows.get(key, {}).get("clips")
    )
    speed = record["speed"]
    snr = equality["onnx_quantized"]["snr_db"]
    worst = "equal to fp32"
    if snr["worst"] is not None:
        worst = f"{snr['worst']:.1f} dB SNR against fp32 at worst"
    sets = "+".join(speed["instruction_sets"]) or speed["architecture"]
    return f"{line}{worst}, {changes}, {speed['ratio']:.2f} of fp32's time ({sets})"


def write(graph: ModelProto, path: Path, record: dict[str, Any]) -> Artefact:
    """Write an artefact and its certificate."""
    beside = path.with_suffix(".certificate.json")
    with atomic(beside) as certificate:
        certificate.write_text(to_json(record, 2) + "\n", "utf-8")
        with atomic(path) as artefact:
            artefact.write_bytes(graph.SerializeToString(deterministic=True))
            # All is on the disk. A certificate of an older file must not stand beside the new one
            # if we are stopped between the two.
            beside.unlink(missing_ok=True)
    return Artefact(path, beside, record)


def with_clips(
    loaded: tuple[WaveformModel, CheckpointInfo], place: Path | str | None, count: int, quiet: bool
) -> Subject:
    """A model, and pairs spread evenly over a set, at least 10 s of them."""
    rate = loaded[0].config.stft.sample_rate
    if count < 1:
        raise EnhanceError(f"clip_count {count}: must be at least 1")
    found = builtin_set(count=max(count, 3), quiet=quiet) if place is None else open_set(place)
    chosen: list[Clip] = []
    seconds = 0.0
    for index in _spread(len(found.pairs), count):
        if len(chosen) >= count and seconds >= LEAST_SECONDS:
            break
        name, clean, noisy, _ = found.pairs[index]
        x, y = audio.read(clean, rate), audio.read(noisy, rate)
        if len(x) != len(y):
            raise EnhanceError(f"{noisy}: is not as long as {clean} ({len(y)}, {len(x)} samples)")
        chosen.append(Clip(name, x, y))
        seconds += len(y) / rate
    if seconds < LEAST_SECONDS:
        raise EnhanceError(
            f"{found.folder}: holds {seconds:.1f} s (a certificate needs {LEAST_SECONDS:.0f} s); "
            "name a larger set"
        )
    source = {
        "set": "built-in, synthetic" if place is None else resolved(found.folder).name,
        "synthetic": place is None,
        "set_sha256": found.hash,
    }
    return Subject(*loaded, chosen, source)


def _spread(total: int, count: int) -> list[int]:
    """All of ``range(total)``, ``count`` evenly spread ones first."""
    first = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return [*first.tolist(), *np.setdiff1d(np.arange(total), first).tolist()]
