"""How mixtures are made: the settings of `enhance.data.mixing.Mixer`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from enhance.errors import EnhanceError

_RANGES = (
    "snr", "level_dbfs", "join_gap_seconds", "noise_layer_db", "band_limit_hz", "easy_snr", "speed",
    "noise_speed", "formant", "clip_level", "babble_voices", "babble_db", "distant_voice_db",
    "distant_shift",
)  # fmt: skip


@dataclass(frozen=True)
class MixingConfig:
    """How mixtures are made."""

    snr: tuple[float, float] = (-5.0, 5.0)
    """Range of the signal-to-noise ratio in dB, uniform: 10 log10(sum s^2 / sum n^2) over the
    whole segment, with s the speech that arrives (reverberation included)."""
    level_dbfs: tuple[float, float] = (-35.0, -15.0)
    """Range of the speech's level, uniform: rms over the segment in dB against full scale. A
    mixture that would pass 0.99 of full scale is turned down, speech and noise alike."""
    segment_seconds: float = 3.0
    """Length of a mixture."""
    join_gap_seconds: tuple[float, float] = (0.08, 0.4)
    """Range of the pause between clips, where one is too short and others of the same speaker
    (where unknown: of the same source) are joined to it."""
    silence_probability: float = 0.1
    """Chance that a clip shorter than the segment stands in silence, with nothing joined."""
    silence_dbfs: float = -60.0
    """A crop of speech (or noise) whose rms is below this is drawn again."""
    noise_switch_probability: float = 0.1
    """Chance that another recording of noise takes over within the segment."""
    noise_layer_probability: float = 0.1
    """Chance of a second noise at the same time, and of a third where `noise_layers` allows it
    and there is a second."""
    noise_layers: int = 2
    """Noises at the same time at most, 1 to 3."""
    noise_layer_db: tuple[float, float] = (-10.0, 0.0)
    """Range of each further noise's level against what is there."""
    equaliser_probability: float = 0.0
    """Chance of a random smooth equaliser on speech (the target included), and another on
    noise."""
    equaliser_db: float = 6.0
    """Largest rise or fall of the equaliser."""
    band_limit_probability: float = 0.0
    """Chance that everything, the target included, ends at a cutoff, as on a narrow channel."""
    band_limit_hz: tuple[float, float] = (3000.0, 7500.0)
    """Range of that cutoff."""
    rir_probability: float = 0.0
    """Chance that speech is heard in a room; the target keeps the direct path and the early
    part."""
    rir_source: Literal["simulated", "folder"] = "simulated"
    """Room impulse responses by the image-source method, or the files of `data.rirs`."""
    rir_count: int = 64
    """Simulated responses to draw from."""
    rir_rt60: tuple[float, float] = (0.15, 0.6)
    """Range of the simulated rooms' reverberation time in seconds."""
    early_ms: float = 50.0
    """The early part of a room's response ends this long after the direct path."""
    easy_probability: float = 0.0
    """Chance that the SNR is drawn from `easy_snr` instead, so that clean speech passes
    unharmed."""
    easy_snr: tuple[float, float] = (10.0, 30.0)
    """Range of the SNR of easy mixtures in dB."""
    speed_probability: float = 0.0
    """Chance that speech, the target included, is played faster or slower: tempo, pitch and
    formants change together."""
    speed: tuple[float, float] = (0.85, 1.15)
    """Range of that factor; below 1 it also empties the band above itself times half the rate."""
    noise_speed_probability: float = 0.0
    """Chance of the same for noise (babble keeps its speed)."""
    noise_speed: tuple[float, float] = (0.7, 1.4)
    """Range of the noise's factor."""
    formant_probability: float = 0.0
    """Chance that the speech's formants are moved, in the target as well; pitch and timing
    stay."""
    formant: tuple[float, float] = (0.87, 1.15)
    """Range of the factor: above 1 as of a shorter vocal tract."""
    gain_probability: float = 0.0
    """Chance that the speech's gain (the target's included) changes slowly, as of a talker who
    moves; and the same chance for the noise. SNR and level are those of the whole segment."""
    gain_db: float = 6.0
    """Largest rise or fall of that gain; about every 0.75 s another is drawn."""
    clip_probability: float = 0.0
    """Chance that the mixture, not its target, is clipped; the SNR is that before clipping."""
    clip_level: tuple[float, float] = (0.2, 0.8)
    """Range of the level where it clips, as a fraction of its peak."""
    babble_probability: float = 0.0
    """Chance of babble from the speech of others. It is never made of clips that might be the
    target's speaker; where a clip has too few others, there is none."""
    babble_voices: tuple[int, int] = (3, 8)
    """Range of the number of voices."""
    babble_alone_probability: float = 0.5
    """Chance that babble takes the place of the noise, instead of being added to it."""
    babble_db: tuple[float, float] = (-10.0, 10.0)
    """Range of the babble's level against the noise, where it is added."""
    synthetic_noise_probability: float = 0.0
    """Chance, for each noise, that one from a formula (see `enhance.data.formulas`) takes the place
    of the recording."""
    noise_rir_probability: float = 0.0
    """Chance that noise and babble are heard in a room of their own."""
    distant_voice_probability: float = 0.0
    """Chance of one or two other people, or creatures with such voices, at a distance: in their
    late reverberation, and dull. As for babble, they are never the target's speaker."""
    distant_voice_db: tuple[float, float] = (8.0, 20.0)
    """Range of how far they stay below the speech, in dB. They are part of the noise: the rest of
    it is what the SNR leaves, and where that is above this, they are alone and at the SNR."""
    distant_shift_probability: float = 0.3
    """Chance, for each of them, that pitch and formants are moved as far as `distant_shift`."""
    distant_shift: tuple[float, float] = (0.6, 1.7)
    """Range of that factor; above about 1.3 they sound like children or small animals."""

    @property
    def natural_share(self) -> float:
        """Expected share of mixtures whose target is the file times one gain."""
        chances = (
            self.rir_probability,
            self.equaliser_probability,
            self.band_limit_probability,
            self.speed_probability,
            self.formant_probability,
            self.gain_probability,
        )
        return math.prod(1 - chance for chance in chances)

    def for_validation(self, snr_db: float) -> MixingConfig:
        """The same at one SNR, and without what exists to widen training: easy mixtures, changes
        of speed, formants and gain, clipping, babble, formulas, rooms of noise, distant voices."""
        return replace(
            self,
            snr=(snr_db, snr_db),
            easy_probability=0.0,
            speed_probability=0.0,
            noise_speed_probability=0.0,
            formant_probability=0.0,
            gain_probability=0.0,
            clip_probability=0.0,
            babble_probability=0.0,
            synthetic_noise_probability=0.0,
            noise_rir_probability=0.0,
            distant_voice_probability=0.0,
        )

    def __post_init__(self) -> None:
        for name in _RANGES:
            low, high = getattr(self, name)
            if not low <= high:
                raise EnhanceError(f"mixing.{name} {low}, {high}: the first must not be larger")
        for name in (field.name for field in fields(self)):
            if name.endswith("_probability") and not 0 <= getattr(self, name) <= 1:
                raise EnhanceError(f"mixing.{name}: must be in [0, 1]")
        if not 0.1 <= self.segment_seconds <= 600:
            raise EnhanceError(f"mixing.segment_seconds {self.segment_seconds}: not in [0.1, 600]")
        if not 0 < self.rir_rt60[0] <= self.rir_rt60[1]:
            raise EnhanceError(f"mixing.rir_rt60 {self.rir_rt60}: need 0 < first <= second")
        if self.join_gap_seconds[0] < 0 or self.band_limit_hz[0] <= 0:
            raise EnhanceError("mixing.join_gap_seconds and band_limit_hz must not be negative")
        if self.rir_count < 1 or self.early_ms < 0 or self.equaliser_db < 0:
            raise EnhanceError("mixing.rir_count, early_ms and equaliser_db must not be negative")
        for name in ("speed", "noise_speed", "formant", "distant_shift"):
            if not (getattr(self, name)[0] >= 0.5 and getattr(self, name)[1] <= 2):
                raise EnhanceError(f"mixing.{name} {getattr(self, name)}: must be within 0.5 and 2")
        if not 0 <= self.gain_db <= 40:
            raise EnhanceError(f"mixing.gain_db {self.gain_db}: must be within 0 and 40")
        if not (self.clip_level[0] > 0 and self.clip_level[1] <= 1):
            raise EnhanceError(f"mixing.clip_level {self.clip_level}: must be above 0, at most 1")
        if self.babble_voices[0] < 1:
            raise EnhanceError("mixing.babble_voices: must be at least one")
        if self.distant_voice_db[0] <= 0:
            raise EnhanceError("mixing.distant_voice_db: must be positive, the target stays clear")
        if not 1 <= self.noise_layers <= 3:
            raise EnhanceError(f"mixing.noise_layers {self.noise_layers}: must be 1, 2 or 3")
