"""Cards of every record that the repository keeps."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from distill.speaker import card as speaker
from distill.ssl import card as ssl
from distill.training import card

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "distill/models/mini-wavlm"


def kept() -> Iterator[tuple[str, dict[str, Any]]]:
    with tarfile.open(ROOT / "benchmarks/teachers.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("/record.json"):
                file = archive.extractfile(member)
                yield member.name.split("/")[0], json.loads(file.read())


RECORDS = dict(kept())


def text(name: str, record: dict[str, Any]) -> str:
    return (speaker if name.startswith("ecapa") else ssl).text(record, name, 4_000_000)


@pytest.mark.parametrize("name", RECORDS)
def test_every_kept_record_is_told_whole(name: str) -> None:
    record = RECORDS[name]
    page = text(name, record)
    assert page == text(name, record)
    _, front, body = page.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "unknown"  # nobody named one
    assert told["model_name"] == name
    assert told["language"] == sorted({x for r in record["data"]["train"] for x in r["languages"]})
    for use in ("train", "held_back", "noise", "noise_held_back"):
        for row in record["data"][use]:
            assert f"| {row['files']} | {row['hours']:.2f} | {'; '.join(row['licences'])} |" in body
    assert f"Speakers held back: {', '.join(record['data']['held_back_speakers'])}." in body
    for row in record.get("iterations", ()):
        assert card.share(row["clean"]["accuracy"]) in body
        assert f"{100 * row['clean']['chance']:.1f} %" in body
    for row in record.get("verification", ()):
        assert f"| {row['embedding']} | {card.share(row, 'eer')} | {row['targets']} |" in body
    for row in record.get("curve", ())[-1:] if "iterations" in record else ():
        assert f"| {row['step']} | {row['loss']:.3f} | {100 * row['accuracy']:.1f} % |" in body
    assert "One seed, one run" in body
    assert "\n\n\n" not in body and "{{" not in body and "{%" not in body


@pytest.mark.parametrize("name", ["ssl-wavlm", "ecapa-aam-long"])
def test_a_licence_that_a_record_names_is_the_cards(name: str) -> None:
    assert "\nlicense: cc-by-4.0\n" in text(name, {**RECORDS[name], "licence": "cc-by-4.0"})


@pytest.mark.parametrize("name", ["ssl-wavlm", "ecapa-aam-long"])
def test_a_fact_that_a_record_lacks_is_no_empty_place(name: str) -> None:
    record = {key: value for key, value in RECORDS[name].items() if key != "parameters"}
    with pytest.raises(jinja2.UndefinedError, match="parameters"):
        text(name, record)


def test_a_card_tells_how_ties_are_counted() -> None:
    """As `distill.ssl.losses.future` and `contrastive` count them."""
    for name, told in (
        ("ssl-wav2vec", "a tie with n of them counts 1 / (1 + n)"),
        ("ssl-vq-kmeans", "a tie with n of them counts 1 / (1 + n)"),
        ("ssl-wav2vec2", "candidates with the target's codes share the hit"),
    ):
        page = " ".join(text(name, RECORDS[name]).split())
        assert told in page and "no hit" not in page


def test_the_shipped_teachers_card_is_what_its_record_gives() -> None:
    size = (SHIPPED / "model.safetensors").stat().st_size
    page = ssl.text(card.read(SHIPPED), "mini-wavlm", size)
    assert page == (SHIPPED / "README.md").read_text("utf-8")


def test_a_command_gives_settings_to_the_last_digit() -> None:
    """What a card says makes the same weights again; usual numbers are short."""
    config = {"seed": 20261130, "learning_rate": 0.00012345678, "mask": 0.05, "batch_seconds": 32.0}
    words = card.options({**config, "source": "two words", "preset": ""}, [*config, "source"])
    assert " ".join(words) == (
        "--seed 20261130 --learning-rate 0.00012345678 --mask 0.05 --batch-seconds 32 "
        "--source 'two words'"
    )


def test_a_probe_is_told_with_its_paired_gains() -> None:
    row = {"mean": 0.5, "low": 0.45, "high": 0.55}
    probe = {
        "corpus": ["a", "b"], "phones": 39, "frames": 700, "utterances": 8, "split": "by speaker",
        "speakers": 4, "best": "layer 2", "rows": [{"features": "layer 2", **row}],
        "gains": [{"over": "MFCC, deltas", "mean": -0.02, "low": -0.05, "high": 0.01}],
    }  # fmt: skip
    page = text("ssl-wavlm", {**RECORDS["ssl-wavlm"], "phone_probe": probe})
    assert "a, b, 39 phones, 700 frames of 8 utterances" in page
    assert "| layer 2 | 50.0 % (45.0 to 55.0) |" in page
    assert "- over MFCC, deltas: -2.0 (-5.0 to +1.0)\n" in page
    assert "Not measured." not in page


def test_a_long_curve_is_thinned_to_a_dozen_with_its_end() -> None:
    for count in (1, 12, 13, 100):
        rows = list(range(count))
        shown = card.thin(rows)
        assert len(shown) <= card.LINES and shown[-1] == rows[-1]
        assert len({b - a for a, b in pairwise(shown)}) <= 1
    assert card.thin([]) == []
