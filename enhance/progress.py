"""Progress bars with speed and time left, and silence where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress_bar(*, quiet: bool = False) -> Progress:
    """A `rich` progress bar on standard error: use as a context manager.

    Tasks carry a field ``speed``, text such as ``"41 audio-s/s"`` or ``""``.
    Nothing is drawn when standard error is not a terminal or ``quiet`` is set.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )


def tracked(items: Iterable[T], what: str, total: int, *, quiet: bool = False) -> Iterator[T]:
    """The items, ``total`` of them, under a bar that counts those that are done."""
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task(what, total=total, speed="")
        for item in items:
            yield item
            bar.update(task, advance=1)


def say(bar: Progress, text: str) -> None:
    """Print a line on standard error, above the bar if one is shown."""
    if bar.disable:
        print(text, file=sys.stderr, flush=True)
    else:
        bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
