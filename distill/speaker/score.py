"""How well an encoder tells unseen speakers apart, beside what needs no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.backbones.ecapa_model import Ecapa
from distill.speaker.data import name_of, speech_of
from distill.speaker.eer import Verification, verify
from distill.training.accuracy import evaluating
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError

Embed = Callable[[Tensor], Tensor]
"""A wave (1, N) to a vector (1, E)."""


def open_evaluation(corpus: Path, source: str, quiet: bool = False) -> ClipStore:
    """Clean speech of known speakers to be verified.

    An `EnhanceError` if there are fewer than two speakers.
    """
    clips, _ = speech_of(corpus, source, True, quiet)
    return ClipStore(clips, name="speakers to verify", quiet=quiet)


def check_unseen(train: tuple[Clip, ...], evaluation: tuple[Clip, ...]) -> None:
    """Refuse speakers that were trained on, naming one: their EER would be flattering."""
    both = {name_of(c) for c in train if c.speaker} & {name_of(c) for c in evaluation}
    if both:
        raise EnhanceError(
            f"--eval: {len(both)} speakers are trained on as well (first: {min(both)}); name "
            "other speakers, or a --source that leaves them out"
        )


@torch.no_grad()
def measure(store: ClipStore, embed: Embed) -> Verification:
    """EER on all pairs of the clips of a store, each whole and alone."""
    waves = (torch.from_numpy(store.whole(i))[None] for i in range(len(store)))
    vectors = np.stack([embed(wave)[0].numpy() for wave in waves])
    return verify(vectors, [name_of(c) for c in store.clips])


def of_encoder(model: Ecapa) -> Embed:
    """Embeddings of an encoder in eval mode; its mode is put back."""

    def embed(wave: Tensor) -> Tensor:
        with evaluating(model):
            return model(wave)

    return embed


def of_mean_spectrum(train: ClipStore, model: Ecapa) -> Embed:
    """The mean log-mel spectrum of a clip, less that of the training clips: no learning.

    The simplest thing that tells voices (and microphones) apart.
    """

    def spectrum(wave: Tensor) -> Tensor:
        return model.fbank(wave).mean(1)  # (1, M)

    every = max(1, len(train) // 200)
    waves = (torch.from_numpy(train.whole(i))[None] for i in range(0, len(train), every))
    centre = torch.stack([spectrum(wave) for wave in waves]).mean(0)  # (1, M)
    return lambda wave: spectrum(wave) - centre


def compare(model: Ecapa, untrained: Ecapa, train: ClipStore, evaluation: ClipStore) -> list[Any]:
    """Rows of a table: the trained encoder, the same with random weights, the mean spectrum."""
    rows = {
        "trained": of_encoder(model),
        "random weights": of_encoder(untrained),
        "mean log-mel spectrum": of_mean_spectrum(train, model),
    }
    return [
        {"embedding": name, **asdict(measure(evaluation, embed))} for name, embed in rows.items()
    ]
