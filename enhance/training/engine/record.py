"""What the first process keeps and shows of a training: its files, TensorBoard, and the screen.

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
from typing import TYPE_CHECKING, Any

from enhance.errors import EnhanceError
from enhance.files import append_jsonl, atomic
from enhance.progress import progress_bar, say

if TYPE_CHECKING:
    from enhance.training.engine.engine import Engine

HISTORY = "history.jsonl"
TIMING = "timing.jsonl"
LINE_EVERY = 30.0
"""Seconds between lines where standard error is no terminal."""


class Record(contextlib.AbstractContextManager["Record"]):
    """The record of an engine's training, told on standard error too; see `Engine.train`.

    What the folder's history holds beyond the engine's state is cut, and of timing.jsonl a last
    line that was left unfinished.
    """

    def __init__(
        self, engine: Engine, folder: Path, before: int, place: Mapping[str, Any], quiet: bool
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.engine, self.before, self.quiet = engine, before, quiet
        self._folder, self._place = folder, place
        cut(folder / HISTORY, self.step)
        _whole_lines(folder / TIMING)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=self.step + 1)
        self.stack = contextlib.ExitStack()
        self.stack.callback(self._board.close)
        self._bar = self.stack.enter_context(progress_bar(quiet=quiet))
        self._task = self._bar.add_task(engine.learner.name, total=None, speed="")
        self._begin = self._last = time.monotonic()
        self._first = engine.state.step
        self._mark = (self._begin, engine.state.audio)
        self._speed = 0.0
        self.event("resume" if engine.resumed else "start")

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def step(self) -> int:
        """Of the history."""
        return self.before + self.engine.state.step

    def event(self, name: str, **fields: Any) -> None:
        """Note a start, resume, stop or other event in timing.jsonl."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        row = {"type": name, "step": self.step, "time": now, **fields}
        append_jsonl(self._folder / TIMING, row)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if text and not self.quiet:
            say(self._bar, text)

    def show(self) -> None:
        """Move the progress bar; a line now and then where there is none."""
        state, (mark, audio) = self.engine.state, self._mark
        now = time.monotonic()
        if now > mark and state.audio > audio:
            self._speed = (state.audio - audio) / (now - mark)
        expected = self.engine.plan.expected(state)
        total = None if expected is None else max(state.step, round(expected))
        text = f"loss {self.engine.loss:.4f}  {self._speed:.0f} audio-s/s"
        self._bar.update(self._task, completed=state.step, total=total, speed=text)
        if self._bar.disable and now - self._last >= LINE_EVERY:
            self._last = now
            if total is None:
                self.say(f"step {state.step}  {text}")
                return
            left = (now - self._begin) / (state.step - self._first) * (total - state.step)
            self.say(f"step {state.step}/{total}  {text}  {left / 60:.1f} min left")

    def train(self) -> None:
        """Write the means since the last line."""
        state, learner = self.engine.state, self.engine.learner
        clock = {
            "seconds": round(state.seconds, 3),
            "audio_seconds_per_second": round(self._speed, 2),
            **learner.clock(),
        }
        self._add("train", learner.row(state), clock)
        self._mark = (time.monotonic(), state.audio)

    def validate(self) -> None:
        """Measure on held-back data."""
        begin = time.monotonic()
        figures = self.engine.learner.validate()
        passed = time.monotonic() - begin
        if figures is not None:
            self._add("validation", figures, {"seconds": round(passed, 3)})
        # Validation is no part of the speed of training.
        self._mark = (self._mark[0] + passed, self._mark[1])

    def _add(self, kind: str, figures: dict[str, Any], clock: dict[str, Any]) -> None:
        """Note figures (deterministic, nested by one level at most) and what the clock says."""
        row = {"type": kind, **self._place, "step": self.step, **figures}
        append_jsonl(self._folder / HISTORY, row)
        append_jsonl(self._folder / TIMING, {"type": kind, "step": self.step, **clock})
        self._scalars(kind, figures)
        if kind == "train":
            self._scalars("clock", clock)
        self.say(self.engine.learner.tell(row, self.engine.state.seconds))

    def _scalars(self, prefix: str, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, dict):
                self._scalars(f"{prefix}/{key}", value)
            elif isinstance(value, (int, float)):
                self._board.add_scalar(f"{prefix}/{key}", value, self.step)


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


def _whole_lines(path: Path) -> None:
    """Drop a last line without an end, to which the next one would be joined."""
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with atomic(path) as temporary:
            temporary.write_bytes(whole)
