"""Mixers over small stores, with one short room."""

from __future__ import annotations

import numpy as np

from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.data.mixing.rooms import Response

PLAIN = MixingConfig(segment_seconds=1.0)
ROOM = Response(np.array([0, 0, 1, 0, 0.4, *np.zeros(1200), 0.3], np.float32), 2)


def mixer_of(
    stores: tuple[ClipStore, ClipStore], config: MixingConfig, seed: int = 0, alignment: int = 320
) -> Mixer:
    return Mixer(*stores, config, seed=seed, alignment=alignment, responses=[ROOM] * 3)
