"""One measured model for the tests of its card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_card import Made, make


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Not to be changed; made by the first of the processes that want it."""
    place = tmp_path_factory.getbasetemp()
    root = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "card"
    done = root / "done"
    with FileLock(root.with_suffix(".lock")):
        if not done.exists():
            make(root)
            done.touch()
    return Made(root)


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy that a test may spoil."""
    for part in ("shipped", "run", "report"):
        shutil.copytree(whole.root / part, tmp_path / part)
    return Made(tmp_path)
