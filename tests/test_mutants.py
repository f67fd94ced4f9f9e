"""The mutants of `mutants.py` still name code that stands there, and tests that can be run."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_tried(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.old) == 1
    place, _, name = mutant.test.partition("::")
    assert name.partition("[")[0] in (ROOT / place).read_text("utf-8")
    # By the very name that pytest gives it, where its file is part of this run.
    collected = [item.nodeid for item in request.session.items if item.nodeid.startswith(place)]
    assert not collected or any(node.startswith(mutant.test) for node in collected)
