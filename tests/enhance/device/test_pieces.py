"""Properties of streams: however the input is cut, the bits are the same; threads do not mix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_onnx import HOP, OVERLAP, build

from enhance.audio.resampling import StreamingResampler, resampled_length
from enhance.audio.samples import FAINTEST
from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.device.offline import OfflineEnhancer
from enhance.errors import EnhanceError

PIECES = st.lists(st.integers(0, 5 * HOP), max_size=12)
SEEDS = st.integers(0, 2**32 - 1)
RATES = st.sampled_from([8000, 11025, 16000, 16001, 44100, 48000])
# The same examples every time, as few as a busy machine has time for.
few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", autouse=True)
def _seen() -> Iterator[None]:
    """Hypothesis looks at every loaded module; speechbrain's lazy ones fail at a look."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if any(kind.__name__ == "LazyModule" for kind in type(module).__mro__):
                patch.delitem(sys.modules, name)
        yield


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    return Enhancer(build(tmp_path_factory.mktemp("m") / "a.onnx", pole=0.9, gain=0.25))


def signal(seed: int, *shape: int) -> np.ndarray:
    """Loud, silent, and subnormal samples in turn."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0.5, 1e-4, 1e-16, 1e-40, 0], size=shape)
    return (rng.uniform(-1, 1, shape) * level).astype(np.float32)


def cut(wave: np.ndarray, pieces: list[int]) -> list[np.ndarray]:
    ends = np.cumsum(pieces) if pieces else np.zeros(0, int)
    return np.split(wave, ends[ends < len(wave)])


def through(stream: Enhancer | AlignedStream | StreamingResampler, pieces: list[np.ndarray]):
    return np.concatenate([*(stream.process(piece) for piece in pieces), stream.flush()])


@few
@given(
    seed=SEEDS, pieces=PIECES, more=st.integers(0, 3 * HOP), strength=st.sampled_from([1.0, 0.4])
)
def test_any_split_gives_the_same_bits(
    enhancer: Enhancer, seed: int, pieces: list[int], more: int, strength: float
) -> None:
    wave = signal(seed, sum(pieces) + more)
    stream = enhancer.new_stream()
    stream.strength = strength
    whole = through(stream, [wave])
    assert len(whole) == len(wave) + OVERLAP
    # After a flush the stream is as new, and so it is after a reset in the middle.
    np.testing.assert_array_equal(through(stream, cut(wave, pieces)), whole)
    stream.process(wave[: len(wave) // 2])
    stream.reset()
    np.testing.assert_array_equal(through(stream, cut(wave, pieces)), whole)


@few
@given(seed=SEEDS, pieces=PIECES, at=st.integers(0, 11), bad=st.sampled_from([np.nan, np.inf, 5.0]))
def test_a_refused_piece_leaves_no_trace(
    enhancer: Enhancer, seed: int, pieces: list[int], at: int, bad: float
) -> None:
    parts = cut(signal(seed, sum(pieces)), pieces)
    whole = through(enhancer.new_stream(), parts)
    stream, out = enhancer.new_stream(), []
    for number, part in enumerate(parts):
        if number == min(at, len(parts) - 1):
            with pytest.raises(EnhanceError):
                stream.process(np.full(2 * HOP, bad, np.float32))
        out.append(stream.process(part))
    np.testing.assert_array_equal(np.concatenate([*out, stream.flush()]), whole)


@few
@given(seed=SEEDS, pieces=PIECES, rate=RATES, channels=st.integers(1, 3))
def test_any_split_of_any_rate_and_number_of_channels(
    enhancer: Enhancer, seed: int, pieces: list[int], rate: int, channels: int
) -> None:
    wave = signal(seed, sum(pieces) + 1, channels)
    whole = through(AlignedStream(enhancer, rate, channels), [wave])
    assert whole.shape == wave.shape
    parts = cut(wave, pieces)
    np.testing.assert_array_equal(through(AlignedStream(enhancer, rate, channels), parts), whole)
    into = StreamingResampler(rate, 16000, channels)
    once = through(into, [wave])
    assert len(once) == resampled_length(len(wave), rate, 16000)
    np.testing.assert_array_equal(through(into, parts), once)


@pytest.mark.parametrize("faint", [1e-40, 1e-36, FAINTEST / 2])
def test_what_no_converter_can_give_is_silence_to_the_model(
    enhancer: Enhancer, faint: float
) -> None:
    wave = np.full(10 * HOP, faint, np.float32)
    stream = enhancer.new_stream()
    assert not stream.process(wave).any()
    assert not any(v.any() for k, v in stream.state().items() if not k.startswith("stream."))
    heard = stream.process(np.full(HOP, 2 * FAINTEST, np.float32))
    assert heard.any()
    stream = enhancer.new_stream()
    stream.strength = 0  # the input itself comes back, to the bit
    np.testing.assert_array_equal(stream.process(wave)[OVERLAP:], wave[OVERLAP:])


def test_an_offline_model_hears_silence_too(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    class Session:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            heard.append(feed["audio"])
            return [feed["audio"]]

    model = object.__new__(OfflineEnhancer)
    model.path, model.least_samples, model.longest_samples = Path("m"), 1, None
    monkeypatch.setattr(model, "_session", Session(), raising=False)
    wave = np.array([0.5, 1e-40, -1e-30, -0.25], np.float32)
    model(wave)
    np.testing.assert_array_equal(heard[0], [[0.5, 0, 0, -0.25]])


def test_many_enhancers_in_many_threads_are_as_one(enhancer: Enhancer) -> None:
    """Streams of one session and sessions of their own, eight threads, all at once."""
    waves = [signal(seed, 40 * HOP + seed) for seed in range(24)]
    alone = [through(enhancer.new_stream(), [wave]) for wave in waves]

    def work(number: int) -> np.ndarray:
        own = Enhancer(enhancer.path) if number % 3 == 0 else enhancer.new_stream()
        rng = np.random.default_rng(number)
        return through(own, cut(waves[number], rng.integers(0, 3 * HOP, 40).tolist()))

    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(work, range(len(waves))), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "default"])
def test_shipped_models_in_many_threads(name: str) -> None:
    model = Enhancer.from_pretrained(name)
    waves = [signal(seed, 16000) for seed in range(16)]
    alone = [through(model.new_stream(), [wave]) for wave in waves]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda wave: through(model.new_stream(), cut(wave, [333] * 48)), waves)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_array_equal(one, other)
