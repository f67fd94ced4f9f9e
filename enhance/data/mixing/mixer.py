"""Noisy mixtures in the manner of the DNS challenge, each a pure function of (seed, epoch, index).

`Mixer.draw` decides (which clips, where, how loud: a `Recipe` of plain numbers), `Mixer.render`
carries it out. The random numbers of a mixture come from generators seeded by the three numbers
alone: mixtures do not depend on order, workers, processes or what was mixed before.

Speech is joined, then changed in speed, formants and gain, then filtered and heard in a room.
Noises, of recordings or of formulas, are added up, then changed in speed, joined by babble, changed
in gain, filtered and heard in a room; voices at a distance join them. Both are brought to their SNR
and level, and the sum is clipped; what is off by default among these is decided by generators of
their own, so that the rest is drawn as without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.clips import draw_clip, source_weights
from enhance.data.mixing import augment, distant, filters
from enhance.data.mixing.babble import Voices
from enhance.data.mixing.pieces import (
    assemble,
    at_level,
    audible_crop,
    beside,
    draw_formulas,
    energy,
    name,
    noise_pieces,
    speech_pieces,
)
from enhance.data.mixing.recipe import Distant, Mixture, Piece, Recipe, in_segment
from enhance.data.mixing.rooms import Response, bank
from enhance.errors import EnhanceError

ATTEMPTS = 20
"""Crops drawn by chance until one is not silent; then audible ones are searched."""
_FADE = 80  # samples of fade where noise pieces meet inside a segment
_PEAK = np.float32(0.99)
_VOICE_DB = (-6.0, 0.0)  # levels of the voices in babble


class Mixer:
    """Draws and renders mixtures of two stores of one sample rate.

    Parameters
    ----------
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
        If stores differ in rate, responses or babble are asked for and cannot be had, or a number
        is negative.
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
        elif max(config.rir_probability, config.noise_rir_probability) > 0 and not responses:
            raise EnhanceError(
                "mixing.rir_probability or noise_rir_probability is set, but no room impulse "
                "response given"
            )
        self.responses = list(responses)
        self._speech_weights = source_weights(speech, balance)
        self._noise_weights = source_weights(noise, balance)
        self._companions: dict[tuple[str, str], list[int]] = {}
        for i, clip in enumerate(speech.clips):
            self._companions.setdefault((clip.source, clip.speaker), []).append(i)
        fewest = {
            "babble": config.babble_voices[0] if config.babble_probability else 0,
            "distant_voice": 1 if config.distant_voice_probability else 0,
        }
        self._voices = Voices(speech, balance) if any(fewest.values()) else None
        most = max(map(self._voices.most, range(len(speech))), default=0) if self._voices else 0
        for what, count in fewest.items():
            if most < count:
                hint = ", or lower mixing.babble_voices" if what == "babble" else ""
                raise EnhanceError(
                    f"mixing.{what}_probability is set, but no clip of speech has {count} speakers "
                    f"beside its own; name more data{hint}"
                )

    def __call__(self, epoch: int, index: int) -> Mixture:
        """Mixture ``index`` of ``epoch``."""
        return self.render(self.draw(epoch, index))

    def using(self, config: MixingConfig) -> Mixer:
        """The same mixer, clips and rooms, with other chances and ranges; what is 0 stays 0."""
        other = copy.copy(self)
        other.config = config
        return other

    def draw(self, epoch: int, index: int) -> Recipe:
        """Decide what mixture ``index`` of ``epoch`` is; an `EnhanceError` if 20 crops in a row are
        silent, and no crop of any clip is audible."""
        c, n = self.config, self.segment
        key = [self.seed, epoch, index]
        rng = np.random.default_rng(np.random.SeedSequence(key))
        more = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(1,)))
        speech_speed = _perhaps(more, c.speed_probability, c.speed) or 1.0
        noise_speed = _perhaps(more, c.noise_speed_probability, c.noise_speed) or 1.0
        formant = _perhaps(more, c.formant_probability, c.formant) or 1.0
        points = augment.gain_points(c.segment_seconds)
        gains = [_curve(more, c.gain_probability, c.gain_db, points) for _ in range(2)]
        clip_level = _perhaps(more, c.clip_probability, c.clip_level)
        easy_snr = _perhaps(more, c.easy_probability, c.easy_snr)

        speech = self._audible(
            self.speech, self._draw_speech, augment.stretch(n, speech_speed), rng
        )
        noise_length = augment.stretch(n, noise_speed)
        layers = 2 if rng.random() < c.noise_layer_probability and c.noise_layers > 1 else 1
        noise = tuple(
            self._audible(self.noise, self._draw_noise, noise_length, rng) for _ in range(layers)
        )
        layer_db = (0.0, *(float(rng.uniform(*c.noise_layer_db)) for _ in range(layers - 1)))
        snr_db, level_dbfs = float(rng.uniform(*c.snr)), float(rng.uniform(*c.level_dbfs))
        rir = None
        if rng.random() < c.rir_probability:
            rir = int(rng.integers(len(self.responses)))
        points = len(filters.EQUALISER_HZ)
        curves = [_curve(rng, c.equaliser_probability, c.equaliser_db, points) for _ in range(2)]
        cutoff = None
        if rng.random() < c.band_limit_probability:
            cutoff = float(rng.uniform(*c.band_limit_hz))

        if layers == 2 and c.noise_layers > 2 and more.random() < c.noise_layer_probability:
            noise += (self._audible(self.noise, self._draw_noise, noise_length, more),)
            layer_db += (float(more.uniform(*c.noise_layer_db)),)
        babble: tuple[tuple[Piece, ...], ...] = ()
        babble_db = 0.0
        if more.random() < c.babble_probability:
            babble = self._draw_babble(speech[0].clip, more)
            alone = more.random() < c.babble_alone_probability
            if babble and alone:
                noise, layer_db = (), ()
            elif babble:
                babble_db = float(more.uniform(*c.babble_db))
        rooms, others, made = (
            np.random.default_rng(np.random.SeedSequence(key, spawn_key=(k,))) for k in (2, 3, 4)
        )
        noise_rir = None
        if rooms.random() < c.noise_rir_probability:
            noise_rir = int(rooms.integers(len(self.responses)))
        distant_db = float(others.uniform(*c.distant_voice_db))
        voices = self._draw_distant(speech[0].clip, others)
        drawn = [
            draw_formulas(made, noise_length, c.noise_switch_probability)
            if made.random() < c.synthetic_noise_probability
            else ()
            for _ in noise
        ]
        return Recipe(
            epoch=epoch,
            index=index,
            speech=speech,
            noise=tuple(other or row for other, row in zip(drawn, noise, strict=True)),
            layer_db=layer_db,
            snr_db=snr_db if easy_snr is None else easy_snr,
            level_dbfs=level_dbfs,
            rir=rir,
            speech_equaliser_db=curves[0],
            noise_equaliser_db=curves[1],
            cutoff_hz=cutoff,
            speech_speed=speech_speed,
            noise_speed=noise_speed,
            formant=formant,
            speech_gain_db=gains[0],
            noise_gain_db=gains[1],
            clip_level=clip_level,
            babble=babble,
            voice_db=tuple(float(more.uniform(*_VOICE_DB)) for _ in babble),
            babble_db=babble_db,
            noise_rir=noise_rir,
            distant=voices,
            distant_db=distant_db if voices else 0.0,
        )

    def render(self, recipe: Recipe) -> Mixture:
        """Carry out a recipe; an `EnhanceError` if a file has gone, or nothing is left of speech or
        noise."""
        early = round(self.config.early_ms * self.sample_rate / 1000)
        speech, clean, noise = filters.apply(
            self._spoken(recipe),
            self._disturbance(recipe),
            (recipe.speech_equaliser_db, recipe.noise_equaliser_db),
            recipe.cutoff_hz,
            None if recipe.rir is None else self.responses[recipe.rir],
            early,
            self.sample_rate,
            None if recipe.noise_rir is None else self.responses[recipe.noise_rir],
        )
        others = (*recipe.babble, *(voice.pieces for voice in recipe.distant))
        parts = ((self.speech, (recipe.speech,)), (self.noise, recipe.noise), (self.speech, others))
        files = tuple(name(store, piece) for store, rows in parts for row in rows for piece in row)
        if recipe.distant:
            voices = distant.render(
                recipe.distant, self.speech, self.responses, self.segment, early, recipe.cutoff_hz
            )
            noise = beside(noise, voices, min(recipe.snr_db - recipe.distant_db, 0.0))
        speech_energy, noise_energy = energy(speech), energy(noise)
        if not (speech_energy > 0 and noise_energy > 0):
            raise EnhanceError(f"{files[0]}, {files[-1]}: nothing is left after filtering")
        gain = 10 ** (recipe.level_dbfs / 20) / (speech_energy / self.segment) ** 0.5
        noise_gain = gain * (speech_energy / noise_energy * 10 ** (-recipe.snr_db / 10)) ** 0.5
        noise *= np.float32(noise_gain)
        noisy = speech * np.float32(gain)
        noisy += noise
        clean = clean * np.float32(gain)
        if recipe.clip_level is not None:
            augment.clip(noisy, recipe.clip_level)
        peak = max(noisy.max(), -noisy.min(), clean.max(), -clean.min())
        if peak > _PEAK:
            noisy *= _PEAK / peak
            clean *= _PEAK / peak
        return Mixture(
            noisy=noisy,
            clean=clean,
            pieces=in_segment(recipe.speech, recipe.speech_speed, self.segment),
            altered=recipe.altered,
            epoch=recipe.epoch,
            index=recipe.index,
            snr_db=recipe.snr_db,
            files=files,
        )

    def _audible(
        self,
        store: ClipStore,
        draw: Callable[[np.random.Generator, int], tuple[Piece, ...]],
        n: int,
        rng: np.random.Generator,
        *,
        voice: bool = False,
    ) -> tuple[Piece, ...]:
        """An audible crop; ``voice`` keeps to one voice, and gives none where that is silent."""
        floor = 10 ** (self.config.silence_dbfs / 10) * n
        for _ in range(ATTEMPTS):
            pieces = draw(rng, n)
            if energy(assemble(store, pieces, n)) >= floor:
                return pieces
        step, fill = (self.alignment, False) if store is self.speech else (1, True)
        found = audible_crop(store, pieces[0].clip, n, floor, step, rng, fill=fill, voice=voice)
        if found or voice:
            return found
        raise EnhanceError(
            f"{store.clips[pieces[0].clip].path} and all other clips of its kind are quieter "
            f"than {self.config.silence_dbfs} dBFS throughout; name others, or lower "
            "mixing.silence_dbfs"
        )

    def _draw_speech(self, rng: np.random.Generator, n: int) -> tuple[Piece, ...]:
        return self._spoken_from(draw_clip(self._speech_weights, rng)[1], rng, n)

    def _spoken_from(self, i: int, rng: np.random.Generator, n: int) -> tuple[Piece, ...]:
        clip = self.speech.clips[i]
        companions = self._companions[clip.source, clip.speaker]
        return speech_pieces(self.speech, i, companions, self.config, self.alignment, n, rng)

    def _draw_noise(self, rng: np.random.Generator, n: int) -> tuple[Piece, ...]:
        chance = self.config.noise_switch_probability
        return noise_pieces(self.noise, self._noise_weights, chance, n, rng)

    def _draw_babble(self, target: int, rng: np.random.Generator) -> tuple[tuple[Piece, ...], ...]:
        """A row for each voice behind clip ``target``; none where there are too few others."""
        fewest, most = self.config.babble_voices
        if self._voices is None or self._voices.most(target) < fewest:
            return ()
        most = int(min(most, self._voices.most(target)))
        clips = self._voices.draw(target, int(rng.integers(fewest, most + 1)), rng)
        rows = (
            self._audible(
                self.speech, partial(self._spoken_from, clip), self.segment, rng, voice=True
            )
            for clip in clips
        )
        return tuple(row for row in rows if row)

    def _draw_distant(self, target: int, rng: np.random.Generator) -> tuple[Distant, ...]:
        """Voices far behind clip ``target``; none where there is no other."""
        wanted, count = rng.random() < self.config.distant_voice_probability, rng.integers(1, 3)
        most = self._voices.most(target) if wanted and self._voices else 0
        if self._voices is None or most < 1:
            return ()
        clips = self._voices.draw(target, min(int(count), int(min(2, most))), rng)

        def pieces_of(clip: int, n: int) -> tuple[Piece, ...]:
            spoken = partial(self._spoken_from, clip)
            return self._audible(self.speech, spoken, n, rng, voice=True)

        return distant.draw(self.config, clips, pieces_of, self.segment, len(self.responses), rng)

    def _spoken(self, recipe: Recipe) -> np.ndarray:
        """Speech as it leaves the mouth."""
        n, speed = self.segment, recipe.speech_speed
        speech = assemble(self.speech, recipe.speech, augment.stretch(n, speed))
        if speed != 1:
            speech = augment.speed(speech, speed, n)
        if recipe.formant != 1:
            speech = augment.shift_formants(speech, recipe.formant, self.sample_rate)
        if recipe.speech_gain_db:
            augment.vary_gain(speech, recipe.speech_gain_db)
        return speech

    def _disturbance(self, recipe: Recipe) -> np.ndarray:
        """Noise and babble before any filter."""
        n, speed = self.segment, recipe.noise_speed
        length = augment.stretch(n, speed)
        layers = [assemble(self.noise, row, length, _FADE) for row in recipe.noise]
        voices = [assemble(self.speech, row, n, _FADE) for row in recipe.babble]
        if layers:
            noise = layers[0]
            for layer, db in zip(layers[1:], recipe.layer_db[1:], strict=True):
                noise += at_level(layer, noise, db)
            if speed != 1:
                noise = augment.speed(noise, speed, n)
        if voices:
            babble = np.zeros(n, np.float32)
            for voice, db in zip(voices, recipe.voice_db, strict=True):
                voice *= np.float32(10 ** (db / 20) / energy(voice) ** 0.5)
                babble += voice
            if layers:
                noise += at_level(babble, noise, recipe.babble_db)
            else:
                noise = babble
        if recipe.noise_gain_db:
            augment.vary_gain(noise, recipe.noise_gain_db)
        return noise


def _perhaps(rng: np.random.Generator, chance: float, bounds: tuple[float, float]) -> float | None:
    # Both numbers are drawn always, so that one setting does not move the draws of the next.
    wanted, value = rng.random() < chance, float(rng.uniform(*bounds))
    return value if wanted else None


def _curve(
    rng: np.random.Generator, chance: float, most_db: float, points: int
) -> tuple[float, ...]:
    """Points of an equaliser or a gain, or none; drawn always, as in `_perhaps`."""
    wanted, curve = rng.random() < chance, rng.uniform(-most_db, most_db, points)
    return tuple(curve.tolist()) if wanted else ()
