"""What plain C costs beside ONNX, and that its bits are the same wherever it is compiled.

    python -m benchmarks.latency.native default small -o benchmarks/NATIVE.md

Runs from a checkout, on checkpoints/NAME; needs ``enhance[bench,export]``, clang and gcc, and for
the rows of other machines a cross compiler with qemu-user, and node. What is missing is said.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures.results import Row
from benchmarks.figures.tables import Table, number, size
from benchmarks.latency.bench import Bench, bench
from enhance.device.hub import find_model
from enhance.errors import EnhanceError
from enhance.files import check_writable, temporary_folder, write_text
from enhance.measure.timing import REGIMES
from enhance.native.build import FLAGS, SOURCE, source
from enhance.native.library import SUFFIX, build_library
from enhance.network.checkpoint import load_model
from export.graph.step import save, step_graph
from export.metadata import describe
from export.native.weights import native_weights

PROGRAM = Path(__file__).with_suffix(".c")
WASM = Path(__file__).parents[2] / "tests/export/native/wasm.mjs"

X86 = {
    "scalar": ["-DENHANCE_SCALAR"],
    "SSE2": ["-msse2"],
    "AVX2": ["-mavx2", "-mfma"],
    "AVX-512 VNNI": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"],
}
ARM = {
    "NEON": ([], "cortex-a72"),
    "NEON dot products": (["-march=armv8.2-a+dotprod"], "neoverse-n1"),
    "NEON i8mm": (["-march=armv8.2-a+dotprod+i8mm"], "max"),
}
"""Flags, and the processor that qemu is."""


@dataclass
class Build:
    """The source, compiled one way."""

    compiler: str
    machine: str
    flags: list[str]
    run: list[str]
    """What runs the program, if not this machine."""


def builds() -> tuple[list[Build], list[str]]:
    """All that can be compiled and run here, and what is missing for more."""
    found, missing = [], []
    for compiler in ("clang", "gcc"):
        if shutil.which(compiler) is None:
            missing.append(compiler)
            continue
        found += [Build(compiler, "x86-64", flags, []) for flags in X86.values()]
    cross, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
    if shutil.which(cross) and shutil.which(emulator):
        for flags, processor in ARM.values():
            run = [emulator, "-cpu", processor]
            found.append(Build(cross, f"aarch64 ({processor}, qemu)", ["-static", *flags], run))
    else:
        missing.append(f"{cross} and {emulator}")
    return found, missing


def files_of(name: str, folder: Path) -> list[Path]:
    """A checkpoint as ONNX and plain C in fp32, and the shipped int8 files of its name."""
    checkpoint = Path("checkpoints", name)
    model, info = load_model(checkpoint)
    about = describe(model, info)
    exact = save(step_graph(model, about), folder / f"{name}.onnx")
    exact.with_suffix(SUFFIX).write_bytes(native_weights(model, about))
    rounded = find_model(name)
    for path in (rounded, rounded.with_suffix(SUFFIX)):
        shutil.copy(path, folder / path.name)
    return [exact, folder / rounded.name]


def times_table(found: Bench, name: str) -> Table:
    """CPU time per frame; the ratio to ONNX int8 of the same model."""
    rows = [row for row in found.models if Path(row["path"]).name.split(".")[0] == name]
    base = next(row for row in rows if row["model"] == f"{name}.int8")
    titles = {name: "ONNX fp32", f"{name}.bin": "C fp32", f"{name}.int8": "ONNX int8",
              f"{name}.int8.bin": "C int8"}  # fmt: skip
    headers = ["engine", *(f"{r} p50 us" for r in REGIMES), *(f"{r} / ONNX int8" for r in REGIMES)]
    table = Table(f"{name}: CPU time of a hop of {base['hop_ms']:g} ms", headers)
    for row in rows:
        own, other = ([_median(a, regime) for regime in REGIMES] for a in (row, base))
        ratios = [number(x / y, 2) for x, y in zip(own, other, strict=True)]
        table.rows.append([titles[row["model"]], *(number(x, 0) for x in own), *ratios])
    return table


def _median(row: Row, regime: str) -> float:
    return 1000 * float(row["regimes"][regime]["cpu_ms"]["p50"])


def bits_table(weights: Sequence[Path], folder: Path) -> tuple[Table, list[str]]:
    """Every build on the same weights: code, stack, and whether the bits are the first one's."""
    headers = ["compiler", "machine", "instruction set", "code", "stack open", "stack hop",
               "stack open stream", "stack stream", "bits"]  # fmt: skip
    table = Table("Compilers and instruction sets", headers)
    wave = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    wave.tofile(folder / "in.f32")
    (folder / "enhance.c").write_text(source())
    first = ""
    found, missing = builds()
    for build in found:
        program, code = _compile(build, folder)
        digest, stacks = hashlib.sha256(), np.zeros(4, int)
        instructions = ""
        for path in weights:
            command = [*build.run, str(program), str(path), "in.f32", "out.f32"]
            said = _said(command, folder)
            instructions, *numbers = said.strip().split(",")
            stacks = np.maximum(stacks, [int(n) for n in numbers])
            digest.update((folder / "out.f32").read_bytes())
        first = first or digest.hexdigest()
        same = "the same" if digest.hexdigest() == first else "OTHER BITS"
        cells = [size(code), *(size(int(n)) for n in stacks), same]
        table.rows.append([_version(build.compiler), build.machine, instructions, *cells])
    wasm = _wasm(weights, folder, missing)
    if wasm:
        table.rows.append(wasm)
    return table, missing


