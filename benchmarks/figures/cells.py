"""Means over clips with intervals that know clusters, from sums: memory does not grow with clips.

The standard error of a mean (`benchmarks.figures.clusters`) needs the sum of the values of each
cluster, not the values: clips of the same clusters may be added up beforehand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.figures.statistics import Interval, mean_interval


class Cells:
    """Sums of the arrays of clips, by the clusters of each.

    Parameters
    ----------
    factors
        By factor, the cluster of each clip (`benchmarks.figures.clusters.coarse`).
    """

    def __init__(self, factors: dict[str, list[int]]) -> None:
        self.factors = factors
        self._sums: dict[tuple[int, ...], np.ndarray] = {}
        self._counts: dict[tuple[int, ...], int] = {}

    def add(self, clip: int, values: np.ndarray) -> None:
        """Add the array of clip number ``clip``; all have one shape."""
        key = tuple(own[clip] for own in self.factors.values())
        if key in self._sums:
            self._sums[key] += values
        else:
            self._sums[key] = np.array(values, np.float64)
        self._counts[key] = self._counts.get(key, 0) + 1

    def interval(self, take: Callable[[np.ndarray], float]) -> Interval:
        """Mean over clips of one figure of their arrays, a linear one, with its 95 % interval."""
        keys = sorted(self._sums)  # not the order in which workers were done
        counts = np.array([self._counts[key] for key in keys], np.float64)
        means = [take(self._sums[key] / self._counts[key]) for key in keys]
        clusters = {f: [key[i] for key in keys] for i, f in enumerate(self.factors)}
        return mean_interval(means, clusters, counts=counts)
