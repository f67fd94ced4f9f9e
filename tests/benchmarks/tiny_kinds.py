"""Fewer kinds of noise from formulas for the guard: all of them take minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from benchmarks.guard import cases

KINDS = ("alarm", "ring_tone", "clicks", "engine")


@contextlib.contextmanager
def few_kinds() -> Iterator[None]:
    """Two signals and two other noises."""
    kinds = {name: kind for name, kind in cases.KINDS.items() if kind in KINDS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "KINDS", kinds)
        patch.setattr(cases, "SIGNALS", cases.SIGNALS & kinds.keys())
        yield
