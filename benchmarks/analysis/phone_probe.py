"""A linear phone probe: what a linear classifier finds in the frames of a frozen model.

Multinomial logistic regression from one frame's features to the phone at the frame's centre, with
forced alignments as labels, silence left out. Speakers are left out in turn: the classifier is
fitted on the others and tested on the one it never saw, so that every frame is tested once.
Beside the hidden states of the model stand those of the same architecture with random weights
(what the architecture alone gives) and MFCC. The model's states come from the feature cache; those
of its twin, which nothing else asks for, do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.analysis.parts.linear import fit
from benchmarks.analysis.parts.phones import Span, label_at, read_phones
from distill import backbones
from distill.ssl.data.crops import FIELD, SAMPLE_RATE, STRIDE
from distill.ssl.units.mfcc import mfcc_with_deltas
from distill.teacher.contract import Teacher
from distill.teacher.features import Features
from distill.teacher.windows import hear
from distill.training.accuracy import interval
from enhance.audio import read as audio
from enhance.data.corpus.manifest import read_manifest
from enhance.errors import EnhanceError
from enhance.files import cache_folder
from enhance.progress import progress_bar

log = logging.getLogger("enhance")

_CONTEXT = 4  # frames to each side in the MFCC baseline with context


@dataclass(frozen=True)
class Aligned:
    """Speech frames of all utterances, silence left out."""

    waves: list[np.ndarray]
    """One (N,) per utterance."""
    speech: list[np.ndarray]
    """Numbers of its frames that hold a phone, (n,) each."""
    labels: np.ndarray
    """Phone of each such frame over all utterances, (M,)."""
    utterance: np.ndarray
    """Utterance of each, (M,)."""
    speaker: np.ndarray
    """Speaker of each, (M,), counted from 0."""
    phones: list[str]
    """Names of the phones."""
    speakers: list[str]
    """Names of the speakers."""


def phone_of_frames(rows: list[Span], frames: int) -> np.ndarray:
    """Phone at the centre of each frame of 400 samples every 320, (T,); see `label_at`."""
    return label_at(rows, (np.arange(frames) * STRIDE + FIELD / 2) / SAMPLE_RATE)


def read_aligned(folder: Path) -> Aligned:
    """Read a folder as `read_phones` does, with its waves.

    Raises
    ------
    EnhanceError
        If a file or column is missing, or there are fewer than two speakers.
    """
    clips, spans, phones = read_phones(folder)
    speakers = sorted({clip.speaker for clip in clips})
    if len(speakers) < 2:
        raise EnhanceError(f"{folder}: the phone probe leaves speakers out; two or more are needed")
    waves, speech, labels, utterance, speaker = [], [], [], [], []
    for u, clip in enumerate(clips):
        wave = audio.read(clip.path, SAMPLE_RATE)
        found = phone_of_frames(spans[u], len(mfcc_with_deltas(wave)))
        waves.append(wave)
        speech.append(np.flatnonzero(found >= 0))
        labels.append(found[found >= 0])
        utterance.append(np.full(len(labels[-1]), u))
        speaker.append(np.full(len(labels[-1]), speakers.index(clip.speaker)))
    return Aligned(
        waves,
        speech,
        np.concatenate(labels),
        np.concatenate(utterance),
        np.concatenate(speaker),
        phones,
        speakers,
    )


def classify(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Fit multinomial logistic regression and predict.

    Shape: train (M, D), labels (M,), test (S, D) to (S,).
    """
    return fit(train[None], labels, classes, seed)(test[None]).argmax(axis=1)


def hits(features: np.ndarray, data: Aligned, seed: int) -> np.ndarray:
    """Whether each frame's phone is found by a classifier that never saw its speaker.

    Shape: (M, D) to (M,) bool.
    """
    right = np.zeros(len(data.labels), bool)
    for left_out in range(len(data.speakers)):
        test = data.speaker == left_out
        guess = classify(
            features[~test], data.labels[~test], features[test], len(data.phones), seed
        )
        right[test] = guess == data.labels[test]
    return right


