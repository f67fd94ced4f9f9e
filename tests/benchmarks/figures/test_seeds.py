"""Intervals over clips and seeds."""

from __future__ import annotations

import numpy as np

from benchmarks.figures.seeds import claims, crossed_interval, differences, no_claim
from enhance.measure.metrics import METRICS


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


def runs(seeds: int, gain: float) -> list[dict]:
    """Scores of a few seeds on 24 clips in six noises; what a noise does is the same for all."""
    rng = np.random.default_rng(0)
    hard = rng.standard_normal(6)
    return [
        {
            f"c{i}": {
                "metrics": {
                    m: hard[i % 6] + gain * (3 + i % 6) + 0.1 * rng.random() for m in METRICS
                },
                "labels": {"noise_name": f"n{i % 6}"},
            }
            for i in range(24)
        }
        for _ in range(seeds)
    ]


def test_fewer_than_three_seeds_claim_nothing() -> None:
    for seeds, said in ((1, "one seed: no claim"), (2, "two seeds: no claim"), (3, "")):
        found = differences(runs(seeds, 0.0), runs(seeds, 1.0))
        row = {"name": "x", "difference": found, "seeds": list(range(seeds))}
        assert no_claim(row) == said
        assert claims([row]) == (set() if said else {("x", metric) for metric in METRICS})
        verdicts = {entry["verdict"] for entry in found.values()}
        assert verdicts == ({"no claim"} if said else {"higher"})
    assert found["stoi"]["method"] == "t over noise, seeds"


def test_all_that_may_get_a_star_is_one_family() -> None:
    def row(name: str, p: float) -> dict:
        return {"name": name, "seeds": [0, 1, 2], "difference": {m: {"p": p} for m in METRICS}}

    clear, nothing = row("clear", 0.01), row("nothing", 0.9)
    assert claims([clear]) == {("clear", metric) for metric in METRICS}  # .05 / 4
    assert claims([clear, nothing]) == set()  # .05 / 8


def test_differences_are_clustered_by_the_labels_of_the_set() -> None:
    own, base = runs(3, 1.0), runs(3, 0.0)
    found = differences(base, own)["si_sdr"]
    for run in (*own, *base):
        for row in run.values():
            row["labels"] = {}
    alone = differences(base, own)["si_sdr"]
    assert alone["mean"] == found["mean"]
    assert alone["high"] - alone["low"] < 0.6 * (found["high"] - found["low"])
