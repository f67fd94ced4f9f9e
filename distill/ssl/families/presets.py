"""Named settings of pre-training runs; the preset named like a family is its default."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "wav2vec": {"family": "wav2vec"},
    "vq-wav2vec": {"family": "vq-wav2vec"},
    # Departs from the paper where a few hundred steps on one CPU core learnt nothing: the front
    # end learns units of MFCC first, and the diversity loss counts five times as much.
    "wav2vec2": {"family": "wav2vec2", "front_end_steps": 600, "diversity_weight": 0.5},
    "hubert": {
        "family": "hubert",
        "disturbance": {"noise_probability": 0.0, "speech_probability": 0.0},
    },
    "wavlm": {
        "family": "wavlm",
        "disturbance": {
            "noise_probability": 0.25,
            "noise_snr": [-5.0, 20.0],
            "speech_probability": 0.15,
            "speech_overlap": [0.25, 0.75],
            "reverberation_probability": 0.2,
        },
    },
    # The recipe of the teacher that ships in distill/models/mini-wavlm, step by step.
    "mini-wavlm": {"family": "wavlm", "minutes": 0.0, "steps": [2065, 3785], "units": [100, 200]},
}
"""Settings of each preset over the defaults of its family's configuration class."""
