"""The band above the model's: kept where the model takes nothing, down where it turns down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_onnx import OVERLAP, build

from enhance.audio.resampling import resample
from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.device.upper_band import Queue, UpperBand, upper_half
from enhance.errors import EnhanceError

RNG = np.random.default_rng(5)
SPEECH = Path("/usr/share/sounds/alsa")
"""Full-band speech: Debian's alsa-utils."""


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


def level(wave: np.ndarray, rate: int, low: float, high: float) -> float:
    """dB of the energy between two frequencies."""
    power = np.square(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))))
    place = np.fft.rfftfreq(len(wave), 1 / rate)
    return float(10 * np.log10(power[(place >= low) & (place < high)].sum() + 1e-20))


def model(path: Path, **options: float) -> Enhancer:
    return Enhancer(build(path / "m.onnx", hop=256, **options))


@pytest.mark.parametrize("rate", [16001, 22050, 44100, 48000, 96000])
def test_the_bands_together_are_the_input(tmp_path: Path, rate: int) -> None:
    wave = noise(2, 9001)
    delay = model(tmp_path)
    np.testing.assert_array_equal(delay(wave, rate), wave)
    delay.bandwidth = "16k"
    if rate > 16800:
        assert (
            level(delay(wave, rate)[0], rate, 8400, 24000) < level(wave[0], rate, 8400, 24000) - 60
        )


@pytest.mark.parametrize("gain", [0.5, 0.1])
def test_upper_band_goes_down_as_the_lower_one_does(tmp_path: Path, gain: float) -> None:
    wave = noise(48000)
    out = model(tmp_path, gain=gain)(wave, 48000)[4800:]
    # Its own gain of the band below: white noise, 1e-3 of a band's energy is .005 dB.
    np.testing.assert_allclose(out, gain * wave[4800:], atol=1e-4)


def test_it_follows_the_band_below_and_not_the_whole(tmp_path: Path) -> None:
    pole = 0.8
    slope = model(tmp_path, pole=pole, gain=1 - pole)
    wave = noise(96000)
    out = slope(wave, 48000)[4800:]
    wave = wave[4800:]
    angle = 2 * np.pi * np.linspace(4000, 8000, 400) / 16000
    by_hand = np.mean(np.square((1 - pole) / np.abs(1 - pole * np.exp(-1j * angle))))
    for low, high in [(9000, 14000), (14000, 24000)]:
        change = level(out, 48000, low, high) - level(wave, 48000, low, high)
        assert change == pytest.approx(10 * np.log10(by_hand), abs=0.3)
    assert level(out, 48000, 50, 400) - level(wave, 48000, 50, 400) > -3


