"""What a mixture is: the decision (`Recipe`, plain numbers) and the result (`Mixture`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A stretch of a clip in a segment, in samples before any change of speed."""

    clip: int
    """Number of the clip in its store."""
    clip_start: int
    """First sample of the clip that is used."""
    segment_start: int
    """Where it stands in the segment."""
    length: int
    """Samples."""


@dataclass(frozen=True)
class Formula:
    """A stretch of noise from a formula, in samples before any change of speed."""

    kind: str
    """See `enhance.data.formulas.KINDS`."""
    seed: int
    segment_start: int
    length: int
    held_out: bool = False
    """From the streams that training never draws."""


@dataclass(frozen=True)
class Distant:
    """A voice at a distance."""

    pieces: tuple[Piece, ...]
    """Of speech, before any change of speed."""
    db: float
    """Level against the first of them."""
    speed: float
    """Factor of pitch, tempo and formants together."""
    formant: float
    """Factor of the formants after that."""
    cutoff_hz: float
    rir: int | None
    """Number of the room impulse response; None for a simulated tail."""
    tail: int
    """Seed of that tail."""
    direct_db: float
    """Level that is left of a response's direct and early part."""


@dataclass(frozen=True)
class Recipe:
    """Everything that is random in one mixture, as plain numbers."""

    epoch: int
    index: int
    speech: tuple[Piece, ...]
    noise: tuple[tuple[Piece | Formula, ...], ...]
    """One row for each layer, of recordings or of formulas; none where babble stands alone."""
    layer_db: tuple[float, ...]
    """Level of each layer against those before it."""
    snr_db: float
    level_dbfs: float
    rir: int | None = None
    """Number of the room impulse response."""
    speech_equaliser_db: tuple[float, ...] = ()
    noise_equaliser_db: tuple[float, ...] = ()
    cutoff_hz: float | None = None
    speech_speed: float = 1.0
    noise_speed: float = 1.0
    formant: float = 1.0
    """Factor of the speech's formants."""
    speech_gain_db: tuple[float, ...] = ()
    """Points of the gain over the segment; see `augment.vary_gain`."""
    noise_gain_db: tuple[float, ...] = ()
    clip_level: float | None = None
    """Where the mixture clips, as a fraction of its peak."""
    babble: tuple[tuple[Piece, ...], ...] = ()
    """One row of pieces of speech for each voice."""
    voice_db: tuple[float, ...] = ()
    """Level of each voice."""
    babble_db: float = 0.0
    """Level of the babble against the noise, where there is some."""
    noise_rir: int | None = None
    """Number of the room impulse response of noise and babble."""
    distant: tuple[Distant, ...] = ()
    distant_db: float = 0.0
    """How far the distant voices stay below the speech; see `MixingConfig.distant_voice_db`."""

    @property
    def altered(self) -> bool:
        """See `Mixture.altered`."""
        changed = self.rir is not None or self.speech_equaliser_db or self.cutoff_hz is not None
        voice = self.speech_speed != 1 or self.formant != 1
        return bool(changed or voice or self.speech_gain_db)

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
    """Where the speech comes from; elsewhere the target is silent. Where its speed was changed,
    start and length in the segment are those after it."""
    altered: bool
    """Whether the target's spectrum, timing or course of level differs from the file's (room,
    equaliser, band limit, speed, formants, gain); else it is the file times one gain."""
    epoch: int
    index: int
    snr_db: float
    files: tuple[str, ...]
    """Paths of speech, then noise, then babble, then distant voices; ``formula:KIND`` for noise
    from a formula."""


def in_segment(pieces: tuple[Piece, ...], speed: float, n: int) -> tuple[Piece, ...]:
    """Pieces where they stand after a change of speed."""
    if speed == 1:
        return pieces
    moved = []
    for piece in pieces:
        start = round(piece.segment_start / speed)
        end = min(round((piece.segment_start + piece.length) / speed), n)
        if start < end:
            moved.append(Piece(piece.clip, piece.clip_start, start, end - start))
    return tuple(moved)
