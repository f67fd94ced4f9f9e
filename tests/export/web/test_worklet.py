"""The shipped WebAssembly, and the worklet around it in node: the bits of the native library."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_export import TINY, make_model
from tiny_native import META, need, noise
from tiny_stream import NativeStream

from enhance.errors import EnhanceError
from enhance.native.build import find_compiler
from export.native.weights import native_weights
from export.web import wasm

HARNESS = Path(__file__).with_name("worklet.mjs")
SHIPPED = Path(__file__).parents[3] / "enhance/models/default.int8.bin"
SPEECH = noise(30, TINY)[: 128 * 60]


def run(
    folder: Path,
    weights: bytes,
    wave: np.ndarray,
    rate: int,
    steps: list[Any] | None = None,
    code: Path = wasm.WASM,
) -> tuple[np.ndarray, list[Any]]:
    """A wave of one or more channels through the worklet: shape (n, C), and what was posted."""
    quanta = wave.reshape(len(wave) // 128, 128, -1).transpose(0, 2, 1)
    (folder / "weights.bin").write_bytes(weights)
    np.ascontiguousarray(quanta, np.float32).tofile(folder / "in.f32")
    names = [folder / name for name in ("weights.bin", "in.f32", "out.f32")]
    worklet = shutil.copyfile(wasm.WEB / "worklet.js", folder / "worklet.mjs")
    words = [need("node"), HARNESS, worklet, code, *names, rate, quanta.shape[1]]
    done = subprocess.run(
        [*map(str, words), json.dumps(steps or [])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = np.fromfile(folder / "out.f32", np.float32).reshape(quanta.shape)
    return out.transpose(0, 2, 1).reshape(wave.shape), json.loads(done.stdout)["posted"]


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    assert np.abs(one).max() > 1e-3
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_what_is_shipped_was_compiled_from_this_source() -> None:
    assert wasm.WASM.read_bytes().endswith(wasm.section()), (
        "the C source has changed: python -m export.web.wasm compiles enhance.wasm anew"
    )


def test_it_can_be_compiled_again_and_gives_the_same_bits(tmp_path: Path) -> None:
    need("clang"), need("wasm-ld")
    code = wasm.compile_wasm(tmp_path / "again.wasm")
    weights = native_weights(make_model(), META)
    again, _ = run(tmp_path, weights, SPEECH, 48000, code=code)
    assert_same_bits(run(tmp_path, weights, SPEECH, 48000)[0], again)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnhanceError, match=r"clang and wasm-ld not found; install"):
        wasm.compile_wasm(tmp_path / "a.wasm")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing to compare with")
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_worklet_gives_the_bits_of_the_native_library(rate: int, tmp_path: Path) -> None:
    weights = SHIPPED.read_bytes()
    out, posted = run(tmp_path, weights, SPEECH, rate)
    assert_same_bits(out, NativeStream(weights, rate)(SPEECH))
    assert posted[0] == {"ready": True}


def test_channels_are_enhanced_by_themselves(tmp_path: Path) -> None:
    weights = native_weights(make_model(), META)
    both = np.stack([SPEECH, SPEECH[::-1]], axis=1)
    out, _ = run(tmp_path, weights, both, 16000)
    for k in range(2):
        alone, _ = run(tmp_path, weights, np.ascontiguousarray(both[:, k]), 16000)
        assert_same_bits(np.ascontiguousarray(out[:, k]), alone)


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: nothing to compare with")
def test_settings_reach_the_stream(tmp_path: Path) -> None:
    weights = native_weights(make_model(), META)
    off = {"settings": {"strength": 0, "attenLimit": -1}}
    out, _ = run(tmp_path, weights, SPEECH, 48000, [[0, off]])
    late = NativeStream(weights, 48000).latency
    assert_same_bits(out[late:], SPEECH[: len(SPEECH) - late])
    six = {"settings": {"strength": 1, "attenLimit": 6}}
    out, _ = run(tmp_path, weights, SPEECH, 48000, [[0, six]])
    assert_same_bits(out, NativeStream(weights, 48000).set(limit=6)(SPEECH))


def test_it_tells_how_much_it_has_done(tmp_path: Path) -> None:
    _, posted = run(tmp_path, native_weights(make_model(), META), SPEECH, 8000)
    stats = [message["stats"] for message in posted if "stats" in message]
    assert [s["samples"] for s in stats] == [2048, 4096, 6016]  # four times in a second
    assert all(s["busy"] >= 0 and s["underruns"] == 0 for s in stats)


def test_damaged_weights_are_told_and_give_silence(tmp_path: Path) -> None:
    weights = bytearray(native_weights(make_model(), META))
    weights[len(weights) // 2] ^= 1
    out, posted = run(tmp_path, bytes(weights), SPEECH, 48000)
    assert not out.any()
    assert len(posted) == 1 and "weights cannot be used" in posted[0]["failure"]


def test_a_crash_in_the_middle_is_told_once_and_silence_follows(tmp_path: Path) -> None:
    weights = native_weights(make_model(), META)
    out, posted = run(tmp_path, weights, SPEECH, 48000, [[40, {"break": True}]])
    assert out[: 128 * 40].any() and not out[128 * 40 :].any()
    assert ["failure" in message for message in posted].count(True) == 1


UNDERRUNS = """
import {{ readFileSync }} from "node:fs";
const text = readFileSync("{worklet}", "utf8") + "\\nglobalThis.Underruns = Underruns;";
await import("data:text/javascript," + encodeURIComponent(text));
const heard = new Underruns();
let wall = 1e6, audio = 0;
function render(seconds) {{  // in bursts of ten milliseconds, as a sound card asks
  for (let burst = 0; burst < 100 * seconds; burst++, wall += 10.001)
    for (let k = 0; k < 4; k++, audio += 2.5) heard.hear(Math.floor(wall), audio);
}}
const counts = [];
render(5); counts.push(heard.count);
wall += 20; render(3); counts.push(heard.count);  // twenty milliseconds were not rendered in time
wall += 60000; heard.restart(); render(5); counts.push(heard.count);  // a pause is none
console.log(JSON.stringify(counts));
"""


def test_audio_that_was_lost_is_counted_and_a_pause_is_not(tmp_path: Path) -> None:
    script = tmp_path / "underruns.mjs"
    script.write_text(UNDERRUNS.format(worklet=wasm.WEB / "worklet.js"))
    done = subprocess.run([need("node"), script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 1, 1]
