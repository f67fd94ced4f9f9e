"""The any-rate stream in C against Python's, its delay, its settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_export import TINY, make_model
from tiny_native import META, NETWORKS, snr_db
from tiny_stream import NativeStream

from enhance.config import ModelConfig
from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.native.build import find_compiler
from enhance.network.checkpoint import CheckpointInfo
from enhance.stft import FRAMINGS
from export.metadata import describe
from export.native.weights import native_weights

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing was run")
SMALL = Path(__file__).parents[3] / "enhance/models/small.int8.bin"
SPEECH = Path("/usr/share/sounds/alsa/Front_Center.wav")
RATES = [8000, 11025, 16000, 16001, 22050, 44100, 48000, 96000, 192000]


@pytest.fixture(scope="module")
def weights() -> bytes:
    return native_weights(make_model(), META)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network for Python."""
    path = tmp_path_factory.mktemp("stream") / "tiny.bin"
    about = describe(make_model(), CheckpointInfo(TINY, {"mode": "base"}, {"step": 7}))
    path.write_bytes(native_weights(make_model(), about))
    return path


def noise(rate: int, seconds: float = 0.7) -> np.ndarray:
    """Swelling noise, up to a third of the rate."""
    n = round(rate * seconds)
    spectrum = np.fft.rfft(np.random.default_rng(2).normal(0, 0.2, n))
    spectrum[n // 3 :] = 0
    return (np.fft.irfft(spectrum, n) * np.linspace(0.1, 1, n)).astype(np.float32)


def python_stream(model: Path, wave: np.ndarray, rate: int, **settings: object) -> np.ndarray:
    enhancer = Enhancer(model, engine="native", **settings)  # type: ignore[arg-type]
    stream = AlignedStream(enhancer, rate, 1, low_delay=True)
    return np.concatenate([stream.process(wave[:, None]), stream.flush()])[:, 0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("bandwidth", ["full", "16k"])
def test_it_is_the_stream_of_python(rate: int, bandwidth: str, model: Path) -> None:
    wave = noise(rate)
    expected = python_stream(model, wave, rate, bandwidth=bandwidth)
    stream = NativeStream(model.read_bytes(), rate).set(full_band=int(bandwidth == "full"))
    ours = stream.whole(wave)
    assert np.abs(expected).max() > 0.05
    end = len(wave) - rate // 50  # at its end Python knows that no more hop comes
    assert snr_db(expected[:end], ours[:end]) > 90


@pytest.mark.parametrize("rate", RATES)
def test_pieces_of_any_size_give_the_same_bits(rate: int, weights: bytes) -> None:
    wave = noise(rate, 0.3)
    stream = NativeStream(weights, rate)
    whole = stream(wave, [len(wave)])
    for pieces in ([1], [1, 7, 640], [63, 64, 65, 2000]):
        stream.reset()
        np.testing.assert_array_equal(stream(wave, pieces), whole)


@pytest.mark.parametrize("rate", [*RATES, 4000, 8001, 384000])
def test_strength_0_gives_the_input_so_much_later(rate: int, weights: bytes) -> None:
    wave = noise(rate, 0.2)
    wave[:5] = [1e-40, -1e-40, -0.0, 1e5, -3.0]
    stream = NativeStream(weights, rate).set(strength=0)
    out = stream(wave)
    np.testing.assert_array_equal(out[: stream.latency], 0)
    later = out[stream.latency :]
    np.testing.assert_array_equal(later.view(np.uint32), wave[: len(later)].view(np.uint32))
    assert stream.latency <= 0.055 * rate  # two hops of 20 ms, overlap of 5, filters of 2 each way


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 16001])
@pytest.mark.parametrize("framing", ["25-20", "32-16"])
def test_its_latency_is_where_the_correlation_lies(rate: int, framing: str) -> None:
    config = ModelConfig(FRAMINGS[framing], TINY.gcrn)
    stream = NativeStream(native_weights(make_model(config), META), rate)
    wave = noise(rate, 1.0)
    spectra = [np.fft.rfft(a, 2 * len(wave)) for a in (wave, stream(wave))]
    found = np.fft.irfft(spectra[1] * spectra[0].conj())
    assert abs(int(np.abs(found).argmax()) - stream.latency) <= 1


def test_at_the_models_rate_it_is_the_network(model: Path) -> None:
    wave = noise(16000)
    enhancer = Enhancer(model, engine="native")
    late = enhancer.hop_length - 1
    stream = NativeStream(model.read_bytes(), 16000)
    assert stream.latency == late + enhancer.latency_samples
    # The model's overlap at its beginning belongs before the first sample.
    ours, theirs = stream(wave)[late:], enhancer.process(wave)
    skip = enhancer.latency_samples
    np.testing.assert_array_equal(ours[skip : len(theirs)], theirs[skip : len(ours)])


