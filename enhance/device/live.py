"""Microphone to loudspeaker through the model: ``enhance live``.

One blocking stream in and one out: what comes is read a hop at a time, enhanced and written.
(PortAudio's duplex streams fail over PulseAudio.) The two may run on clocks of their own; what
the slower one cannot take is lost and counted.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from enhance.audio.samples import LOUDEST
from enhance.device.aligned_stream import AlignedStream, wet_share
from enhance.device.enhancer import Enhancer
from enhance.device.offline import Model, OfflineEnhancer
from enhance.device.sound_thread import SoundThread, answered
from enhance.device.terminal import level, meter, overwrite, pressed
from enhance.errors import EnhanceError

if TYPE_CHECKING:
    import types

KEYS = "keys: b bypass, + and - strength, q quit"
_STEP = 0.1  # of strength, by a key
_START = 1.0  # seconds in which nothing is counted


class Live:
    """What happens to each block between the two devices, both of one rate.

    The model's settings are where the strength keys begin.
    """

    def __init__(self, enhancer: Enhancer, sample_rate: int) -> None:
        self.enhancer = enhancer
        self._limit = enhancer.atten_limit
        self._stream = AlignedStream(enhancer, sample_rate, 1, low_delay=True)
        self.sample_rate = sample_rate
        self.bypass = False
        """Whether the input comes out, as late as the enhanced signal does."""
        self.strength = enhancer.strength
        """Share of the model's work that is kept."""
        self.levels = level(np.zeros(1)), level(np.zeros(1))
        """dB of the last blocks, in and out."""
        self.underruns = self.overruns = 0
        """Blocks that came too late for the output, and that were lost: at the input, or because
        the output had no room."""
        self.over = False
        """Whether the quit key was pressed."""

    def process(self, block: np.ndarray) -> np.ndarray:
        """Shape: (n, 1) -> (m, 1)

        A sound card's samples are taken as they are: what is no number is silence.
        """
        block = np.clip(np.nan_to_num(block), -LOUDEST, LOUDEST)
        self._stream.wet = 0.0 if self.bypass else wet_share(self.strength, self._limit)
        out = np.clip(self._stream.process(block), -1, 1)
        self.levels = level(block), level(out) if len(out) else self.levels[1]
        return out

    @property
    def waiting(self) -> float:
        """Seconds of sound that are in the model and the resamplers."""
        return self._stream.waiting / self.sample_rate

    def key(self, key: str) -> None:
        """What a key does, see `KEYS`."""
        if key in "bB":
            self.bypass = not self.bypass
        elif key in "+=":
            self.strength = min(1.0, round(self.strength + _STEP, 3))
        elif key in "-_":
            self.strength = max(0.0, round(self.strength - _STEP, 3))
        elif key in "qQ":
            self.over = True

    def picture(self, delay: float) -> str:
        """Meters and settings in a line."""
        put_in, out = self.levels
        how = "bypass" if self.bypass else f"strength {self.strength:.0%}"
        return (
            f"in {meter(put_in)} {put_in:4.0f} dB  out {meter(out)} {out:4.0f} dB  {how}  "
            f"delay {1000 * delay:.0f} ms  underruns {self.underruns}  lost {self.overruns}"
        )


@dataclass(frozen=True)
class Session:
    """What `run_live` has done."""

    seconds: float
    delay: float
    """Seconds of sound between input and output, as far as this process sees it; median."""
    underruns: int
    overruns: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:.1f} s, delay {1000 * self.delay:.0f} ms, "
            f"{self.underruns} underruns, {self.overruns} blocks lost"
        )


def device_list() -> str:
    """The sound devices in a table; ``>`` marks the default input, ``<`` the default output.

    An `EnhanceError` tells that there are none.
    """
    text = str(answered(_sounddevice().query_devices))
    if not text:
        raise EnhanceError("no sound device is there; connect one")
    return text


