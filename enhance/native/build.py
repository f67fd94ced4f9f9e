"""Compile plain C, the network and the stream around it: into one source file, and into a shared library for this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import atomic

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
    """A C compiler of this machine: $CC, or the first of `COMPILERS` that is installed."""
    named = os.environ.get("CC")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, COMPILERS)), None)


def target(compiler: str, flags: Sequence[str] = LIBRARY_FLAGS) -> str:
    """All that a compiler predefines: its version, and every instruction set of the target.

    Raises
    ------
    EnhanceError
        If it cannot be run.
    """
    command = [compiler, *FLAGS, *flags, "-E", "-dM", "-x", "c", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnhanceError(f"{compiler}: cannot be run ({error})") from error


def compile_library(out: Path, compiler: str, flags: Sequence[str] = LIBRARY_FLAGS) -> Path:
    """Compile the shared library, whole or not at all.

    Raises
    ------
    EnhanceError
        If the compiler fails; with the first line of what it says.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        code = temporary.with_suffix(".c")
        try:
            code.write_text(source())
            command = [compiler, *FLAGS, *flags, "-I", str(SOURCE), str(code), "-o", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise EnhanceError(f"{compiler}: cannot be run ({error})") from error
        finally:
            code.unlink(missing_ok=True)
        if done.returncode:
            why = next((x for x in done.stderr.splitlines() if "error" in x), "no reason given")
            raise EnhanceError(f"{compiler}: could not compile the native step ({why.strip()})")
    return out
