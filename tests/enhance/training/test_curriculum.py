"""Mixtures that change with the step: straight lines between knots, the same however they come."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from audio_clips import speech_and_noise
from mixers import PLAIN, ROOM

from enhance.config import Knot, RunConfig, knots
from enhance.config.settings import load_run, to_dict
from enhance.data.corpus.clip_store import ClipStore
from enhance.data.mixing.loader import batches
from enhance.data.mixing.mixer import Mixer, MixingConfig
from enhance.errors import EnhanceError
from enhance.training import enhancer
from enhance.training.data import mixing_at, widest
from enhance.training.loop import fit

WIDENING = [
    Knot(2, {"easy_probability": 0.4, "snr": [-10, 0]}),
    Knot(6, {"rir_probability": 0.8, "easy_probability": 0.0, "noise_layers": 3}),
]


def test_straight_lines_between_knots() -> None:
    base = MixingConfig(snr=(-5, 5), easy_probability=0.2)
    found = knots(base, WIDENING)
    expected = {
        0: ((-5, 5), 0.2, 0.0, 2),
        1: ((-7.5, 2.5), 0.3, 0.0, 2),
        2: ((-10, 0), 0.4, 0.0, 2),
        3: ((-10, 0), 0.3, 0.2, 2),
        5: ((-10, 0), 0.1, 0.6, 2),
        6: ((-10, 0), 0.0, 0.8, 3),
        10**6: ((-10, 0), 0.0, 0.8, 3),
    }
    for step, (snr, easy, rir, layers) in expected.items():
        c = mixing_at(found, step)
        assert c.snr == pytest.approx(snr), step
        assert (c.easy_probability, c.rir_probability) == pytest.approx((easy, rir)), step
        assert c.noise_layers == layers, step
        same = replace(
            base,
            snr=c.snr,
            easy_probability=c.easy_probability,
            rir_probability=c.rir_probability,
            noise_layers=layers,
        )
        assert c == same
    top = widest(found)
    assert (top.easy_probability, top.rir_probability, top.snr) == (0.4, 0.8, (-5, 5))


def test_a_knot_at_the_start_refines_what_mixing_says() -> None:
    found = knots(MixingConfig(), [Knot(0, {"snr": [0, 1]}), Knot(10, {"snr": [2, 1]})][:1])
    assert [step for step, _ in found] == [0]
    assert mixing_at(found, 0).snr == mixing_at(found, 99).snr == (0, 1)
    assert mixing_at(knots(PLAIN, []), 5) == PLAIN


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        ([Knot(5, {}), Knot(5, {})], r"curriculum\[1\]: step 5: steps must rise"),
        ([Knot(-1, {})], r"curriculum\[0\]: step -1"),
        (
            [Knot(5, {"snrs": 1})],
            r"curriculum\[0\]\.mixing: unknown key 'snrs'; did you mean 'snr'",
        ),
        ([Knot(5, {"snr": "loud"})], r"curriculum\[0\]\.mixing: snr: expected a list"),
        ([Knot(5, {"rir_probability": 2.0})], r"rir_probability: expected 1 or less, found 2"),
        ([Knot(5, {"segment_seconds": 2.0})], r"mixing.segment_seconds must be the same"),
    ],
)
def test_nonsense_is_refused_when_it_is_read(curriculum: list[Knot], words: str) -> None:
    with pytest.raises(EnhanceError, match=words):
        RunConfig(curriculum=curriculum)


def test_from_yaml_and_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("curriculum: [{step: 4000, mixing: {snr: [-10, 0]}}]\n")
    config = load_run(path, [])
    assert config.curriculum == [Knot(4000, {"snr": [-10, 0]})]
    assert to_dict(config)["curriculum"] == [{"step": 4000, "mixing": {"snr": [-10, 0]}}]


@pytest.fixture
def mixer(tmp_path: Path) -> Mixer:
    stores = [ClipStore(part, quiet=True) for part in speech_and_noise(tmp_path)]
    config = widest(knots(PLAIN, WIDENING))
    return Mixer(stores[0], stores[1], config, seed=3, responses=[ROOM])


def take(mixer: Mixer, count: int, start: int, **options: Any) -> list[dict[str, Any]]:
    mixing_of = partial(mixing_at, knots(PLAIN, WIDENING))
    stream = batches(mixer, 4, 10, start, mixing_of=mixing_of, **options)
    with contextlib.closing(stream) as opened:  # type: ignore[type-var]
        return list(islice(opened, count))


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert torch.equal(a["noisy"], b["noisy"])
    assert torch.equal(a["clean"], b["clean"])
    assert a["snr_db"] == b["snr_db"]


def test_mixtures_are_those_of_the_step_whoever_makes_them(mixer: Mixer) -> None:
    whole = take(mixer, 8, 0)
    for step, batch in enumerate(whole):
        config = mixing_at(knots(PLAIN, WIDENING), step)
        for i, key in enumerate(batch["index"]):
            mixture = mixer.using(config)(*key)
            assert torch.equal(batch["noisy"][i], torch.from_numpy(mixture.noisy))
            low, high = config.easy_snr if mixture.snr_db > config.snr[1] else config.snr
            assert low <= mixture.snr_db <= high
    assert mixer.config == widest(knots(PLAIN, WIDENING))  # using one leaves the other alone
    for a, b in zip(whole, take(mixer, 8, 0, workers=2), strict=True):
        same(a, b)
    for a, b in zip(whole[5:], take(mixer, 3, 5, workers=1), strict=True):
        same(a, b)
    parts = [take(mixer, 3, 4, rank=rank, world=2) for rank in range(2)]
    for step in range(3):
        joined = torch.cat([part[step]["noisy"] for part in parts])
        assert torch.equal(joined, whole[4 + step]["noisy"])


def test_a_run_follows_it_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhancer, "SETTLING", 4)
    settings = tiny.config(tiny.make_clips(tmp_path / "clips"), steps=5, validate_every=5)
    settings = replace(
        settings, curriculum=[Knot(1, {}), Knot(4, {"snr": [-20, -20], "speed_probability": 0.5})]
    )
    plain, whole, broken = (tmp_path / name for name in ("plain", "whole", "broken"))
    fit(replace(settings, curriculum=[]), tiny.Stopping(settings), plain, quiet=True)
    fit(settings, tiny.Stopping(settings), whole, quiet=True)
    losses = [[row["losses"] for row in tiny.rows(run, "train")] for run in (plain, whole)]
    assert [a == b for a, b in zip(*losses, strict=True)] == [True, True, False, False, False]
    assert fit(settings, tiny.Stopping(settings, 3), broken, quiet=True)["step"] == 3
    fit(settings, tiny.Stopping(settings), broken, resume=True, quiet=True)
    assert (whole / "history.jsonl").read_bytes() == (broken / "history.jsonl").read_bytes()
    # Validation is of `mixing`: the same set throughout.
    noisy = [
        row["si_sdr"] - row["si_sdr_gain"]
        for run in (plain, whole)
        for row in tiny.rows(run, "validation")
    ]
    assert noisy[0] == pytest.approx(noisy[1], abs=1e-9)
