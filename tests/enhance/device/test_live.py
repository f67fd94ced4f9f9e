"""From microphone to loudspeaker: over devices made of lists, and over a real virtual cable."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import build
from tiny_sound import DELAY, HOP, RATE, Devices, noise, quit_after, use

from enhance.device.aligned_stream import AlignedStream
from enhance.device.enhancer import Enhancer
from enhance.device.live import KEYS, Live, device_list, measure_delay, run_live
from enhance.errors import EnhanceError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of its input, 16 ms late."""
    return build(tmp_path_factory.mktemp("m") / "m.onnx", gain=0.5, hop=256, overlap=256)


def test_it_plays_what_a_stream_of_that_rate_gives(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    wave = noise(RATE)
    monkeypatch.setattr("enhance.device.live._START", 0.0)
    devices = use(monkeypatch, Devices(wave))
    devices.late, devices.lost = {7}, {5, 9}
    quit_after(monkeypatch, devices, 60)
    done = run_live(Enhancer(model), source="0", sink="micro", latency=0.04)
    prefill, *rest = devices.played
    assert prefill.shape == (4 * HOP, 1) and not prefill.any()
    stream = AlignedStream(Enhancer(model), RATE, 1, low_delay=True)
    expected = stream.process(wave[2 * HOP :])  # the first starts the device; one was there by then
    assert devices.reads >= 60
    count = min(len(expected), sum(map(len, rest)))
    assert count > 40 * HOP
    np.testing.assert_array_equal(np.concatenate(rest)[:count], expected[:count])
    assert np.abs(expected).max() > 0.1
    assert (done.underruns, done.overruns) == (1, 2)
    assert str(done).endswith("1 underruns, 2 blocks lost")
    assert [(a["kind"], a["device"], a["latency"]) for a in devices.asked] == [
        ("in", 0, 0.04), ("out", "micro", 0.04),
    ]  # fmt: skip
    assert 0.02 < done.delay < 0.12
    assert devices.closed == ["out", "in"]


def test_delay_is_measured_by_ear(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """What a cable of known length holds, and as much silence as the output is filled with."""
    use(monkeypatch, Devices())
    whole, own = measure_delay(Enhancer(model))
    # Two hops were read to start the device: the line is that much shorter.
    assert own * RATE == pytest.approx(DELAY + 4 * HOP - 2 * HOP, abs=2)
    # The model: 256 samples late, and the rest of a hop that waits; the resamplers 4 ms at most.
    assert 0.016 <= whole - own <= 0.016 + 0.016 + 0.004
    use(monkeypatch, Devices(noise(5 * RATE)))
    with pytest.raises(EnhanceError, match="the output was not heard at the input"):
        measure_delay(Enhancer(model))


def test_keys_bypass_and_strength(model: Path) -> None:
    live = Live(Enhancer(model), 16000)
    wave = noise(16000)
    blocks = np.split(wave, 50)
    out = []
    for k, block in enumerate(blocks):
        if k == 20:
            live.key("b")
        if k == 40:
            live.key("B")
            for _ in range(12):
                live.key("-")
            assert live.strength == 0
            for _ in range(5):
                live.key("+")
        out.append(live.process(block))
        assert live.waiting == pytest.approx((320 * (k + 1) - sum(map(len, out))) / 16000)
    played = np.concatenate(out)
    wave = wave[: len(played)]
    # The settings hold for what comes out after them: a hop and 16 ms after what goes in.
    for part, share in [
        (slice(0, 5800), 0.5),
        (slice(7000, 12000), 1.0),
        (slice(14000, None), 0.75),
    ]:
        np.testing.assert_allclose(played[part], share * wave[part], atol=1e-6)
    # No click: the share of the input goes from one to the other in steps of a sample.
    loud = np.abs(wave) > 0.05
    share = (played[loud] / wave[loud])[: int(loud[:12000].sum())]
    assert np.abs(np.diff(share)).max() < 0.02
    live.key("x")
    assert not live.over
    live.key("q")
    assert live.over
    for word in ("b bypass", "+ and - strength", "q quit"):
        assert word in KEYS


def test_sound_cards_are_taken_as_they_are(model: Path) -> None:
    live = Live(Enhancer(model), 16000)
    out = live.process(np.array([[np.nan], [np.inf], [-9]] * 400, np.float32))
    assert np.isfinite(out).all() and np.abs(out).max() <= 1


def test_refusals_are_one_line(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    use(monkeypatch, Devices())
    assert device_list() == "> 0 microphone\n< 1 loudspeaker"
    for options, message in [
        ({"source": "none"}, "sound device: No input device matching 'none'; see enhance live"),
        ({"sink": "7"}, "sound device: No input device matching 7"),
        ({"sample_rate": 12345}, "sound device: Invalid sample rate"),
        ({"sample_rate": 0}, "sample_rate 0: must be"),
    ]:
        with pytest.raises(EnhanceError, match=re.escape(message)):
            run_live(Enhancer(model), seconds=0.1, **options)


def test_keys_are_named_once_the_devices_run(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    ready: list[int] = []
    devices = use(monkeypatch, Devices(noise(RATE)))
    with pytest.raises(EnhanceError, match="Invalid sample rate"):
        run_live(Enhancer(model), sample_rate=12345, ready=lambda: ready.append(devices.reads))
    assert not ready
    run_live(Enhancer(model), seconds=0.2, ready=lambda: ready.append(devices.reads))
    assert len(ready) == 1 and ready[0] >= 2


def test_missing_portaudio_and_extra_are_one_line(tmp_path: Path, model: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    for place, message in [
        (tmp_path, "apt-get install libportaudio2"),
        (None, "pip install 'enhance[live]'"),
    ]:
        code = (
            "import sys, importlib.util as u; place = sys.argv.pop(1)\n"
            "found = u.find_spec\n"
            "if place: sys.path.insert(0, place)\n"
            "else: u.find_spec = lambda n, *a: None if n == 'sounddevice' else found(n, *a)\n"
            "from enhance.cli.app import main; main()"
        )
        command = [sys.executable, "-c", code, str(place or ""), "live", "--list"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert message in done.stderr


# From here on with the real library, over PulseAudio.

MISSING = [
    what
    for what, there in [
        ("pulseaudio pulseaudio-utils", shutil.which("pulseaudio") and shutil.which("pacat")),
        ("libportaudio2 (and pip install sounddevice)", importlib.util.find_spec("sounddevice")),
    ]
    if not there
]
needs_cable = pytest.mark.skipif(bool(MISSING), reason=f"NO VIRTUAL CABLE: install {MISSING}")
RAW = ["--raw", f"--rate={RATE}", "--channels=1", "--format=float32le", "--latency-msec=200"]


@contextlib.contextmanager
def sound_server(place: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen]]:
    """Environment of a sound server of two null sinks: ``cable`` to hear, ``clean`` to play to."""
    place.chmod(0o700)
    own = {
        "XDG_RUNTIME_DIR": str(place),
        "HOME": str(place),
        "PULSE_SERVER": f"unix:{place}/native",
    }
    environment = {**os.environ, **own, "PULSE_SOURCE": "cable.monitor", "PULSE_SINK": "clean"}
    modules = [
        f"module-native-protocol-unix socket={place}/native auth-anonymous=1",
        f"module-null-sink sink_name=cable rate={RATE}",
        f"module-null-sink sink_name=clean rate={RATE}",
    ]
    loads = [word for module in modules for word in ("-L", module)]
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--exit-idle-time=-1", "--daemonize=no", *loads],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(100):
            if (
                subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode
                == 0
            ):
                break
            time.sleep(0.1)
        else:
            pytest.skip("NO VIRTUAL CABLE: pulseaudio does not start here")
        yield environment, server
    finally:
        server.kill()
        server.wait(10)


@pytest.fixture(scope="module")
def cable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with sound_server(tmp_path_factory.mktemp("pulse")) as (environment, _):
        yield environment


def live(environment: dict[str, str], *words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "enhance", "live", *map(str, words), "--rate", str(RATE)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


def lags(wave: np.ndarray, recording: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each half second of a wave is in a recording, and its gain there."""
    piece = RATE // 2
    places, gains = [], []
    for start in range(0, len(wave) - piece + 1, piece):
        part = wave[start : start + piece]
        size = 1 << (len(recording) + piece).bit_length()
        spectrum = np.fft.rfft(recording, size) * np.conj(np.fft.rfft(part, size))
        likeness = np.fft.irfft(spectrum, size)[: len(recording)]
        places.append(int(np.argmax(likeness)) - start)
        gains.append(likeness.max() / np.dot(part, part))
    return np.array(places), np.array(gains)


def play_and_record(environment: dict[str, str], model: Path, wave: np.ndarray) -> tuple:
    """What ``enhance live`` told at the end (delay, underruns, lost), and what came out."""
    process = live(environment, "-m", model, "--latency", 0.4, "--seconds", 13)
    recorder = subprocess.Popen(
        ["parec", "-d", "clean.monitor", *RAW], env=environment, stdout=subprocess.PIPE
    )
    recorded: list[bytes] = []
    reader = threading.Thread(target=lambda: recorded.append(recorder.stdout.read()))
    reader.start()
    assert process.stderr.readline().decode().startswith("enhance live: keys: b bypass")
    time.sleep(4)
    player = subprocess.Popen(
        ["pacat", "-p", "-d", "cable", *RAW], env=environment, stdin=subprocess.PIPE
    )
    player.communicate(wave.tobytes(), timeout=60)
    _, errors = process.communicate(timeout=60)
    recorder.terminate()
    reader.join()
    assert process.returncode == 0, errors
    told = re.fullmatch(
        r"enhance live: 1\d\.\d s, delay (\d+) ms, (\d+) underruns, (\d+) blocks lost",
        errors.decode().splitlines()[-1],
    )
    assert told, errors
    data = recorded[0][: len(recorded[0]) // 4 * 4]
    return tuple(map(int, told.groups())), np.frombuffer(data, np.float32)


@needs_cable
def test_over_a_virtual_cable(cable: dict[str, str], model: Path) -> None:
    """All of the sound comes through, turned down as the model does, with one constant delay."""
    wave = noise(4 * RATE)[:, 0]
    for _ in range(3):  # a machine that is too busy for live sound is another matter, and told
        (delay, underruns, lost), recording = play_and_record(cable, model, wave)
        places, gains = lags(wave, recording)
        if np.ptp(places[1:-1]) <= 2:
            break
        assert underruns + lost, "the delay is not constant, and nothing was missed"
    else:
        pytest.skip(f"MACHINE TOO BUSY for live sound: {underruns} underruns, {lost} lost, thrice")
    np.testing.assert_allclose(gains[1:-1], 0.5, atol=0.02)
    assert 30 < delay < 1500


@needs_cable
def test_whole_delay_over_the_cable(cable: dict[str, str], model: Path) -> None:
    loop = {**cable, "PULSE_SOURCE": "clean.monitor"}
    process = live(loop, "-m", model, "--latency", 0.3, "--measure")
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    whole, own = map(int, re.fullmatch(
        r"delay (\d+) ms, of which (\d+) ms are the devices'\n", out.decode()
    ).groups())  # fmt: skip
    assert 15 <= whole - own <= 37
    assert 10 < own < 3000


@needs_cable
def test_devices_are_listed_and_a_wrong_one_is_refused(cable: dict[str, str], model: Path) -> None:
    out, _ = live(cable, "--list").communicate(timeout=60)
    assert "pulse" in out.decode()
    process = live(cable, "-m", model, "--input", "no such thing", "-q")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no such thing" in errors.decode() and "Traceback" not in errors.decode()
    assert "keys:" not in errors.decode()


@needs_cable
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sound_server_that_goes_away_ends_it(
    tmp_path: Path, model: Path, way: signal.Signals
) -> None:
    """One that is killed gives errors or nothing; one that hangs keeps every call waiting."""
    with sound_server(tmp_path) as (environment, server):
        process = live(environment, "-m", model, "--seconds", 60)
        assert process.stderr.readline().decode().startswith("enhance live: keys: b bypass")
        server.send_signal(way)
        begun = time.monotonic()
        try:
            _, errors = process.communicate(timeout=50)
        finally:
            process.kill()
    assert process.returncode == 2, errors
    assert time.monotonic() - begun < 30
    last = errors.decode().splitlines()[-1]
    assert last.startswith("enhance: sound device: ") and "enhance live --list" in last


@needs_cable
@pytest.mark.parametrize("way", ["key", "interrupt", "terminate"])
def test_keys_on_a_terminal_and_the_terminal_afterwards(
    cable: dict[str, str], model: Path, way: str
) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "enhance", "live", "-m", str(model), "--rate", str(RATE)]
    process = subprocess.Popen(
        command, env=cable, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < end, shown
            shown += os.read(ours, 4096)

    try:
        until(b"strength 100%")
        assert b"in [" in shown and b"underruns" in shown
        os.write(ours, b"-")
        until(b"strength 90%")
        os.write(ours, b"xb")  # two at once
        until(b"dB  bypass")
        if way == "key":
            os.write(ours, b"q")
            until(b"blocks lost")
        else:
            process.send_signal(signal.SIGINT if way == "interrupt" else signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()
    assert code == {"key": 0, "interrupt": 130, "terminate": -signal.SIGTERM}[way]
    assert termios.tcgetattr(theirs)[3] == before[3]
    os.close(ours)
    os.close(theirs)
