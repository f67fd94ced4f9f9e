"""Arrays, rates and counts of other libraries: taken, or one clear line."""

from __future__ import annotations

import decimal
import fractions
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_onnx import build

from enhance.audio import read as audio
from enhance.audio.resampling import StreamingResampler, resample
from enhance.audio.write import write
from enhance.device.aligned_stream import AlignedStream
from enhance.device.clean import run_path
from enhance.device.enhancer import Enhancer
from enhance.device.pipe import clean_raw
from enhance.errors import EnhanceError

RNG = np.random.default_rng(8)
WHOLE = [
    48000, 48000.0, np.int32(48000), np.uint16(48000), np.float32(48000), np.array(48000),
    np.array(48000.0), fractions.Fraction(48000), decimal.Decimal(48000),
]  # fmt: skip
NO_RATE = [
    0, -1, 16, 48000.5, float("nan"), float("inf"), None, "48000", True, np.True_, [48000],
    np.array([48000]), 48000 + 0j, 10**30,
]  # fmt: skip


@pytest.fixture(scope="module")
def delay(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    """Returns its input, late."""
    return Enhancer(build(tmp_path_factory.mktemp("m") / "d.onnx"))


def noise(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("rate", WHOLE, ids=repr)
def test_whole_numbers_of_any_type_are_rates(delay: Enhancer, tmp_path: Path, rate: object) -> None:
    wave = noise(700)
    np.testing.assert_array_equal(delay(wave, rate), delay(wave, 48000))
    np.testing.assert_array_equal(resample(wave, rate, 16000), resample(wave, 48000, 16000))
    write(tmp_path / "a.wav", wave, rate)
    assert audio.info(tmp_path / "a.wav").sample_rate == 48000


@pytest.mark.parametrize("rate", NO_RATE, ids=repr)
def test_what_is_no_rate_is_one_line(delay: Enhancer, tmp_path: Path, rate: object) -> None:
    for call in (
        lambda: delay(noise(700), rate),
        lambda: AlignedStream(delay, rate, 1),
        lambda: StreamingResampler(16000, rate),
        lambda: resample(noise(700), rate, 16000),
        lambda: write(tmp_path / "a.wav", noise(700), rate),
    ):
        with pytest.raises(EnhanceError, match=r"sample_rate .*: must be") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, -1, 1.5, None, "2", 2000, True])
def test_what_is_no_number_of_channels_or_threads(delay: Enhancer, count: object) -> None:
    with pytest.raises(EnhanceError, match=r"channels .*: must be"):
        AlignedStream(delay, 16000, count)
    if count != 2000:
        with pytest.raises(EnhanceError, match=r"num_threads .*: must be"):
            Enhancer(delay.path, num_threads=count)


@pytest.mark.parametrize("shape", [(1600, 1), (44100, 2), (10, 9), (2000, 3000)])
def test_frames_by_channels_is_refused_at_once(
    delay: Enhancer, tmp_path: Path, shape: tuple[int, int]
) -> None:
    wave = np.zeros(shape, np.float32)
    calls = [lambda: delay(wave, 16000), lambda: write(tmp_path / "a.wav", wave, 16000)]
    if shape[0] > shape[1]:
        calls.append(lambda: resample(wave, 16000, 8000))
    for call in calls:
        with pytest.raises(EnhanceError, match="transpose it"):
            call()


def test_any_memory_layout_and_float_is_taken(delay: Enhancer) -> None:
    wave = noise(2, 900)
    for same in (
        np.asfortranarray(wave), np.ascontiguousarray(wave.T).T, wave.astype(np.float64),
        np.repeat(wave, 2, axis=1)[:, ::2], wave.astype(np.longdouble), wave.astype(">f4"),
        wave.tolist(),
    ):  # fmt: skip
        np.testing.assert_array_equal(delay(same, 16000), wave)
    half = wave.astype(np.float16)
    np.testing.assert_array_equal(delay(half, 16000), half.astype(np.float32))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(50, np.int16), np.zeros(50, bool), np.zeros(50, complex), np.zeros(50, object),
        np.array("a"), None, [[0.0], [0.0, 1.0]],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_array_of_floats_is_one_line(delay: Enhancer, bad: object) -> None:
    for call in (
        lambda: delay(bad, 16000),
        lambda: delay.process(bad),
        lambda: AlignedStream(delay, 16000, 1).process(bad),
    ):
        with pytest.raises(EnhanceError, match="cannot be enhanced"):
            call()


def test_blocks_of_another_shape_are_refused(delay: Enhancer) -> None:
    for channels, shape in [(1, (50,)), (2, (50, 1)), (2, (2, 50)), (1, (50, 1, 1)), (1, ())]:
        for call in (
            AlignedStream(delay, 48000, channels).process,
            StreamingResampler(48000, 16000, channels).process,
        ):
            with pytest.raises(EnhanceError, match=r"block of shape .*: must be"):
                call(np.zeros(shape, np.float32))


@pytest.mark.parametrize("scale", [9, 2**15, 2**31])
def test_samples_of_another_scale_are_refused(
    delay: Enhancer, tmp_path: Path, scale: float
) -> None:
    wave = noise(2000)
    wave[1777] = 0.9
    loud = wave * np.float32(scale)
    aligned = AlignedStream(delay, 48000, 1)
    stream = delay.new_stream()
    first = stream.process(wave[:7])
    before = stream.state()
    for call in (
        lambda: delay(loud, 48000),
        lambda: aligned.process(loud[:, None]),
        lambda: stream.process(loud),
        lambda: clean_raw(delay, io.BytesIO(loud.tobytes()), io.BytesIO(), 48000, "f32le"),
    ):
        with pytest.raises(EnhanceError, match=r"peaks at .*, far beyond full scale.* divide it"):
            call()
    assert all(np.array_equal(before[name], value) for name, value in stream.state().items())
    rest = [stream.process(wave[7:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate([first, *rest])[delay.latency_samples :], wave)
    soundfile.write(tmp_path / "a.wav", loud, 16000, "FLOAT")
    with pytest.raises(EnhanceError, match=r"a\.wav: peaks at .*divide it by"):
        run_path(tmp_path / "a.wav", model=delay)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    with pytest.raises(EnhanceError, match=r"a\.wav: peaks at"):
        audio.read(tmp_path / "a.wav")  # training and evaluation read so
    assert delay(wave * 4, 16000).any()  # loud, but a recording may be
