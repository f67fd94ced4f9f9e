"""Crops on the frame grid, and what disturbs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.ssl.data import crops
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.data.mixing.rooms import Response


@pytest.fixture(scope="module")
def store(tiny_corpus: Path) -> ClipStore:
    paths = sorted((tiny_corpus / "speech").glob("*.wav"))
    return ClipStore([Clip(p, soundfile.info(p).duration, 16000) for p in paths], quiet=True)


def test_every_file_is_heard_once_an_epoch_on_the_frame_grid(store: ClipStore) -> None:
    batches = crops.plan(store, range(10), 100, 30, np.random.default_rng(0))
    heard = [crop.clip for batch in batches for crop in batch]
    assert set(heard) == set(range(10))
    for batch in batches:
        assert len({crop.frames for crop in batch}) == 1
        assert len(batch) == 1 or len(batch) * batch[0].frames <= 100
        for crop in batch:
            assert crop.frames <= 30
            found = crop.read(store)
            first = crop.start * 320
            assert np.array_equal(found, store.whole(crop.clip)[first : first + len(found)])
            assert (len(found) - 400) // 320 + 1 == crop.frames


def test_epochs_begin_at_any_step(store: ClipStore) -> None:
    def take(first: int, count: int) -> list[list[crops.Crop]]:
        stream = crops.epochs(store, range(10), 100, 30, [1, 2], first)
        return [next(stream)[1] for _ in range(count)]

    assert take(0, 12)[9:] == take(9, 3)


def kinds(mixed: np.ndarray, clean: np.ndarray) -> list[str]:
    """What was laid over each crop: noise reaches over the whole, speech over half at most."""
    parts = (mixed != clean).mean(1)
    return ["noise" if part > 0.6 else "speech" if part else "clean" for part in parts]


def test_disturbance_has_the_ratio_it_was_asked_for(store: ClipStore) -> None:
    rng = np.random.default_rng(2)
    clean = np.stack([store.read(i, 0, 8000) for i in range(8)])
    for ratio in (-5.0, 12.0):
        config = crops.Disturbance(1.0, (ratio, ratio), 0.0)
        mixed = crops.disturb(clean, store, [9], config, rng)
        assert kinds(mixed, clean) == ["noise"] * 8
        snr = 10 * np.log10((clean**2).sum(1) / ((mixed - clean) ** 2).sum(1))
        np.testing.assert_allclose(snr, ratio, atol=0.01)
    config = crops.Disturbance(0.0, (0, 0), 1.0, (3.0, 3.0))
    mixed = crops.disturb(clean, None, [], config, rng)
    assert kinds(mixed, clean) == ["speech"] * 8
    for b in range(8):
        touched = np.flatnonzero(mixed[b] != clean[b])
        assert 0 < np.ptp(touched) + 1 <= 4000  # at most half of the crop
    config = crops.Disturbance(0.0, (0, 0), 1.0, (3.0, 3.0), speech_overlap=(0.25, 0.75))
    spans = []
    for _ in range(12):
        mixed = crops.disturb(clean, None, [], config, rng)
        spans += [np.ptp(np.flatnonzero(m != c)) + 1 for m, c in zip(mixed, clean, strict=True)]
    assert 1990 <= min(spans) < 3000 and 5000 < max(spans) <= 6000  # of 8000
    shares = crops.Disturbance()
    made = [crops.disturb(clean, store, [9], shares, rng) for _ in range(300)]
    counted = [kind for mixed in made for kind in kinds(mixed, clean)]
    assert abs(counted.count("noise") / 2400 - 0.25) < 0.04
    assert abs(counted.count("speech") / 2400 - 0.15) < 0.03


def test_rooms_reverberate_the_input_and_keep_the_direct_path(store: ClipStore) -> None:
    clean = np.stack([store.read(i, 0, 4000) for i in range(8)])
    rng = np.random.default_rng(5)
    tail = rng.normal(0, 0.2, 300) * np.exp(-np.arange(300) / 60)
    room = Response(np.concatenate([np.zeros(7), [1.0], tail]).astype(np.float32), 7)
    config = crops.Disturbance(0.0, (0, 0), 0.0, reverberation_probability=1.0)
    mixed = crops.disturb(clean, None, [], config, rng, [room])
    for b in range(8):
        expected = clean[b].astype(np.float64).copy()  # the direct path, neither moved nor scaled
        for k, gain in enumerate(room.wave[8:], 1):
            expected[k:] += float(gain) * clean[b][:-k]
        np.testing.assert_allclose(mixed[b], expected, atol=1e-5)  # values up to 1, float32
    # Noise is measured against the speech that arrives
    config = crops.Disturbance(1.0, (4.0, 4.0), 0.0, reverberation_probability=1.0)
    noisy = crops.disturb(clean, store, [9], config, rng, [room])
    snr = 10 * np.log10((mixed**2).sum(1) / ((noisy - mixed) ** 2).sum(1))
    np.testing.assert_allclose(snr, 4.0, atol=0.05)
    share = crops.Disturbance(0.0, (0, 0), 0.0, reverberation_probability=0.3)
    made = [crops.disturb(clean, None, [], share, rng, [room]) for _ in range(200)]
    changed = sum((mixed != clean).any(1).sum() for mixed in made)
    assert abs(changed / 1600 - 0.3) < 0.04
    # Without rooms nothing is drawn: the mini teacher's mixtures stay what they were
    twice = [np.random.default_rng(9) for _ in range(2)]
    dry = crops.Disturbance()
    a = crops.disturb(clean, store, [9], dry, twice[0], [room])
    b = crops.disturb(clean, store, [9], dry, twice[1])
    assert np.array_equal(a, b)


def test_something_is_left_to_train_on(tmp_path: Path) -> None:
    for name in ("speech/a.wav", "speech/b.wav", "noise/a.wav", "noise/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.full(16000, 0.1), 16000)
    for held_back in (0.3, 0.9):
        data = crops.SslData.open(tmp_path, held_back, 0, True)
        assert (len(data.train), len(data.held)) == (1, 1)
