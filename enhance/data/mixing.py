"""Noisy mixtures in the manner of the DNS challenge, each a pure function of (seed, epoch, index).

`Mixer.draw` decides (which clips, where, how loud: a `Recipe` of plain numbers), `Mixer.render`
carries it out. The random numbers of a mixture come from a generator seeded by the three numbers
alone: mixtures do not depend on order, workers, processes or what was mixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from enhance.data.dataset import ClipStore, source_weights
from enhance.data.mixing_config import MixingConfig
from enhance.data.rooms import Response, bank, longest
from enhance.errors import EnhanceError

__all__ = ["Mixer", "MixingConfig", "Mixture", "Piece", "Recipe", "bank"]

ATTEMPTS = 20
"""Crops drawn at most until one is not silent."""
_SHORTEST = 0.25  # seconds: less room than this at a segment's end is left silent
_FADE = 80  # samples of fade where noise pieces meet inside a segment
_PEAK = np.float32(0.99)
_EQUALISER_HZ = (60.0, 180.0, 500.0, 1300.0, 3200.0, 7500.0)
_FILTER_TAIL = 2048  # samples of room for the ringing of equaliser and band limit


@dataclass(frozen=True)
class Piece:
    """A stretch of a clip in a segment, in samples."""

    clip: int
    """Number of the clip in its store."""
    clip_start: int
    """First sample of the clip that is used."""
    segment_start: int
    """Where it stands in the segment."""
    length: int
    """Samples."""


@dataclass(frozen=True)
class Recipe:
    """Everything that is random in one mixture, as plain numbers."""

    epoch: int
    index: int
    speech: tuple[Piece, ...]
    noise: tuple[tuple[Piece, ...], ...]
    """One row of pieces for each layer."""
    layer_db: tuple[float, ...]
    """Level of each layer against the first."""
    snr_db: float
    level_dbfs: float
    rir: int | None = None
    """Number of the room impulse response."""
    speech_equaliser_db: tuple[float, ...] = ()
    noise_equaliser_db: tuple[float, ...] = ()
    cutoff_hz: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Mixture:
    """One training example."""

    noisy: np.ndarray
    """Float32 (N,)."""
    clean: np.ndarray
    """The target, float32 (N,), aligned with `noisy`."""
    pieces: tuple[Piece, ...]
    """Where the speech comes from; elsewhere the target is silent."""
    altered: bool
    """Whether the target's spectrum or timing differs from the file's (room, equaliser, band
    limit); else it is the file times one gain."""
    epoch: int
    index: int
    snr_db: float
    files: tuple[str, ...]
    """Paths of speech, then noise."""


class Mixer:
    """Draws and renders mixtures.

    Parameters
    ----------
    speech, noise
        Stores of one sample rate.
    config
        How to mix.
    seed
        Not negative.
    balance
        A source is drawn with probability in proportion to its hours to this power.
    alignment
        ``piece.segment_start - piece.clip_start`` is a multiple of this many samples: a
        teacher's stride, so that its targets, computed on whole files, can be cut.
    responses
        Room impulse responses to draw from; None lets `bank` simulate them, where
        ``config.rir_probability`` is positive.

    Raises
    ------
    EnhanceError
        If stores differ in rate, responses are asked for and cannot be had, or a number is
        negative.
    """

    def __init__(
        self,
        speech: ClipStore,
        noise: ClipStore,
        config: MixingConfig,
        seed: int = 0,
        balance: float = 0.5,
        alignment: int = 320,
        responses: Sequence[Response] | None = None,
    ) -> None:
        if speech.sample_rate != noise.sample_rate:
            raise EnhanceError(
                f"speech at {speech.sample_rate} Hz, noise at {noise.sample_rate} Hz: "
                "a mixer needs one rate"
            )
        if seed < 0 or alignment < 1:
            raise EnhanceError(f"seed {seed}, alignment {alignment}: must not be negative or zero")
        self.speech, self.noise, self.config = speech, noise, config
        self.seed, self.alignment = seed, alignment
        self.sample_rate = speech.sample_rate
        self.segment = round(config.segment_seconds * self.sample_rate)
        if responses is None:
            responses = bank(config, "", seed, self.sample_rate, quiet=True)
        elif config.rir_probability > 0 and not responses:
            raise EnhanceError("mixing.rir_probability is set, but no room impulse response given")
        self.responses = list(responses)
        self._speech_weights = source_weights(speech, balance)
        self._noise_weights = source_weights(noise, balance)
        self._companions: dict[tuple[str, str], list[int]] = {}
        for i, clip in enumerate(speech.clips):
            self._companions.setdefault((clip.source, clip.speaker), []).append(i)

    def __call__(self, epoch: int, index: int) -> Mixture:
        """Mixture ``index`` of ``epoch``."""
        return self.render(self.draw(epoch, index))

    def draw(self, epoch: int, index: int) -> Recipe:
        """Decide what mixture ``index`` of ``epoch`` is.

        Raises
        ------
        EnhanceError
            If 20 crops in a row are silent.
        """
        c = self.config
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, index]))
        speech = self._audible(self.speech, self._draw_speech, rng)
        layers = 2 if rng.random() < c.noise_layer_probability else 1
        noise = tuple(self._audible(self.noise, self._draw_noise, rng) for _ in range(layers))
        layer_db = (0.0, *(float(rng.uniform(*c.noise_layer_db)) for _ in range(layers - 1)))
        snr_db, level_dbfs = float(rng.uniform(*c.snr)), float(rng.uniform(*c.level_dbfs))
        rir = None
        if rng.random() < c.rir_probability:
            rir = int(rng.integers(len(self.responses)))
        curves = [self._draw_curve(rng) for _ in range(2)]
        cutoff = None
        if rng.random() < c.band_limit_probability:
            cutoff = float(rng.uniform(*c.band_limit_hz))
        return Recipe(
            epoch=epoch,
            index=index,
            speech=speech,
            noise=noise,
            layer_db=layer_db,
            snr_db=snr_db,
            level_dbfs=level_dbfs,
            rir=rir,
            speech_equaliser_db=curves[0],
            noise_equaliser_db=curves[1],
            cutoff_hz=cutoff,
        )

    def render(self, recipe: Recipe) -> Mixture:
        """Carry out a recipe.

        Raises
        ------
        EnhanceError
            If a file has gone, or the equaliser and band limit leave nothing of speech or noise.
        """
        speech = assemble(self.speech, recipe.speech, self.segment)
        layers = [assemble(self.noise, row, self.segment, _FADE) for row in recipe.noise]
        noise = layers[0]
        for layer, db in zip(layers[1:], recipe.layer_db[1:], strict=True):
            noise += layer * np.float32(10 ** (db / 20) * (_energy(noise) / _energy(layer)) ** 0.5)
        speech, clean, noise = self._filtered(recipe, speech, noise)
        files = tuple(
            str(store.clips[piece.clip].path)
            for store, rows in ((self.speech, (recipe.speech,)), (self.noise, recipe.noise))
            for row in rows
            for piece in row
        )
        speech_energy, noise_energy = _energy(speech), _energy(noise)
        if not (speech_energy > 0 and noise_energy > 0):
            raise EnhanceError(f"{files[0]}, {files[-1]}: nothing is left after filtering")
        gain = 10 ** (recipe.level_dbfs / 20) / (speech_energy / self.segment) ** 0.5
        noise_gain = gain * (speech_energy / noise_energy * 10 ** (-recipe.snr_db / 10)) ** 0.5
        noise *= np.float32(noise_gain)
        noisy = speech * np.float32(gain)
        noisy += noise
        clean = clean * np.float32(gain)
        peak = max(noisy.max(), -noisy.min(), clean.max(), -clean.min())
        if peak > _PEAK:
            noisy *= _PEAK / peak
            clean *= _PEAK / peak
        return Mixture(
            noisy=noisy,
            clean=clean,
            pieces=recipe.speech,
            altered=bool(recipe.rir is not None or recipe.speech_equaliser_db or recipe.cutoff_hz),
            epoch=recipe.epoch,
            index=recipe.index,
            snr_db=recipe.snr_db,
            files=files,
        )

    def _audible(
        self,
        store: ClipStore,
        draw: Callable[[np.random.Generator], tuple[Piece, ...]],
        rng: np.random.Generator,
    ) -> tuple[Piece, ...]:
        floor = 10 ** (self.config.silence_dbfs / 10) * self.segment
        for _ in range(ATTEMPTS):
            pieces = draw(rng)
            if _energy(assemble(store, pieces, self.segment)) >= floor:
                return pieces
        raise EnhanceError(
            f"{store.clips[pieces[0].clip].path} and {ATTEMPTS - 1} crops before it are quieter "
            f"than {self.config.silence_dbfs} dBFS; leave silent files out, or lower "
            "mixing.silence_dbfs"
        )

    def _draw_speech(self, rng: np.random.Generator) -> tuple[Piece, ...]:
        n, a, c = self.segment, self.alignment, self.config
        _, i = _draw_clip(self._speech_weights, rng)
        length = self.speech.length(i)
        if length >= n:
            return (Piece(i, int(rng.integers((length - n) // a + 1)) * a, 0, n),)
        if rng.random() < c.silence_probability:
            return (Piece(i, 0, int(rng.integers((n - length) // a + 1)) * a, length),)
        clip = self.speech.clips[i]
        companions = self._companions[clip.source, clip.speaker]
        pieces, position = [], 0
        start = int(rng.integers(length // 4 // a + 1)) * a
        while position == 0 or n - position >= _SHORTEST * self.sample_rate:
            take = min(self.speech.length(i) - start, n - position)
            pieces.append(Piece(i, start, position, take))
            gap = rng.uniform(*c.join_gap_seconds) * self.sample_rate
            position = -(-(position + take + max(1, int(gap))) // a) * a
            i, start = companions[int(rng.integers(len(companions)))], 0
        return tuple(pieces)

    def _draw_noise(self, rng: np.random.Generator) -> tuple[Piece, ...]:
        n = self.segment
        source, i = _draw_clip(self._noise_weights, rng)
        turn = n
        if rng.random() < self.config.noise_switch_probability:
            turn = int(rng.uniform(0.25, 0.75) * n)
        pieces: list[Piece] = []
        position = 0
        while position < n:
            length = self.noise.length(i)
            take = min(length, (turn if position < turn else n) - position)
            start = int(rng.integers(length - take + 1))
            pieces.append(Piece(i, start, position, take))
            position += take
            if position == turn:
                source, i = _draw_clip(self._noise_weights, rng)
            else:
                i = _clip_of(self._noise_weights, source, rng)
        return tuple(pieces)

    def _draw_curve(self, rng: np.random.Generator) -> tuple[float, ...]:
        c = self.config
        wanted = rng.random() < c.equaliser_probability
        points = rng.uniform(-c.equaliser_db, c.equaliser_db, len(_EQUALISER_HZ))
        return tuple(points.tolist()) if wanted else ()

    def _filtered(
        self, recipe: Recipe, speech: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Speech that arrives, target, noise."""
        curves = (recipe.speech_equaliser_db, recipe.noise_equaliser_db)
        if recipe.rir is None and not any(curves) and recipe.cutoff_hz is None:
            return speech, speech, noise
        from scipy import fft

        n = self.segment
        size = fft.next_fast_len(n + max(_FILTER_TAIL, longest(self.responses)), real=True)
        band = _band(size, self.sample_rate, recipe.cutoff_hz)
        if curves[1] or recipe.cutoff_hz is not None:
            noise_gain = band * _equaliser(size, self.sample_rate, curves[1])
            noise = fft.irfft(fft.rfft(noise, size) * noise_gain, size)[:n]
        spectrum = fft.rfft(speech, size)
        spectrum *= band * _equaliser(size, self.sample_rate, curves[0])
        if recipe.rir is None:
            if not curves[0] and recipe.cutoff_hz is None:
                return speech, speech, noise
            speech = fft.irfft(spectrum, size)[:n]
            return speech, speech, noise
        response = self.responses[recipe.rir]
        early = response.early(round(self.config.early_ms * self.sample_rate / 1000))
        end = response.direct + n
        clean = fft.irfft(spectrum * fft.rfft(early, size), size)[response.direct : end]
        spectrum *= fft.rfft(response.wave, size)
        return fft.irfft(spectrum, size)[response.direct : end], clean, noise


