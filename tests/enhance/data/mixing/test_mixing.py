"""Mixtures against independent computations: SNR, level, content, rooms, filters, chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_clips import RATE, clip, speech_and_noise, tone

from enhance.config import DataConfig
from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import load_clips
from enhance.data.mixing import distant
from enhance.data.mixing.mixer import Mixer
from enhance.data.mixing.pieces import assemble, audible_crop, energy
from enhance.data.mixing.recipe import Distant, Mixture, Piece
from enhance.data.mixing.rooms import Response, bank, simulated_bank
from enhance.errors import EnhanceError

PLAIN = MixingConfig(segment_seconds=1.0)


def snr(mixture: Mixture) -> float:
    clean = mixture.clean.astype(np.float64)
    noise = mixture.noisy.astype(np.float64) - clean
    return 10 * np.log10((clean @ clean) / (noise @ noise))


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ClipStore, ClipStore]:
    speech, noise = speech_and_noise(tmp_path)
    return ClipStore(speech, quiet=True), ClipStore(noise, quiet=True)


def test_snr_and_level_are_what_was_drawn(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, level_dbfs=(-35, -25), noise_layer_probability=0.5)
    mixer = Mixer(*stores, config, seed=1)
    found = []
    for index in range(80):
        recipe = mixer.draw(0, index)
        mixture = mixer.render(recipe)
        assert mixture.noisy.shape == mixture.clean.shape == (16000,)
        assert mixture.noisy.dtype == mixture.clean.dtype == np.float32
        assert snr(mixture) == pytest.approx(recipe.snr_db, abs=1e-3)
        level = 10 * np.log10(np.mean(np.square(mixture.clean, dtype=np.float64)))
        assert level == pytest.approx(recipe.level_dbfs, abs=1e-3)
        found.append(recipe.snr_db)
    assert -5 <= min(found) < -4
    assert 4 < max(found) <= 5
    # The mean of 80 uniform values: standard deviation 10 / sqrt(12 * 80) = 0.32.
    assert abs(np.mean(found)) < 1.3


def test_loud_mixtures_are_turned_down_not_clipped(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = Mixer(*stores, replace(PLAIN, level_dbfs=(-3, -3), snr=(-5, -5)))
    for index in range(5):
        mixture = mixer(0, index)
        assert np.abs(mixture.noisy).max() == pytest.approx(0.99, abs=1e-5)
        assert snr(mixture) == pytest.approx(-5, abs=1e-3)


@pytest.mark.parametrize("alignment", [320, 160, 1])
def test_pieces_are_the_files_own_samples(
    stores: tuple[ClipStore, ClipStore], alignment: int
) -> None:
    speech, noise = stores
    mixer = Mixer(speech, noise, PLAIN, alignment=alignment)
    several = 0
    for index in range(60):
        mixture = mixer(2, index)
        assert not mixture.altered
        several += len(mixture.pieces) > 1
        elsewhere = np.ones(16000, bool)
        gains = []
        for piece in mixture.pieces:
            assert (piece.segment_start - piece.clip_start) % alignment == 0
            place = slice(piece.segment_start, piece.segment_start + piece.length)
            assert elsewhere[place].all()  # pieces do not overlap
            elsewhere[place] = False
            path = speech.clips[piece.clip].path
            assert str(path) in mixture.files
            expected = soundfile.read(path)[0][piece.clip_start :][: piece.length]
            assert len(expected) == piece.length
            gain = (mixture.clean[place] @ expected) / (expected @ expected)
            np.testing.assert_allclose(mixture.clean[place], gain * expected, atol=1e-6)
            gains.append(gain)
        assert not mixture.clean[elsewhere].any()
        np.testing.assert_allclose(gains, gains[0], rtol=1e-5)  # one gain for all
        assert len({speech.clips[p.clip].speaker for p in mixture.pieces}) == 1
    assert several > 5


def test_short_clips_may_stand_in_silence(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = Mixer(*stores, replace(PLAIN, segment_seconds=2.0, silence_probability=1.0))
    rows = [mixer.draw(0, index).speech for index in range(40)]
    assert all(len(row) == 1 for row in rows)
    short = [row[0] for row in rows if row[0].length < 32000]
    assert short
    assert {p.clip_start for p in short} == {0}
    assert len({p.segment_start for p in short}) > 5
    assert all(p.length == mixer.speech.length(p.clip) for p in short)


def test_noise_fills_the_segment(stores: tuple[ClipStore, ClipStore]) -> None:
    mixer = Mixer(*stores, replace(PLAIN, noise_switch_probability=1.0, noise_layer_probability=1))
    for index in range(20):
        recipe = mixer.draw(0, index)
        assert len(recipe.noise) == 2
        assert -10 <= recipe.layer_db[1] <= 0
        for row in recipe.noise:
            position = 0
            for piece in row:
                assert piece.segment_start == position
                position += piece.length
            assert position == 16000
            assert len(row) >= 2


def test_pure_function_of_seed_epoch_and_index(
    tmp_path: Path, stores: tuple[ClipStore, ClipStore]
) -> None:
    config = replace(PLAIN, rir_probability=0.5, rir_count=3, equaliser_probability=0.5)
    first, second = Mixer(*stores, config, seed=7), Mixer(*stores, config, seed=7)
    disk = [ClipStore(store.clips, cache_mb=0, quiet=True) for store in stores]
    third = Mixer(*disk, config, seed=7)
    for index in (5, 0, 3):
        second(9, index)  # what was mixed before must not matter
        a = first(1, index)
        for other in (second(1, index), third(1, index)):
            np.testing.assert_array_equal(a.noisy, other.noisy)
            np.testing.assert_array_equal(a.clean, other.clean)
            assert (a.pieces, a.files, a.snr_db) == (other.pieces, other.files, other.snr_db)
    base = first(1, 0).noisy
    for other in (first(1, 1), first(2, 0), Mixer(*stores, config, seed=8)(1, 0)):
        assert np.abs(base - other.noisy).max() > 0.01


def test_recipes_are_plain_numbers(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, equaliser_probability=1.0, band_limit_probability=1.0)
    recipe = Mixer(*stores, config).draw(3, 4)
    text = json.loads(json.dumps(recipe.to_dict()))
    assert (text["epoch"], text["index"], text["snr_db"]) == (3, 4, recipe.snr_db)
    assert text["speech"][0]["length"] == recipe.speech[0].length


def test_silent_crops_are_avoided_and_silent_files_named(tmp_path: Path) -> None:
    quiet = np.zeros(20 * RATE)
    quiet[10 * RATE : 11 * RATE] = tone(1, 1)  # a crop of 1 s is silent nine times in ten
    speech = ClipStore([clip(tmp_path, "gap", 0, wave=quiet)], quiet=True)
    noise = ClipStore([clip(tmp_path, "n", 3, kind="noise")], quiet=True)
    mixer = Mixer(speech, noise, replace(PLAIN, silence_dbfs=-50))
    for index in range(20):  # twenty misses in a row happen with probability 0.12
        mixture = mixer(0, index)
        assert np.abs(mixture.clean).max() > 1e-3
        assert snr(mixture) == pytest.approx(mixture.snr_db, abs=1e-3)
    silent = ClipStore([clip(tmp_path, "nothing", 0, wave=np.zeros(2 * RATE))], quiet=True)
    with pytest.raises(EnhanceError, match=r"nothing\.wav.*quieter"):
        Mixer(silent, noise, PLAIN)(0, 0)
    with pytest.raises(EnhanceError, match=r"nothing\.wav.*quieter"):
        Mixer(noise, silent, PLAIN)(0, 0)


def test_a_long_training_never_ends_by_chance(tmp_path: Path) -> None:
    wave = np.zeros(100 * RATE)
    wave[99 * RATE :] = tone(1, 1)
    names = [("ann", wave), ("bob", np.zeros(2 * RATE)), ("eve", wave[::-1])]
    clips = [clip(tmp_path, name, 0, wave=wave, speaker=name) for name, wave in names]
    noise = clip(tmp_path, "n", 0, kind="noise", wave=np.append(np.zeros(50 * RATE), tone(0.3, 2)))
    stores = ClipStore(clips, quiet=True), ClipStore([noise], quiet=True)
    config = replace(PLAIN, babble_probability=0.5, babble_voices=(1, 2))
    mixer = Mixer(*stores, config)
    for index in range(30):
        mixture = mixer(0, index)
        assert snr(mixture) == pytest.approx(mixture.snr_db, abs=1e-3)
        assert np.abs(mixture.clean).max() > 1e-4
        again = mixer(0, index)
        np.testing.assert_array_equal(again.noisy, mixture.noisy)


@pytest.mark.parametrize("part", [0, 1])
def test_what_the_filters_leave_nothing_of_is_mixed_unfiltered(tmp_path: Path, part: int) -> None:
    high = 0.3 * np.sin(2 * np.pi * 6000 / RATE * np.arange(2 * RATE))
    waves = [tone(2, 1), tone(2, 2)]
    waves[part] = high
    stores = [
        ClipStore([clip(tmp_path, kind, 0, kind=kind, wave=wave)], quiet=True)
        for kind, wave in zip(("speech", "noise"), waves, strict=True)
    ]
    config = replace(PLAIN, band_limit_probability=1.0, band_limit_hz=(3000.0, 3000.0))
    mixer = Mixer(stores[0], stores[1], config)
    mixture = mixer(0, 0)
    heard = [np.abs(np.fft.rfft(x)) for x in (mixture.clean, mixture.noisy - mixture.clean)]
    bins = np.fft.rfftfreq(len(mixture.clean), 1 / RATE)
    assert bins[heard[part].argmax()] == 6000
    assert np.square(heard[1 - part])[bins > 3400].sum() < 1e-3 * np.square(heard[1 - part]).sum()


def test_rooms_may_be_quiet(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, rir_probability=1.0, band_limit_probability=1.0)
    loud = np.zeros(800, np.float32)
    loud[10], loud[700] = 1, 0.5
    wanted, got = (
        Mixer(*stores, config, responses=[Response(gain * loud, 10)])(0, 0)
        for gain in (np.float32(1), np.float32(2**-10))
    )
    np.testing.assert_allclose(got.noisy, wanted.noisy, atol=1e-5)


def test_a_voice_far_away_that_the_filters_leave_nothing_of_is_no_rounding_noise(
    tmp_path: Path,
) -> None:
    high = 0.3 * np.sin(2 * np.pi * 6000 / RATE * np.arange(2 * RATE))
    store = ClipStore([clip(tmp_path, "bat", 0, wave=high)], quiet=True)
    n = 2 * RATE
    voice = Distant((Piece(0, 0, 0, n),), 0.0, 1.0, 1.0, 3000.0, 0, 0, -3.0)
    room = np.zeros(100, np.float32)
    room[0] = 1
    heard = distant.render([voice], store, [Response(room, 0)], n, 0, None)
    assert np.abs(np.fft.rfft(heard)).argmax() == 12000
    assert np.abs(heard).max() > 0.1


def test_a_short_noise_that_is_quiet_is_audible_over_and_over(tmp_path: Path) -> None:
    wave = 1.2e-3 * np.sign(tone(0.25, 1))
    store = ClipStore([clip(tmp_path, "n", 0, kind="noise", wave=wave)], quiet=True)
    floor = 1e-6 * 2 * RATE
    rng = np.random.default_rng(0)
    found = audible_crop(store, 0, 2 * RATE, floor, 1, rng, fill=True, voice=False)
    assert energy(assemble(store, found, 2 * RATE)) >= floor
    assert audible_crop(store, 0, 2 * RATE, floor, 1, rng, fill=False, voice=False) == ()


def test_noise_that_the_fades_silence_is_refused_in_one_line(tmp_path: Path) -> None:
    speech = ClipStore([clip(tmp_path, "s", 1.0)], quiet=True)
    noise = ClipStore([clip(tmp_path, "n", 0, kind="noise", wave=np.array([0.5]))], quiet=True)
    config = MixingConfig(segment_seconds=0.5, noise_layer_probability=1.0)
    with pytest.raises(EnhanceError, match=r"n\.wav: nothing is left"):
        Mixer(speech, noise, config)(0, 0)


def test_rooms_line_up_with_the_direct_path(stores: tuple[ClipStore, ClipStore]) -> None:
    wave = np.zeros(3000, np.float32)
    wave[100], wave[100 + 480], wave[100 + 1440] = 1, 0.5, 0.3  # 30 ms and 90 ms later
    config = replace(PLAIN, rir_probability=1.0, level_dbfs=(-35, -30), snr=(5, 5))
    mixer = Mixer(*stores, config, responses=[Response(wave, 100)])
    plain = Mixer(*stores, PLAIN)
    for index in range(4):
        recipe = mixer.draw(0, index)
        assert recipe.rir == 0
        mixture = mixer.render(recipe)
        assert mixture.altered
        dry = plain.render(replace(recipe, rir=None)).clean.astype(np.float64)
        early, late = dry.copy(), dry.copy()
        early[480:] += 0.5 * dry[:-480]
        late[480:] += 0.5 * dry[:-480]
        late[1440:] += 0.3 * dry[:-1440]
        gain = (mixture.clean @ early) / (early @ early)
        np.testing.assert_allclose(mixture.clean, gain * early, atol=2e-5)
        # The level and the SNR are those of the speech that arrives, reverberation included.
        level = 10 * np.log10(np.mean(np.square(gain * late)))
        assert level == pytest.approx(recipe.level_dbfs, abs=1e-2)
        noise = mixture.noisy - gain * late
        assert 10 * np.log10(np.sum((gain * late) ** 2) / (noise @ noise)) == pytest.approx(
            5, abs=1e-2
        )


def test_simulated_rooms(stores: tuple[ClipStore, ClipStore]) -> None:
    first, again, other = (simulated_bank(4, seed, quiet=True) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.wave, b.wave)
        assert a.direct == b.direct
        assert len(a.wave) != len(c.wave) or np.abs(a.wave - c.wave).max() > 1e-3
        assert np.abs(a.wave).argmax() == a.direct
        assert a.wave[a.direct] == pytest.approx(1)
        assert 0.02 * RATE < len(a.wave) < 1.2 * RATE
        late = a.wave[a.direct + 800 :]
        assert np.sum(late**2) > 0  # there is a tail beyond the early part
    # Drawn until one fits: in vain where none can.
    with pytest.raises(EnhanceError, match=r"mixing\.rir_rt60.*that dry"):
        bank(replace(PLAIN, rir_probability=1.0, rir_rt60=(0.01, 0.07)), "", 0)
    assert bank(PLAIN, "", 0) == []
    mixer = Mixer(*stores, replace(PLAIN, rir_probability=1.0, rir_count=2), seed=3)
    assert {mixer.draw(0, i).rir for i in range(20)} == {0, 1}


def test_rooms_of_a_folder(
    tmp_path: Path, stores: tuple[ClipStore, ClipStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = np.zeros(2000)
    wave[200], wave[900] = 0.8, -0.2
    (tmp_path / "rirs").mkdir()
    soundfile.write(tmp_path / "rirs" / "a.wav", wave, RATE, subtype="FLOAT")
    config = replace(PLAIN, rir_probability=1.0, rir_source="folder")
    (found,) = bank(config, tmp_path / "rirs", 0, quiet=True)
    assert found.wave[found.direct] == 1
    assert found.wave[found.direct + 700] == pytest.approx(-0.25)
    assert Mixer(*stores, config, responses=[found])(0, 0).altered
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(bank(config, "~/rirs", 0, quiet=True)) == 1
    with pytest.raises(EnhanceError, match="rir_source is `simulated`; set that to folder"):
        bank(replace(config, rir_source="simulated"), tmp_path / "rirs", 0, quiet=True)
    with pytest.raises(EnhanceError, match=r"data\.rirs"):
        bank(config, "", 0)
    with pytest.raises(EnhanceError, match="no room impulse response"):
        Mixer(*stores, config, responses=[])
    (tmp_path / "none").mkdir()
    with pytest.raises(EnhanceError, match="holds no room"):
        bank(config, tmp_path / "none", 0, quiet=True)


def test_equaliser_is_smooth_and_bounded(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, equaliser_probability=1.0, equaliser_db=6.0)
    mixer = Mixer(*stores, config)
    recipe = mixer.draw(0, 0)
    mixture = mixer.render(recipe)
    dry = mixer.render(replace(recipe, speech_equaliser_db=(), noise_equaliser_db=()))
    assert mixture.altered
    assert not dry.altered
    size = 20000
    ratio = np.abs(np.fft.rfft(mixture.clean, size)) / np.abs(np.fft.rfft(dry.clean, size))
    db = 20 * np.log10(np.maximum(ratio, 1e-9))
    hz = np.fft.rfftfreq(size, 1 / RATE)
    points = dict(zip((180, 500, 1300, 3200), recipe.speech_equaliser_db[1:5], strict=True))
    # One gain for the level stands between the curve and what is measured.
    shift = [np.median(db[np.abs(hz - f) < 20]) - gain for f, gain in points.items()]
    np.testing.assert_allclose(shift, np.mean(shift), atol=0.5)
    assert snr(mixture) == pytest.approx(recipe.snr_db, abs=1e-3)


def test_band_limit_cuts_everything(stores: tuple[ClipStore, ClipStore]) -> None:
    config = replace(PLAIN, band_limit_probability=1.0, band_limit_hz=(3000, 3000))
    mixture = Mixer(*stores, config)(0, 0)
    assert mixture.altered
    taper = np.hanning(16000)
    for wave in (mixture.noisy, mixture.clean):
        power = np.abs(np.fft.rfft(wave * taper)) ** 2
        assert power[3400:].sum() < 1e-6 * power[:3000].sum()
        assert power[2500:2900].sum() > 1e-3 * power[:3000].sum()


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 0.9)])
def test_sources_are_drawn_by_hours_to_a_power(
    tmp_path: Path, balance: float, share: float
) -> None:
    speech = [clip(tmp_path, f"big{i}", 1.8, source="big") for i in range(5)]
    speech.append(clip(tmp_path, "small", 1.0, source="small"))  # 9 to 1
    noise = [clip(tmp_path, "n", 2, kind="noise")]
    stores = [ClipStore(clips, quiet=True) for clips in (speech, noise)]
    mixer = Mixer(*stores, replace(PLAIN, segment_seconds=0.5), balance=balance)
    big = sum(mixer.draw(0, i).speech[0].clip < 5 for i in range(500)) / 500
    assert big == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 500))


@pytest.mark.parametrize(
    "wrong",
    [
        {"snr": (5, -5)},
        {"rir_probability": 1.5},
        {"segment_seconds": 0},
        {"band_limit_hz": (0, 100)},
        {"rir_rt60": (0, 1)},
        {"early_ms": -1},
        # Powers of these would overflow in the middle of a run.
        {"early_ms": 1e306},
        {"join_gap_seconds": (0, 1e308)},
        {"snr": (-5000, 0)},
        {"level_dbfs": (0, 10000)},
        {"silence_dbfs": 1e5},
        {"noise_layer_db": (0, 1e5)},
        {"equaliser_db": 1e6},
        {"easy_snr": (0, 5000)},
        {"babble_db": (0, 1e4)},
        {"distant_voice_db": (1, 1e5)},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(EnhanceError, match=rf"MixingConfig.*{next(iter(wrong))}"):
        MixingConfig(**wrong)  # type: ignore[arg-type]


def test_stores_of_two_rates_are_refused(tmp_path: Path) -> None:
    speech, noise = speech_and_noise(tmp_path)
    with pytest.raises(EnhanceError, match="one rate"):
        Mixer(ClipStore(speech, quiet=True), ClipStore(noise, 8000, quiet=True), PLAIN)
    with pytest.raises(EnhanceError, match="seed -1"):
        Mixer(ClipStore(speech, quiet=True), ClipStore(noise, quiet=True), PLAIN, seed=-1)


def test_real_audio(corpus: Path) -> None:
    speech, noise = load_clips(DataConfig(corpus=str(corpus / "train")))
    stores = [ClipStore(part, quiet=True) for part in (speech[::90], noise[::20])]
    mixer = Mixer(*stores, MixingConfig(), seed=5)
    used = set()
    for index in range(40):
        mixture = mixer(0, index)
        assert snr(mixture) == pytest.approx(mixture.snr_db, abs=1e-3)
        for piece in mixture.pieces:
            used.add(speech[::90][piece.clip].source)
            assert (piece.segment_start - piece.clip_start) % 320 == 0
            heard = mixture.clean[piece.segment_start :][: piece.length]
            expected = soundfile.read(speech[::90][piece.clip].path)[0]
            expected = expected[piece.clip_start :][: piece.length]
            cosine = heard @ expected / np.sqrt((heard @ heard) * (expected @ expected))
            assert cosine > 1 - 1e-5
    assert len(used) >= 4
