"""A LADSPA plug-in with a model in it: one shared library for FFmpeg, SoX, PipeWire and editors."""

from __future__ import annotations

import os
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import atomic, check_writable, is_file, refuse_existing
from enhance.native.build import as_array, compile_library, find_compiler
from enhance.native.library import NO_COMPILER, NativeEngine, build_library

PLUGIN, PIPEWIRE = "enhance.so", "pipewire.conf"
"""What is written."""
LABELS = ("enhance_mono", "enhance_stereo")
_SOURCE = Path(__file__).parent / "plugin"
_FLAGS = ("-march=native", "-shared", "-fPIC", "-fvisibility=hidden")


def refuse_place(folder: Path, *, force: bool = False) -> None:
    """Refuse, before work is done, a folder that holds a plug-in or cannot be written."""
    if is_file(folder):
        raise EnhanceError(f"{folder}: is a file; name a folder for the plug-in")
    refuse_existing(folder / PLUGIN, force=force)
    check_writable(folder / PLUGIN)


def build_plugin(weights: Path, folder: Path, *, force: bool = False, quiet: bool = False) -> Path:
    """Compile the plug-in for this processor, and write a configuration of PipeWire beside it.

    The weights, those for plain C, become part of the library. The folder is made if absent. An
    `EnhanceError` tells that the weights cannot be used, there is no compiler or no ``ladspa.h``,
    or the folder holds a plug-in.
    """
    refuse_place(folder, force=force)
    compiler = find_compiler()
    if compiler is None:
        raise EnhanceError(f"export --ladspa: {NO_COMPILER}")
    # Refuses what the plug-in could only pass over.
    NativeEngine(weights, build_library(quiet=quiet))
    more = (_SOURCE / "ladspa.c").read_text() + as_array(weights.read_bytes(), "enhance_weights")
    path = folder.resolve() / PLUGIN
    try:
        compile_library(path, compiler, _FLAGS, more)
    except EnhanceError as error:
        if "ladspa.h" in str(error):
            raise EnhanceError(
                "export --ladspa: ladspa.h was not found; install it (Debian: ladspa-sdk)"
            ) from error
        raise
    conf = path.with_name(PIPEWIRE)
    text = (_SOURCE / PIPEWIRE).read_text()
    text = text.replace("@PLUGIN@", str(path)).replace("@CONF@", str(conf))
    with atomic(conf) as temporary:
        temporary.write_bytes(os.fsencode(text))  # a name need not be UTF-8
    return folder / PLUGIN
