"""The record of a run: what its two files hold, and how they are cut where it goes on.

history.jsonl holds only what follows from the configuration, so that a resumed run repeats it to
the byte: lines of type `train` and `validation`. What depends on the clock (speed, starts and
stops) goes to timing.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path

from enhance.errors import EnhanceError
from enhance.files import atomic

HISTORY = "history.jsonl"
TIMING = "timing.jsonl"


def cut(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and a last line that a kill left unfinished.

    Lines that stay keep their bytes. An `EnhanceError` if a line other than the last is damaged, or
    one tells no step.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise EnhanceError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise EnhanceError(f"{path}, line {number}: is damaged (tells no step); remove it")
        if row["step"] <= step and line.endswith(b"\n"):
            kept.append(line)
    if len(kept) < len(lines):
        with atomic(path) as temporary:
            temporary.write_bytes(b"".join(kept))
