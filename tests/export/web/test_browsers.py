"""The page from a file, offline, in Chromium and Firefox: its output is Python's; what it shows."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import browsers
import numpy as np
import pytest
import soundfile
import soxr
import torch
from browsers import Chromium, Page
from tiny_export import voice
from tiny_native import snr_db

from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.native.build import find_compiler
from enhance.network.checkpoint import load_model
from export.metadata import describe
from export.native.weights import native_weights
from export.web.page import export_page, page

ROOT = Path(__file__).parents[3]
READY = "document.getElementById('status').textContent === 'Ready.'"
DONE = "document.getElementById('transport').hidden === false"
ALERT = "document.getElementById('error').textContent"
FACTS = "['factor', 'underruns', 'delay'].map((id) => document.getElementById(id).textContent)"
MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the default model, and a noisy recording at two rates."""
    folder = tmp_path_factory.mktemp("page")
    export_page("default", folder / "int8", quiet=True)
    noisy = voice(4, 130) + np.random.default_rng(1).normal(0, 0.05, 64000)
    noisy[:1024] = 0  # whole, torch hears the beginning mirrored; so there is none
    soundfile.write(folder / "noisy16.wav", noisy, 16000, "PCM_24")
    soundfile.write(folder / "noisy48.wav", soxr.resample(noisy, 16000, 48000), 48000, "PCM_24")
    soundfile.write(folder / "short.wav", noisy[2000:4000], 16000)
    heard = soxr.resample(noisy, 16000, 48000)
    soundfile.write(folder / "heard.wav", heard, 48000, "PCM_16")  # Chromium knows no other
    return folder


