"""What the fuzzer starts from, has found and would find first: taken, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import CRASHES, TARGETS, attempt, mutations, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_good_and_damaged_input(target: str) -> None:
    refused = 0
    for number, seed in enumerate(seeds(target)):
        told = attempt(target, seed)
        assert told is None or (target == "config" and "'format'" in told), told
        for data in mutations(seed, 15, number):
            refused += attempt(target, data) is not None
    assert refused  # the damage was seen


@pytest.mark.parametrize(
    "path", [p for p in sorted(CRASHES.rglob("*")) if p.is_file()], ids=lambda p: p.name
)
def test_what_was_found(path: Path) -> None:
    attempt(path.parent.name, path.read_bytes())


@pytest.mark.parametrize(
    ("target", "data", "message"),
    [
        ("manifest", b'\0{"path": "a.wav", "duration": ' + b"9" * 400 + b"}", "no positive number"),
        ("manifest", b'\0{"path": "a.wav", "sample_rate": 1e999}', "`sample_rate`"),
        ("manifest", b"\0" + b"[" * 100_000, "line 1: not JSON"),
        ("manifest", b'\0{"path": "a\\u0000.wav"}', "cannot be reached"),
        ("config", b"[" * 5_000, "not YAML"),
        ("config", b"seed: " + b"9" * 5_000, "not YAML"),
        ("config", b"mode: &a [*a]", "no plain keys and values|expected text"),
    ],
)
def test_numbers_and_depths_out_of_range(target: str, data: bytes, message: str) -> None:
    told = attempt(target, data) or "it was taken"
    assert any(part in told for part in message.split("|")), told


def test_aliases_of_aliases_are_not_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    told = attempt("config", "\n".join(lines).encode())  # 10^12 values
    assert told is not None and "more than 100000 values" in told
