"""The same bits from every compiler and instruction set; sanitizers; another processor."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_export import make_model
from tiny_native import DRIVER, META, NETWORKS, compile_driver, need, noise, run_driver

from enhance.native.build import FLAGS, SOURCE, find_compiler, source
from export.native.weights import native_weights

X86 = {
    "scalar": (["-DENHANCE_SCALAR"], "scalar"),
    "SSE2": (["-msse2"], "SSE2"),
    "AVX2": (["-mavx2", "-mfma"], "AVX2"),
    "VNNI": (["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"], "AVX-512 VNNI"),
}
SANITIZED = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
"""Vector code of one lane and of four: what is out of bounds in one may not be in the other."""

CHOSEN = (
    "magnitude branch, three frames",
    "odd transform, no overlap",
    "two paths, attention, lstm",
)

STREAMS = ((48000, 100), (44100, 1), (11025, 333), (16001, 64))
"""Rates, the last with more phases than there are taps for, and pieces."""


@cache
def cases() -> list[tuple[bytes, np.ndarray]]:
    """Weights and waves: networks that meet every function, in float and in bytes."""
    found = []
    for name in (
        *CHOSEN,
        "two decoders, gru",
        "two paths, recurrent, gru",
        "two paths, dense, gru",
    ):
        config = NETWORKS[name]
        model = make_model(config)
        found += [(native_weights(model, META, int8=i), noise(6, config)) for i in (False, True)]
    return found


@pytest.fixture(scope="module")
def scalar(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """What the plainest build gives."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("NO C COMPILER: plain C was not tested")
    folder = tmp_path_factory.mktemp("scalar")
    program = compile_driver(folder, compiler, ["-O1", "-DENHANCE_SCALAR"])
    return outputs([program], folder, "scalar")


def outputs(command: list[str | Path], folder: Path, instructions: str) -> list[np.ndarray]:
    found = []
    for weights, wave in cases():
        said, out = run_driver(command, folder, weights, wave)
        assert said == instructions
        found.append(out)
    weights, wave = cases()[0]
    longer = np.tile(wave, 4)  # than what a stream is late by
    for stream in STREAMS:
        found.append(run_driver(command, folder, weights, longer, stream)[1])
    return found


def assert_same_bits(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        assert np.abs(a).max() > 1e-3
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def processor_has(*flags: str) -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and set(flags) <= set(path.read_text().split())


@pytest.mark.parametrize("compiler", ["clang", "gcc"])
@pytest.mark.parametrize("kind", X86)
def test_every_build_for_this_processor_gives_the_same_bits(
    compiler: str, kind: str, scalar: list[np.ndarray], tmp_path: Path
) -> None:
    needed = {"AVX2": ["avx2", "fma"], "VNNI": ["avx512_vnni", "avx512bw"]}.get(kind, ["sse2"])
    if not processor_has(*needed):
        pytest.skip(f"NO {kind} HERE: plain C was not tested with it")
    flags, instructions = X86[kind]
    program = compile_driver(tmp_path, need(compiler), flags)
    assert_same_bits(outputs([program], tmp_path, instructions), scalar)


@pytest.mark.parametrize("lanes", ["scalar", "SSE2"])
def test_sanitizers_find_nothing(lanes: str, scalar: list[np.ndarray], tmp_path: Path) -> None:
    flags, instructions = X86[lanes] if processor_has("sse2") else X86["scalar"]
    program = compile_driver(tmp_path, need("clang"), [*SANITIZED, *flags])
    assert_same_bits(outputs([program], tmp_path, instructions), scalar)


@pytest.mark.parametrize(
    ("flags", "instructions", "processor"),
    [
        ([], "NEON", "cortex-a72"),
        (["-march=armv8.2-a+dotprod"], "NEON dot products", "neoverse-n1"),
    ],
)
def test_arm_gives_the_same_bits(
    flags: list[str],
    instructions: str,
    processor: str,
    scalar: list[np.ndarray],
    tmp_path: Path,
) -> None:
    emulator = need("qemu-aarch64-static")
    program = compile_driver(tmp_path, need("aarch64-linux-gnu-gcc"), ["-static", *flags])
    command: list[str | Path] = [emulator, "-cpu", processor, program]
    assert_same_bits(outputs(command, tmp_path, instructions), scalar)


def test_wasm_gives_the_same_bits_without_any_library(
    scalar: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "enhance.c").write_text(source())
    names = ("size", "open", "hop", "process", "instructions")
    names += ("stream_size", "stream_open", "stream_process")
    exports = [f"-Wl,--export=enhance_{name}" for name in names]
    flags = ["--target=wasm32", "-msimd128", "-mbulk-memory", "-O1", "-Wall", "-Werror"]
    link = ["-nostdlib", "-Wl,--no-entry", "-Wl,--export=__heap_base", *exports]
    headers = ["-isystem", wasm_headers(tmp_path), "-I", SOURCE]
    need("wasm-ld")
    files = [tmp_path / "enhance.c", "-o", tmp_path / "enhance.wasm"]
    subprocess.run([need("clang"), *FLAGS, *flags, *headers, *link, *files], check=True)
    command: list[str | Path] = [need("node"), DRIVER.with_name("wasm.mjs")]
    command.append(tmp_path / "enhance.wasm")
    assert_same_bits(outputs(command, tmp_path, "wasm SIMD"), scalar)


def wasm_headers(folder: Path) -> Path:
    """memcpy's declaration, all that is used of libc; the others come with the compiler."""
    path = folder / "string.h"
    path.write_text("#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n")
    return folder


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast"])
def test_fast_math_is_refused(flag: str, tmp_path: Path) -> None:
    (tmp_path / "enhance.c").write_text(source())
    command = [need("gcc"), *FLAGS, flag, "-I", SOURCE, "-c", tmp_path / "enhance.c", "-o"]
    done = subprocess.run([*command, tmp_path / "a.o"], capture_output=True, text=True)
    assert done.returncode
    assert "fast-math gives other bits" in done.stderr


def test_contracted_products_are_refused_when_a_stream_is_opened(tmp_path: Path) -> None:
    if not processor_has("fma"):
        pytest.skip("NO FMA HERE: contraction cannot be shown")
    program = compile_driver(
        tmp_path, need("gcc"), ["-O2", "-mavx2", "-mfma", "-ffp-contract=fast"]
    )
    weights, wave = cases()[0]
    (tmp_path / "w.bin").write_bytes(weights)
    wave.tofile(tmp_path / "in.f32")
    names = [tmp_path / name for name in ("w.bin", "in.f32", "out.f32")]
    assert subprocess.run([program, *names]).returncode == 4
