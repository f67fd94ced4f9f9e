"""The command line in this process."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from enhance.cli import app as cli


def refusals(
    words: list[object], given: bytes, monkeypatch: pytest.MonkeyPatch
) -> subprocess.CompletedProcess:
    """What `enhance` gives, in this process: one of its own loads all libraries for one line."""
    out, errors = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["enhance", *map(str, words)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(given))))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as end:
            cli.main()
    errors.flush()
    code = int(end.value.code or 0)
    return subprocess.CompletedProcess(words, code, out.buffer.getvalue(), errors.buffer.getvalue())
