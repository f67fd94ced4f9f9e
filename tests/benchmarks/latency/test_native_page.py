"""The page of plain C beside ONNX: tables of known figures, one build held against another."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_export import TINY, make_model

from benchmarks.latency import native
from enhance.config import GcrnConfig, ModelConfig
from export.native.weights import native_weights


def row(model: str, *medians: float) -> dict[str, object]:
    regimes = {
        name: {"cpu_ms": {"p50": median}}
        for name, median in zip(("hot", "cold", "paced"), medians, strict=True)
    }
    return {"model": model, "path": f"/x/{model}", "hop_ms": 16.0, "regimes": regimes}


def test_ratios_are_to_onnx_int8_of_the_same_model() -> None:
    rows = [
        row("a", 1, 2, 4),
        row("a.int8.bin", 0.1, 0.4, 1),
        row("a.int8", 0.5, 1, 2),
        row("b.int8", 9, 9, 9),
    ]
    table = native.times_table(SimpleNamespace(models=rows), "a")  # type: ignore[arg-type]
    assert table.rows == [
        ["ONNX fp32", "1000", "2000", "4000", "2.00", "2.00", "2.00"],
        ["C int8", "100", "400", "1000", "0.20", "0.40", "0.50"],
        ["ONNX int8", "500", "1000", "2000", "1.00", "1.00", "1.00"],
    ]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="NO gcc: no table of bits was made")
def test_other_bits_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.bin"
    network = GcrnConfig((2, 4), "gru", 4)
    path.write_bytes(
        native_weights(make_model(ModelConfig(TINY.stft, network)), {"training": "{}"})
    )
    plain = native.Build("gcc", "here", ["-O1", "-DENHANCE_SCALAR"], [])
    # A sum in another place: what the table is there to find.
    other = native.Build("gcc", "there", [*plain.flags, "-DCUTOFF=0.93"], [])
    monkeypatch.setattr(native, "builds", lambda: ([plain, plain, other], ["nothing"]))
    monkeypatch.setattr(native, "_wasm", lambda *_: None)
    source = native.source().replace("#define CUTOFF", "#ifndef CUTOFF\n#define CUTOFF", 1)
    source = source.replace("#define BETA", "#endif\n#define BETA", 1)
    monkeypatch.setattr(native, "source", lambda: source)
    table, missing = native.bits_table([path], tmp_path)
    assert [r[-1] for r in table.rows] == ["the same", "the same", "OTHER BITS"]
    assert [r[2] for r in table.rows] == ["scalar"] * 3
    assert missing == ["nothing"]
    for cells in table.rows:
        assert all(cell.endswith("kB") for cell in cells[3:8])  # code and stacks
