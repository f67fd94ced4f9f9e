"""Batches: the same for any number of workers and processes, from any step on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_clips import RATE, clip, speech_and_noise

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.loader import batches, keys_of_step
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.errors import EnhanceError


@pytest.fixture(scope="module")
def mixer(tmp_path_factory: pytest.TempPathFactory) -> Mixer:
    speech, noise = speech_and_noise(tmp_path_factory.mktemp("audio"))
    stores = [ClipStore(part, quiet=True) for part in (speech, noise)]
    return Mixer(*stores, MixingConfig(segment_seconds=0.5), seed=3)


def take(mixer: Mixer, count: int, *args: Any, **options: Any) -> list[dict[str, Any]]:
    with contextlib.closing(batches(mixer, *args, **options)) as stream:
        return list(islice(stream, count))


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], torch.Tensor):
            assert torch.equal(a[key], b[key]), key
        else:
            assert a[key] == b[key], key


def test_a_batch_is_what_the_mixer_makes(mixer: Mixer) -> None:
    batch = take(mixer, 2, 4, 10)[1]
    assert batch["noisy"].shape == batch["clean"].shape == (4, 8000)
    assert batch["noisy"].dtype == torch.float32
    assert batch["index"] == [(0, 4), (0, 5), (0, 6), (0, 7)]
    for b, key in enumerate(batch["index"]):
        mixture = mixer(*key)
        np.testing.assert_array_equal(batch["noisy"][b].numpy(), mixture.noisy)
        np.testing.assert_array_equal(batch["clean"][b].numpy(), mixture.clean)
        assert batch["pieces"][b] == list(mixture.pieces)
        assert batch["files"][b] == list(mixture.files)
        assert batch["altered"][b] is False


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(mixer: Mixer, workers: int) -> None:
    for a, b in zip(take(mixer, 6, 3, 10), take(mixer, 6, 3, 10, workers=workers), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_nothing_to_a_worker(mixer: Mixer, number: signal.Signals) -> None:
    """A worker mixes on: more than what it had mixed before the signal."""
    others = set(multiprocessing.active_children())  # of other tests
    with contextlib.closing(batches(mixer, 3, 10, workers=1)) as stream:
        found = [next(stream)]
        (worker,) = set(multiprocessing.active_children()) - others
        os.kill(worker.pid, number)
        found += islice(stream, 7)
        assert worker.is_alive()
    for a, b in zip(take(mixer, 8, 3, 10), found, strict=True):
        assert_same(a, b)


def test_from_any_step(mixer: Mixer) -> None:
    for a, b in zip(take(mixer, 6, 3, 10)[4:], take(mixer, 2, 3, 10, 4), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_same_batch(mixer: Mixer, world: int) -> None:
    parts = [take(mixer, 3, 4, 10, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(take(mixer, 3, 4, 10)):
        for key in ("noisy", "clean"):
            assert torch.equal(torch.cat([part[step][key] for part in parts]), whole[key])
        assert [key for part in parts for key in part[step]["index"]] == whole["index"]


def test_every_mixture_of_every_epoch_once() -> None:
    keys = [key for step in range(15) for key in keys_of_step(step, 4, 10)]
    assert keys == [(epoch, index) for epoch in range(6) for index in range(10)]


def test_the_global_random_state_is_left_alone(mixer: Mixer) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    take(mixer, 2, 2, 10)
    take(mixer, 2, 2, 10, workers=1)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line(tmp_path: Path, workers: int) -> None:
    speech = ClipStore([clip(tmp_path, "zero", 0, wave=np.zeros(2 * RATE))], quiet=True)
    noise = ClipStore([clip(tmp_path, "n", 2, kind="noise")], quiet=True)
    silent = Mixer(speech, noise, MixingConfig(segment_seconds=0.5))
    with pytest.raises(EnhanceError, match=r"zero\.wav") as caught:
        take(silent, 1, 2, 10, workers=workers)
    assert "\n" not in str(caught.value)


def test_an_unequal_share_is_refused_at_once(mixer: Mixer) -> None:
    with pytest.raises(EnhanceError, match="cannot be shared by 2"):
        batches(mixer, 3, 10, world=2)
    with pytest.raises(EnhanceError, match="rank 2 of 2"):
        batches(mixer, 4, 10, rank=2, world=2)
