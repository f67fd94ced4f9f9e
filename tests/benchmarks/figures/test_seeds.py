"""Intervals over clips and seeds."""

from __future__ import annotations

import numpy as np

from benchmarks.figures.seeds import crossed_interval


def test_an_interval_over_clips_and_seeds_covers() -> None:
    rng = np.random.default_rng(0)
    hits = {1: 0, 3: 0}
    for _ in range(400):
        clip, seed = 0.3 * rng.standard_normal((30, 1)), 0.3 * rng.standard_normal((1, 3))
        values = clip + seed + 0.3 * rng.standard_normal((30, 3))
        for seeds in hits:
            found = crossed_interval(values[:, :seeds])
            hits[seeds] += found.low <= 0 <= found.high  # type: ignore[operator]
    # 380 are expected where the interval knows of seeds; its standard deviation is 4.
    assert hits[3] >= 366
    assert hits[1] < 200
