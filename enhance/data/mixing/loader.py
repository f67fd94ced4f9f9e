"""Batches of mixtures for training, from any step on: the same for any number of workers.

Step s of training takes the global batch of ``batch_size`` mixtures with numbers
``(epoch, index)``, counted through epochs of ``epoch_size``; process r of w takes its w-th part.
Which mixtures a step sees thus depends on the step alone; and so does how they are mixed, where
that changes in the course of training.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from enhance.config.mixing import MixingConfig
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.recipe import Mixture
from enhance.errors import EnhanceError

Key = tuple[int, int, MixingConfig | None]
"""Epoch, index, and how to mix: None for the mixer's own configuration."""


class _Mixtures(Dataset[Any]):
    """Mixtures by their keys.

    An `EnhanceError` is handed on as a value: torch would wrap it in a traceback of the worker.
    """

    def __init__(self, mixer: Mixer) -> None:
        self.mixer = mixer

    def __getitem__(self, key: Key) -> Mixture | EnhanceError:
        epoch, index, config = key
        try:
            return (self.mixer.using(config) if config else self.mixer)(epoch, index)
        except EnhanceError as error:
            return error


def collate(mixtures: Sequence[Mixture | EnhanceError]) -> dict[str, Any] | EnhanceError:
    """Stack mixtures into a batch: ``noisy`` and ``clean`` (B, N) float32 tensors; ``pieces``,
    ``altered``, ``files``, ``index`` (epoch, index) and ``snr_db``, lists with an entry for each.
    The first error among them comes back instead.
    """
    made: list[Mixture] = []
    for mixture in mixtures:
        if isinstance(mixture, EnhanceError):
            return mixture
        made.append(mixture)
    return {
        "noisy": torch.from_numpy(np.stack([m.noisy for m in made])),
        "clean": torch.from_numpy(np.stack([m.clean for m in made])),
        "pieces": [list(m.pieces) for m in made],
        "altered": [m.altered for m in made],
        "files": [list(m.files) for m in made],
        "index": [(m.epoch, m.index) for m in made],
        "snr_db": [m.snr_db for m in made],
    }


def keys_of_step(
    step: int, batch_size: int, epoch_size: int, rank: int = 0, world: int = 1
) -> list[tuple[int, int]]:
    """Mixtures ``(epoch, index)`` that process ``rank`` of ``world`` takes in a step (from 0).

    Epochs follow one another without a gap: a batch may begin in one and end in the next.
    """
    share = batch_size // world
    first = step * batch_size + rank * share
    return [divmod(number, epoch_size) for number in range(first, first + share)]


def batches(
    mixer: Mixer,
    batch_size: int,
    epoch_size: int = 10000,
    start_step: int = 0,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    mixing_of: Callable[[int], MixingConfig] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Endless batches from ``start_step`` on, as `collate` makes them of ``batch_size / world``
    mixtures; those before it are passed over at no cost.

    ``batch_size`` counts the mixtures of a step over all processes, of which this is ``rank`` of
    ``world``. So many ``workers`` mix ahead, forked where the system forks safely; 0 mixes here.
    ``mixing_of`` tells how to mix in each step (from 0), see `Mixer.using`; None keeps to the
    mixer's own way. The global random state of torch is left alone. Close the iterator (or drop it)
    to end the workers. An `EnhanceError` if the batch cannot be shared equally, or a mixture cannot
    be made.
    """
    if batch_size < 1 or epoch_size < 1 or world < 1 or not 0 <= rank < world:
        raise EnhanceError(
            f"batch_size {batch_size}, epoch_size {epoch_size}, rank {rank} of {world}: "
            "must be positive"
        )
    if batch_size % world:
        raise EnhanceError(
            f"batch_size {batch_size} cannot be shared by {world} processes; make it a multiple"
        )

    def steps() -> Iterator[list[Key]]:
        for step in count(start_step):
            mixing = mixing_of(step) if mixing_of else None
            keys = keys_of_step(step, batch_size, epoch_size, rank, world)
            yield [(*key, mixing) for key in keys]

    return _batches(mixer, steps(), workers)


def _batches(
    mixer: Mixer, steps: Iterator[list[Key]], workers: int
) -> Generator[dict[str, Any], None, None]:
    loader: DataLoader[Any] = DataLoader(
        _Mixtures(mixer),
        batch_sampler=steps,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_quiet_worker,
        # The loader draws a base seed; from its own generator, so that training's is untouched.
        generator=torch.Generator().manual_seed(0),
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, EnhanceError):
            raise batch
        yield batch


def _quiet_worker(worker: int) -> None:
    # Ctrl-C and SIGTERM, which a scheduler sends to all processes of a group, are the parent's to
    # handle: it still needs its workers while it saves. They end when it closes them, or ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
