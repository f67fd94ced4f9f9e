"""`Enhancer` over plain C: the same face, the same state, any pieces, any number of threads."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_export import TINY, make_model
from tiny_native import need, noise, snr_db

from enhance.device.clean import run_path
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.native.build import FLAGS, HEADERS, find_compiler
from enhance.native.library import installed_library
from enhance.network.checkpoint import CheckpointInfo
from enhance.parallel import torch_threads
from export import certificate
from export.certificate import Bounds
from export.graph.step import save, step_graph
from export.metadata import describe
from export.native.folder import export_native
from export.native.weights import native_weights

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
WAVE = noise(30, TINY)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file; its weights for plain C stand beside it."""
    folder = tmp_path_factory.mktemp("engines")
    model = make_model()
    about = describe(model, CheckpointInfo(TINY, {"mode": "base"}, {"step": 7}))
    path = save(step_graph(model, about), folder / "tiny.onnx")
    path.with_suffix(".bin").write_bytes(native_weights(model, about))
    return path


@pytest.fixture
def native(files: Path) -> Enhancer:
    """Made for each test, whose own cache folder holds the library."""
    return Enhancer(files, engine="native")


def streamed(enhancer: Enhancer, size: int) -> np.ndarray:
    stream = enhancer.new_stream()
    pieces = [stream.process(WAVE[i : i + size]) for i in range(0, len(WAVE), size)]
    return np.concatenate([*pieces, stream.flush()])


def test_it_is_the_onnx_file_with_the_same_face(files: Path, native: Enhancer) -> None:
    onnx = Enhancer(files)
    assert (onnx.engine, native.engine) == ("onnx", "native")
    assert native.metadata == onnx.metadata
    for name in ("sample_rate", "hop_length", "latency_samples"):
        assert getattr(native, name) == getattr(onnx, name)
    assert snr_db(onnx(WAVE, 16000), native(WAVE, 16000)) > 100


@pytest.mark.parametrize("size", [1000, 319, 641])
def test_pieces_of_any_size_give_the_same_bits(size: int, native: Enhancer) -> None:
    np.testing.assert_array_equal(streamed(native, size), streamed(native, len(WAVE)))


def test_a_state_goes_from_one_engine_to_the_other(files: Path, native: Enhancer) -> None:
    onnx, c = Enhancer(files), native.new_stream()
    onnx.process(WAVE[:4000])
    c.load_state(onnx.state())
    assert list(c.state()) == list(onnx.state())
    assert snr_db(onnx.process(WAVE[4000:]), c.process(WAVE[4000:])) > 90


def test_many_streams_in_many_threads(native: Enhancer) -> None:
    expected = streamed(native, 500)
    with ThreadPoolExecutor(6) as pool:
        for out in pool.map(lambda _: streamed(native, 500), range(12)):
            np.testing.assert_array_equal(out, expected)


def test_a_failed_call_leaves_the_stream_where_it_was(native: Enhancer) -> None:
    stream = native.new_stream()
    stream.process(WAVE[:1000])
    before = stream.state()
    with pytest.raises(EnhanceError, match="NaN"):
        stream.process(np.array([np.nan], np.float32))
    for name, value in stream.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_auto_takes_plain_c_where_the_model_has_it(
    files: Path, native: Enhancer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Path(shutil.copy(files, tmp_path / "alone.onnx"))
    assert Enhancer(files, engine="auto").engine == "native"
    assert Enhancer(alone, engine="auto").engine == "onnx"
    library = installed_library()  # named, it is taken where it can be
    assert Enhancer(files, engine="auto", library=library).engine == "native"
    assert Enhancer(alone, engine="auto", library=library).engine == "onnx"
    with pytest.raises(EnhanceError, match="no weights for plain C"):
        Enhancer(alone, engine="native")
    import soundfile

    soundfile.write(tmp_path / "a.wav", WAVE, 16000)
    run_path(tmp_path / "a.wav", model=files, engine="auto", verbose=True)
    assert "tiny.bin: engine native" in capsys.readouterr().err


def test_weights_of_another_model_are_refused(files: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(files, tmp_path / "a.onnx"))
    about = describe(make_model(), CheckpointInfo(TINY, {"mode": "base"}, {"step": 8}))
    path.with_suffix(".bin").write_bytes(native_weights(make_model(), about))
    with pytest.raises(EnhanceError, match="another model"):
        Enhancer(path, engine="native")


@pytest.mark.parametrize(
    ("engine", "library", "why"),
    [("fast", None, "unknown"), ("native", "nothing.so", "no library of enhance")],
)
def test_what_cannot_be_used_is_refused(
    engine: str, library: str | None, why: str, files: Path
) -> None:
    with pytest.raises(EnhanceError, match=why):
        Enhancer(files, engine=engine, library=library)  # type: ignore[arg-type]


def test_damaged_weights_are_refused(files: Path, tmp_path: Path) -> None:
    data = bytearray(files.with_suffix(".bin").read_bytes())
    data[3000] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(EnhanceError, match="checksum"):
        Enhancer(tmp_path / "a.bin", engine="native")


def test_the_exported_folder_compiles_and_is_certified(
    checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    # Random weights have no quality to keep, nor a difference between two roundings.
    bounds = Bounds(si_sdr_db=2.0, pesq=1.0, snr_db=20.0, native_behind_db=10.0)
    out = tmp_path / "c"
    made = export_native(
        checkpoint, out, int8=True, clips=pairs, clip_count=3, bounds=bounds, quiet=True
    )
    names = {*HEADERS, "enhance.c", "README.md", "enhance_weights.c", "enhance_weights_int8.c"}
    for artefact in made:
        names |= {artefact.path.name, artefact.certificate_path.name}
    assert {path.name for path in out.iterdir()} == names
    exact, rounded = (artefact.certificate for artefact in made)
    assert exact["equality"]["native_fp32"]["snr_db"]["worst"] > 100
    assert rounded["equality"]["native_int8"]["snr_db"]["mean"] > 20
    assert rounded["bytes"] == made[1].path.stat().st_size
    command = [need("gcc"), *FLAGS, "-O0", "-Wall", "-Werror", "-c", "enhance_weights.c"]
    subprocess.run([*command, "-o", "a.o"], check=True, cwd=out)
    with pytest.raises(EnhanceError, match="not empty"):
        export_native(checkpoint, out, clips=pairs, quiet=True)
    export_native(checkpoint, out, clips=pairs, clip_count=3, bounds=bounds, force=True, quiet=True)
    int8 = {name for name in names if "int8" in name}  # of weights that are others now
    assert names & {path.name for path in out.iterdir()} == names - int8 < names


def test_weights_out_of_bounds_are_not_written(
    checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = Bounds(native_snr_db=300.0)
    threads = []
    real = certificate.streaming

    def streaming(*given: Any) -> certificate.Streams:
        threads.append(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(certificate, "streaming", streaming)
    with torch_threads(2), pytest.raises(EnhanceError, match="SNR against torch"):
        export_native(
            checkpoint, tmp_path / "c", clips=pairs, clip_count=3, bounds=bounds, quiet=True
        )
    assert not (tmp_path / "c").exists()
    assert threads == [1]  # hop by hop


def test_what_is_refused_leaves_no_folder(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="no such checkpoint"):
        export_native(tmp_path / "absent", tmp_path / "c", quiet=True)
    with pytest.raises(EnhanceError, match="absent"):
        export_native(checkpoint, tmp_path / "c", clips=tmp_path / "absent", quiet=True)
    assert not list(tmp_path.iterdir())
