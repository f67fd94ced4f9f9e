"""Formulas, rooms of the noise and distant voices in mixtures; and nothing of them by default."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_clips import RATE, clip, speech_and_noise
from mixers import PLAIN, ROOM, mixer_of

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.formulas import KINDS, make
from enhance.data.mixing.loader import batches
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.data.mixing.recipe import Formula, Mixture
from enhance.data.mixing.rooms import bank, tail
from enhance.errors import EnhanceError

WIDE = replace(
    PLAIN,
    noise_layer_probability=0.7,
    noise_layers=3,
    noise_switch_probability=0.3,
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
    snr=(-10, 10),
    level_dbfs=(-45, -30),
)
ALL = replace(
    WIDE,
    synthetic_noise_probability=0.5,
    noise_rir_probability=0.5,
    distant_voice_probability=0.5,
    distant_shift_probability=0.5,
)
OLD_FIELDS = (
    "babble", "babble_db", "clip_level", "cutoff_hz", "epoch", "formant", "index", "layer_db",
    "level_dbfs", "noise", "noise_equaliser_db", "noise_gain_db", "noise_speed", "rir", "snr_db",
    "speech", "speech_equaliser_db", "speech_gain_db", "speech_speed", "voice_db",
)  # fmt: skip


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ClipStore, ClipStore]:
    speech, noise = speech_and_noise(tmp_path)
    return ClipStore(speech, quiet=True), ClipStore(noise, quiet=True)


def snr(mixture: Mixture) -> float:
    clean = mixture.clean.astype(np.float64)
    noise = mixture.noisy.astype(np.float64) - clean
    return 10 * np.log10((clean @ clean) / (noise @ noise))


@pytest.mark.parametrize(
    ("config", "digest", "samples"),
    [
        (
            PLAIN,
            "9c725f327580e24f2144edc1f818e9abc802fe4e156d163fd551573be3910496",
            [
                [-0.1010834, -0.03890884, 0.1286969, 0.08849866],
                [-0.07017393, 0.000170432, -0.1109885, 0.01142261],
                [0.02296439, -0.04256358, 0.002543549, 0.001272378],
            ],
        ),
        (
            replace(WIDE, noise_switch_probability=0.1, babble_voices=(1, 2)),
            "56fb59b809e40562f32072ff0bfad46be2fcf7d86ad663f3b80d42549f39364f",
            [
                [-0.009746786, -0.006792057, -0.000178192, -0.01717287],
                [0.02048091, -0.01313667, -0.006195172, 0.003070545],
                [0.006407179, -0.01640881, 0.005165429, 0.007910538],
            ],
        ),
    ],
    ids=["plain", "wide"],
)
def test_what_was_drawn_before_formulas_is_drawn_still(
    stores: tuple[ClipStore, ClipStore], config: MixingConfig, digest: str, samples: Any
) -> None:
    """Recorded at the commit before them: recipes to the bit, waves to what FFTs of other
    processors may differ by."""
    mixer = mixer_of(stores, config, seed=5)
    found = hashlib.sha256()
    for index in range(40):
        recipe = mixer.draw(0, index).to_dict()
        old = {name: recipe[name] for name in OLD_FIELDS}
        found.update(json.dumps(old, sort_keys=True).encode())
    assert found.hexdigest() == digest
    for index, wanted in enumerate(samples):
        np.testing.assert_allclose(mixer(0, index).noisy[1000::4000], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["synthetic_noise", "noise_rir", "distant_voice"])
def test_each_moves_nothing_else(stores: tuple[ClipStore, ClipStore], name: str) -> None:
    plain = mixer_of(stores, WIDE, seed=2)
    other = mixer_of(stores, replace(WIDE, **{f"{name}_probability": 0.5}), seed=2)
    changed = 0
    for index in range(30):
        a, b = plain.draw(1, index).to_dict(), other.draw(1, index).to_dict()
        same = set(OLD_FIELDS) - ({"noise"} if name == "synthetic_noise" else set())
        assert {key: a[key] for key in same} == {key: b[key] for key in same}
        changed += a != b
    assert 5 < changed <= 30


def test_pure_function_with_everything_on(stores: tuple[ClipStore, ClipStore]) -> None:
    first, second = (mixer_of(stores, ALL, seed=7) for _ in range(2))
    disk = [ClipStore(store.clips, cache_mb=0, quiet=True) for store in stores]
    third = Mixer(*disk, ALL, seed=7, responses=[ROOM] * 3)
    for index in (5, 0, 3, 8):
        second(9, index)  # what was mixed before must not matter
        a = first(1, index)
        assert json.loads(json.dumps(first.draw(1, index).to_dict()))["index"] == index
        for other in (second(1, index), third(1, index)):
            np.testing.assert_array_equal(a.noisy, other.noisy)
            np.testing.assert_array_equal(a.clean, other.clean)
            assert (a.files, a.snr_db) == (other.files, other.snr_db)


def test_snr_level_and_peak_hold_with_everything_on(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(ALL, level_dbfs=(-40, -5)), seed=1)
    dry = 0
    for index in range(150):
        recipe = mixer.draw(0, index)
        mixture = mixer.render(recipe)
        assert np.isfinite(mixture.noisy).all()
        assert np.isfinite(mixture.clean).all()
        assert np.abs(mixture.noisy).max() <= 0.99001
        if recipe.rir is None:  # else the target is not all of the speech that arrives
            dry += 1
            assert snr(mixture) == pytest.approx(recipe.snr_db, abs=3e-3)
    assert dry > 50


def test_formulas_take_the_place_of_recordings(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(PLAIN, synthetic_noise_probability=0.3), seed=3)
    recipes = [mixer.draw(0, index) for index in range(400)]
    rows = [row for recipe in recipes for row in recipe.noise]
    formulas = [row for row in rows if isinstance(row[0], Formula)]
    # 0.3 of about 440 rows: standard deviation 0.022.
    assert abs(len(formulas) / len(rows) - 0.3) < 0.08
    pieces = [piece for row in formulas for piece in row]
    assert len({piece.seed for piece in pieces if isinstance(piece, Formula)}) == len(pieces)
    assert len({piece.kind for piece in pieces if isinstance(piece, Formula)}) > 20
    switched = [row for row in formulas if len(row) == 2]
    assert 0 < len(switched) < 0.3 * len(formulas)
    for row in formulas:
        assert sum(piece.length for piece in row) == 16000


def test_the_noise_is_the_formula_itself(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(
        PLAIN,
        synthetic_noise_probability=1.0,
        noise_layer_probability=0,
        noise_switch_probability=0,
    )
    mixer = mixer_of(stores, config)
    for index in range(12):
        recipe, mixture = mixer.draw(0, index), mixer(0, index)
        piece = recipe.noise[0][0]
        assert isinstance(piece, Formula)
        assert mixture.files[-1] == f"formula:{piece.kind}"
        wave = make(piece.kind, piece.seed, 16000, RATE)
        noise = mixture.noisy - mixture.clean
        correlation = noise @ wave / np.sqrt((noise @ noise) * (wave @ wave))
        assert correlation == pytest.approx(1, abs=1e-4)


def test_noise_is_heard_in_a_room_of_its_own(stores: tuple[ClipStore, ClipStore]) -> None:
    dry = mixer_of(stores, replace(PLAIN, snr=(0, 0)))
    wet = mixer_of(stores, replace(PLAIN, snr=(0, 0), noise_rir_probability=1.0))
    for index in range(4):
        a, b = dry(0, index), wet(0, index)
        assert not b.altered
        plain = a.noisy - a.clean
        heard = np.convolve(plain, ROOM.wave)[ROOM.direct : ROOM.direct + 16000]
        noise = b.noisy - b.clean
        gain = (noise @ heard) / (heard @ heard)
        assert np.abs(noise - gain * heard).max() < 1e-3 * np.abs(noise).max()
        np.testing.assert_allclose(
            b.clean / np.abs(b.clean).max(), a.clean / np.abs(a.clean).max(), atol=1e-6
        )


def test_distant_voices_stay_below_the_target(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(
        PLAIN,
        snr=(-5, 30),
        level_dbfs=(-50, -45),
        distant_voice_probability=1.0,
        distant_voice_db=(8, 20),
    )
    mixer = mixer_of(stores, config, seed=4)
    shifted = 0
    for index in range(40):
        recipe = mixer.draw(0, index)
        assert recipe.distant
        assert 8 <= recipe.distant_db <= 20
        shifted += recipe.distant[0].speed != 1
        own = stores[0].clips[recipe.speech[0].clip].speaker
        for voice in recipe.distant:
            for piece in voice.pieces:
                assert stores[0].clips[piece.clip].speaker != own
        mixture = mixer.render(recipe)
        assert snr(mixture) == pytest.approx(recipe.snr_db, abs=3e-3)
        # What is added against the same mixture without them, with noise alone at its level.
        noise = mixture.noisy - mixture.clean
        bare = mixer.render(replace(recipe, distant=(), distant_db=0.0))
        noise_alone = bare.noisy - bare.clean
        share = noise - noise_alone * ((noise @ noise_alone) / (noise_alone @ noise_alone))
        wanted = max(recipe.snr_db, recipe.distant_db)
        found = 10 * np.log10((mixture.clean @ mixture.clean) / (share @ share))
        assert found == pytest.approx(wanted, abs=0.6)
    assert 3 < shifted < 30


def test_distant_voices_are_late_and_dull(tmp_path: Path) -> None:
    """Clicks of the other voice arrive as tails: most of the energy comes after 50 ms."""
    click = np.zeros(3 * RATE)
    click[:: RATE // 2] = 0.9
    speech = [
        clip(tmp_path / "s", "ann", 3.0, speaker="ann"),
        clip(tmp_path / "s", "bob", 3.0, speaker="bob", wave=click),
    ]
    noise = [clip(tmp_path / "n", "n", 3.0, kind="noise")]
    stores = [ClipStore(clips, quiet=True) for clips in (speech, noise)]
    config = MixingConfig(
        snr=(40, 40),
        segment_seconds=2.0,
        distant_voice_probability=1.0,
        distant_shift_probability=0,
    )
    mixer = Mixer(*stores, config, seed=1)
    late = []
    for index in range(20):
        recipe = mixer.draw(0, index)
        if stores[0].clips[recipe.speech[0].clip].speaker != "ann":
            continue
        mixture = mixer.render(recipe)
        wave = (mixture.noisy - mixture.clean).astype(np.float64)
        start = (-recipe.distant[0].pieces[0].clip_start) % (RATE // 2)
        course = np.square(wave[start : start + RATE // 2 * ((len(wave) - start) // (RATE // 2))])
        course = course.reshape(-1, RATE // 2).sum(0)
        late.append(course[RATE // 100 : -RATE // 100].sum() / course.sum())
        power = np.abs(np.fft.rfft(wave)) ** 2
        assert power[int(1.15 * recipe.distant[0].cutoff_hz * 2) :].sum() < 1e-3 * power.sum()
    assert len(late) > 4
    assert min(late) > 0.5


def test_a_tail_dies_away_by_60_db() -> None:
    for seed in range(5):
        response = tail(seed)
        assert response.direct == 0
        assert response.wave[0] == 1
        n = len(response.wave)
        assert 0.3 * RATE - 1 <= n <= 1.2 * RATE + 1
        first, last = (np.mean(response.wave[a:b] ** 2) for a, b in ((1, n // 8), (n - n // 8, n)))
        # Seven eighths of 60 dB between their middles.
        assert 10 * np.log10(first / last) == pytest.approx(52.5, abs=3)


def test_batches_hear_formulas(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = mixer_of(stores, replace(ALL, synthetic_noise_probability=1.0), seed=3)

    def take(**options: int) -> list[dict[str, Any]]:
        with contextlib.closing(batches(mixer, 3, 10, **options)) as stream:
            return list(islice(stream, 4))

    named = set()
    for a, b in zip(take(), take(workers=2), strict=True):
        assert torch.equal(a["noisy"], b["noisy"])
        assert torch.equal(a["clean"], b["clean"])
        assert a["files"] == b["files"]
        named |= {name for files in a["files"] for name in files if name.startswith("formula:")}
    assert len(named) > 3
    assert named <= {f"formula:{kind}" for kind in KINDS}


def test_validation_hears_none_of_it() -> None:
    config = ALL.for_validation(-5.0)
    for name in ("synthetic_noise", "noise_rir", "distant_voice"):
        assert getattr(config, f"{name}_probability") == 0


def test_wrong_settings_are_refused(stores: tuple[ClipStore, ClipStore], tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="distant_voice_db"):
        MixingConfig(distant_voice_db=(0, 5))
    with pytest.raises(EnhanceError, match="synthetic_noise_probability"):
        MixingConfig(synthetic_noise_probability=1.5)
    with pytest.raises(EnhanceError, match="distant_shift"):
        MixingConfig(distant_shift=(0.2, 1.0))
    with pytest.raises(EnhanceError, match="noise_rir_probability"):
        Mixer(*stores, replace(PLAIN, noise_rir_probability=0.5), responses=[])
    alone = ClipStore([clip(tmp_path / "one", "ann", 2.0, speaker="ann")], quiet=True)
    with pytest.raises(EnhanceError, match=r"distant_voice_probability.*1 speaker"):
        Mixer(alone, stores[1], replace(PLAIN, distant_voice_probability=0.5))
    with pytest.raises(EnhanceError, match=r"data\.rirs"):
        bank(MixingConfig(noise_rir_probability=0.1, rir_source="folder"), "", 0)
