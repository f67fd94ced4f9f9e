"""One measured model for the tests of its card."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_card import Made, make


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Not to be changed."""
    return make(tmp_path_factory.mktemp("card"))


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy that a test may spoil."""
    for part in ("shipped", "run", "report"):
        shutil.copytree(whole.root / part, tmp_path / part)
    return Made(tmp_path)
