"""What `benchmarks.guard.run` plays to a model: real clips at other levels and SNRs, and made
signals.

Every stimulus is small enough to send to another process, and makes the same samples there.
Levels are in dB against full scale (dBFS): ``20 log10`` of the rms or of the largest sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from benchmarks.quality.candidates import SAMPLE_RATE
from enhance.audio import read as audio
from enhance.data import formulas
from enhance.errors import EnhanceError

LONGEST_SECONDS = 10.0
"""Clips are cut to this: longer ones cost time and tell no more."""

FLOOR_DBFS = -200.0
"""Level of digital silence, so that it stays a number."""

_FULL = 0.99
"""Largest sample of a mixture; a louder one is turned down, speech and noise alike."""


def rms_dbfs(wave: np.ndarray) -> float:
    """Level of a signal (N,), at least `FLOOR_DBFS`."""
    return _db(float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))))


def peak_dbfs(wave: np.ndarray) -> float:
    """Largest sample of a signal (N,), at least `FLOOR_DBFS`."""
    return _db(float(np.abs(wave).max()))


def _db(value: float) -> float:
    return max(20 * float(np.log10(value)), FLOOR_DBFS) if value > 0 else FLOOR_DBFS


@dataclass(frozen=True)
class Played:
    """One input and what belongs to it."""

    wave: np.ndarray
    """The input, float32 (N,) at `SAMPLE_RATE`."""
    reference: np.ndarray | None = None
    """What a perfect enhancer gives, float32 (N,); None where metrics have no meaning."""
    start: int = 0
    """Levels are measured from this sample on."""


@dataclass(frozen=True)
class Level:
    """A level to bring a signal to."""

    kind: Literal["rms", "peak"]
    dbfs: float

    def gain(self, wave: np.ndarray, name: str) -> float:
        """Factor that brings ``wave`` (N,) to this level; an `EnhanceError` if it is silent."""
        now = rms_dbfs(wave) if self.kind == "rms" else peak_dbfs(wave)
        if now <= FLOOR_DBFS:
            raise EnhanceError(f"{name}: is silent; leave it out")
        return float(10 ** ((self.dbfs - now) / 20))


@dataclass(frozen=True)
class Recording:
    """A file at one level, clean speech or music: a perfect enhancer leaves it as it is."""

    path: str
    level: Level

    def make(self) -> Played:
        wave = _read(self.path)
        wave = _single(wave * self.level.gain(wave, self.path))
        return Played(wave, wave)


@dataclass(frozen=True)
class Noise:
    """A file, or what a noisy file holds beside its clean one."""

    path: str
    minus: str = ""
    """The clean file; empty where ``path`` is noise alone."""

    def fill(self, samples: int) -> np.ndarray:
        """Cut, or repeated, to a length. Shape: -> float32 (samples,)"""
        return np.resize(self.wave(), samples)

    def wave(self) -> np.ndarray:
        """Shape: -> float32 (N,); an `EnhanceError` if the two files are not equally long, or there
        is no noise.
        """
        wave = _read(self.path)
        if self.minus:
            clean = _read(self.minus)
            if clean.shape != wave.shape:
                raise EnhanceError(
                    f"{self.path}: {wave.size} samples, its clean file has {clean.size} "
                    "(a pair must be equally long, sample by sample)"
                )
            wave = wave - clean
        if not wave.any():
            raise EnhanceError(f"{self.path}: holds no noise; leave it out")
        return wave

    def make(self) -> Played:
        return Played(self.wave())


@dataclass(frozen=True)
class Formula:
    """Noise from a formula, of the streams that training never draws."""

    kind: str
    """See `enhance.data.formulas.KINDS`."""
    seed: int

    def fill(self, samples: int) -> np.ndarray:
        """Shape: -> float32 (samples,)"""
        return formulas.make(self.kind, self.seed, samples, SAMPLE_RATE, held_out=True)


@dataclass(frozen=True)
class Mixture:
    """Speech and noise at one SNR: ``10 log10(sum s^2 / sum n^2)`` over the whole clip."""

    speech: str
    """The clean file."""
    noise: Noise | Formula
    """Repeated where it is shorter than the speech."""
    snr_db: float
    level: Level | None = None
    """Of the mixture; None leaves the speech at its own level."""

    def make(self) -> Played:
        speech = _read(self.speech).astype(np.float64)
        noise = self.noise.fill(speech.size).astype(np.float64)
        energies = float(np.sum(speech**2)), float(np.sum(noise**2))
        if not min(energies) > 0:
            raise EnhanceError(f"{self.speech}: it or its noise is silent; leave it out")
        noise *= np.sqrt(energies[0] / energies[1]) * 10 ** (-self.snr_db / 20)
        noisy = speech + noise
        if self.level:
            gain = self.level.gain(noisy, self.speech)
        else:
            gain = min(1.0, _FULL / float(np.abs(noisy).max()))
        return Played(_single(gain * noisy), _single(gain * speech))


@dataclass(frozen=True)
class SilenceAfter:
    """A file, then digital silence; the second half of the silence is what counts."""

    path: str
    seconds: float

    def make(self) -> Played:
        wave = _read(self.path)
        tail = round(self.seconds * SAMPLE_RATE)
        joined = np.concatenate([wave, np.zeros(tail, np.float32)])
        return Played(joined, start=joined.size - tail // 2)


MadeKind = Literal["silence", "dither", "room", "music"]
"""Signals from formulas."""


@dataclass(frozen=True)
class Made:
    """A signal from a formula, the same each time; of these, music shall stay."""

    what: MadeKind
    seconds: float
    seed: int = 0

    def make(self) -> Played:
        makers = {"silence": silence, "dither": dither, "room": room_noise, "music": music}
        wave = makers[self.what](self.seconds, self.seed)
        return Played(wave, wave if self.what == "music" else None)


Stimulus = Recording | Noise | Mixture | SilenceAfter | Made
"""What can be played."""


def silence(seconds: float, seed: int = 0) -> np.ndarray:
    """Digital silence. Shape: -> float32 (N,)"""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def dither(seconds: float, seed: int = 0) -> np.ndarray:
    """Silence in 16 bits with triangular dither: steps of -1, 0 and 1, -96 dBFS rms.

    Shape: -> float32 (N,)
    """
    draw = np.random.default_rng(seed).random((2, round(seconds * SAMPLE_RATE)))
    return _single(np.rint(draw.sum(axis=0) - 1) / 32768)


def room_noise(seconds: float, seed: int = 0) -> np.ndarray:
    """A quiet room: noise that falls by 3 dB an octave above 40 Hz, and hum; -60 dBFS rms.

    Shape: -> float32 (N,)
    """
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 40.0)), n)
    t = np.arange(n) / SAMPLE_RATE
    hum = np.sin(2 * np.pi * 50 * t) + 0.5 * np.sin(2 * np.pi * 150 * t + 1)
    wave = pink / pink.std() + 0.3 * hum
    return _single(wave * Level("rms", -60.0).gain(wave, "room noise"))


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """A short piece: four chords and a bass of decaying harmonics, drums; -20 dBFS rms.

    Key, tempo and the first chord go by the seed. Shape: -> float32 (N,)
    """
    rng = np.random.default_rng(seed)
    n = round(seconds * SAMPLE_RATE)
    key = 2 ** (5 * seed % 12 / 12)
    beat = 60 * SAMPLE_RATE // (120 - 10 * (seed % 5))  # 120 to 80 beats a minute
    chords = ((0, 4, 7, 12), (7, 11, 14, 19), (9, 12, 16, 21), (5, 9, 12, 17))  # I V vi IV
    wave = np.zeros(n + 4 * beat)

    def add(start: int, sound: np.ndarray) -> None:
        wave[start : start + sound.size] += sound[: wave.size - start]

    for number, start in enumerate(range(0, n, beat)):
        chord = chords[(number // 4 + seed) % 4]
        if number % 2 == 0:
            for step in chord:
                add(start, 0.12 * _note(220 * key * 2 ** (step / 12), 4 * beat, 2.5))
        add(start, 0.3 * _note(55 * key * 2 ** (chord[0] / 12), 2 * beat, 5.0))
        t = np.arange(beat // 2) / SAMPLE_RATE
        if number % 2 == 0:  # kick: a falling tone
            tone = np.sin(2 * np.pi * (45 * t + 4 * (1 - np.exp(-30 * t))))
            add(start, 0.8 * tone * np.exp(-9 * t))
        else:  # snare: noise
            add(start, 0.3 * rng.standard_normal(t.size) * np.exp(-22 * t))
        for half in (0, beat // 2):  # hi-hat: differenced noise
            add(start + half, 0.06 * np.diff(rng.standard_normal(t.size + 1)) * np.exp(-60 * t))
    wave = wave[:n]
    return _single(wave * Level("rms", -20.0).gain(wave, "music"))


@lru_cache(maxsize=32)  # those of a piece come again and again
def _note(hertz: float, samples: int, decay: float) -> np.ndarray:
    """Harmonics below half the rate, higher ones weaker and shorter."""
    t = np.arange(samples) / SAMPLE_RATE
    count = min(12, int(0.45 * SAMPLE_RATE / hertz))
    tones = (
        np.sin(2 * np.pi * hertz * k * t) * np.exp(-decay * np.sqrt(k) * t) / k**1.2
        for k in range(1, count + 1)
    )
    return np.asarray(np.sum(list(tones), axis=0) * np.minimum(1.0, 200 * t))


def _read(path: str) -> np.ndarray:
    return audio.read(path, SAMPLE_RATE)[: round(LONGEST_SECONDS * SAMPLE_RATE)]


def _single(wave: np.ndarray) -> np.ndarray:
    return np.asarray(wave, dtype=np.float32)
