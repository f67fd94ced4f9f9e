"""Synthetic speech-like voices: a source-filter model, computed frame by frame but vectorised.

Source: a Rosenberg glottal pulse (Rosenberg 1971, form C), differentiated for the radiation at
the lips, at a gliding pitch, with jitter and breath; noise for fricatives and bursts. Filter: seven
second-order resonators in cascade (Klatt 1980), whose centres glide from sound to sound. Sounds
follow one another as syllables, words and pauses drawn at random: it is nobody's speech and says
nothing. Everything is a function of (voice, seed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FRAME, _HOP, _SIZE = 320, 160, 1024  # window, hop, DFT length in samples at 16 kHz

# Formants F1..F3 in Hz of a medium vocal tract (adult averages of phonetics textbooks, rounded).
_VOWELS = np.array([
    [300, 2250, 3000], [400, 2000, 2600], [550, 1800, 2500], [700, 1700, 2450],
    [750, 1150, 2500], [600, 950, 2450], [450, 850, 2400], [330, 900, 2300],
    [500, 1450, 2400], [480, 1250, 1700], [320, 1750, 2250],
], float)  # fmt: skip
_SONORANTS = np.array([
    [270, 1100, 2200], [280, 1650, 2500], [290, 1900, 2700],  # nasals
    [360, 1150, 2600], [330, 1250, 1650], [300, 700, 2250], [280, 2150, 2900],  # liquids, glides
], float)  # fmt: skip
# Centre and bandwidth in Hz, level of the noise, whether voiced.
_FRICATIVES = np.array([
    [5600, 1600, 0.9, 0], [3000, 1300, 1.0, 0], [6200, 3500, 0.25, 0], [1600, 1500, 0.3, 0],
    [5400, 1600, 0.5, 1], [2900, 1300, 0.5, 1], [4500, 3500, 0.15, 1],
], float)  # fmt: skip
_BURSTS = np.array([900.0, 1800.0, 3900.0])


@dataclass(frozen=True)
class Voice:
    """What stays the same in everything one speaker says."""

    pitch: float
    """Median fundamental in Hz."""
    tract: float
    """Formants are multiplied by this: above 1 for a short vocal tract."""
    rate: float
    """Durations are divided by this."""
    breath: float
    """Level of noise in the voice."""
    open_quotient: float
    """Part of the glottal cycle that is open; a larger one sounds softer."""
    range_semitones: float
    """Spread of the intonation."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """A random adult or child."""
        height = rng.uniform(0, 1)  # 0 low voice and long tract, 1 high and short
        return cls(
            pitch=float(85 * 3.1 ** np.clip(height + rng.normal(0, 0.08), 0, 1)),
            tract=float(0.92 + 0.28 * np.clip(height + rng.normal(0, 0.12), 0, 1)),
            rate=float(rng.uniform(0.85, 1.25)),
            breath=float(rng.uniform(0.01, 0.06)),
            open_quotient=float(rng.uniform(0.5, 0.7)),
            range_semitones=float(rng.uniform(1.5, 4.0)),
        )


def utterance(voice: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Speech-like sound at 16 kHz, float32 (round(16000 * seconds),), rms 0.1 over sounding parts.

    Starts and ends with a short silence.
    """
    n = round(16000 * seconds)
    frames = -(-n // _HOP) + 2
    tracks = _score(voice, frames, rng)
    time = np.arange(n + 2 * _FRAME)
    at = time / _HOP

    def per_sample(track: np.ndarray) -> np.ndarray:
        return np.interp(at, np.arange(frames), track)

    pitch = per_sample(_intonation(voice, frames, rng))
    voiced = _pulses(pitch, voice, rng) * per_sample(tracks.voicing)
    noise = rng.standard_normal(len(time))
    breath = noise * voice.breath * per_sample(tracks.voicing)
    source = (voiced + breath).astype(np.float32)
    hiss = (noise * per_sample(tracks.frication)).astype(np.float32)
    wave = _filter(source, _tract_response(tracks.formants), frames)
    wave += _filter(hiss, _noise_response(tracks.centre, tracks.width), frames)
    wave = wave[_FRAME // 2 : _FRAME // 2 + n]
    edge = 320
    wave[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    wave[-edge:] *= np.linspace(1, 0, edge, dtype=np.float32)
    loud = np.abs(wave) > 0.05 * np.abs(wave).max()
    return wave * np.float32(0.1 / np.sqrt(np.mean(np.square(wave[loud]))))


@dataclass
class _Tracks:
    voicing: np.ndarray  # (T,)
    frication: np.ndarray  # (T,)
    centre: np.ndarray  # (T,)
    width: np.ndarray  # (T,)
    formants: np.ndarray  # (T, 7)


def _score(voice: Voice, frames: int, rng: np.random.Generator) -> _Tracks:
    """What sounds when: a row of targets for each sound, smoothed into tracks."""
    rows: list[tuple[int, float, float, float, float, np.ndarray]] = []
    total = 0

    def add(
        ms: float, voicing: float, hiss: float, centre: float, width: float, f: np.ndarray
    ) -> None:
        nonlocal total
        length = max(1, round(ms * rng.uniform(0.75, 1.35) / voice.rate / 10))
        rows.append((length, voicing, hiss, centre, width, f))
        total += length

    neutral = _VOWELS[8]
    add(100, 0, 0, 3000, 2000, neutral)
    stop = frames - 12
    while total < stop:
        for _ in range(int(rng.integers(1, 5))):  # the syllables of a word
            stress = rng.uniform(0.6, 1.0)
            vowel = _VOWELS[rng.integers(len(_VOWELS))]
            kind = rng.random()
            if kind < 0.3:
                centre, width, level, with_voice = _FRICATIVES[rng.integers(len(_FRICATIVES))]
                add(95, 0.35 * with_voice, 0.22 * level, centre, width, vowel)
            elif kind < 0.6:
                burst = _BURSTS[rng.integers(len(_BURSTS))]
                add(60, rng.choice([0.0, 0.08]), 0, burst, 1500, vowel)
                add(14, 0, 0.3, burst, 1500, vowel)
                if rng.random() < 0.5:
                    add(30, 0, 0.06, 1800, 3000, vowel)  # aspiration
            elif kind < 0.9:
                sonorant = _SONORANTS[rng.integers(len(_SONORANTS))]
                add(70, 0.5 * stress, 0, 3000, 2000, sonorant)
            add(110 + 70 * stress, stress, 0, 3000, 2000, vowel)
            if rng.random() < 0.25:  # a diphthong
                add(70, 0.85 * stress, 0, 3000, 2000, _VOWELS[rng.integers(len(_VOWELS))])
            if rng.random() < 0.3:
                add(65, 0.45 * stress, 0, 3000, 2000, _SONORANTS[rng.integers(3)])
        if rng.random() < 0.6:
            add(rng.choice([60, 120, 350], p=[0.5, 0.3, 0.2]), 0, 0, 3000, 2000, vowel)
    lengths = np.array([row[0] for row in rows])
    values = np.array([[*row[1:5], *row[5]] for row in rows])
    track = np.repeat(values, lengths, axis=0)[:stop]
    tail = np.repeat(track[-1:] * ([0, 0] + [1] * 5), frames - len(track), axis=0)
    track = np.concatenate([track, tail])  # (T, 7)
    formants = np.empty((frames, 7))
    formants[:, :3] = _smooth(track[:, 4:], 7)
    formants[:, 3:] = 3500, 4500, 5500, 6400
    return _Tracks(
        voicing=_smooth(track[:, :1], 5)[:, 0],
        frication=_smooth(track[:, 1:2], 3)[:, 0],
        centre=track[:, 2],
        width=track[:, 3],
        formants=np.minimum(formants * voice.tract, 7800),
    )


def _smooth(track: np.ndarray, width: int) -> np.ndarray:
    kernel = np.hanning(width + 2)[1:-1]
    padded = np.pad(track, ((width // 2, width // 2), (0, 0)), "edge")
    columns = [np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T]
    return np.stack(columns, axis=1)


def _intonation(voice: Voice, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Fundamental of each frame in Hz: phrases that fall, accents, a slow wander."""
    knots = np.arange(0, frames + 25, 25)  # four turning points a second
    semitones = rng.normal(0, voice.range_semitones, len(knots))
    phrase = 2.5 - 5 * ((knots + rng.integers(250)) % 250) / 250
    curve = np.interp(np.arange(frames), knots, semitones + phrase)
    return voice.pitch * 2 ** (_smooth(curve[:, None], 15)[:, 0] / 12)


def _pulses(pitch: np.ndarray, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Differentiated glottal flow at 16 kHz for a fundamental in Hz, (n,) -> (n,)."""
    # Jitter: the pitch wanders by about one percent, correlated over 5 ms.
    wander = np.repeat(rng.normal(0, 0.01, len(pitch) // 80 + 1), 80)[: len(pitch)]
    phase = np.cumsum(pitch * (1 + wander) / 16000) % 1
    rise = voice.open_quotient * 0.7
    fall = voice.open_quotient * 0.3
    flow = np.where(
        phase < rise,
        0.5 - 0.5 * np.cos(np.pi * phase / rise),
        np.where(phase < rise + fall, np.cos(np.pi / 2 * (phase - rise) / fall), 0),
    )
    return np.diff(flow, prepend=flow[0])


def _tract_response(formants: np.ndarray) -> np.ndarray:
    """Resonators in cascade, unity gain at 0 Hz: formants (T, K) in Hz -> (T, F)."""
    bandwidth = 50 + 0.04 * formants
    radius = np.exp(-np.pi * bandwidth / 16000)
    one = -2 * radius * np.cos(2 * np.pi * formants / 16000)
    two = radius * radius
    z = np.exp(-2j * np.pi * np.arange(_SIZE // 2 + 1) / _SIZE).astype(np.complex64)
    response = np.ones((len(formants), len(z)), np.complex64)
    for k in range(formants.shape[1]):
        a, b = one[:, k, None].astype(np.float32), two[:, k, None].astype(np.float32)
        response /= (1 + z * (a + z * b)) / (1 + a + b)
    return response


def _noise_response(centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Magnitude of a band around a centre: (T,) in Hz -> (T, F)."""
    hz = np.arange(_SIZE // 2 + 1, dtype=np.float32) * np.float32(16000 / _SIZE)
    away = (hz - centre[:, None].astype(np.float32)) / width[:, None].astype(np.float32)
    return 1 / (1 + 4 * away * away)


def _filter(source: np.ndarray, response: np.ndarray, frames: int) -> np.ndarray:
    """Filter frame by frame with a changing response and overlap-add, (n,) -> (n',)."""
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)  # sums to one at half overlap
    index = np.arange(frames)[:, None] * _HOP + np.arange(_FRAME)
    padded = np.pad(source, (_HOP, max(0, frames * _HOP + _FRAME - len(source))))
    parts = np.fft.irfft(np.fft.rfft(padded[index] * window, _SIZE) * response, _SIZE)
    blocks = -(-_SIZE // _HOP)
    parts = np.pad(parts.astype(np.float32), ((0, 0), (0, blocks * _HOP - _SIZE)))
    out = np.zeros((frames + blocks, _HOP), np.float32)
    for k in range(blocks):
        out[k : k + frames] += parts[:, k * _HOP : (k + 1) * _HOP]
    return out.reshape(-1)
