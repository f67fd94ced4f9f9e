"""A folder with a trained model in plain C: source, weights, and a certificate for each.

The certificate is that of ONNX (`export.certificate`), measured through the compiled source; the
int8 weights are held against ONNX's int8 on the same clips.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.files import atomic, check_writable, is_folder, kind_of, temporary_folder, write_json
from enhance.native.build import FLAGS, HEADERS, SOURCE, as_array, source
from enhance.native.library import build_library
from enhance.network.checkpoint import load_model
from enhance.parallel import torch_threads
from enhance.progress import progress_bar
from export import certificate as proof
from export.causality import look_ahead
from export.certificate import Bounds
from export.graph.inspect import compare_speed
from export.graph.quantize import quantize
from export.graph.step import save, step_graph
from export.metadata import describe
from export.native.weights import check_native, native_weights
from export.stream import Artefact, identified, read_streamable, with_clips

WEIGHTS = {"none": "enhance.bin", "int8": "enhance.int8.bin"}
ARRAYS = {"none": "enhance_weights", "int8": "enhance_weights_int8"}


def export_native(
    checkpoint: Path | str,
    folder: Path | str,
    *,
    int8: bool = False,
    clips: Path | str | None = None,
    clip_count: int = 8,
    bounds: Bounds | None = None,
    licence: str = "",
    force: bool = False,
    quiet: bool = False,
) -> list[Artefact]:
    """Export a checkpoint as plain C; the other arguments are `export.stream.export_model`'s.

    The folder is made if absent. It holds ``enhance.h``, ``stream.h``, ``enhance.c`` and
    ``README.md``; ``enhance.bin``, the same as an array in ``enhance_weights.c``, and
    ``enhance.certificate.json``; with ``int8`` these three once more (``enhance.int8.bin``, ...).
    Given are the ``.bin`` of fp32 and of int8.

    An `EnhanceError` if the checkpoint or the set cannot be used, there is no C compiler to prove
    it with, the folder has files and ``force`` is not set, or weights are refused: nothing of what
    is refused is written. With ``force`` weights that are not made anew are removed.
    """
    bounds, folder = bounds or Bounds(), Path(folder)
    modes = ["none", "int8"] if int8 else ["none"]
    check_native(read_streamable(checkpoint).config.gcrn)
    _refuse_place(folder, force)
    library = build_library(quiet=quiet)
    subject = with_clips(load_model(checkpoint), clips, clip_count, quiet)
    model, pairs, rate = subject.model, subject.clips, subject.rate
    about = describe(model, subject.info, licence)
    proven: list[tuple[str, bytes, dict[str, Any]]] = []
    refused: list[str] = []
    bars = progress_bar(quiet=quiet)
    with _writable(folder), bars as bar, temporary_folder() as trials, torch_threads(1):
        task = bar.add_task("export", total=1 + 2 * len(modes), speed="torch on the clips")
        ways = {"torch_offline": proof.offline(model, pairs)}
        ways["torch_streaming"] = proof.streaming(model, pairs)
        for streams in ways.values():
            streams.score(pairs, rate)
        ahead = look_ahead(model)
        first: Enhancer | None = None
        for mode in modes:
            name = WEIGHTS[mode]
            bar.update(task, advance=1, speed=f"{name}: making")
            data = native_weights(model, about, int8=mode == "int8")
            (trials / name).write_bytes(data)
            enhancer = Enhancer(trials / name, engine="native", library=library)
            first = first or enhancer
            bar.update(task, advance=1, speed=f"{name}: proving")
            key = "native_fp32" if mode == "none" else "native_int8"
            ways[key] = proof.runtime(enhancer, pairs).score(pairs, rate)
            facts = {
                "file": name,
                **identified(trials / name),
                "fp32_bytes": (trials / WEIGHTS["none"]).stat().st_size,
                "quantization": mode,
                "compiled_with": list(FLAGS),
            }
            if mode == "int8":
                graph = quantize(step_graph(model, about), "int8")
                other = Enhancer(save(graph, trials / "step.onnx"))
                ways["onnx_quantized"] = proof.runtime(other, pairs).score(pairs, rate)
                facts["speed"] = compare_speed(first, enhancer, pairs[0].noisy)
                facts["speed_over_onnx"] = compare_speed(other, enhancer, pairs[0].noisy)["ratio"]
            record = proof.certificate(subject, ahead, ways, bounds, facts)
            try:
                proof.judge(record, bounds, name, require_faster=False)
            except EnhanceError as error:
                if mode == "none":
                    raise
                refused.append(str(error))
                continue
            proven.append((mode, data, record))
        bar.update(task, completed=1 + 2 * len(modes), speed="")
    written = _write(folder, proven)
    if not quiet:
        for artefact in written:
            print(summary(artefact.certificate), file=sys.stderr)
    if refused:
        raise EnhanceError("; ".join(refused))
    return written


def summary(record: dict[str, Any]) -> str:
    """One line on weights."""
    key = "native_fp32" if record["quantization"] == "none" else "native_int8"
    snr = record["equality"][key]["snr_db"]
    line = f"{record['file']}: {record['bytes'] / 1e6:.2f} MB"
    if snr["worst"] is not None:
        line += f", {snr['worst']:.1f} dB SNR against torch at worst, {snr['mean']:.1f} in the mean"
    if key == "native_int8":
        other = record["equality"]["onnx_quantized"]["snr_db"]["mean"]
        line += f" (ONNX int8 {other:.1f}), {record['speed_over_onnx']:.2f} of its time"
    return line


def _refuse_place(folder: Path, force: bool) -> None:
    if kind_of(folder) is not None and not is_folder(folder):
        raise EnhanceError(f"{folder}: is a file; name a folder for the C source")
    if is_folder(folder) and any(folder.iterdir()) and not force:
        raise EnhanceError(f"{folder}: is not empty; use --force to replace what is exported")


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Refuse a folder that cannot be written before the long work; made for it, it goes with it."""
    made = kind_of(folder) is None
    try:
        check_writable(folder / "enhance.c")
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _write(folder: Path, proven: list[tuple[str, bytes, dict[str, Any]]]) -> list[Artefact]:
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], str]] = {
        **{name: (SOURCE / name).read_text for name in (*HEADERS, "README.md")},
        "enhance.c": source,
    }
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text())
    written = []
    for mode in WEIGHTS.keys() - {mode for mode, *_ in proven}:  # of an older model
        for old in (WEIGHTS[mode], f"{ARRAYS[mode]}.c"):
            (folder / old).unlink(missing_ok=True)
        (folder / WEIGHTS[mode]).with_suffix(".certificate.json").unlink(missing_ok=True)
    for mode, data, record in proven:
        path = folder / WEIGHTS[mode]
        beside = path.with_suffix(".certificate.json")
        # A certificate of older weights must not stand beside new ones if we are stopped here.
        beside.unlink(missing_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        with atomic(folder / f"{ARRAYS[mode]}.c") as temporary:
            temporary.write_text(as_array(data, ARRAYS[mode]))
        write_json(beside, record)
        written.append(Artefact(path, beside, record))
    return written
