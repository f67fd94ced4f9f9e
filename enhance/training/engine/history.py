"""The record of a run: history.jsonl, timing.jsonl and TensorBoard.

history.jsonl holds only what follows from the configuration, so that a resumed run repeats it to
the byte: lines of type `train` and `validation`. What depends on the clock (speed, starts and
stops) goes to timing.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enhance.errors import EnhanceError
from enhance.files import append_jsonl, atomic

HISTORY = "history.jsonl"
TIMING = "timing.jsonl"


def cut(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and a last line that a kill left unfinished.

    Lines that stay keep their bytes.

    Raises
    ------
    EnhanceError
        If a line other than the last is damaged, or one tells no step.
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


class History(contextlib.AbstractContextManager["History"]):
    """Appends to the record of one run.

    Parameters
    ----------
    folder
        The run folder.
    step
        Steps already done: what the record holds beyond them is cut.
    place
        What each line of history.jsonl tells beside the step.
    """

    def __init__(self, folder: Path, step: int = 0, place: Mapping[str, Any] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        cut(folder / HISTORY, step)
        self._place = dict(place or {})
        self.stack = contextlib.ExitStack()
        self._folder = folder
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.stack.callback(self._board.close)

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def event(self, name: str, step: int, **fields: Any) -> None:
        """Note a start, resume, stop or other event in timing.jsonl."""
        row = {"type": name, "step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields}
        append_jsonl(self._folder / TIMING, row)

    def add(
        self, kind: str, step: int, figures: dict[str, Any], clock: dict[str, Any]
    ) -> dict[str, Any]:
        """Note figures.

        Parameters
        ----------
        kind
            ``"train"``: averages over the last steps; ``"validation"``: of held-back data.
        step
            Steps done.
        figures
            Deterministic values; nested by one level at most.
        clock
            Values that depend on the clock.

        Returns
        -------
        dict
            The line of history.jsonl.
        """
        row = {"type": kind, **self._place, "step": step, **figures}
        append_jsonl(self._folder / HISTORY, row)
        append_jsonl(self._folder / TIMING, {"type": kind, "step": step, **clock})
        self._scalars(kind, step, figures)
        if kind == "train":
            self._scalars("clock", step, clock)
        return row

    def _scalars(self, prefix: str, step: int, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, dict):
                self._scalars(f"{prefix}/{key}", step, value)
            elif isinstance(value, (int, float)):
                self._board.add_scalar(f"{prefix}/{key}", value, step)
