"""Other people, children and creatures at a distance: voices that the target stays clear of.

Each is speech of another speaker, perhaps with pitch and formants moved, heard through a room's
late reverberation and dull, as through a distance or a door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from enhance.config.mixing import MixingConfig
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing import augment, filters, rooms
from enhance.data.mixing.pieces import assemble, at_level
from enhance.data.mixing.recipe import Distant, Piece
from enhance.data.mixing.rooms import Response

_DIRECT_DB = (-20.0, -3.0)
_CUTOFF_HZ = (900.0, 5000.0)
_SECOND_DB = (-6.0, 0.0)
_FADE = 80  # samples


def draw(
    config: MixingConfig,
    clips: Sequence[int],
    pieces_of: Callable[[int, int], tuple[Piece, ...]],
    segment: int,
    responses: int,
    rng: np.random.Generator,
) -> tuple[Distant, ...]:
    """Decide how clips, one for each voice, are heard in a mixture of ``segment`` samples.

    ``pieces_of`` a clip and a number of samples are audible pieces that fill them, none of a silent
    voice. There are ``responses`` of rooms; half of the voices take one, where there are any.
    """
    voices = []
    for i, clip in enumerate(clips):
        shift = 1.0
        if rng.random() < config.distant_shift_probability:
            shift = float(np.exp(rng.uniform(*np.log(config.distant_shift))))
        rir = int(rng.integers(responses)) if responses and rng.random() < 0.5 else None
        voices.append(
            Distant(
                pieces=pieces_of(clip, augment.stretch(segment, shift)),
                db=float(rng.uniform(*_SECOND_DB)) if i else 0.0,
                speed=shift,
                # Vocal tracts differ less than pitches do; the rest of them goes the other way.
                formant=shift ** float(rng.uniform(-0.6, 0.0)),
                cutoff_hz=float(np.exp(rng.uniform(*np.log(_CUTOFF_HZ)))),
                rir=rir,
                tail=int(rng.integers(2**32)),
                direct_db=float(rng.uniform(*_DIRECT_DB)),
            )
        )
    return tuple(voice for voice in voices if voice.pieces)


def render(
    voices: Sequence[Distant],
    speech: ClipStore,
    responses: Sequence[Response],
    segment: int,
    early: int,
    cutoff_hz: float | None,
) -> np.ndarray:
    """The sum of the voices, float32 (segment,); ``cutoff_hz`` is the mixture's band limit."""
    rate = speech.sample_rate
    total = np.zeros(segment, np.float32)
    for voice in voices:
        wave = assemble(speech, voice.pieces, augment.stretch(segment, voice.speed), _FADE)
        if voice.speed != 1:
            wave = augment.speed(wave, voice.speed, segment)
        if voice.formant != 1:
            wave = augment.shift_formants(wave, voice.formant, rate)
        if voice.rir is None:
            room = rooms.tail(voice.tail, rate).distant(0, voice.direct_db)
        else:
            room = responses[voice.rir].distant(early, voice.direct_db)
        cutoff = voice.cutoff_hz if cutoff_hz is None else min(voice.cutoff_hz, cutoff_hz)
        _, _, wave = filters.apply(total, wave, ((), ()), cutoff, None, 0, rate, room)
        total += wave if not total.any() else at_level(wave, total, voice.db)
    return total
