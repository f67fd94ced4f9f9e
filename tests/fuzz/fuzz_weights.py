"""Coverage-guided search for weights at which the C code leaves its memory, or does what C forbids.

    python tests/fuzz/fuzz_weights.py 60

Needs clang with libFuzzer, and the extra `export`. What is found is kept in
tests/fuzz/crashes/weights, from where `test_weights.py` tries it for ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from enhance.config import GcrnConfig, ModelConfig
from enhance.native.build import FLAGS, SOURCE, source
from enhance.stft import StftConfig
from export.native.weights import native_weights

HERE = Path(__file__).resolve().parent
CRASHES = HERE / "crashes/weights"
SANITIZED = ("-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
LEAST = ("-max_len=65536", "-timeout=20", "-rss_limit_mb=2048")

NETWORKS = (
    GcrnConfig((2, 3), "gru", 4),
    GcrnConfig((2, 4), "lstm", 3, 1, 1, kernel_frames=2, level_frames=3, decoders=1),
    GcrnConfig((2, 3), "gru", 6, 1, groups=3, decoders=1, output="magnitude_phase"),
    GcrnConfig((3,), "lstm", 4, 1, output="complex_mapping"),
    *(
        GcrnConfig((2, 4), cell, 3, 1, bottleneck="dual_path", mixing=mixing, decoders=1)
        for cell, mixing in (("gru", "recurrent"), ("lstm", "attention"), ("gru", "dense"))
    ),
)
FRAMINGS = (StftConfig(16000, 24, 16, 24), StftConfig(8000, 15, 15, 17))


def seeds() -> Iterator[bytes]:
    """Weights of a few kilobytes: every kind of network, in float and in bytes."""
    from tiny_export import make_model

    for number, network in enumerate(NETWORKS):
        model = make_model(ModelConfig(FRAMINGS[number % 2], network))
        for int8 in (False, True):
            yield native_weights(model, {"training": "{}"}, int8=int8)


def build(folder: Path, compiler: str) -> Path:
    """The fuzzer: the C source, its harness and libFuzzer's main."""
    code, program = folder / "enhance.c", folder / "fuzz"
    code.write_text(source())
    flags = [*FLAGS, *SANITIZED, "-D_POSIX_C_SOURCE=200809L", "-I", str(SOURCE)]
    files = [str(code), str(HERE / "weights.c"), "-o", str(program)]
    subprocess.run([compiler, *flags, *files], check=True)
    return program


def write_seeds(folder: Path) -> None:
    """One file for each."""
    folder.mkdir()
    for number, data in enumerate(seeds()):
        (folder / f"seed{number}").write_bytes(data)


def main(seconds: str) -> int:
    """Search for some seconds. The exit code is libFuzzer's, 0 where nothing was found."""
    sys.path.insert(0, str(HERE.parent / "export"))
    CRASHES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder), os.environ.get("CC", "clang"))
        corpus = Path(folder, "corpus")
        write_seeds(corpus)
        options = [*LEAST, f"-max_total_time={seconds}", "-print_final_stats=1"]
        options += ["-use_value_profile=1", f"-artifact_prefix={CRASHES}/"]
        return subprocess.run([program, *options, corpus, CRASHES]).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
