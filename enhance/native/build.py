"""Compile the plain C: into one source file, and into a shared library for this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enhance.errors import EnhanceError
from enhance.files import atomic, temporary_folder

SOURCE = Path(__file__).parent / "source"

FLAGS = ("-std=c11", "-O3", "-ffp-contract=off")
"""What every build needs: without the last, other bits come out."""

LIBRARY_FLAGS = (
    "-march=native",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    '-DENHANCE_API=__attribute__((visibility("default")))',
)
"""And a shared library for this processor."""

COMPILERS = ("clang", "gcc", "cc")
"""Tried in this order; clang's code was the faster one."""

HEADERS = ("enhance.h", "stream.h")
"""What a program includes; they lie in `SOURCE`."""


def source() -> str:
    """The C source as one file, `enhance.c`, which includes `HEADERS` alone."""
    seen = set(HEADERS)

    def inlined(name: str) -> str:
        lines = []
        for line in (SOURCE / name).read_text().splitlines():
            part = re.fullmatch(r'#include "(.+)"', line)
            if part is None or part[1] in HEADERS:
                lines.append(line)
            elif part[1] not in seen:
                seen.add(part[1])
                lines.append(inlined(part[1]))
        return "\n".join(lines)

    return inlined("enhance.c") + "\n" + inlined("stream.c") + "\n"


def find_compiler() -> str | None:
    """A C compiler of this machine: $CC, the first of `COMPILERS` that is installed, or `zig`.

    $CC may be several words (``ccache gcc``).
    """
    named = os.environ.get("CC", "").strip()
    if named:
        return shutil.which(named) or (named if shutil.which(named.split()[0]) else None)
    return next(filter(None, map(shutil.which, COMPILERS)), None) or zig()


def zig() -> str | None:
    """The compiler that ``pip install 'enhance[native]'`` brings: Zig, which holds clang."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return None
    return shutil.which("zig", path=str(Path(spec.origin).parent))


def command_of(compiler: str) -> list[str]:
    """The words that call a compiler for C."""
    words = [compiler] if shutil.which(compiler) else compiler.split()
    return [*words, "cc"] if len(words) == 1 and Path(words[0]).stem == "zig" else words


def target(compiler: str) -> str:
    """All that a compiler predefines: its version, and every instruction set of the target.

    An `EnhanceError` tells that it cannot be run.
    """
    command = [*command_of(compiler), *FLAGS, *LIBRARY_FLAGS, "-E", "-dM", "-x", "c", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnhanceError(f"{compiler}: cannot be run ({error})") from error


def as_array(data: bytes, name: str) -> str:
    """Weights as C source: an array of words and its size in bytes."""
    words = np.frombuffer(data, "<u4")
    rows = [", ".join(map(hex, words[i : i + 12].tolist())) for i in range(0, len(words), 12)]
    return (
        "#include <stddef.h>\n\n"
        f"extern const unsigned int {name}[];\nextern const size_t {name}_size;\n\n"
        f"_Alignas(64) const unsigned int {name}[] = {{\n" + ",\n".join(rows) + "\n};\n"
        f"const size_t {name}_size = sizeof {name};\n"
    )


def compile_library(
    out: Path, compiler: str, flags: Sequence[str] = LIBRARY_FLAGS, more: str = ""
) -> Path:
    """Compile the shared library, with ``more`` source behind that of the stream.

    Whole or not at all; an `EnhanceError` as `compiled`.
    """
    with temporary_folder() as folder, atomic(out) as temporary:
        code = folder / "enhance.c"
        code.write_text(source() + more)
        command = [*command_of(compiler), *FLAGS, *flags, "-I", SOURCE, code, "-o", temporary]
        compiled(command, "the native step")
    return out


def compiled(command: Sequence[object], what: str) -> None:
    """Run a compiler.

    An `EnhanceError` tells that it cannot be run, or the first line of what was wrong.
    """
    plain = {**os.environ, "LC_ALL": "C"}  # an "error" is looked for, in no other language
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, errors="replace", env=plain
        )
    except OSError as error:
        raise EnhanceError(f"{command[0]}: cannot be run ({error})") from error
    if done.returncode:
        why = next((x for x in done.stderr.splitlines() if "error" in x), "no reason given")
        raise EnhanceError(f"{command[0]}: could not compile {what} ({why.strip()})")