@pytest.fixture(scope="module")
def chromium(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Its microphone hears the recording over and over."""
    heard = f"--use-file-for-fake-audio-capture={place / 'heard.wav'}"
    with browsers.chromium(tmp_path_factory.mktemp("chromium"), *MICROPHONE, heard) as found:
        yield found


def click(page: Page, name: str) -> None:
    page.evaluate(f"document.getElementById('{name}').click()")


def cleaned(page: Page, clip: Path) -> np.ndarray:
    """A recording through a page that is open: what it saves."""
    page.wait(READY)
    page.choose("#file", clip)
    page.wait(f"{DONE} || {ALERT}")
    assert page.evaluate(ALERT) == ""
    return saved(page, clip)


def saved(page: Page, clip: Path) -> np.ndarray:
    """What an open page saves."""
    path = page.folder / f"{clip.stem}_enhanced.wav"
    path.unlink(missing_ok=True)
    click(page, "save")
    size, end = soundfile.info(clip).frames, time.monotonic() + 30
    while not path.exists() or path.stat().st_size < 44 + 3 * size:
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.02)
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == soundfile.info(clip).samplerate
    return wave


def python(clip: Path) -> np.ndarray:
    """The shipped model through ONNX Runtime, streamed with low delay."""
    return stream(*soundfile.read(clip, dtype="float32", always_2d=True))


def stream(noisy: np.ndarray, rate: int, enhancer: Enhancer | None = None) -> np.ndarray:
    """Shape: (n, 1) -> (n,)"""
    enhancer = enhancer or Enhancer.from_pretrained("default")
    model = AlignedStream(enhancer, rate, 1, low_delay=True)
    return np.concatenate([model.process(noisy), model.flush()])[:, 0]


@pytest.mark.parametrize("rate", [16, 48])
def test_a_recording_comes_out_of_chromium_as_out_of_python(
    rate: int, place: Path, chromium: Chromium
) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    clip = place / f"noisy{rate}.wav"
    ours, expected = cleaned(chromium, clip), python(clip)
    assert len(ours) == len(expected)
    assert snr_db(expected, ours) > 40
    assert 0 < float(chromium.evaluate(FACTS)[0]) < 2  # by the wall, beside others: idle .1


def test_a_recording_comes_out_of_firefox_as_out_of_python(place: Path, tmp_path: Path) -> None:
    with browsers.firefox(tmp_path) as firefox:
        firefox.open((place / "int8" / "index.html").as_uri())
        clip = place / "noisy48.wav"
        assert snr_db(python(clip), cleaned(firefox, clip)) > 40


def test_float_weights_come_out_as_out_of_torch(place: Path, chromium: Chromium) -> None:
    model, _ = load_model(ROOT / "checkpoints" / "default")
    floats(place)
    chromium.open((place / "fp32.html").as_uri())
    ours = cleaned(chromium, place / "noisy16.wav")
    noisy, _ = soundfile.read(place / "noisy16.wav", dtype="float32")
    with torch.no_grad():
        expected = model.enhance(torch.from_numpy(noisy)[None])[0].numpy()
    assert snr_db(expected, ours) > 100


def test_strength_and_switch_change_what_is_saved(place: Path, chromium: Chromium) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    clip = place / "noisy16.wav"
    whole = cleaned(chromium, clip)
    noisy, _ = soundfile.read(clip, dtype="float32")
    strength = "document.getElementById('strength')"
    chromium.evaluate(f"{strength}.value = 40, {strength}.dispatchEvent(new Event('input'))")
    assert chromium.evaluate("document.getElementById('strength-value').textContent") == "40 %"
    half = saved(chromium, clip)
    np.testing.assert_allclose(half, 0.4 * whole + 0.6 * noisy, atol=1e-6)
    click(chromium, "enabled")
    np.testing.assert_allclose(saved(chromium, clip), noisy, atol=1e-6)


def test_the_microphone_is_enhanced_live_and_can_be_played_afterwards(
    place: Path, chromium: Chromium
) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    chromium.wait(READY)
    click(chromium, "microphone")
    levels = "['before', 'after'].map((x) => document.getElementById(`meter-${x}`).ariaValueNow)"
    heard = []
    chromium.wait("document.getElementById('factor').textContent !== '–'")
    for _ in range(40):
        heard.append([float(level) for level in chromium.evaluate(levels)])
        time.sleep(0.1)
    assert chromium.evaluate(ALERT) == ""
    before, after = np.mean(heard, axis=0)
    assert before > -50 and after < before - 3  # the noise between the words goes
    factor, underruns, delay = chromium.evaluate(FACTS)
    assert 0 < float(factor) < 1
    assert delay in ("36 ms", "37 ms")  # 32 for the model, 2 a way for the rate
    if os.getloadavg()[0] < 1:  # elsewhere others may have taken the time
        assert underruns == "0"
    click(chromium, "microphone")
    chromium.wait(DONE)
    assert "enhanced in" in chromium.evaluate("document.getElementById('status').textContent")


TAPE = """
globalThis.AudioContext = class extends AudioContext {  // three of its samples are one of the model
  constructor(options) { super({ ...options, sampleRate: 48000 }); }
};
const code = `const register = registerProcessor;
globalThis.registerProcessor = (name, Base) => register(name, class extends Base {
  constructor(options) {
    super(options);
    this.tape = [[], []];
    this.port.addEventListener("message", ({ data }) => {
      if (data.wind) this.port.postMessage({ tape: this.tape });
    });
  }
  process([x], [y]) {
    const heard = x.length ? x[0].slice() : new Float32Array(y[0].length);
    const alive = super.process([x], [y]);
    [heard, y[0]].forEach((part, k) => this.tape[k].push(...part));
    return alive;
  }
})`;
const { addModule } = AudioWorklet.prototype;
AudioWorklet.prototype.addModule = async function (...given) {
  await addModule.call(this, "data:text/javascript," + encodeURIComponent(code));
  return addModule.apply(this, given);
};
const { connect } = AudioNode.prototype;
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioWorkletNode) globalThis.node = to;
  return connect.call(this, to, ...more);
};
0
"""
WIND = """
globalThis.tape = null;
node.port.addEventListener("message", ({ data }) => { tape ??= data.tape; });
node.port.postMessage({ wind: true });
"""


@pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: Python has no such weights")
@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_what_the_microphone_gives_is_what_python_makes_of_it(
    form: str, place: Path, chromium: Chromium
) -> None:
    """Taped in the audio thread, from the node's first quantum."""
    floats(place)
    chromium.open(
        (place / "int8" / "index.html" if form == "int8" else place / "fp32.html").as_uri()
    )
    chromium.wait(READY)
    chromium.evaluate(TAPE)
    click(chromium, "microphone")
    chromium.wait("globalThis.node && node.seconds > 3")
    chromium.evaluate(WIND)
    chromium.wait("tape")
    click(chromium, "microphone")
    heard, made = (np.array(chromium.evaluate(f"tape[{k}]"), np.float32) for k in range(2))
    assert np.sqrt(np.mean(heard**2)) > 0.01
    late = chromium.evaluate("node.latencySamples")
    floating = form == "fp32"
    enhancer = Enhancer(place / "fp32.bin", engine="native") if floating else None
    expected = stream(heard[:, None], 48000, enhancer)
    assert snr_db(expected[:-late], made[late:]) > (100 if floating else 40)