def run_live(
    enhancer: Model,
    *,
    source: str | None = None,
    sink: str | None = None,
    sample_rate: int | None = None,
    latency: float = 0.1,
    seconds: float = 0.0,
    quiet: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> Session:
    """Enhance from one device to another until a key, or the time, ends it.

    ``source`` and ``sink`` are the number of a device in `device_list`, or part of its name; None
    is the default. Both have one rate, None for the input's own, and may hold ``latency`` seconds
    each. It ends after some ``seconds``, 0 for none; ``quiet`` shows no meters, and ``ready`` is
    called once both devices run. The model's own stream is not touched.

    An `EnhanceError` if a device is not there, does not take the rate, goes away or gives nothing
    for some seconds; or the model cannot stream.
    """
    with _told(sounds := _sounddevice()):
        live, hop, asked = _found(sounds, enhancer, source, sink, sample_rate, latency)
        # The first blocks take longer: of another stream, before it counts.
        Live(live.enhancer, live.sample_rate).process(np.zeros((4 * hop, 1), np.float32))
        delays = collections.deque([0.0], maxlen=200)
        devices = SoundThread(sounds, *asked, partial(_pump, live, hop, delays))
        # Keys and Ctrl-C are heard here, whatever the devices do.
        with pressed() as keys, devices.at_work():
            while not devices.running and devices.turn():
                pass
            ready()
            begun = time.monotonic()
            end = begun + (seconds or math.inf)
            try:
                while not live.over and time.monotonic() < end and devices.turn():
                    for key in keys():
                        live.key(key)
                    if not quiet:
                        overwrite(live.picture(_median(delays)))
            finally:
                if not quiet:
                    overwrite("")
            took = time.monotonic() - begun
            return Session(took, _median(delays), live.underruns, live.overruns)


def measure_delay(
    enhancer: Model,
    *,
    source: str | None = None,
    sink: str | None = None,
    sample_rate: int | None = None,
    latency: float = 0.1,
) -> tuple[float, float]:
    """Play a sweep, and hear when it comes back: loudspeaker to microphone, or a cable.

    The delay is that of `run_live` with the same arguments: seconds from input to output through
    the model, and the part of them that is the devices'. An `EnhanceError` as there, or if the
    sweep is not heard.
    """
    with _told(sounds := _sounddevice()):
        live, hop, asked = _found(sounds, enhancer, source, sink, sample_rate, latency)
        given = _sweep(live.sample_rate)
        found: list[np.ndarray] = []

        def play(devices: SoundThread) -> None:
            # As `_pump` does, with nothing between input and output.
            _begin(devices, hop)
            for start in range(0, len(given) - hop, hop):
                if devices.over:
                    return
                found.append(devices.read(hop)[0])
                devices.played.write(given[start : start + hop, None].astype(np.float32))

        devices = SoundThread(sounds, *asked, play)
        with devices.at_work():
            while devices.turn():
                pass
    lag = _lag(np.concatenate(found)[:, 0], given, hop)
    # A block that is read was heard in the time of a hop; what is written in its place plays
    # after it. The model adds what it holds when as much comes out as goes in.
    for _ in range(8):
        live.process(np.zeros((hop, 1), np.float32))
    own = lag / live.sample_rate
    return own + live.waiting, own


def _sweep(rate: int) -> np.ndarray:
    """Half a second of silence, one of the sweep, and two of silence."""
    time_ = np.arange(rate // 2) / rate
    sweep = np.sin(2 * np.pi * (300 + 3000 * time_) * time_) * np.hanning(len(time_))
    return np.concatenate([np.zeros(rate // 2), 0.5 * sweep, np.zeros(2 * rate)])


def _lag(wave: np.ndarray, given: np.ndarray, hop: int) -> int:
    """Samples by which what was heard is later than what was given."""
    length = 2 * len(given)
    shape = np.fft.rfft(wave, length) * np.conj(np.fft.rfft(given, length))
    likeness = np.fft.irfft(shape, length)[: len(wave)]
    lag = int(np.argmax(likeness))
    if likeness[lag] < 12 * np.sqrt(np.mean(np.square(likeness))) or lag < hop:
        raise EnhanceError(
            "the output was not heard at the input: turn it up, or choose other devices"
        )
    return lag


@contextlib.contextmanager
def _told(sounds: Any) -> Iterator[None]:
    """What PortAudio raises in one line."""
    try:
        yield
    except (sounds.PortAudioError, ValueError) as error:
        raise EnhanceError(
            f"sound device: {' '.join(str(error).split())}; see enhance live --list"
        ) from error


def _found(
    sounds: Any,
    enhancer: Model,
    source: str | None,
    sink: str | None,
    sample_rate: int | None,
    latency: float,
) -> tuple[Live, int, tuple[dict[str, Any], dict[str, Any]]]:
    """What becomes of the sound, the samples of a hop at the devices' rate, and their options."""
    if isinstance(enhancer, OfflineEnhancer):
        raise EnhanceError(f"{enhancer.path}: hears whole recordings and cannot stream")
    # sounddevice takes numbers as such.
    heard, played = (int(x) if x is not None and x.isdecimal() else x for x in (source, sink))
    about = answered(lambda: sounds.query_devices(heard, "input"))
    rate = int(about["default_samplerate"] if sample_rate is None else sample_rate)
    answered(lambda: sounds.query_devices(played, "output"))
    live = Live(enhancer, rate)
    hop = -(-enhancer.hop_length * rate // enhancer.sample_rate)
    form = {"samplerate": rate, "channels": 1, "dtype": "float32", "latency": latency}
    return live, hop, ({"device": heard, "blocksize": hop, **form}, {"device": played, **form})


def _begin(devices: SoundThread, hop: int) -> int:
    """Start both: how much an empty output takes.

    The output gets as much silence as it may hold, so that what comes late finds it still playing.
    """
    room = int(devices.played.write_available)
    devices.read(hop)  # may take long: the device starts
    for _ in range(devices.heard.read_available // hop):
        devices.read(hop)
    devices.played.write(np.zeros((room, 1), np.float32))
    devices.running = True
    return room


def _median(delays: collections.deque[float]) -> float:
    return float(np.median(list(delays)))


def _pump(live: Live, hop: int, delays: collections.deque[float], devices: SoundThread) -> None:
    """From one device to the other, a hop at a time; ``delays`` are of the last ones, seconds."""
    heard, played = devices.heard, devices.played
    room = _begin(devices, hop)
    started, stuck = time.monotonic(), 0
    while not (live.over or devices.over):
        # Looked at first: over PulseAudio a call that waits may wait for ever.
        if heard.read_available < hop:
            time.sleep(hop / live.sample_rate / 4)
            continue
        block, lost = devices.read(hop)
        out = live.process(block)
        full = played.write_available < len(out)
        if time.monotonic() - started > _START:  # until then both find their pace
            live.overruns += bool(lost) + full
        if len(out) and not full:
            live.underruns += bool(played.write(out))
        stuck = stuck + 1 if full else 0
        if stuck * hop > live.sample_rate:  # nothing taken for a second: it stalls
            played.abort()
            played.start()
            played.write(np.zeros((min(room, played.write_available), 1), np.float32))
            stuck = 0
        # What has been heard and not yet been played stands before what is heard now.
        full = heard.read_available + max(0, room - played.write_available)
        delays.append(live.waiting + full / live.sample_rate)


def _sounddevice() -> types.ModuleType:
    try:
        return answered(lambda: importlib.import_module("sounddevice"))
    except OSError as error:
        raise EnhanceError(
            "sound devices need PortAudio, which is not installed: apt-get install libportaudio2"
        ) from error
