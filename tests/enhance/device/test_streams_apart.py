"""Streams in threads and processes of their own: none hears another, and each goes on anywhere."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from enhance.device.enhancer import Enhancer

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(23)


def noise(count: int) -> np.ndarray:
    return RNG.uniform(-0.2, 0.2, count).astype(np.float32)


def streamed(enhancer: Enhancer, wave: np.ndarray, size: int) -> np.ndarray:
    pieces = [enhancer.process(piece) for piece in np.split(wave, range(size, len(wave), size))]
    return np.concatenate([*pieces, enhancer.flush()])


@pytest.mark.parametrize("shared", [True, False])
def test_many_enhancers_in_many_threads(shared: bool) -> None:
    """A loaded model that all share, and one for each: the bits of one after another."""
    first = Enhancer.from_pretrained("small")
    waves = [noise(8000 + 17 * k) for k in range(8)]
    expected = [streamed(first.new_stream(), wave, 1000) for wave in waves]

    def run(k: int) -> np.ndarray:
        own = first.new_stream() if shared else Enhancer.from_pretrained("small")
        return streamed(own, waves[k], 100 + 37 * k)  # in other pieces, too

    with ThreadPoolExecutor(8) as pool:
        for out, wanted in zip(pool.map(run, range(8)), expected, strict=True):
            np.testing.assert_array_equal(out, wanted)


def test_a_pickled_stream_goes_on_and_a_copy_is_one_of_its_own() -> None:
    wave = noise(9000)
    enhancer = Enhancer.from_pretrained("small", strength=0.6, atten_limit=20, bandwidth="16k")
    enhancer.process(wave[:4321])
    others = [pickle.loads(pickle.dumps(enhancer)), copy.copy(enhancer), copy.deepcopy(enhancer)]
    rest = streamed(enhancer, wave[4321:], 700)
    for other in others:
        assert (other.strength, other.atten_limit, other.bandwidth) == (0.6, 20, "16k")
        np.testing.assert_array_equal(streamed(other, wave[4321:], 900), rest)


@pytest.mark.parametrize("name", ["default", "small"])
def test_a_state_goes_on_in_another_process(name: str, tmp_path: Path) -> None:
    """Bit for bit, wherever the stream was cut: within a hop, and with settings of its own."""
    wave = noise(12000)
    enhancer = Enhancer.from_pretrained(name, strength=0.7)
    expected = streamed(enhancer.new_stream(), wave, 500)
    head = enhancer.process(wave[:5003])
    np.savez(tmp_path / "state.npz", **enhancer.state())
    np.save(tmp_path / "rest.npy", wave[5003:])
    code = (
        "import sys, numpy as np; from enhance import Enhancer\n"
        "name, place = sys.argv[1:]\n"
        "enhancer = Enhancer.from_pretrained(name, strength=0.7)\n"
        "enhancer.process(np.ones(777, np.float32) / 9)\n"  # what it heard before is forgotten
        "enhancer.load_state(dict(np.load(place + '/state.npz')))\n"
        "rest = np.load(place + '/rest.npy')\n"
        "out = np.concatenate([enhancer.process(rest), enhancer.flush()])\n"
        "np.save(place + '/out.npy', out)\n"
    )
    command = [sys.executable, "-c", code, name, str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    out = np.concatenate([head, np.load(tmp_path / "out.npy")])
    np.testing.assert_array_equal(out, expected)
