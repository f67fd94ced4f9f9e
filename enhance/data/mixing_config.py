"""How mixtures are made: the settings of `enhance.data.mixing.Mixer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enhance.errors import EnhanceError


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
    """Chance of a second noise at the same time."""
    noise_layer_db: tuple[float, float] = (-10.0, 0.0)
    """Range of the second noise's level against the first."""
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

    def __post_init__(self) -> None:
        for name in ("snr", "level_dbfs", "join_gap_seconds", "noise_layer_db", "band_limit_hz"):
            low, high = getattr(self, name)
            if not low <= high:
                raise EnhanceError(f"mixing.{name} {low}, {high}: the first must not be larger")
        for name in ("silence", "noise_switch", "noise_layer", "equaliser", "band_limit", "rir"):
            if not 0 <= getattr(self, f"{name}_probability") <= 1:
                raise EnhanceError(f"mixing.{name}_probability: must be in [0, 1]")
        if not 0.1 <= self.segment_seconds <= 600:
            raise EnhanceError(f"mixing.segment_seconds {self.segment_seconds}: not in [0.1, 600]")
        if not 0 < self.rir_rt60[0] <= self.rir_rt60[1]:
            raise EnhanceError(f"mixing.rir_rt60 {self.rir_rt60}: need 0 < first <= second")
        if self.join_gap_seconds[0] < 0 or self.band_limit_hz[0] <= 0:
            raise EnhanceError("mixing.join_gap_seconds and band_limit_hz must not be negative")
        if self.rir_count < 1 or self.early_ms < 0 or self.equaliser_db < 0:
            raise EnhanceError("mixing.rir_count, early_ms and equaliser_db must not be negative")
