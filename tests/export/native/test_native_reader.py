"""The C reader of weights trusts nothing: each fault is refused by name, none is read beyond."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_export import make_model
from tiny_native import META, NETWORKS, compile_driver, need

from enhance.errors import EnhanceError
from enhance.native.build import FLAGS, HEADERS, SOURCE, as_array, find_compiler, source
from enhance.native.library import NativeEngine, aligned, build_library, load_library
from export.native.weights import checksum, native_weights

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
NAME = "two decoders, gru"
PRODUCT = 256 + 1600 + 1600 + 1664
"""Where the first product begins: behind header, window (400), roots (200, 2), ends (201, 2)."""


@pytest.fixture(scope="module")
def weights() -> bytes:
    return native_weights(make_model(NETWORKS[NAME]), META)


@pytest.fixture(scope="module")
def rounded() -> bytes:
    return native_weights(make_model(NETWORKS[NAME]), META, int8=True)


def refusal(data: bytes) -> str:
    library = load_library(build_library(quiet=True))
    block = aligned(len(data))
    block[:] = np.frombuffer(data, np.uint8)
    why = library.enhance_refusal(block.ctypes.data, len(data))
    size = library.enhance_size(block.ctypes.data, len(data))
    assert (size == 0) == (why is not None)
    return "" if why is None else why.decode()


def signed(data: bytearray) -> bytes:
    """With the checksum that belongs to it."""
    data[12:16] = struct.pack("<I", checksum(bytes(data[16:])))
    return bytes(data)


def word(at: int, value: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[4 * at : 4 * at + 4] = struct.pack("<I", value & 0xFFFFFFFF)
        return signed(changed)

    return change


def number(at: int, value: float) -> Callable[[bytes], bytes]:
    return word(at, struct.unpack("<I", struct.pack("<f", value))[0])


def cut(data: bytes) -> bytes:
    """Half of it, with a header that fits."""
    half = bytearray(data[: len(data) // 128 * 64])
    half[8:12] = struct.pack("<I", len(half))
    return signed(half)


def test_whole_weights_are_taken(weights: bytes, rounded: bytes) -> None:
    assert refusal(weights) == refusal(rounded) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d[:0], "not of enhance"),
        (lambda d: d[:255], "not of enhance"),
        (lambda d: b"RIFF" + d[4:], "not of enhance"),
        (lambda d: d[:-64], "cut short"),
        (lambda d: d[:5000] + bytes([d[5000] ^ 1]) + d[5001:], "checksum"),
        (word(1, 2), "another version"),
        (word(4, 1 << 31), "cut short"),
        (cut, "cut short"),
        (word(5, 0), "size is out of range"),
        (word(6, 9000), "size is out of range"),
        (word(7, 100), "do not fit"),
        (word(8, 100000), "size is out of range"),
        (word(9, 13), "size is out of range"),
        (word(9, 0), "size is out of range"),
        (word(12, 0xFFFFFFFF), "size is out of range"),
        (word(14, 5), "groups do not divide"),
        (word(16, 3), "size is out of range"),
        (number(20, float("nan")), "power is out of range"),
        (word(22, 0), "size is out of range"),
        (word(22, 5), "a matrix has another size"),
        (word(PRODUCT // 4, 2), "a matrix has another size"),
        (word(PRODUCT // 4 + 1, 7), "a matrix has another size"),
        (number(PRODUCT // 4 + 16, float("inf")), "not finite"),
    ],
)
def test_each_fault_is_named(change: Callable[[bytes], bytes], why: str, weights: bytes) -> None:
    assert why in refusal(change(weights))


def test_bytes_of_eight_bits_are_refused(rounded: bytes) -> None:
    data = bytearray(rounded)
    values = np.frombuffer(rounded, np.int8)
    # The longest run of small numbers is the largest matrix.
    inside = np.convolve(np.abs(values.astype(int)) <= 63, np.ones(512), "valid").argmax()
    data[inside + 256] = 100
    assert "byte is out of range" in refusal(signed(data)) or "not finite" in refusal(signed(data))


def test_weights_at_an_odd_place_are_refused(weights: bytes) -> None:
    library = load_library(build_library(quiet=True))
    block = aligned(len(weights) + 64)
    assert b"multiple of 16" in library.enhance_refusal(block.ctypes.data + 4, len(weights))


def test_a_stream_needs_all_its_memory_at_a_round_place(weights: bytes) -> None:
    library = load_library(build_library(quiet=True))
    block = aligned(len(weights))
    block[:] = np.frombuffer(weights, np.uint8)
    size = library.enhance_size(block.ctypes.data, len(weights))
    memory = aligned(size + 64)
    model = block.ctypes.data, len(weights)
    assert library.enhance_open(memory.ctypes.data, size - 1, *model) is None
    assert library.enhance_open(memory.ctypes.data + 4, size, *model) is None
    assert library.enhance_open(None, size, *model) is None
    assert library.enhance_open(memory.ctypes.data, size, *model) is not None


def describing(data: bytes, **about: object) -> bytes:
    """With other metadata: entries by name, ``text`` for all of it."""
    size, end = int.from_bytes(data[16:20], "little"), len(data.rstrip(b"\0"))
    kept = json.loads(data[end - size : end])
    text = str(about.get("text") or json.dumps({**kept, **about})).encode()
    changed = data[:16] + struct.pack("<I", len(text)) + data[20 : end - size] + text
    changed += bytes(-len(changed) % 64)
    return signed(bytearray(changed[:8] + struct.pack("<I", len(changed)) + changed[12:]))


def test_metadata_that_mislead_are_refused_in_one_line(weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(describing(weights))
    engine = NativeEngine(path)
    total = len(engine.zeros())
    assert sum(map(np.size, engine.arrays(engine.zeros()).values())) == total
    states = (
        '{"a": [1e999]}', '{"a": [NaN]}', "[" * 100000, f'{{"a": [-1, {-total}]}}',
        f'{{"a": [{2**40}, {2**40}], "b": [{total}]}}', f'{{"a": [0, {2**70}], "b": [{total}]}}',
        f'{{"a": [{-(2**80)}], "b": [{2**80 + total}]}}',
    )  # fmt: skip
    for about in (
        *({"states": text} for text in states),
        {"text": "[" * 100000},
        {"training": "\ud800"},
    ):
        path.write_bytes(describing(weights, **about))
        with pytest.raises(EnhanceError, match="its metadata"):
            NativeEngine(path)


EXAMPLE = """
#include <stdlib.h>
#include "stream.h"
static int left = 3;
#define read(to, n) (left-- > 0)
#define write(from, n) (void)(from)
int main(void) {{
    size_t bytes = weights_size, n = 256;
    static float in[8192], out[8192], piece[256];
    (void)in, (void)out, (void)piece, (void)n;
    {}
    return left != -1;
}}
"""


@pytest.mark.parametrize("header", HEADERS)
def test_the_example_of_a_header_runs(header: str, weights: bytes, tmp_path: Path) -> None:
    lines = re.findall(r"^ \*     (.+)$", (SOURCE / header).read_text(), re.M)
    code = source() + as_array(weights, "weights") + EXAMPLE.format("\n".join(lines))
    (tmp_path / "a.c").write_text(code)
    files = ["-I", SOURCE, tmp_path / "a.c", "-o", tmp_path / "a"]
    subprocess.run([need("gcc"), *FLAGS, "-O1", *files], check=True)
    assert subprocess.run([tmp_path / "a"]).returncode == 0


def test_a_library_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(b"nothing")
    with pytest.raises(EnhanceError, match="no library of enhance"):
        load_library(tmp_path / "a.so")


def test_random_changes_are_never_read_beyond(
    weights: bytes, rounded: bytes, tmp_path: Path
) -> None:
    """Under the address sanitizer, in memory of exactly the file's size."""
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = compile_driver(tmp_path, need("clang"), flags)
    rng = np.random.default_rng(0)
    (tmp_path / "in.f32").write_bytes(bytes(4 * 640))
    names = [tmp_path / name for name in ("w.bin", "in.f32", "out.f32")]
    ends = set()
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the driver ends without freeing
    for trial in range(60):
        data = bytearray((weights, rounded)[trial % 2])
        reach = 256 if trial % 3 else len(data)
        for _ in range(1 + trial % 4):
            at = int(rng.integers(5, reach // 4))
            value = int(rng.choice([0, 1, 2, 7, 64, 4096, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            data[4 * at : 4 * at + 4] = struct.pack("<I", value)
        names[0].write_bytes(signed(data))
        done = subprocess.run([program, *names], capture_output=True, text=True, env=quiet)
        assert done.returncode in (0, 3), done.stderr
        ends.add(done.returncode)
    assert 3 in ends
