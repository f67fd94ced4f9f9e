"""The streaming runtime against a filter computed by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny_onnx import HOP, OVERLAP, build, by_hand, metadata

from enhance.device.aligned_stream import AlignedStream, wet_share
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError

POLE, GAIN = 0.9, 0.25
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    return Enhancer(build(tmp_path_factory.mktemp("m") / "a.onnx", pole=POLE, gain=GAIN))


@pytest.fixture(scope="module")
def delay(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    """Returns its input, OVERLAP samples late."""
    return Enhancer(build(tmp_path_factory.mktemp("m") / "b.onnx"))


def noise(length: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, length).astype(np.float32)


def streamed(enhancer: Enhancer, wave: np.ndarray, cuts: list[int]) -> np.ndarray:
    stream = enhancer.new_stream()
    pieces = [stream.process(piece) for piece in np.split(wave, cuts)]
    return np.concatenate([*pieces, stream.flush()])


@pytest.mark.parametrize("length", [1, HOP - 1, HOP, HOP + 1, HOP + OVERLAP, 3 * HOP, 1000, 1003])
def test_stream_is_the_filter_and_latency_samples_longer(enhancer: Enhancer, length: int) -> None:
    wave = noise(length)
    out = streamed(enhancer, wave, [])
    assert out.dtype == np.float32
    assert out.shape == (length + OVERLAP,)
    # float32 sums of 8 products of size < 0.2 against float64
    np.testing.assert_allclose(out, by_hand(wave, pole=POLE, gain=GAIN), atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, HOP, HOP + 1, 3 * HOP])
def test_any_cutting_gives_the_same_bits(enhancer: Enhancer, size: int) -> None:
    wave = noise(1003)
    whole = streamed(enhancer, wave, [])
    np.testing.assert_array_equal(streamed(enhancer, wave, list(range(size, 1003, size))), whole)


def test_random_cuts_and_empty_pieces_give_the_same_bits(enhancer: Enhancer) -> None:
    wave = noise(1003)
    whole = streamed(enhancer, wave, [])
    for _ in range(5):
        cuts = sorted(RNG.integers(0, 1003, 40).tolist())
        cuts[3] = cuts[2]
        np.testing.assert_array_equal(streamed(enhancer, wave, cuts), whole)


def test_process_gives_whole_hops_as_soon_as_they_are_there(enhancer: Enhancer) -> None:
    stream = enhancer.new_stream()
    assert [len(stream.process(noise(n))) for n in (HOP - 1, 1, 0, 2 * HOP + 3, HOP - 3)] == [
        0, HOP, 0, 2 * HOP, HOP,
    ]  # fmt: skip


def test_flush_and_reset_start_anew(enhancer: Enhancer) -> None:
    wave = noise(50)
    stream = enhancer.new_stream()
    assert len(stream.flush()) == OVERLAP  # nothing in: only the delay's zeros
    first = np.concatenate([stream.process(wave), stream.flush()])
    second = np.concatenate([stream.process(wave), stream.flush()])
    np.testing.assert_array_equal(first, second)
    stream.process(noise(21))
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.process(wave), stream.flush()]), first)


def test_state_restores_in_another_object(enhancer: Enhancer, tmp_path: Path) -> None:
    wave = noise(203)
    stream = enhancer.new_stream()
    head = stream.process(wave[:101])  # 101 is no multiple of the hop: samples are pending
    np.savez(tmp_path / "state.npz", **stream.state())
    rest = np.concatenate([stream.process(wave[101:]), stream.flush()])
    other = Enhancer(enhancer.path)
    with np.load(tmp_path / "state.npz") as state:
        other.load_state(dict(state))
    np.testing.assert_array_equal(np.concatenate([other.process(wave[101:]), other.flush()]), rest)
    np.testing.assert_array_equal(np.concatenate([head, rest]), streamed(enhancer, wave, []))


def test_state_is_a_copy_and_foreign_state_is_refused(enhancer: Enhancer) -> None:
    stream = enhancer.new_stream()
    stream.process(noise(2 * HOP))
    state = stream.state()
    state["pole.y"][:] = 99
    assert stream.state()["pole.y"] != 99
    before = stream.state()
    for name, bad in [
        ("pole.y", np.zeros((1, 2), np.float32)),
        ("pole.y", np.zeros((1, 1), np.float64)),
        ("stream.pending", np.zeros(HOP, np.float32)),
        ("stream.dry", np.zeros(OVERLAP + 1, np.float32)),
        ("stream.pending", np.array(["a"])),
        ("stream.samples", np.array([np.nan, 0.0])),
        ("stream.samples", np.array([10**12, 0])),
        ("stream.samples", np.array([0, 2 * HOP])),
        ("unknown", np.zeros(1)),
    ]:
        with pytest.raises(EnhanceError, match=r"not of a\.onnx"):
            stream.load_state({**before, name: bad})
    for name in ("pole.y", "stream.dry"):
        with pytest.raises(EnhanceError, match=f"state '{name}': holds NaN"):
            stream.load_state({**before, name: before[name] * np.float32(np.nan)})
    with pytest.raises(EnhanceError, match="no arrays by name"):
        stream.load_state(None)  # type: ignore[arg-type]
    with pytest.raises(EnhanceError, match=r"pole\.y"):
        stream.load_state({k: v for k, v in before.items() if k != "pole.y"})
    assert all(np.array_equal(before[k], v) for k, v in stream.state().items())


def test_bad_samples_leave_the_stream_where_it_was(enhancer: Enhancer) -> None:
    wave = noise(100)
    stream = enhancer.new_stream()
    head = stream.process(wave[:50])
    for bad in (
        np.array([0, np.nan], np.float32),
        np.full(2 * HOP, np.inf, np.float32),
        np.zeros((2, 8), np.float32),
        np.zeros(8, np.int16),
    ):
        with pytest.raises(EnhanceError, match="chunk"):
            stream.process(bad)
    tail = np.concatenate([stream.process(wave[50:]), stream.flush()])
    np.testing.assert_array_equal(np.concatenate([head, tail]), streamed(enhancer, wave, []))


def test_model_that_overflows_is_reported(tmp_path: Path) -> None:
    stream = Enhancer(build(tmp_path / "loud.onnx", gain=1e30))
    with pytest.raises(EnhanceError, match="the model gave NaN or infinity"):
        stream.process(np.full(2 * HOP, 1e20, np.float32))
    assert not stream.state()["analysis.tail"].any()


def test_call_is_aligned_and_leaves_the_stream_alone(enhancer: Enhancer, delay: Enhancer) -> None:
    wave = noise(1003)
    stream = enhancer.new_stream()
    stream.process(wave[:13])
    before = stream.state()
    out = stream(wave, 16000)
    np.testing.assert_array_equal(out, streamed(enhancer, wave, [])[OVERLAP:])
    assert all(np.array_equal(before[name], value) for name, value in stream.state().items())
    np.testing.assert_array_equal(delay(wave, 16000), wave)


@pytest.mark.parametrize("length", [1, 2, HOP, HOP + OVERLAP + 1, 999])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_call_keeps_shape_at_any_rate(delay: Enhancer, rate: int, length: int) -> None:
    assert delay(noise(length), rate).shape == (length,)
    assert delay(noise(2 * length).reshape(2, length), rate).shape == (2, length)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_impulse_stays_at_its_sample(delay: Enhancer, rate: int) -> None:
    wave = np.zeros((2, 6000), np.float64)
    wave[0, 1234] = wave[1, 4321] = 0.5
    out = delay(wave, rate)
    assert np.abs(out).argmax(axis=1).tolist() == [1234, 4321]
    # The filter is linear phase: the response is even around the impulse.
    for channel, centre in enumerate((1234, 4321)):
        left, right = out[channel, centre - 50 : centre], out[channel, centre + 1 : centre + 51]
        np.testing.assert_allclose(left[::-1], right, atol=2e-3 * 0.5)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_band_limited_sound_comes_back_at_other_rates(delay: Enhancer, rate: int) -> None:
    time = np.arange(rate // 2) / rate
    wave = 0.3 * np.stack([np.sin(2 * np.pi * f * time + 1) for f in (440, 1900)])
    out = delay(wave, rate)
    inner = slice(rate // 20, -rate // 20)  # the ends ring, as the sine starts abruptly
    np.testing.assert_allclose(out[:, inner], wave[:, inner], atol=2e-4)


def test_aligned_stream_is_cut_invariant_at_other_rates(enhancer: Enhancer) -> None:
    wave = noise(2 * 5003).reshape(-1, 2)
    whole = enhancer(wave.T, 44100).T
    stream = AlignedStream(enhancer, 44100, 2)
    cuts = sorted(RNG.integers(0, 5003, 30).tolist())
    pieces = [stream.process(piece) for piece in np.split(wave, cuts)]
    np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush()]), whole)


MIXES = [
    # strength, limit in dB, share of the enhanced signal by hand
    (1.0, None, 1.0),
    (0.0, None, 0.0),
    (1, 0, 0.0),
    (0.25, None, 0.25),
    (1.0, 20.0, 0.9),
    (0.5, 20.0, 0.45),
    (0.5, math.inf, 0.5),
]


@pytest.mark.parametrize(("strength", "limit", "share"), MIXES)
@pytest.mark.parametrize(("hop", "overlap"), [(HOP, OVERLAP), (2, 5), (4, 0)])
def test_output_and_delayed_input_are_mixed_however_cut(
    tmp_path: Path, hop: int, overlap: int, strength: float, limit: float | None, share: float
) -> None:
    path = build(tmp_path / "m.onnx", pole=POLE, gain=GAIN, hop=hop, overlap=overlap)
    stream = Enhancer(path, strength=strength, atten_limit=limit)
    assert stream.wet == pytest.approx(share, abs=1e-12)
    wave = noise(503)
    late = np.concatenate([np.zeros(overlap), wave])
    expected = share * by_hand(wave, pole=POLE, gain=GAIN, overlap=overlap) + (1 - share) * late
    whole = streamed(stream, wave, [])
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    if share == 0:
        np.testing.assert_array_equal(whole, late)
    if share == 1:
        np.testing.assert_array_equal(whole, streamed(Enhancer(path), wave, []))
    for _ in range(4):
        cuts = sorted(RNG.integers(0, 503, 60).tolist())
        np.testing.assert_array_equal(streamed(stream, wave, cuts), whole)
    np.testing.assert_array_equal(stream(wave, 16000), whole[overlap:])


def test_mixed_stream_restores_in_the_middle(enhancer: Enhancer) -> None:
    wave = noise(203)
    whole = Enhancer(enhancer.path, strength=0.5)
    expected = streamed(whole, wave, [])
    for cut in (1, HOP, 101):
        first, second = whole.new_stream(), Enhancer(enhancer.path, strength=0.5)
        head = first.process(wave[:cut])
        second.load_state(first.state())
        out = np.concatenate([head, second.process(wave[cut:]), second.flush()])
        np.testing.assert_array_equal(out, expected)


def test_settings_may_change_within_a_stream(enhancer: Enhancer) -> None:
    wave = noise(10 * HOP)
    stream = enhancer.new_stream()
    head = stream.process(wave[: 4 * HOP])
    stream.strength = 0  # the delayed input is there, though nothing of it was needed so far
    np.testing.assert_array_equal(
        stream.process(wave[4 * HOP : 8 * HOP]), wave[4 * HOP - OVERLAP : 8 * HOP - OVERLAP]
    )
    stream.strength = 1
    out = np.concatenate([head, stream.process(wave[8 * HOP :]), stream.flush()])
    expected = np.delete(streamed(enhancer, wave, []), slice(4 * HOP, 8 * HOP))
    np.testing.assert_array_equal(out, expected)


def level(wave: np.ndarray) -> float:
    """dB of the root mean square."""
    return float(10 * np.log10(np.mean(np.square(wave, dtype=np.float64))))


@pytest.mark.parametrize("limit", [0.5, 6.0, 12.0, 40.0])
def test_limit_bounds_what_a_model_that_gives_nothing_takes_away(
    tmp_path: Path, limit: float
) -> None:
    silent = Enhancer(build(tmp_path / "m.onnx", gain=0.0), atten_limit=limit)
    wave = noise(4000)
    out = streamed(silent, wave, [])[OVERLAP:]
    assert level(wave) - level(out) == pytest.approx(limit, abs=1e-4)
    silent.strength = 0.5  # half of what the limit allows to be taken
    out = streamed(silent, wave, [])[OVERLAP:]
    floor = 1 - 0.5 * (1 - 10 ** (-limit / 20))
    assert level(wave) - level(out) == pytest.approx(-20 * math.log10(floor), abs=1e-4)
    assert level(wave) - level(out) < limit


def test_limit_holds_above_the_models_band_and_zero_strength_is_exact_at_any_rate(
    tmp_path: Path,
) -> None:
    copy = Enhancer(build(tmp_path / "m.onnx"), atten_limit=12, bandwidth="16k")
    time = np.arange(22050) / 44100
    wave = 0.5 * np.sin(2 * np.pi * 12000 * time).astype(np.float32)
    inner = slice(2000, -2000)
    assert level(copy(wave, 44100)[inner]) - level(wave[inner]) == pytest.approx(-12, abs=0.01)
    copy.atten_limit = None
    assert level(copy(wave, 44100)[inner]) - level(wave[inner]) < -80
    copy.strength = 0
    for rate in (8000, 11025, 44100, 48000):
        for length in (1, 2, 999, 5003):
            wave = noise(2 * length).reshape(2, length)
            np.testing.assert_array_equal(copy(wave, rate), wave)


def test_mixed_aligned_stream_is_cut_invariant_and_leaves_the_settings(enhancer: Enhancer) -> None:
    half = Enhancer(enhancer.path, strength=0.5, atten_limit=20)
    wave = noise(2 * 5003).reshape(-1, 2)
    whole = half(wave.T, 44100).T
    expected = 0.45 * enhancer(wave.T, 44100).T + 0.55 * wave
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    for _ in range(3):
        stream = AlignedStream(half, 44100, 2)
        cuts = sorted(RNG.integers(0, 5003, 30).tolist())
        pieces = [stream.process(piece) for piece in np.split(wave, cuts)]
        np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush()]), whole)
    assert (half.strength, half.atten_limit) == (0.5, 20)


@pytest.mark.parametrize("bad", [-0.1, 1.001, math.nan, math.inf, "1", True, None])
def test_bad_strength_is_refused(enhancer: Enhancer, bad: float) -> None:
    message = f"strength {bad}: must be a number from 0 to 1"
    with pytest.raises(EnhanceError, match=message):
        Enhancer(enhancer.path, strength=bad)
    stream = enhancer.new_stream()
    with pytest.raises(EnhanceError, match=message):
        stream.strength = bad
    assert (stream.strength, stream.wet) == (1, 1)


@pytest.mark.parametrize("bad", [-0.1, -math.inf, math.nan, "12", False])
def test_bad_limit_is_refused(enhancer: Enhancer, bad: float) -> None:
    message = f"atten_limit {bad}: must be a number of dB, at least 0"
    with pytest.raises(EnhanceError, match=message):
        wet_share(atten_limit=bad)
    stream = enhancer.new_stream()
    with pytest.raises(EnhanceError, match=message):
        stream.atten_limit = bad
    assert (stream.atten_limit, stream.wet) == (None, 1)


def test_call_refuses_what_is_no_audio(enhancer: Enhancer) -> None:
    for bad in (np.zeros(0), np.zeros((2, 0)), np.zeros((1, 2, 3)), np.zeros(5, np.int16)):
        with pytest.raises(EnhanceError, match="cannot be enhanced"):
            enhancer(bad, 16000)
    with pytest.raises(EnhanceError, match="NaN"):
        enhancer(np.array([0.0, np.nan]), 16000)
    with pytest.raises(EnhanceError, match="must be positive"):
        enhancer(np.zeros(5), 0)


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    model = build(tmp_path / "m.onnx", pole=POLE, hop=320, overlap=80)
    enhancer = Enhancer(model, strength=0.5)  # the input waits for its output
    stream = AlignedStream(enhancer, 48000, 2)
    block = noise(2 * 48000).reshape(-1, 2)
    process = psutil.Process()
    for _ in range(20):
        stream.process(block)
    before = process.memory_info().rss
    for _ in range(200):  # 77 MB of samples each way
        stream.process(block)
    assert process.memory_info().rss - before < 5e6


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(build(tmp_path / "m.onnx").read_bytes()[:200])
    for name in ("text.onnx", "empty.onnx", "cut.onnx"):
        with pytest.raises(EnhanceError, match=f"{name}: is not an ONNX model") as caught:
            Enhancer(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(EnhanceError, match="no such model file"):
        Enhancer(tmp_path / "none.onnx")
    with pytest.raises(EnhanceError, match="num_threads 0"):
        Enhancer(tmp_path / "m.onnx", num_threads=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"props": {}}, "no 'sample_rate' in its metadata"),
        ({"props": {**metadata(), "latency_samples": "soon"}}, "'latency_samples'.*'soon'"),
        ({"props": {**metadata(), "hop_length": "0"}}, "'hop_length'.*'0'"),
        ({"props": metadata(hop=9)}, "its input is 'audio'"),
        ({"state": "pole.x"}, "state 'pole.x' has no output"),
    ],
)
def test_foreign_onnx_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(EnhanceError, match=f"not a streaming enhancer.*{message}"):
        Enhancer(build(tmp_path / "m.onnx", **options))


def test_import_is_light_and_the_runtime_needs_no_torch() -> None:
    code = (
        "import sys, enhance; light = set(sys.modules); enhance.Enhancer; enhance.StftConfig;"
        "enhance.__version__; import onnxruntime;"
        "assert not light & {'numpy', 'onnxruntime', 'soundfile'}, light;"
        "assert not set(sys.modules) & {'torch', 'onnx', 'scipy', 'soundfile', 'yaml'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
