"""Augmented mixtures: SNR, alignment, chance, what counts as altered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audio_clips import RATE, clip, speech_and_noise
from mixers import PLAIN, ROOM, mixer_of

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.data.mixing.recipe import Mixture
from enhance.errors import EnhanceError

EVERYTHING = replace(
    PLAIN,
    snr=(-10, 10),
    level_dbfs=(-45, -30),
    noise_layer_probability=0.7,
    noise_layers=3,
    equaliser_probability=0.5,
    band_limit_probability=0.3,
    rir_probability=0.4,
    easy_probability=0.2,
    speed_probability=0.5,
    noise_speed_probability=0.5,
    formant_probability=0.5,
    gain_probability=0.5,
    babble_probability=0.5,
    babble_voices=(1, 2),
)
ALTERING = {
    "speed_probability": True,
    "formant_probability": True,
    "gain_probability": True,
    "equaliser_probability": True,
    "band_limit_probability": True,
    "rir_probability": True,
    "noise_speed_probability": False,
    "clip_probability": False,
    "easy_probability": False,
    "babble_probability": False,
}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ClipStore, ClipStore]:
    speech, noise = speech_and_noise(tmp_path)
    return ClipStore(speech, quiet=True), ClipStore(noise, quiet=True)


def snr(mixture: Mixture) -> float:
    clean = mixture.clean.astype(np.float64)
    noise = mixture.noisy.astype(np.float64) - clean
    return 10 * np.log10((clean @ clean) / (noise @ noise))


def test_augmentation_moves_no_other_draw(stores: tuple[ClipStore, ClipStore]) -> None:
    """Runs that differ in one such setting hear the same clips at the same SNR."""
    plain = mixer_of(stores, PLAIN, seed=2)
    for name in ("formant", "gain", "clip", "easy", "noise_speed"):
        other = mixer_of(stores, replace(PLAIN, **{f"{name}_probability": 1.0}), seed=2)
        for index in range(10):
            a, b = plain.draw(1, index), other.draw(1, index)
            assert a != b
            assert (a.speech, a.level_dbfs) == (b.speech, b.level_dbfs)
            if name != "noise_speed":
                assert a.noise == b.noise
            if name != "easy":
                assert name == "noise_speed" or a.snr_db == b.snr_db


def test_augmentation_is_independent_of_what_is_drawn(
    stores: tuple[ClipStore, ClipStore],
) -> None:
    mixer = mixer_of(stores, replace(PLAIN, speed_probability=0.5, easy_probability=0.5))
    recipes = [mixer.draw(0, index) for index in range(400)]
    source = [stores[0].clips[recipe.speech[0].clip].source == "a" for recipe in recipes]
    rows = [
        [recipe.speech_speed != 1 for recipe in recipes],
        [recipe.snr_db >= 10 for recipe in recipes],
        [recipe.level_dbfs for recipe in recipes],
    ]
    # The correlation of independent numbers: standard deviation 1 / sqrt(400).
    assert np.abs(np.triu(np.corrcoef([source, *rows]), 1)).max() < 4 / 20


def test_pure_function_with_everything_on(stores: tuple[ClipStore, ClipStore]) -> None:
    first, second = (mixer_of(stores, EVERYTHING, seed=7) for _ in range(2))
    disk = [ClipStore(store.clips, cache_mb=0, quiet=True) for store in stores]
    third = Mixer(*disk, EVERYTHING, seed=7, responses=[ROOM] * 3)
    for index in (5, 0, 3, 8):
        second(9, index)  # what was mixed before must not matter
        a = first(1, index)
        assert json.loads(json.dumps(first.draw(1, index).to_dict()))["index"] == index
        for other in (second(1, index), third(1, index)):
            np.testing.assert_array_equal(a.noisy, other.noisy)
            np.testing.assert_array_equal(a.clean, other.clean)
            assert (a.pieces, a.files, a.snr_db) == (other.pieces, other.files, other.snr_db)
    assert np.abs(first(1, 0).noisy - mixer_of(stores, EVERYTHING, seed=8)(1, 0).noisy).max() > 0.01


def test_snr_and_level_hold_with_everything_on(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, EVERYTHING, seed=1)
    dry = 0
    for index in range(120):
        recipe = mixer.draw(0, index)
        if recipe.rir is not None:  # there the target is not all of the speech that arrives
            continue
        dry += 1
        mixture = mixer.render(recipe)
        assert mixture.noisy.dtype == mixture.clean.dtype == np.float32
        assert mixture.noisy.shape == mixture.clean.shape == (16000,)
        assert snr(mixture) == pytest.approx(recipe.snr_db, abs=2e-3)
        level = 10 * np.log10(np.mean(np.square(mixture.clean, dtype=np.float64)))
        if np.abs(mixture.noisy).max() < 0.9899:  # not turned down
            assert level == pytest.approx(recipe.level_dbfs, abs=2e-3)
    assert dry > 40


@pytest.mark.parametrize("name", [*ALTERING, "all"])
def test_noisy_and_clean_are_aligned(stores: tuple[ClipStore, ClipStore], name: str) -> None:
    names = [key for key in ALTERING if name in (key, "all") and key != "easy_probability"]
    config = replace(PLAIN, snr=(20, 20), babble_voices=(1, 1), **dict.fromkeys(names, 1.0))
    mixer = mixer_of(stores, config)
    for index in range(6):
        mixture = mixer(0, index)
        spectra = [np.fft.rfft(wave, 32000) for wave in (mixture.noisy, mixture.clean)]
        correlation = np.fft.irfft(spectra[0] * spectra[1].conj())
        assert np.abs(correlation).argmax() == 0
        assert correlation[0] > 0


@pytest.mark.parametrize(("name", "altered"), ALTERING.items())
def test_altered_targets_say_so(
    stores: tuple[ClipStore, ClipStore], name: str, altered: bool
) -> None:
    config = replace(PLAIN, babble_voices=(1, 1), **{name: 1.0})
    mixer = mixer_of(stores, config)
    assert config.natural_share == (0.0 if altered else 1.0)
    errors = []
    for index in range(5):
        mixture = mixer(0, index)
        assert mixture.altered is altered
        for piece in mixture.pieces:  # is the target really the file times one gain?
            length = min(piece.length, stores[0].length(piece.clip) - piece.clip_start)
            wave = stores[0].read(piece.clip, piece.clip_start, length).astype(np.float64)
            heard = mixture.clean[piece.segment_start :][:length].astype(np.float64)
            wave = wave[: len(heard)]
            gain = (heard @ wave) / (wave @ wave)
            errors.append(np.linalg.norm(heard - gain * wave) / np.linalg.norm(heard))
    assert max(errors) > 0.05 if altered else max(errors) < 1e-4


def test_speed_changes_the_target_and_its_place(tmp_path: Path) -> None:
    def beep(hz: float, seconds: float) -> np.ndarray:
        return 0.2 * np.sin(2 * np.pi * hz / RATE * np.arange(round(seconds * RATE)))

    speech = ClipStore([clip(tmp_path, "s", 0, wave=beep(1000, 0.5))], quiet=True)
    noise = ClipStore([clip(tmp_path, "n", 0, kind="noise", wave=beep(2000, 5))], quiet=True)
    config = replace(
        PLAIN,
        snr=(0, 0),
        silence_probability=1.0,
        noise_switch_probability=0.0,
        noise_layer_probability=0.0,
        speed_probability=1.0,
        noise_speed_probability=1.0,
    )
    mixer = Mixer(speech, noise, config)
    speeds = []
    for index in range(25):
        recipe = mixer.draw(0, index)
        mixture = mixer.render(recipe)
        assert 0.85 <= recipe.speech_speed <= 1.15
        assert 0.7 <= recipe.noise_speed <= 1.4
        speeds.append(recipe.speech_speed)
        (piece,) = mixture.pieces
        assert piece.length == pytest.approx(8000 / recipe.speech_speed, abs=2)
        assert piece.segment_start + piece.length <= 16000
        heard = mixture.clean[piece.segment_start :][: piece.length].astype(np.float64)
        assert heard @ heard > 0.999 * np.sum(np.square(mixture.clean, dtype=np.float64))
        spectrum = np.abs(np.fft.rfft(mixture.clean, 160000))
        assert spectrum.argmax() / 10 == pytest.approx(1000 * recipe.speech_speed, abs=1)
        rest = mixture.noisy - mixture.clean
        spectrum = np.abs(np.fft.rfft(rest * np.hanning(16000), 160000))
        assert spectrum.argmax() / 10 == pytest.approx(2000 * recipe.noise_speed, abs=1)
        assert np.abs(rest[-800:]).max() > 0.9 * np.abs(rest).max()  # filled to the end
    assert min(speeds) < 0.92
    assert max(speeds) > 1.08


def test_speed_reads_as_much_as_it_needs(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, speed_probability=1.0, speed=(1.5, 1.5), silence_probability=0.0)
    mixer = mixer_of(stores, config)
    for index in range(30):
        mixture = mixer(0, index)
        covered = sum(piece.length for piece in mixture.pieces)
        assert covered > 8000  # pauses of at most 0.4 s each stand between
        last = mixture.pieces[-1]
        assert 16000 - (last.segment_start + last.length) < (0.25 + 0.4) * RATE / 1.5 + 2
        for piece in mixture.pieces:
            inside = slice(piece.segment_start + 50, piece.segment_start + piece.length - 50)
            assert np.std(mixture.clean[inside]) > 0


def test_gain_moves_speech_and_noise_apart(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(PLAIN, gain_probability=0.5, gain_db=10.0))
    kinds = set()
    for index in range(40):
        recipe = mixer.draw(0, index)
        kinds.add((bool(recipe.speech_gain_db), bool(recipe.noise_gain_db)))
        mixture = mixer.render(recipe)
        still = mixer.render(replace(recipe, speech_gain_db=(), noise_gain_db=()))
        assert mixture.altered is bool(recipe.speech_gain_db)
        for points, wave, before in (
            (recipe.speech_gain_db, mixture.clean, still.clean),
            (
                recipe.noise_gain_db,
                mixture.noisy - mixture.clean,
                still.noisy - still.clean,
            ),
        ):
            loud = np.abs(before) > 0.3 * np.abs(before).max()
            db = 20 * np.log10(np.abs(wave[loud] / before[loud]))
            course = np.interp(np.flatnonzero(loud), [0, 15999], points or (0, 0))
            np.testing.assert_allclose(db - course, np.median(db - course), atol=0.05)
            assert len(points) in (0, 2)
            assert all(abs(point) <= 10 for point in points)
    assert len(kinds) == 4


def test_clipping_spares_the_target(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, level_dbfs=(-45, -40), clip_probability=1.0, clip_level=(0.3, 0.6))
    mixer = mixer_of(stores, config)
    for index in range(20):
        recipe = mixer.draw(0, index)
        assert recipe.clip_level and 0.3 <= recipe.clip_level <= 0.6
        mixture, whole = mixer.render(recipe), mixer.render(replace(recipe, clip_level=None))
        np.testing.assert_array_equal(mixture.clean, whole.clean)
        limit = recipe.clip_level * np.abs(whole.noisy).max()
        np.testing.assert_allclose(mixture.noisy, np.clip(whole.noisy, -limit, limit), rtol=1e-6)
        assert np.abs(mixture.noisy).max() == pytest.approx(limit)


def test_clipped_mixtures_are_turned_down_after_clipping(
    stores: tuple[ClipStore, ClipStore],
) -> None:
    config = replace(PLAIN, level_dbfs=(-3, -3), clip_probability=1.0, clip_level=(0.5, 0.5))
    for index in range(5):
        mixture = mixer_of(stores, config)(0, index)
        peaks = [np.abs(wave).max() for wave in (mixture.noisy, mixture.clean)]
        assert max(peaks) == pytest.approx(0.99, abs=1e-5)


def test_easy_mixtures_have_their_share_and_range(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(PLAIN, snr=(-10, 5), easy_probability=0.25))
    values = np.array([mixer.draw(0, index).snr_db for index in range(400)])
    easy = values >= 10
    assert values.max() <= 30
    assert not ((values > 5) & (values < 10)).any()
    assert easy.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 400))
    assert values[easy].mean() == pytest.approx(20, abs=4 * 20 / np.sqrt(12 * easy.sum()))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_noises_come_in_layers(stores: tuple[ClipStore, ClipStore], most: int) -> None:
    mixer = mixer_of(stores, replace(PLAIN, noise_layer_probability=0.5, noise_layers=most))
    counts = np.zeros(4)
    for index in range(200):
        recipe = mixer.draw(0, index)
        counts[len(recipe.noise)] += 1
        assert len(recipe.layer_db) == len(recipe.noise)
    expected = {1: [0, 1, 0, 0], 2: [0, 0.5, 0.5, 0], 3: [0, 0.5, 0.25, 0.25]}[most]
    np.testing.assert_allclose(counts / 200, expected, atol=4 * np.sqrt(0.25 / 200))


def test_third_noise_is_at_its_level(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(PLAIN, noise_layer_probability=1.0, noise_layers=3))
    recipe = mixer.draw(0, 0)
    waves = []
    for kept in (2, 3):
        mixture = mixer.render(
            replace(recipe, noise=recipe.noise[:kept], layer_db=recipe.layer_db[:kept])
        )
        waves.append(mixture.noisy.astype(np.float64) - mixture.clean)
    alone = mixer.render(replace(recipe, noise=recipe.noise[2:], layer_db=(0.0,)))
    third = alone.noisy.astype(np.float64) - alone.clean
    # Three noises are a sum of two noises and the third: find the shares by least squares.
    shares, *_ = np.linalg.lstsq(np.stack([waves[0], third], 1), waves[1], rcond=None)
    np.testing.assert_allclose(np.stack([waves[0], third], 1) @ shares, waves[1], atol=1e-5)
    ratio = 20 * np.log10(shares[1] / shares[0] * np.linalg.norm(third) / np.linalg.norm(waves[0]))
    assert ratio == pytest.approx(recipe.layer_db[2], abs=0.01)


def test_validation_hears_natural_speech_at_one_snr(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(EVERYTHING, clip_probability=0.5).for_validation(-3)
    plain = Mixer(*stores, config, responses=[ROOM] * 3)
    for index in range(40):
        recipe = plain.draw(0, index)
        assert recipe.snr_db == -3
        assert (recipe.speech_speed, recipe.noise_speed, recipe.formant) == (1, 1, 1)
        assert not recipe.speech_gain_db
        assert not recipe.noise_gain_db
        assert recipe.clip_level is None
        assert not recipe.babble
    # What the setting's older part asks for stays.
    assert (config.rir_probability, config.equaliser_probability) == (0.4, 0.5)


def test_natural_share_is_the_share_of_unaltered_targets(
    stores: tuple[ClipStore, ClipStore],
) -> None:
    config = replace(EVERYTHING, speed_probability=0.2, formant_probability=0.1)
    config = replace(config, gain_probability=0.1, rir_probability=0.1, equaliser_probability=0.1)
    mixer = mixer_of(stores, config)
    found = np.mean([not mixer.draw(0, index).altered for index in range(400)])
    assert config.natural_share == pytest.approx(0.8 * 0.9**4 * 0.7)
    assert found == pytest.approx(config.natural_share, abs=4 * np.sqrt(0.25 / 400))


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": (1.2, 0.8)},
        {"speed": (0.2, 1.0)},
        {"noise_speed": (0.9, 3.0)},
        {"formant": (0.0, 1.0)},
        {"formant_probability": -0.1},
        {"gain_db": -1.0},
        {"gain_probability": 1.1},
        {"clip_level": (0.0, 0.5)},
        {"clip_level": (0.5, 1.5)},
        {"easy_snr": (30, 10)},
        {"easy_probability": float("nan")},
        {"babble_voices": (0, 3)},
        {"babble_voices": (5, 3)},
        {"babble_alone_probability": 2},
        {"noise_layers": 4},
        {"noise_layers": 0},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EnhanceError, match=f"MixingConfig: {next(iter(wrong))}"):
        MixingConfig(**wrong)
