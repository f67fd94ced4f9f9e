"""The C step as WebAssembly. It is shipped, so that exporting a page needs no compiler.

    python -m export.web.wasm

compiles it anew, after each change of the C source.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import atomic, temporary_folder
from enhance.native.build import FLAGS, HEADERS, SOURCE, compiled, source

WEB = Path(__file__).parent / "source"
"""Modules, page and WebAssembly."""

WASM = WEB / "enhance.wasm"

EXPORTS = (
    "enhance_refusal",
    *(
        f"enhance_stream_{name}"
        for name in (
            "size", "open", "latency", "process", "set_limit", "set_strength", "set_full_band"
        )
    ),
    "__heap_base",
)  # fmt: skip

WASM_FLAGS = (
    "--target=wasm32",
    "-msimd128",
    "-mbulk-memory",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
    # A stack that is too small traps, it does not run into the data.
    "-Wl,--stack-first",
    "-Wl,-z,stack-size=131072",
    *(f"-Wl,--export={name}" for name in EXPORTS),
)

_STRING = "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n"
"""All of libc that is asked for; -mbulk-memory makes it an instruction."""

_SECTION = b"\x06source"


def fingerprint() -> bytes:
    """Of the source and how it is compiled."""
    parts = [source(), *((SOURCE / name).read_text() for name in HEADERS), *FLAGS, *WASM_FLAGS]
    return hashlib.sha256("\0".join(parts).encode()).digest()


def section() -> bytes:
    """The fingerprint as a custom section, which stands at the end of the file."""
    body = _SECTION + fingerprint()
    return bytes([0, len(body)]) + body


def compile_wasm(out: Path) -> Path:
    """Compile the step, whole or not at all.

    An `EnhanceError` tells that clang or its linker is missing, or fails.
    """
    missing = [tool for tool in ("clang", "wasm-ld") if shutil.which(tool) is None]
    if missing:
        raise EnhanceError(f"WebAssembly: {' and '.join(missing)} not found; install clang and lld")
    with temporary_folder() as folder, atomic(out) as temporary:
        (folder / "string.h").write_text(_STRING)
        (folder / "enhance.c").write_text(source())
        files = ["-isystem", folder, "-I", SOURCE, folder / "enhance.c", "-o", temporary]
        compiled(["clang", *FLAGS, *WASM_FLAGS, *files], "the step for WebAssembly")
        with temporary.open("ab") as file:
            file.write(section())
    return out


if __name__ == "__main__":
    print(f"{compile_wasm(WASM)}: {WASM.stat().st_size} bytes")