def floats(place: Path) -> Path:
    """The fp32 weights of a trained model; a page of them, fp32.html, stands beside."""
    path = place / "fp32.bin"
    if not path.exists():
        model, info = load_model(ROOT / "checkpoints" / "default")
        path.write_bytes(native_weights(model, describe(model, info)))
        (place / "fp32.html").write_text(page("float", path.read_bytes()))
    return path


def test_it_plays_before_and_after_at_one_place(place: Path, chromium: Chromium) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    cleaned(chromium, place / "noisy48.wav")
    times = "document.getElementById('time')"
    chromium.evaluate(
        f"globalThis.times = [], new MutationObserver(() => times.push({times}.textContent))"
        f".observe({times}, {{ childList: true }}), 0"
    )
    click(chromium, "play")
    chromium.wait("document.getElementById('place').value > 0.3")
    assert not [x for x in chromium.evaluate("times") if x.startswith("-")]  # it begins in a moment
    assert chromium.evaluate("document.getElementById('play').textContent") == "Pause"
    chromium.wait("document.getElementById('meter-before').ariaValueNow > -60")
    click(chromium, "play")
    time.sleep(0.2)  # a frame is drawn
    stopped = chromium.evaluate("document.getElementById('place').value")
    time.sleep(0.2)
    assert chromium.evaluate("document.getElementById('place').value") == stopped


def test_it_is_worked_by_keys_and_every_control_has_a_name(place: Path, chromium: Chromium) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    cleaned(chromium, place / "noisy16.wav")
    chromium.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(7):
        chromium.press("Tab")
        reached.append(chromium.evaluate("document.activeElement.id"))
    assert reached == ["microphone", "choose", "enabled", "strength", "play", "place", "save"]
    chromium.evaluate("document.getElementById('enabled').focus()")
    chromium.press(" ")
    assert chromium.evaluate("document.getElementById('enabled').checked") is False
    chromium.evaluate("document.getElementById('strength').focus()")
    chromium.press("ArrowLeft")
    assert chromium.evaluate("document.getElementById('strength').value") == "99"
    chromium.wait("document.getElementById('after').ariaLabel.endsWith('not enhanced')")
    named = {(node["role"], node["name"]) for node in chromium.accessible()}
    assert named >= {
        ("button", "Use the microphone"),
        ("button", "Choose a file…"),
        ("switch", "Enhance"),
        ("slider", "Strength"),
        ("slider", "Place in the recording"),
        ("button", "Play"),
        ("button", "Save as WAV"),
        ("meter", "Level before"),
        ("meter", "Level after"),
        ("image", "Spectrogram before: noisy16.wav"),
        ("image", "Spectrogram after: noisy16.wav, not enhanced"),
    }
    assert not [role for role, name in named if role in ("button", "slider", "switch") and not name]


def test_what_cannot_be_done_is_said_and_nothing_passes(place: Path, chromium: Chromium) -> None:
    whole = (place / "int8" / "index.html").read_text()
    at = whole.index('id="weights">') + 200000
    damaged = whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :]
    (place / "damaged.html").write_text(damaged)
    chromium.open((place / "damaged.html").as_uri())
    chromium.wait(ALERT)
    assert "these weights cannot be used" in chromium.evaluate(ALERT)
    assert chromium.evaluate("document.getElementById('microphone').disabled") is True
    (place / "text.wav").write_text("no audio")
    chromium.open((place / "int8" / "index.html").as_uri())
    chromium.wait(READY)
    chromium.choose("#file", place / "text.wav")
    chromium.wait(ALERT)
    assert chromium.evaluate(ALERT) == "Error: text.wav: this browser cannot read it as audio"
    assert not chromium.evaluate(DONE)
    # Chosen again, when there is something in it.
    (place / "text.wav").write_bytes((place / "short.wav").read_bytes())
    chromium.choose("#file", place / "text.wav")
    chromium.wait(DONE)
    assert chromium.evaluate(ALERT) == ""
    deny = "navigator.mediaDevices.getUserMedia = async () => { throw new Error('not allowed'); }"
    chromium.evaluate(deny)
    click(chromium, "microphone")
    chromium.wait(f"{ALERT}.startsWith('Error: the microphone cannot be used (not allowed)')")


