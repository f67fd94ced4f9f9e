"""Units that are predicted: k-means of MFCC or of hidden states.

Hsu et al. 2021 (HuBERT), section II-A: cluster frame features without labels, first MFCC, then the
states of an inner layer of the model that the first iteration made. A unit is the index of the
nearest centroid; unit t belongs to the frame t of the model.

The MFCC follow Kaldi's ``compute-mfcc-feats`` with its defaults (which are also those of HuBERT's
first iteration, section III-A): frames that fit wholly inside the signal, constant offset removed,
pre-emphasis 0.97, Povey window, 512-point power spectrum, 23 mel bands from 20 Hz to Nyquist,
natural log, orthonormal DCT-II, 13 coefficients, liftering 22; torchaudio computes them. Only the
frame shift differs: 320 samples where HuBERT took 160, so that frame t covers samples
``[320 t, 320 t + 400)`` exactly as frame t of a wav2vec 2.0 style extractor.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from distill.ssl.data.crops import FIELD, SAMPLE_RATE, STRIDE, Crop, frame_count
from enhance.errors import EnhanceError
from enhance.files import atomic

COEFFICIENTS = 13


def mfcc(wave: np.ndarray) -> np.ndarray:
    """Thirteen cepstral coefficients of every 25 ms frame, 20 ms apart, of 16 kHz samples.

    Shape: (N,), full scale 1.0, to float32 (T, 13) with T = `frame_count` (N)
    """
    from torchaudio.compliance import kaldi

    if not frame_count(len(wave)):
        return np.zeros((0, COEFFICIENTS), np.float32)
    signal = torch.from_numpy(np.asarray(wave, np.float32))[None]
    ms = 1000 / SAMPLE_RATE
    return kaldi.mfcc(signal, frame_length=FIELD * ms, frame_shift=STRIDE * ms, dither=0.0).numpy()


def deltas(features: np.ndarray) -> np.ndarray:
    """Slope of each column over five frames by least squares, ends repeated. (T, D) -> (T, D)"""
    from torchaudio.functional import compute_deltas

    if not len(features):
        return np.zeros_like(features, np.float32)
    return compute_deltas(torch.from_numpy(features.T)).numpy().T


def mfcc_with_deltas(wave: np.ndarray) -> np.ndarray:
    """`mfcc` with first and second `deltas`: (N,) to (T, 39)."""
    static = mfcc(wave)
    first = deltas(static)
    return np.concatenate([static, first, deltas(first)], axis=1)


@dataclass(frozen=True)
class Units:
    """Centroids and the unit of every frame of every file."""

    centroids: np.ndarray
    """(K, D) float32."""
    labels: list[np.ndarray]
    """One (T,) int16 per file, in the order of the files that were clustered."""

    @property
    def count(self) -> int:
        """K, the number of units."""
        return len(self.centroids)

    def of(self, crops: Sequence[Crop]) -> np.ndarray:
        """Units of crops of one length: (B, T) int64."""
        rows = [self.labels[c.clip][c.start : c.start + c.frames] for c in crops]
        return np.stack(rows).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write centroids and labels as one safetensors file, atomically."""
        tensors = {
            "centroids": self.centroids,
            "labels": np.concatenate([np.zeros(0, np.int16), *self.labels]),
            "lengths": np.array([len(x) for x in self.labels], np.int64),
        }
        with atomic(path) as temporary:
            temporary.write_bytes(save(tensors))

    @classmethod
    def load(cls, path: Path) -> Units:
        """Read what `save` wrote; `EnhanceError` if the file is missing or of another kind."""
        try:
            tensors = load_file(path)
            ends = np.cumsum(tensors["lengths"])[:-1]
            return cls(tensors["centroids"], np.split(tensors["labels"], ends))
        except (OSError, KeyError, SafetensorError) as error:
            raise EnhanceError(
                f"{path}: no k-means units can be read from it ({error}); start without --resume"
            ) from error


def fit(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centroids of frames by mini-batch k-means, as HuBERT's recipe does.

    The seed is that of the initial centroids and the batches. One thread: the same centroids again.

    Shape: (T, D) to float32 (K, D)

    An `EnhanceError` if there are fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if len(features) < count:
        raise EnhanceError(
            f"k-means units: {len(features)} frames cannot make {count} units; "
            "give more audio or ask for fewer units"
        )
    kmeans = MiniBatchKMeans(
        n_clusters=count,
        batch_size=10_000,
        max_iter=50,
        tol=0.0,
        max_no_improvement=50,
        n_init=3,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(np.ascontiguousarray(features, np.float32))
    return np.ascontiguousarray(kmeans.cluster_centers_, np.float32)


def assign(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid of each frame: (T, D), (K, D) to (T,) int16."""
    features = np.asarray(features, np.float64)
    centroids = np.asarray(centroids, np.float64)
    # |x - c|^2 without |x|^2, which is the same for all centroids
    scores = (centroids**2).sum(axis=1) - 2.0 * features @ centroids.T  # (T, K)
    return scores.argmin(axis=1).astype(np.int16)


FIT_FRAMES = 200_000
"""Centroids are fitted on files drawn at random until there are so many frames (HuBERT: 10 %)."""


def fit_first(frames: Sequence[int], train: Sequence[int], seed: int) -> tuple[list[int], int]:
    """An order of all files in which those that centroids are fitted on come first; their number.

    ``frames`` has the length of each file; the files are drawn from ``train`` (those that are held
    back are not among them).
    """
    drawn = np.random.default_rng(seed).permutation(np.asarray(train, int)).tolist()
    enough = int(np.searchsorted(np.cumsum([frames[i] for i in drawn]), FIT_FRAMES)) + 1
    first = sorted(drawn[:enough])
    return [*first, *sorted(set(range(len(frames))) - set(first))], len(first)


def cluster(
    features: Iterable[np.ndarray], order: Sequence[int], first: int, count: int, seed: int
) -> Units | None:
    """Units of files whose features (T, D) come in turn, as by `fit_first`; see `fit`.

    Only those of the ``first`` files are kept, which the centroids are fitted on. None if the
    features end before the files do.
    """
    heard = iter(features)
    seen = [np.asarray(x, np.float32) for x in itertools.islice(heard, first)]
    if len(seen) < first:
        return None
    centroids = fit(np.concatenate(seen), count, seed)
    labels = [assign(x, centroids) for x in itertools.chain(seen, heard)]
    if len(labels) < len(order):
        return None
    return Units(centroids, [labels[i] for i in np.argsort(order)])