def assemble(store: ClipStore, pieces: tuple[Piece, ...], length: int, fade: int = 0) -> np.ndarray:
    """Pieces at their places, silence elsewhere: float32 (length,).

    ``fade`` samples of linear fade soften edges inside the segment.
    """
    if len(pieces) == 1 and pieces[0].length == length:
        return store.read(pieces[0].clip, pieces[0].clip_start, length)
    wave = np.zeros(length, np.float32)
    for piece in pieces:
        part = store.read(piece.clip, piece.clip_start, piece.length)
        end = piece.segment_start + piece.length
        ramp = np.linspace(0, 1, min(fade, piece.length), dtype=np.float32)
        if piece.segment_start > 0 and len(ramp):
            part[: len(ramp)] *= ramp
        if end < length and len(ramp):
            part[-len(ramp) :] *= ramp[::-1]
        wave[piece.segment_start : end] = part
    return wave


def _draw_clip(
    weights: tuple[list[np.ndarray], list[np.ndarray], np.ndarray], rng: np.random.Generator
) -> tuple[int, int]:
    source = min(int(np.searchsorted(weights[2], rng.random(), "right")), len(weights[2]) - 1)
    return source, _clip_of(weights, source, rng)


def _clip_of(
    weights: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
    source: int,
    rng: np.random.Generator,
) -> int:
    members, ends = weights[0][source], weights[1][source]
    return int(members[np.searchsorted(ends, rng.integers(ends[-1]), "right")])


def _energy(wave: np.ndarray) -> float:
    # Pairwise summation: exact to 1e-7, and the same however many threads a BLAS would take.
    return float(np.square(wave).sum())


def _band(size: int, sample_rate: int, cutoff: float | None) -> np.ndarray:
    hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate / size)
    if cutoff is None:
        return np.ones_like(hz)
    # Raised cosine over a tenth of the cutoff.
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((hz / np.float32(cutoff) - 1) / 0.1, 0, 1))


def _equaliser(size: int, sample_rate: int, curve: tuple[float, ...]) -> np.ndarray:
    hz = np.arange(size // 2 + 1, dtype=np.float32) * np.float32(sample_rate / size)
    if not curve:
        return np.ones_like(hz)
    db = np.interp(np.log(np.maximum(hz, 1)), np.log(_EQUALISER_HZ), curve)
    return (10 ** (db / 20)).astype(np.float32)
