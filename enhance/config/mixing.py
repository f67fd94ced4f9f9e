"""How mixtures are made: the settings of `enhance.data.mixing.mixer.Mixer`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

from enhance.config.checked import (
    Field,
    PositiveFloat,
    PositiveInt,
    Rising,
    Share,
    checked,
)

Decibel = Annotated[float, Field(ge=-120, le=120)]
"""Beyond these float32 loses the quieter of two sounds; far beyond, 10 ** (dB / 10) overflows."""
Decibels = Annotated[tuple[Decibel, Decibel], Rising]
Above = Annotated[tuple[PositiveFloat, float], Rising]
"""A range above 0."""
Gap = Annotated[float, Field(ge=0, le=600)]
Factor = Annotated[float, Field(ge=0.5, le=2)]
Factors = Annotated[tuple[Factor, Factor], Rising]


@checked
class MixingConfig:
    """How mixtures are made."""

    snr: Decibels = (-5.0, 5.0)
    """Range of the signal-to-noise ratio in dB, uniform: 10 log10(sum s^2 / sum n^2) over the
    whole segment, with s the speech that arrives (reverberation included)."""
    level_dbfs: Decibels = (-35.0, -15.0)
    """Range of the speech's level, uniform: rms over the segment in dB against full scale. A
    mixture that would pass 0.99 of full scale is turned down, speech and noise alike."""
    segment_seconds: Annotated[float, Field(ge=0.1, le=600)] = 3.0
    """Length of a mixture."""
    join_gap_seconds: Annotated[tuple[Gap, Gap], Rising] = (0.08, 0.4)
    """Range of the pause between clips, where one is too short and others of the same speaker
    (where unknown: of the same source) are joined to it."""
    silence_probability: Share = 0.1
    """Chance that a clip shorter than the segment stands in silence, with nothing joined."""
    silence_dbfs: Decibel = -60.0
    """A crop of speech (or noise) whose rms is below this is drawn again."""
    noise_switch_probability: Share = 0.1
    """Chance that another recording of noise takes over within the segment."""
    noise_layer_probability: Share = 0.1
    """Chance of a second noise at the same time, and of a third where `noise_layers` allows it
    and there is a second."""
    noise_layers: Annotated[int, Field(ge=1, le=3)] = 2
    """Noises at the same time at most, 1 to 3."""
    noise_layer_db: Decibels = (-10.0, 0.0)
    """Range of each further noise's level against what is there."""
    equaliser_probability: Share = 0.0
    """Chance of a random smooth equaliser on speech (the target included), and another on
    noise."""
    equaliser_db: Annotated[float, Field(ge=0, le=120)] = 6.0
    """Largest rise or fall of the equaliser."""
    band_limit_probability: Share = 0.0
    """Chance that everything, the target included, ends at a cutoff, as on a narrow channel."""
    band_limit_hz: Above = (3000.0, 7500.0)
    """Range of that cutoff."""
    rir_probability: Share = 0.0
    """Chance that speech is heard in a room; the target keeps the direct path and the early
    part."""
    rir_source: Literal["simulated", "folder"] = "simulated"
    """Room impulse responses by the image-source method, or the files of `data.rirs`."""
    rir_count: PositiveInt = 64
    """Simulated responses to draw from."""
    rir_rt60: Above = (0.15, 0.6)
    """Range of the simulated rooms' reverberation time in seconds."""
    early_ms: Annotated[float, Field(ge=0, le=10_000)] = 50.0
    """The early part of a room's response ends this long after the direct path."""
    easy_probability: Share = 0.0
    """Chance that the SNR is drawn from `easy_snr` instead, so that clean speech passes
    unharmed."""
    easy_snr: Decibels = (10.0, 30.0)
    """Range of the SNR of easy mixtures in dB."""
    speed_probability: Share = 0.0
    """Chance that speech, the target included, is played faster or slower: tempo, pitch and
    formants change together."""
    speed: Factors = (0.85, 1.15)
    """Range of that factor; below 1 it also empties the band above itself times half the rate."""
    noise_speed_probability: Share = 0.0
    """Chance of the same for noise (babble keeps its speed)."""
    noise_speed: Factors = (0.7, 1.4)
    """Range of the noise's factor."""
    formant_probability: Share = 0.0
    """Chance that the speech's formants are moved, in the target as well; pitch and timing
    stay."""
    formant: Factors = (0.87, 1.15)
    """Range of the factor: above 1 as of a shorter vocal tract."""
    gain_probability: Share = 0.0
    """Chance that the speech's gain (the target's included) changes slowly, as of a talker who
    moves; and the same chance for the noise. SNR and level are those of the whole segment."""
    gain_db: Annotated[float, Field(ge=0, le=40)] = 6.0
    """Largest rise or fall of that gain; about every 0.75 s another is drawn."""
    clip_probability: Share = 0.0
    """Chance that the mixture, not its target, is clipped; the SNR is that before clipping."""
    clip_level: Annotated[tuple[PositiveFloat, Share], Rising] = (0.2, 0.8)
    """Range of the level where it clips, as a fraction of its peak."""
    babble_probability: Share = 0.0
    """Chance of babble from the speech of others. It is never made of clips that might be the
    target's speaker; where a clip has too few others, there is none."""
    babble_voices: Annotated[tuple[PositiveInt, int], Rising] = (3, 8)
    """Range of the number of voices."""
    babble_alone_probability: Share = 0.5
    """Chance that babble takes the place of the noise, instead of being added to it."""
    babble_db: Decibels = (-10.0, 10.0)
    """Range of the babble's level against the noise, where it is added."""
    synthetic_noise_probability: Share = 0.0
    """Chance, for each noise, that one from a formula (see `enhance.data.formulas`) takes the place
    of the recording."""
    noise_rir_probability: Share = 0.0
    """Chance that noise and babble are heard in a room of their own."""
    distant_voice_probability: Share = 0.0
    """Chance of one or two other people, or creatures with such voices, at a distance: in their
    late reverberation, and dull. As for babble, they are never the target's speaker."""
    distant_voice_db: Annotated[tuple[Annotated[Decibel, Field(gt=0)], Decibel], Rising] = (
        8.0,
        20.0,
    )
    """Range of how far they stay below the speech, in dB. They are part of the noise: the rest of
    it is what the SNR leaves, and where that is above this, they are alone and at the SNR."""
    distant_shift_probability: Share = 0.3
    """Chance, for each of them, that pitch and formants are moved as far as `distant_shift`."""
    distant_shift: Factors = (0.6, 1.7)
    """Range of that factor; above about 1.3 they sound like children or small animals."""

    @property
    def natural_share(self) -> float:
        """Expected share of mixtures whose target is the file times one gain."""
        altering = ("rir", "equaliser", "band_limit", "speed", "formant", "gain")
        return math.prod(1 - getattr(self, f"{name}_probability") for name in altering)

    def for_validation(self, snr_db: float) -> MixingConfig:
        """The same at one SNR, and without what exists to widen training."""
        widening = (
            "easy", "speed", "noise_speed", "formant", "gain", "clip", "babble",
            "synthetic_noise", "noise_rir", "distant_voice",
        )  # fmt: skip
        without: dict[str, Any] = {f"{name}_probability": 0.0 for name in widening}
        return replace(self, snr=(snr_db, snr_db), **without)
