"""The fuzzer of the C reader: its seeds and what it found are run, and it searches a moment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import fuzz_weights
import pytest


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("NO clang: the reader of weights was not fuzzed; install it")
    return fuzz_weights.build(tmp_path_factory.mktemp("fuzz"), clang)


def test_good_weights_and_a_moment_of_changes(program: Path, tmp_path: Path) -> None:
    fuzz_weights.write_seeds(tmp_path / "corpus")
    found = [path for path in [fuzz_weights.CRASHES] if path.is_dir()]
    options = [*fuzz_weights.LEAST, "-runs=1000", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [program, *options, tmp_path / "corpus", *found], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Done 1000 runs" in done.stderr
