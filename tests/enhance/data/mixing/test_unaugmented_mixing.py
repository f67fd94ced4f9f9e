"""Mixtures without augmentation: those of the code that knew none, to the last bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_clips import speech_and_noise
from mixers import PLAIN, mixer_of

from enhance.data.corpus.clip_store import ClipStore

OLD_FIELDS = (
    "epoch", "index", "speech", "noise", "layer_db", "snr_db", "level_dbfs", "rir",
    "speech_equaliser_db", "noise_equaliser_db", "cutoff_hz",
)  # fmt: skip


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ClipStore, ClipStore]:
    speech, noise = speech_and_noise(tmp_path)
    return ClipStore(speech, quiet=True), ClipStore(noise, quiet=True)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


def test_recipes_are_those_of_before_augmentation(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(
        PLAIN,
        noise_switch_probability=0.5,
        noise_layer_probability=0.5,
        equaliser_probability=0.5,
        band_limit_probability=0.5,
        rir_probability=0.5,
    )
    mixer = mixer_of(stores, config, seed=11)
    recipes = [mixer.draw(epoch, i).to_dict() for epoch in (0, 3) for i in range(30)]
    rows = [{key: rounded(recipe[key]) for key in OLD_FIELDS} for recipe in recipes]
    found = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    # Computed by the code that knew no augmentation.
    assert found == "cf08c78e15e456f6b1491a20dd142ede2e8b69847c5fa65b489d48ab34e92a29"


def test_waves_are_those_of_before_augmentation(stores: tuple[ClipStore, ClipStore]) -> None:
    """The mixing of before, written out again: equal to the last bit."""
    mixer = mixer_of(stores, replace(PLAIN, noise_layer_probability=0.5))
    for index in range(20):
        recipe = mixer.draw(0, index)
        parts = []
        for store, row in ((stores[0], recipe.speech), *((stores[1], r) for r in recipe.noise)):
            wave = np.zeros(16000, np.float32)
            for piece in row:
                part = store.read(piece.clip, piece.clip_start, piece.length)
                end = piece.segment_start + piece.length
                ramp = np.linspace(0, 1, 80, dtype=np.float32)
                if store is stores[1] and piece.segment_start > 0:
                    part[:80] *= ramp[: piece.length]
                if store is stores[1] and end < 16000:
                    part[-80:] *= ramp[::-1]
                wave[piece.segment_start : end] = part
            parts.append(wave)
        energy = [float(np.square(part).sum()) for part in parts]
        if len(parts) == 3:
            scale = 10 ** (recipe.layer_db[1] / 20) * (energy[1] / energy[2]) ** 0.5
            parts[1] += parts[2] * np.float32(scale)
            energy[1] = float(np.square(parts[1]).sum())
        gain = 10 ** (recipe.level_dbfs / 20) / (energy[0] / 16000) ** 0.5
        noise_gain = gain * (energy[0] / energy[1] * 10 ** (-recipe.snr_db / 10)) ** 0.5
        noisy = parts[0] * np.float32(gain) + parts[1] * np.float32(noise_gain)
        clean = parts[0] * np.float32(gain)
        peak = max(np.abs(noisy).max(), np.abs(clean).max())
        if peak > np.float32(0.99):
            noisy *= np.float32(0.99) / peak
            clean *= np.float32(0.99) / peak
        mixture = mixer.render(recipe)
        np.testing.assert_array_equal(mixture.noisy, noisy)
        np.testing.assert_array_equal(mixture.clean, clean)