def test_gain_rises_with_an_onset_at_once_and_falls_when_it_is_outweighed() -> None:
    """A model that passes what is loud and takes the rest, as one does that knows speech."""
    hop, hops = 256, 20
    band = UpperBand(16000, hop, 0, 48000, 1)
    heard = noise(3 * hops * hop, 1)
    heard[: hops * hop] *= 0.03
    heard[2 * hops * hop :] *= 0.03
    passed = np.repeat([0.01, 1.0, 0.01], hops * hop)[:, None].astype(np.float32)
    lower = band.lower(heard, passed * heard)
    gain = band.gain(3 * len(heard))[::3]
    np.testing.assert_allclose(lower, (passed - gain) * heard, atol=1e-6)
    assert gain[5 * hop : hops * hop].max() < 0.02
    assert gain[(hops + 1) * hop :][: (hops - 1) * hop].min() > 0.97  # a hop after the onset
    after = gain[2 * hops * hop :]
    assert after[hop] > 0.5  # 30 dB of speech are not outweighed by a hop of noise
    assert after[8 * hop :].max() < 0.1  # but within 130 ms


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_one_resampler_does_what_two_would(tmp_path: Path, rate: int) -> None:
    """``up(y) + g (x - up(d))`` as it is written, with the gains of a shipped model."""
    enhancer = Enhancer.from_pretrained("small")
    wave = 0.1 * noise(2 * rate)
    wave[rate // 2 : rate] *= 0.05
    stream = AlignedStream(enhancer, rate, 1)
    gains: list[np.ndarray] = []
    taken = stream._upper.gain
    stream._upper.gain = lambda count: gains.append(taken(count)) or gains[-1]
    out = np.concatenate([stream.process(wave[:, None]), stream.flush()])[:, 0]
    gain = np.concatenate(gains)[:, 0]
    assert 0 < gain.min() < 0.2 and gain.max() > 0.3
    heard = resample(wave, rate, 16000)
    made = Enhancer.from_pretrained("small", bandwidth="16k")(wave, rate)
    by_hand = made + gain * (wave - resample(heard, 16000, rate)[: len(wave)])
    error, loud, given = (np.sqrt(np.mean(np.square(a))) for a in (out - by_hand, by_hand, wave))
    assert error < 1e-2 * loud and error < 5e-4 * given


@pytest.mark.parametrize("rate", [44100, 48000])
def test_nothing_comes_later_and_cuts_change_no_bit(tmp_path: Path, rate: int) -> None:
    enhancer = model(tmp_path, pole=0.7, gain=0.2)
    narrow = Enhancer(enhancer.path, bandwidth="16k")
    wave = noise(20011, 2)
    whole = enhancer(wave.T, rate).T
    for size in (1 + rate // 100, 4001):
        wide, thin = AlignedStream(enhancer, rate, 2), AlignedStream(narrow, rate, 2)
        parts = []
        for piece in np.split(wave, range(size, len(wave), size)):
            parts.append(wide.process(piece))
            assert len(parts[-1]) == len(thin.process(piece))
        np.testing.assert_array_equal(np.concatenate([*parts, wide.flush()]), whole)


def test_sound_above_the_models_hearing_passes(tmp_path: Path) -> None:
    """A model that gives nothing of what it hears has no opinion on what it does not hear."""
    silent = model(tmp_path, gain=0.0)
    rise = np.minimum(np.arange(24000) / 9600, 1)  # no click, which the model would hear
    tone = (0.5 * rise * np.sin(2 * np.pi * 12000 * np.arange(24000) / 48000)).astype(np.float32)
    out = silent(tone, 48000)
    np.testing.assert_allclose(out[9600:-4000], tone[9600:-4000], atol=1e-2)


def test_at_the_models_rate_and_below_nothing_changes(tmp_path: Path) -> None:
    enhancer = model(tmp_path, pole=0.7, gain=0.2)
    narrow = Enhancer(enhancer.path, bandwidth="16k")
    for rate in (8000, 11025, 16000):
        wave = noise(5003)
        np.testing.assert_array_equal(enhancer(wave, rate), narrow(wave, rate))


@pytest.mark.parametrize("name", ["default", "small"])
def test_noise_goes_down_in_the_upper_band_too(name: str) -> None:
    wave = 0.1 * noise(3 * 48000)
    out = Enhancer.from_pretrained(name)(wave, 48000)[24000:]
    for low, high in [(300, 4000), (4000, 7000), (9000, 24000)]:
        assert level(out, 48000, low, high) < level(wave[24000:], 48000, low, high) - 15


@pytest.mark.skipif(not SPEECH.is_dir(), reason="NO FULL-BAND SPEECH: apt-get install alsa-utils")
@pytest.mark.parametrize("name", ["default", "small"])
def test_clean_speech_keeps_its_upper_band(name: str) -> None:
    enhancer = Enhancer.from_pretrained(name)
    for path in sorted(SPEECH.glob("Front_*.wav")):
        wave, rate = soundfile.read(path, dtype="float32")
        out = enhancer(wave, rate)
        lost = level(wave, rate, 8500, rate / 2) - level(out, rate, 8500, rate / 2)
        assert -0.1 < lost < 4, path.name
        # Where it is loud, within 20 dB of its loudest frame of 20 ms, the model's band falls too:
        # what a model takes for noise is none of the upper band's doing.
        frames = [a[: len(a) // 960 * 960].reshape(-1, 960) for a in (wave, out)]
        upper, lower = (
            [np.array([level(f, rate, *band) for f in a]) for a in frames]
            for band in ((8500, rate / 2), (4000, 7500))
        )
        loud = upper[0] > upper[0].max() - 20
        fall = [before[loud] - after[loud] for before, after in (upper, lower)]
        assert np.mean(np.maximum(fall[0] - fall[1], 0)) < 2, path.name


def test_filter_and_queue_by_hand() -> None:
    response = np.abs(np.fft.rfft(upper_half(), 16000))  # a bin is 1 Hz of 16 kHz
    assert 20 * np.log10(response[:3040].max()) < -70
    np.testing.assert_allclose(response[4960:], 1, atol=1e-3)
    assert response[4000] == pytest.approx(0.5, abs=1e-6)
    queue = Queue(np.zeros((0, 1), np.float32))
    for start, stop in [(0, 3), (3, 3), (3, 4), (4, 9)]:
        queue.put(np.arange(start, stop, dtype=np.float32)[:, None])
    assert [queue.take(n)[:, 0].tolist() for n in (2, 0, 4, 9, 1)] == [
        [0, 1], [], [2, 3, 4, 5], [6, 7, 8], [],
    ]  # fmt: skip


def test_bad_bandwidth_is_refused(tmp_path: Path) -> None:
    enhancer = model(tmp_path, overlap=OVERLAP)
    for bad in ("8k", "", 16000, None):
        with pytest.raises(EnhanceError, match=r"bandwidth .*must be full or 16k"):
            Enhancer(enhancer.path, bandwidth=bad)
        with pytest.raises(EnhanceError, match="bandwidth"):
            enhancer.bandwidth = bad
    assert enhancer.bandwidth == "full"
