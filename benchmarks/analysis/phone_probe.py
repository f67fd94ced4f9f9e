"""A linear phone probe of a model folder: task ``phone`` of the probes, beside MFCC.

As `benchmarks.analysis.probe` asks it, of all frames that hold a phone, each speaker left out in
turn, so that every frame is tested once. Beside the hidden states of the model stand those of the
same architecture with random weights (what the architecture alone gives) and MFCC.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.parts import heard
from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.probes.answers import answer, guess, hear
from benchmarks.analysis.probes.read import of_frames
from benchmarks.analysis.probes.tasks import TASKS, Data
from distill.ssl.data.crops import FIELD, STRIDE
from distill.ssl.data.units import mfcc_with_deltas
from distill.teacher.frames import FrameGrid
from distill.training.accuracy import interval

log = logging.getLogger("enhance")

_CONTEXT = 4  # frames to each side in the MFCC baseline with context


def questions(corpus: Path, work: Work) -> Data:
    """What `probe` asks on a corpus, which it refuses for the same reasons: no audio is read."""
    return of_frames("phone", TASKS["phone"], corpus, sys.maxsize, work)


def probe(model: Path, corpus: Path, work: Work) -> dict[str, Any]:
    """Measure a model folder (`distill.ssl.families.transformer.save`) on an aligned corpus.

    The corpus is as `benchmarks.analysis.parts.phones.read_phones` has it; the seed of ``work`` is
    that of the random twin's weights and of the order of the frames. ``rows`` are features,
    accuracy with 95 % interval (over utterances), and ``gains`` those of the model's best
    layer over the best MFCC and over the random twin's best layer, paired by utterance. An
    `EnhanceError` says that the model or the corpus cannot be read, or of fewer than two speakers.
    """
    seed = work.seed
    data = questions(corpus, work)
    speakers, counts = len(set(data.groups)), np.bincount(data.owner)
    hits = {"majority guess": guess(data, speakers, seed).values * counts}  # of each utterance

    def measure(name: str, features: np.ndarray) -> None:
        hits[name] = answer(data, [0], features[None], speakers, seed).values * counts
        log.info("phone probe: %s %.4f", name, hits[name].sum() / counts.sum())

    cepstra = [mfcc_with_deltas(heard.wave_of(clip.path)) for clip in data.clips]
    chosen = [heard.nearest(FrameGrid(0, STRIDE, FIELD), seconds, len(x))
              for x, seconds in zip(cepstra, data.times or (), strict=True)]  # fmt: skip
    for name, reach in (("", 0), (f", {_CONTEXT} frames each side", _CONTEXT)):
        wide = [_with_context(x, reach)[own] for x, own in zip(cepstra, chosen, strict=True)]
        measure(f"MFCC, deltas{name}", np.concatenate(wide))
    for label, backbone in (("random twin", f"random:{model}:{seed}"), ("model", str(model))):
        for layer, state in enumerate(hear(data, backbone, "mean", work)[0]):
            measure(f"{label}, hidden state {layer}", state)

    def best(start: str) -> str:
        return max((name for name in hits if name.startswith(start)), key=lambda n: hits[n].sum())

    return {
        "corpus": sorted({clip.source for clip in data.clips}),
        "utterances": len(data.clips),
        "speakers": speakers,
        "frames": len(data.labels),
        "phones": len(data.classes),
        "split": "each speaker left out in turn",
        "rows": [{"features": name, **interval(own, counts)} for name, own in hits.items()],
        "best": best("model"),
        "gains": [
            {"over": over, **interval(hits[best("model")] - hits[over], counts)}
            for over in (best("MFCC"), "MFCC, deltas", best("random"))
        ],
    }


def _with_context(features: np.ndarray, reach: int) -> np.ndarray:
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(features)] for k in range(2 * reach + 1)], axis=1)