def _compile(build: Build, folder: Path) -> tuple[Path, int]:
    """The program, and the bytes of the C source's code in it."""
    common = [build.compiler, *FLAGS, *build.flags, "-I", str(SOURCE)]
    _said([*common, "-c", "enhance.c", "-o", "enhance.o"], folder)
    _said([*common, "-O1", str(PROGRAM), "enhance.o", "-o", "native"], folder)
    return folder / "native", int(_said(["size", "enhance.o"], folder).splitlines()[1].split()[0])


def _wasm(weights: Sequence[Path], folder: Path, missing: list[str]) -> list[str] | None:
    """The row of wasm under node: hops only, against the first build's."""
    for tool in ("clang", "wasm-ld", "node"):
        if shutil.which(tool) is None:
            missing.append(f"{tool}, for wasm")
            return None
    (folder / "string.h").write_text(
        "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n"
    )
    names = ("size", "open", "hop", "process", "instructions", "stream_size", "stream_open",
             "stream_process")  # fmt: skip
    flags = ["--target=wasm32", "-msimd128", "-mbulk-memory", "-nostdlib", "-Wl,--no-entry"]
    flags += [*(f"-Wl,--export=enhance_{name}" for name in names), "-Wl,--export=__heap_base"]
    headers = ["-isystem", str(folder), "-I", str(SOURCE)]
    _said(["clang", *FLAGS, *flags, *headers, "enhance.c", "-o", "enhance.wasm"], folder)
    program, _ = _compile(builds()[0][0], folder)
    same = True
    for path in weights:
        _said([str(program), str(path), "in.f32", "out.f32"], folder)
        expected = np.fromfile(folder / "out.f32", np.uint32)
        hop = ["node", str(WASM), "enhance.wasm", str(path), "in.f32", "hop.f32"]
        instructions = _said(hop, folder).strip()
        _said([*hop[:-1], "rate.f32", "44100", "32000"], folder)
        hops, rate = (np.fromfile(folder / f"{n}.f32", np.uint32) for n in ("hop", "rate"))
        whole = len(hops) // 3200 * 3200  # of every shipped hop
        same &= np.array_equal(hops[:whole], expected[:whole])
        same &= np.array_equal(rate, expected[len(hops) :])
    code = (folder / "enhance.wasm").stat().st_size
    bits = "the same" if same else "OTHER BITS"
    return [_version("clang"), "wasm32 (node)", instructions, size(code), "-", "-", "-", "-", bits]


def _version(compiler: str) -> str:
    words = _said([compiler, "--version"], Path()).splitlines()[0].split()
    kind = "clang" if "clang" in words else compiler.rpartition("-")[2]
    number = next(word for word in words if word[0].isdigit() and "." in word)
    return f"{kind} {number.partition('-')[0].rstrip(')')}"


def _said(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise EnhanceError(f"{command[0]}: failed ({done.stderr.strip()[-300:]})")
    return done.stdout


def page(names: Sequence[str], seconds: float, out: Path) -> None:
    """Measure, and write the page."""
    check_writable(out)
    build_library()
    with temporary_folder() as folder:
        models = [path for name in names for path in files_of(name, folder)]
        weights = [path.with_suffix(SUFFIX) for path in models]
        bits, missing = bits_table(weights, folder)
        found = bench(models, seconds=seconds, repeats=1)
        sizes = Table("Sizes", ["file", "bytes"])
        for path in (file for pair in zip(models, weights, strict=True) for file in pair):
            sizes.rows.append([path.name, size(path.stat().st_size)])
    machine = found.hardware
    lines = [
        "# Plain C beside ONNX Runtime",
        "",
        f"Generated by `python -m benchmarks.latency.native {' '.join(names)}`; never edit it.",
        "",
        f"{machine['processor']} ({machine['architecture']}, {machine['cores']} cores seen; "
        f"{', '.join(machine['instruction_sets'])}), {machine['system']}, load "
        f"{machine['load_average']}, ONNX Runtime {machine['versions']['onnxruntime']}, one "
        "thread. All engines take turns in one run, so that ratios hold where the machine is "
        "shared; hot, cold and paced as in `enhance bench`.",
        "",
    ]
    for name in names:
        lines += times_table(found, name).section()
    lines += [f"* {warning}" for warning in found.warnings]
    lines += ["", *bits.section()]
    lines += [
        f"Two seconds of noise through hops and through a stream at 44.1 kHz, with "
        f"{', '.join(path.name for path in weights)}. Code: text of the object file, constants "
        "included. Stack: the painted bytes that a call used, the largest of all weights.",
        "",
        *([f"Not here: {'; '.join(missing)}.", ""] if missing else []),
        *sizes.section(),
    ]
    write_text(out, "\n".join(lines).rstrip() + "\n")


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model and regime")
    parser.add_argument("-o", "--out", type=Path, required=True, help="page to write")
    given = parser.parse_args()
    try:
        page(given.names, given.seconds, given.out)
    except EnhanceError as error:
        parser.exit(2, f"native: {error}\n")


if __name__ == "__main__":
    _main()