def test_what_was_overtaken_fails_without_a_word(place: Path, chromium: Chromium) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    chromium.wait(READY)
    asked = "new Promise((_, reject) => { globalThis.deny = () => reject(new Error('denied')); })"
    chromium.evaluate(f"navigator.mediaDevices.getUserMedia = () => {asked}, 0")
    click(chromium, "microphone")  # the browser asks, and meanwhile a file is chosen
    chromium.choose("#file", place / "noisy16.wav")
    chromium.wait(DONE)
    chromium.evaluate("deny()")
    chromium.evaluate("new Promise((resolve) => setTimeout(resolve, 200))")
    assert chromium.evaluate(ALERT) == ""
    assert chromium.evaluate(DONE)
    assert saved(chromium, place / "noisy16.wav").any()


STOPPED_AND = """(() => {
  const stop = document.getElementById("microphone");
  stop.click();
  if (DROPPED) {
    const files = new DataTransfer();
    const bytes = Uint8Array.from(atob("DROPPED"), (x) => x.charCodeAt(0));
    files.items.add(new File([bytes], "late.wav"));
    dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
  } else stop.click();
})()"""


@pytest.mark.parametrize("dropped", [True, False])
def test_what_comes_while_the_microphone_stops(
    dropped: bool, place: Path, chromium: Chromium
) -> None:
    """A file that is dropped then is what was asked for last; a second click asks for nothing."""
    chromium.open((place / "int8" / "index.html").as_uri())
    chromium.wait(READY)
    click(chromium, "microphone")
    chromium.wait("document.getElementById('factor').textContent !== '–'")
    data = base64.b64encode((place / "short.wav").read_bytes()).decode() if dropped else ""
    script = STOPPED_AND.replace("if (DROPPED)", f"if ({str(dropped).lower()})")
    chromium.evaluate(script.replace("DROPPED", data))
    chromium.wait(DONE)
    time.sleep(0.5)
    said = chromium.evaluate("document.getElementById('status').textContent")
    assert said.startswith("late.wav: " if dropped else "recording: ")
    assert chromium.evaluate(ALERT) == ""


def test_a_second_recording_begins_at_nothing(place: Path, chromium: Chromium) -> None:
    chromium.open((place / "int8" / "index.html").as_uri())
    cleaned(chromium, place / "noisy16.wav")
    chromium.evaluate(
        "globalThis.shown = [], new MutationObserver(() => {"
        " if (!progress.hidden) shown.push(progress.value);"
        "}).observe(progress, { attributes: true }), 0"
    )
    chromium.choose("#file", place / "noisy48.wav")
    chromium.wait(f"shown.length && {DONE}")
    assert chromium.evaluate("shown[0]") == 0


def test_a_long_recording_that_is_overtaken_ends(place: Path, chromium: Chromium) -> None:
    """Chromium would begin the next one after it."""
    soundfile.write(place / "long.wav", np.tile(voice(4, 130), 30), 16000)
    chromium.open((place / "int8" / "index.html").as_uri())
    chromium.wait(READY)
    chromium.evaluate(
        "globalThis.rendered = [], globalThis.start = OfflineAudioContext.prototype.startRendering,"
        "OfflineAudioContext.prototype.startRendering = async function () {"
        " const made = await start.call(this); rendered.push(made.duration); return made; }, 0"
    )
    chromium.choose("#file", place / "long.wav")
    chromium.wait("progress.value > 0")
    chromium.choose("#file", place / "short.wav")
    chromium.wait(f"rendered.length && {DONE}")
    assert chromium.evaluate("rendered[0]") < 1
