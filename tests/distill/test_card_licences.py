"""Cards of teachers: a licence that nobody named is said to be unknown."""

from __future__ import annotations

from typing import Any

import pytest

from distill.speaker import card as speaker
from distill.ssl import card as ssl


@pytest.mark.parametrize("card", [ssl, speaker])
def test_only_a_record_that_names_a_licence_carries_one(card: Any) -> None:
    record = {"data": {"train": []}, "config": {"family": "wavlm"}}
    for told, licence in ((record, "unknown"), ({**record, "licence": "cc-by-4.0"}, "cc-by-4.0")):
        assert f"\nlicense: {licence}\n" in card._front_matter(told, "x")