@pytest.mark.parametrize("name", [*NETWORKS])
def test_every_kind_of_network_runs(name: str) -> None:
    data = native_weights(make_model(NETWORKS[name]), META)
    stream = NativeStream(data, 44100)
    assert np.abs(stream(noise(44100, 0.3))).max() > 1e-3


def level(wave: np.ndarray, rate: int, low: float, high: float) -> float:
    """dB of the energy between two frequencies."""
    power = np.square(np.abs(np.fft.rfft(wave)))
    place = np.fft.rfftfreq(len(wave), 1 / rate)
    return float(10 * np.log10(power[(place >= low) & (place < high)].sum()))


@pytest.mark.parametrize("rate", [44100, 48000])
def test_noise_goes_down_above_the_models_band_too(rate: int) -> None:
    wave = np.random.default_rng(3).uniform(-0.05, 0.05, 2 * rate).astype(np.float32)
    out = NativeStream(SMALL.read_bytes(), rate).whole(wave)
    for low, high in ((4000, 7500), (9000, rate / 2)):
        assert level(out[rate:], rate, low, high) < level(wave[rate:], rate, low, high) - 15


@pytest.mark.skipif(not SPEECH.is_file(), reason="NO FULL-BAND SPEECH: apt-get install alsa-utils")
def test_clean_speech_keeps_what_lies_above_the_models_band() -> None:
    wave, rate = soundfile.read(SPEECH, dtype="float32")
    out = NativeStream(SMALL.read_bytes(), rate).whole(wave)
    assert -0.1 < level(wave, rate, 8500, 24000) - level(out, rate, 8500, 24000) < 4


def test_a_limit_leaves_a_floor_of_the_input(model: Path) -> None:
    wave = noise(48000)
    for limit, strength in ((6.0, 1.0), (0.0, 1.0), (12.0, 0.5)):
        expected = python_stream(model, wave, 48000, atten_limit=limit, strength=strength)
        stream = NativeStream(model.read_bytes(), 48000).set(limit=limit, strength=strength)
        assert snr_db(expected[:30000], stream.whole(wave)[:30000]) > 90
    for none in (100.0, -1.0, float("nan")):
        stream = NativeStream(model.read_bytes(), 48000).set(limit=none)
        free = NativeStream(model.read_bytes(), 48000)
        np.testing.assert_array_equal(stream(wave), free(wave))


def test_a_setting_is_reached_without_a_click(weights: bytes) -> None:
    wave = (0.3 * np.sin(np.arange(48000) / 50)).astype(np.float32)
    stream, other = NativeStream(weights, 48000), NativeStream(weights, 48000)
    enhanced = other(wave)
    first = stream(wave[:24000])
    np.testing.assert_array_equal(first, enhanced[:24000])
    rest = stream.set(strength=0)(wave[24000:])
    dry = wave[24000 - stream.latency : -stream.latency]
    ramp = 48000 // 50
    np.testing.assert_array_equal(rest[ramp:], dry[ramp:])
    share = 1 - np.arange(1, ramp + 1) / ramp
    np.testing.assert_allclose(
        rest[:ramp], share * enhanced[24000:][:ramp] + (1 - share) * dry[:ramp], atol=1e-5
    )


def test_a_reset_forgets(weights: bytes) -> None:
    wave = noise(44100, 0.3)
    stream = NativeStream(weights, 44100)
    first = stream(wave)
    stream.reset()
    np.testing.assert_array_equal(stream(wave), first)


def test_what_is_no_number_leaves_no_trace(weights: bytes) -> None:
    wave = noise(48000, 0.3)
    wave[100:105] = [np.nan, np.inf, -np.inf, 1e30, -1e30]
    stream = NativeStream(weights, 48000)
    assert np.isfinite(stream(wave)).all()
    silence = stream(np.zeros(96000, np.float32))
    assert np.isfinite(silence).all()
    assert not silence[48000:].any()


def test_impossible_rates_and_damaged_weights_are_refused(weights: bytes) -> None:
    for rate in (-1, 0, 999, 768001, 2**31 - 1):
        assert NativeStream(weights, rate).size == 0
    assert NativeStream(weights[:-64], 48000).size == 0
    other = ModelConfig(NETWORKS["odd transform, no overlap"].stft, TINY.gcrn)  # of 8 kHz
    slow = native_weights(make_model(other), META)
    assert NativeStream(slow, 768000).size > 0
