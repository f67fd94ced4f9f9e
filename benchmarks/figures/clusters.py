"""Clips that share a noise recording or a speaker are not independent: standard errors of means.

The two factors cross. The variance of a mean is Cameron, Gelbach and Miller's (2011, J. Bus. Econ.
Stat. 29, 238): that of sums over noises, plus that of sums over speakers, less that of sums over
cells of both, and never less than the larger of the two. Residuals carry the leverage of their
cluster (CR2, Bell and McCaffrey 2002, Surv. Methodol. 28, 169); the t quantile has the degrees of
freedom of the *effective* number of clusters, n^2 / sum k^2 less one, which a cluster that holds a
quarter of the clips brings down. Simulated on the 25 noises and 17 speakers of the dev set it
covers in 93 to 99 % of the cases, where clips taken as independent cover in 40 to 70 %.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from enhance.data.corpus.manifest import UNKNOWN

FACTORS = {"noise": ("noise_name", "noise_files"), "speaker": ("speaker",)}
"""What clips are clustered by, and the labels that tell it, the better first."""

Clusters = Mapping[str, Sequence[Hashable]]
"""By factor: the cluster of each value."""


def clusters_of(labels: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Clusters of clips by the labels of a set; a factor that no clip tells is absent.

    Unknown speakers (or noises) of one source count as one: who cannot be told apart may be the
    same. A factor of one cluster is left out too: nothing can be said of others.
    """
    found: dict[str, list[str]] = {}
    for factor, keys in FACTORS.items():
        known = [key for key in keys if any(_told(row, key) for row in labels)]
        if known:
            names = [_told(r, known[0]) or f"? {r.get('source', '')}" for r in labels]
            if len(set(names)) > 1:
                found[factor] = names
    return found


def coarse(labels: Sequence[Mapping[str, str]], most: int) -> dict[str, list[int]]:
    """Clusters of clips by number, at most ``most`` of each factor: sums by cluster stay few.

    As `clusters_of`; beyond ``most`` several become one, which is as valid and has fewer degrees of
    freedom. Where no factor is told, clips are dealt out as if independent: factor ``clip``.
    """
    named: Clusters = clusters_of(labels) or {"clip": range(len(labels))}
    found = {}
    for factor, names in named.items():
        place = {name: i % most for i, name in enumerate(dict.fromkeys(names))}
        found[factor] = [place[name] for name in names]
    return found


def _told(labels: Mapping[str, str], key: str) -> str:
    value = str(labels.get(key, "")).strip()
    return "" if value.lower() in UNKNOWN else value


def clustering(clusters: Clusters) -> str:
    """How intervals were found, in words; that clips count as independent is said openly."""
    told = " and ".join(f"{name} ({len(set(names))})" for name, names in clusters.items())
    if not told:
        return "Student's t over clips as if independent (no noise and no speaker is told apart)"
    missing = [name for name in FACTORS if name not in clusters]
    more = f"; no {missing[0]} is told apart" if missing else ""
    return f"t over clips clustered by {told}{more}"


def clustered_error(
    parts: Sequence[np.ndarray],
    clusters: Sequence[Clusters],
    counts: Sequence[np.ndarray] | None = None,
) -> tuple[float, float]:
    """Standard error and degrees of freedom of the sum of the means of some groups of clips.

    Parameters
    ----------
    parts
        Values of each group (n,).
    clusters
        Of each group: the same factors, at most two, each of two clusters or more there. Without
        any, every clip is a cluster of its own.
    counts
        Of each group, how many clips each value is the mean of, (n,); None for one each.
    """
    counts = [np.ones(x.size) for x in parts] if counts is None else counts
    factors = list(clusters[0])
    if not factors:
        factors = ["clip"]
        ends = np.cumsum([0, *(x.size for x in parts)])
        clusters = [{"clip": list(range(i, j))} for i, j in itertools.pairwise(ends)]
    elif len(factors) == 2:
        factors.append("cell")
        clusters = [{**c, "cell": list(zip(*c.values(), strict=True))} for c in clusters]
    variance, freedom = {}, []
    for factor in factors:
        sums: dict[Hashable, float] = {}
        own = []
        for values, named, many in zip(parts, clusters, counts, strict=True):
            names, index = _codes(named[factor])
            mean, clips = np.average(values, weights=many), many.sum()
            residuals = np.bincount(index, (values - mean) * many) / clips
            share = np.bincount(index, many) / clips
            scores = residuals / np.sqrt(1 - share)
            for name, score in zip(names, scores, strict=True):
                sums[name] = sums.get(name, 0.0) + float(score)
            free = max(1.0, 1 / float(np.sum(share**2)) - 1)
            own.append((len(names), float(np.sum(scores**2)), free))
        variance[factor] = sum(score**2 for score in sums.values())
        if factor != "cell":
            apart = sum(count for count, _, _ in own) == len(sums)
            freedom.append(_freedom([(v, f) for _, v, f in own], apart))
    total = max(variance[name] for name in factors if name != "cell")
    if "cell" in variance:
        first, second, cell = variance.values()
        total = max(total, first + second - cell)
    return math.sqrt(total), min(freedom)


def _freedom(parts: Sequence[tuple[float, float]], apart: bool) -> float:
    """Of a sum: Welch's (1947) where no cluster is in two parts, else the least of them."""
    total = sum(variance for variance, _ in parts)
    if not apart or len(parts) == 1 or total == 0:
        return min(freedom for _, freedom in parts)
    return total**2 / sum(variance**2 / freedom for variance, freedom in parts)


def _codes(names: Sequence[Hashable]) -> tuple[list[Hashable], np.ndarray]:
    """Distinct names, and the number of each value's name."""
    distinct = list(dict.fromkeys(names))
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([place[name] for name in names])