def majority_hits(data: Aligned) -> np.ndarray:
    """As `hits`, always guessing the most frequent phone of the other speakers."""
    right = np.zeros(len(data.labels), bool)
    for left_out in range(len(data.speakers)):
        test = data.speaker == left_out
        right[test] = data.labels[test] == np.bincount(data.labels[~test]).argmax()
    return right


def probe(
    model: Path, corpus: Path, *, seed: int = 0, cache: Path | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Measure a model folder on an aligned corpus.

    Parameters
    ----------
    model
        Model folder as `distill.ssl.families.transformer.save` writes it.
    corpus
        See `read_aligned`.
    seed
        Of the random twin's weights and the order of the frames.
    cache
        Folder of the feature cache; None for the user's.
    quiet
        No progress bar.

    Returns
    -------
    dict
        ``rows``: features, accuracy with 95 % interval (bootstrap over utterances), and the
        gain of the model's best layer over the best MFCC and over the random twin's best layer,
        paired by utterance.

    Raises
    ------
    EnhanceError
        If the model or the corpus cannot be read.
    """
    data = read_aligned(corpus)
    # No zeros on the left: the labels are those of frames that begin with the clip.
    teacher = backbones.load(model, str(model), 0)
    known = Features(teacher, "weighted", cache or cache_folder("features"))
    found: dict[str, np.ndarray] = {"majority guess": majority_hits(data)}
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("phone probe", total=2 + 2 * (teacher.num_layers + 1))
        bar.update(task, speed="")

        def measure(name: str, features: np.ndarray) -> None:
            found[name] = hits(features, data, seed)
            log.info("phone probe: %s %.4f", name, found[name].mean())
            bar.update(task, advance=1)

        cepstra = [mfcc_with_deltas(wave) for wave in data.waves]
        measure("MFCC, deltas", _pick(cepstra, data))
        wide = [_with_context(x, _CONTEXT) for x in cepstra]
        measure(f"MFCC, deltas, {_CONTEXT} frames each side", _pick(wide, data))
        for label, states in (("random twin", _twin(teacher, seed)), ("model", known.states)):
            spoken = [
                [state[chosen] for state in states(wave)]
                for wave, chosen in zip(data.waves, data.speech, strict=True)
            ]
            for layer, parts in enumerate(zip(*spoken, strict=True)):
                features = np.concatenate(parts).astype(np.float32)  # (M, D)
                measure(f"{label}, hidden state {layer}", features)
    counts = np.bincount(data.utterance)
    kept = counts > 0

    def cluster(right: np.ndarray) -> np.ndarray:
        return np.bincount(data.utterance, right, len(counts))[kept]

    def best(start: str) -> str:
        return max((n for n in found if n.startswith(start)), key=lambda n: found[n].mean())

    def gain(over: str) -> dict[str, Any]:
        difference = cluster(found[best("model")]) - cluster(found[over])
        return {"over": over, **interval(difference, counts[kept])}

    return {
        "corpus": sorted({clip.source for clip in read_manifest(corpus / "manifest.csv")}),
        "utterances": int(kept.sum()),
        "speakers": len(data.speakers),
        "frames": len(data.labels),
        "phones": len(data.phones),
        "split": "each speaker left out in turn",
        "rows": [
            {"features": name, **interval(cluster(right), counts[kept])}
            for name, right in found.items()
        ],
        "best": best("model"),
        "gains": [gain(best("MFCC")), gain("MFCC, deltas"), gain(best("random"))],
    }


def _twin(teacher: Teacher, seed: int) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Raw states of a clip by the architecture with random weights, as `Features.states`."""
    twin = teacher.twin(seed)

    def states(wave: np.ndarray) -> Sequence[np.ndarray]:
        heard = hear(twin, torch.from_numpy(wave)[None], lambda hidden: hidden[:, 0])
        return list(heard.numpy().astype(np.float16))

    return states


def _pick(features: list[np.ndarray], data: Aligned) -> np.ndarray:
    return np.concatenate([x[chosen] for x, chosen in zip(features, data.speech, strict=True)])


def _with_context(features: np.ndarray, reach: int) -> np.ndarray:
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(features)] for k in range(2 * reach + 1)], axis=1)
