"""The table of teachers: the page is what its records say; damaged records."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from benchmarks.analysis import teachers
from enhance.errors import EnhanceError

ROOT = Path(__file__).parents[3]


def test_the_page_has_the_figures_of_its_records() -> None:
    """With their baselines; times were measured and are in no record."""
    shipped = ROOT / "distill/models/mini-wavlm/record.json"
    records = {"mini-wavlm": json.loads(shipped.read_text("utf-8"))}
    with tarfile.open(ROOT / "benchmarks/teachers.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member)  # of a folder there is none
            if file and member.name.endswith("/record.json"):
                records[member.name.partition("/")[0]] = json.loads(file.read())
    lines = (ROOT / "benchmarks/TEACHERS.md").read_text("utf-8").splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if " | " in line}
    assert records.keys() <= rows.keys() and len(records) == 9
    for name, record in records.items():
        assert " | ".join(teachers._figures(teachers._metric(record))) in rows[name], name
    assert "nearest visible frame" in rows["ssl-wavlm"] and "BELOW it" in rows["ssl-wavlm"]
    assert "mean spectrum" in rows["ecapa-aam-long"]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"config": []}', '{"config": {"family": "hubert"}, "iterations": [{"clean": 1}]}'],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(EnhanceError, match="not a record of enhance teacher pretrain") as error:
        teachers._record(tmp_path)
    assert "\n" not in str(error.value)
