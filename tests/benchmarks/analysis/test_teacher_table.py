"""The table of teachers: records of a pre-training that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.analysis import teachers
from enhance.errors import EnhanceError


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"config": []}', '{"config": {"family": "hubert"}, "iterations": [{"clean": 1}]}'],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(EnhanceError, match="not a record of enhance teacher pretrain") as error:
        teachers._record(tmp_path)
    assert "\n" not in str(error.value)
