"""Tables and pages from rows that are written here by hand."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.figures.results import FORMAT, merge_results, read_results
from benchmarks.figures.tables import Table, number, plus_minus, size, with_interval
from benchmarks.pages import report
from benchmarks.quality.heard import telling_name
from benchmarks.quality.tables import comparison_table
from enhance.errors import EnhanceError
from enhance.files import write_jsonl
from enhance.measure.metrics import METRICS


def interval(mean: float, half: float = 0.1, n: int = 4) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n, "method": "t"}


def quality_row(model: str, kind: str, mean: float, set_hash: str = "ab" * 32) -> dict[str, Any]:
    metrics = {
        name: {**interval(mean + i), "refused": 0, "gain": interval(mean)}
        for i, name in enumerate(METRICS)
    }
    return {
        "kind": "quality", "format": FORMAT, "model": model, "model_kind": kind,
        "model_hash": model,
        "set": "set", "set_hash": set_hash, "snr_db": -5.0, "clips": 4, "interval": "95 %, t",
        "metrics": metrics, "groups": {"accent": {"x": {"clips": 4, "metrics": metrics}}},
        "refusals": [], "heard": {"checked": "", "files": 0, "same_bytes": [], "same_name": []},
    }  # fmt: skip


def test_formats() -> None:
    assert plus_minus(interval(1.094, 0.0312)) == "1.094 ±0.031"
    assert plus_minus(interval(-0.5, 0.25), 2, True) == "-0.50 ±0.25"
    assert plus_minus({"mean": 1.5, "low": None, "high": None}) == "1.500"
    assert plus_minus({"mean": None}) == plus_minus(None) == with_interval(None) == "-"
    assert with_interval({"mean": 0.5, "low": 0.4, "high": 0.7}, 2) == "0.50 [0.40, 0.70]"
    assert (size(16_800_000), size(979_964, ""), size(7), size(None)) == (
        "16.8 MB", "980 k", "7 B", "-",
    )  # fmt: skip
    assert [size(count) for count in (999_400, 999_600, 999_999_999, 999.6, 1000)] == [
        "999 kB", "1 MB", "1 GB", "1 kB", "1 kB",
    ]  # fmt: skip
    assert number(None) == "-"
    assert number(-0.0004, 3, True) == "+0.000"


def test_table_as_markdown_and_in_the_terminal() -> None:
    table = Table("set [/dev]", ["name", "[red]|"], [["a|b", "1"], ["[red]c", "22"]])
    assert table.markdown().splitlines() == [
        "| name | [red]\\| |", "|---|---:|", "| a\\|b | 1 |", "| [red]c | 22 |",
    ]  # fmt: skip
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(table.rich())
    shown = console.export_text()
    assert "set [/dev]" in shown and shown.count("[red]") == 2  # names are text, not markup


def test_report_holds_every_row(tmp_path: Path) -> None:
    rows = [quality_row("noisy", "noisy", 1.0), quality_row("mine", "onnx", 2.0)]
    rows[1]["refusals"] = [{"clip": "007", "metric": "stoi", "reason": "too short"}]
    rows[1]["metrics"]["stoi"]["refused"] = 1
    comparison = {
        "kind": "comparison", "format": FORMAT, "a": "mine", "b": "yours", "a_hash": "mine",
        "b_hash": "gone",
        "set_hash": "ab" * 32, "metrics": {},
    }  # fmt: skip
    older = {"kind": "quality", "model": "of another format"}
    write_jsonl(tmp_path / "results.jsonl", [older, rows[1], rows[0], comparison])
    text = report.write_report(tmp_path).read_text()
    assert "| noisy | 1.000 ±0.100 | 2.000 ±0.100 | 3.000 ±0.100 | 4.00 ±0.10 |" in text
    assert "| mine | 2.000 ±0.100 | 3.000 ±0.100 (n=4) | 4.000 ±0.100 | 5.00 ±0.10 |" in text
    assert text.index("| noisy |") < text.index("| mine |")
    assert "| mine | +2.000 ±0.100 |" in text  # its gain
    assert "stoi refused 007: too short" in text
    assert "no list of training files" in text
    assert "| x | 4 | mine |" in text
    assert "another format" not in text
    assert "yours" not in text  # a comparison with a model that is not in the table
    assert (tmp_path / f"quality-{'ab' * 4}.png").is_file()


def test_a_test_file_counts_once_whatever_it_shares_with_training(tmp_path: Path) -> None:
    rows = [quality_row("noisy", "noisy", 1.0), quality_row("mine", "onnx", 2.0)]
    rows[1]["heard"] = {
        "checked": "heard.jsonl", "files": 9, "same_bytes": [["000", "a.wav"], ["000", "b.wav"]],
        "same_name": [["001", "c.wav"], ["001", "d.wav"], ["002", "e.wav"]],
    }  # fmt: skip
    write_jsonl(tmp_path / "results.jsonl", rows)
    text = report.write_report(tmp_path).read_text()
    assert "1 test files by bytes and 2 by name among 9 training files" in text


def test_sets_do_not_mix(tmp_path: Path) -> None:
    rows = [quality_row("noisy", "noisy", 1.0), quality_row("noisy", "noisy", 3.0, "cd" * 32)]
    rows[1]["set"] = os.fsdecode(b"set \xff")  # a folder's name that is not UTF-8
    write_jsonl(tmp_path / "results.jsonl", rows)
    text = report.write_report(tmp_path).read_text()
    assert text.count("## Quality") == 2
    assert text.index("abababababab") < text.index("cdcdcdcdcdcd")
    assert "## Quality: set \\udcff, 4 clips" in text


def test_comparison_marks_what_holds_among_all_of_the_table() -> None:
    def entry(p: float | None, mean: float = 0.3) -> dict[str, Any]:
        return {**interval(mean), "verdict": "higher", "p": p}

    first = dict(zip(METRICS, (entry(0.005), entry(0.04), None, entry(0.001)), strict=True))
    second = dict.fromkeys(METRICS, entry(1e-9, 0.0004))  # rounding noise is no finding
    first_row = {"a": "x", "b": "y", "metrics": first}
    (row,) = comparison_table([first_row]).rows
    assert row == ["y - x", "+0.300 ±0.100 *", "+0.300 ±0.100", "-", "+0.30 ±0.10 *"]
    table = comparison_table([first_row, {"a": "x", "b": "z", "metrics": second}])
    assert table.rows[1] == ["z - x", *["+0.000 ±0.100"] * 3, "+0.00 ±0.10"]
    older = {m: {k: v for k, v in entry(None).items() if k != "p"} for m in METRICS}
    (row,) = comparison_table([{"a": "x", "b": "y", "metrics": older}]).rows
    assert not any("*" in cell for cell in row)  # rows of before say nothing of p


def test_two_models_are_compared_once_in_whatever_order_they_were_named(tmp_path: Path) -> None:
    """Twice in the table, they would be twice in the family that Holm's correction looks at."""
    for a, b in (("x", "y"), ("y", "x"), ("x", "z")):
        hashes = {"a_hash": a, "b_hash": b, "set_hash": "ab"}
        merge_results(tmp_path, [{"kind": "comparison", "a": a, "b": b, **hashes}])
    assert [(row["a"], row["b"]) for row in read_results(tmp_path)] == [("y", "x"), ("x", "z")]


def test_no_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="enhance evaluate"):
        report.write_report(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/Story-2B.opus", "story-2b"),
        ("C:\\audio\\an251-fash-b.wav", "an251-fash-b"),
        ("clean/000.flac", ""),
        ("noisy.wav", ""),
        ("a1.wav", ""),
        ("animals_dog.barking", "animals_dog.barking"),
    ],
)
def test_telling_names(path: str, name: str) -> None:
    assert telling_name(path) == name
