"""What `pip install 'enhance[native]'` brings: a compiler, and plain C as the default."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_export import TINY, make_model
from tiny_native import noise

from enhance.cli.streams import Settings, run_piped
from enhance.device.clean import run_path
from enhance.device.engine import Choice
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.native import library
from enhance.native.build import (
    command_of,
    compile_library,
    compiled,
    find_compiler,
    target,
    zig,
)
from enhance.network.checkpoint import CheckpointInfo
from export.graph.step import save, step_graph
from export.metadata import describe
from export.native.weights import native_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file; its weights for plain C stand beside it."""
    about = describe(make_model(), CheckpointInfo(TINY, {"mode": "base"}, {"step": 7}))
    path = save(step_graph(make_model(), about), tmp_path_factory.mktemp("extra") / "tiny.onnx")
    path.with_suffix(".bin").write_bytes(native_weights(make_model(), about))
    return path


@pytest.mark.skipif(zig() is None, reason="NO ziglang: pip install 'enhance[native]'")
def test_its_compiler_gives_the_same_bits(model: Path, tmp_path: Path) -> None:
    brought, usual = zig(), find_compiler()
    assert brought and usual
    assert command_of(brought) == [brought, "cc"]
    wave = noise(20, TINY)
    outs = []
    for compiler in (brought, usual):
        shared = compile_library(tmp_path / f"{len(outs)}.so", compiler)
        outs.append(Enhancer(model, engine="native", library=shared)(wave, 16000))
    np.testing.assert_array_equal(*outs)


@pytest.mark.skipif(zig() is None, reason="NO ziglang: pip install 'enhance[native]'")
def test_it_is_found_where_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: path and found(name, path=path))
    assert find_compiler() == zig() is not None


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
def test_a_compiler_may_be_named_by_several_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    usual = find_compiler()
    monkeypatch.setenv("CC", f"env {usual}")
    assert find_compiler() == f"env {usual}"
    assert usual and target(f"env {usual}") == target(usual)
    monkeypatch.setenv("CC", "nothing here")
    assert find_compiler() is None


def test_what_a_compiler_says_is_understood_in_any_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    compiler = tmp_path / "cc"
    compiler.write_bytes(
        b"#!/bin/sh\n[ $LC_ALL = C ] && word=error || word=Fehler\n"
        b'echo "a\xff.c:1: fatal $word: ladspa.h" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    with pytest.raises(EnhanceError, match=r"could not compile it \(a.+ fatal error: ladspa\.h"):
        compiled([compiler], "it")


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
def test_where_it_is_installed_plain_c_is_the_default_of_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where nothing was compiled yet
    soundfile.write(tmp_path / "a.wav", noise(20, TINY), 16000)
    for installed, engine in ((None, "onnx"), ("zig", "native")):
        monkeypatch.setattr(library, "zig", lambda installed=installed: installed)
        run_path(tmp_path / "a.wav", model=model, engine="auto", verbose=True, force=True)
        said = capsys.readouterr().err
        assert f": engine {engine}" in said
        assert ("compiling the native step" in said) == (installed is not None)


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
@pytest.mark.parametrize("engine", ["onnx", "native"])
def test_a_pipe_takes_the_engine_that_is_named(
    engine: Choice, model: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    soundfile.write(tmp_path / "a.wav", noise(20, TINY), 16000)
    settings = Settings(str(model), 1, 1.0, None, "full", engine)
    run_piped(tmp_path / "a.wav", Path("-"), settings, force=False, verbose=True)
    out, said = capfdbinary.readouterr()
    assert out.startswith(b"RIFF")
    assert f": engine {engine}".encode() in said


def test_what_cannot_be_compiled_is_said_and_onnx_goes_on(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(library, "zig", lambda: "zig")
    monkeypatch.setenv("CC", "false")
    assert Enhancer(model, engine="auto").engine == "onnx"
    assert "false: cannot be run" in (said := capsys.readouterr().err)
    assert "going on with ONNX Runtime" in said
