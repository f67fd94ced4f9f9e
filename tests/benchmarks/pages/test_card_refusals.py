"""`enhance card` refuses records that are missing or of another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tiny_card import Made, change_rows

from enhance.errors import EnhanceError
from enhance.files import read_jsonl, write_json, write_jsonl


def older_certificate(made: Made) -> None:
    record = json.loads(made.certificate.read_text())
    del record["look_ahead"]["tried"]
    write_json(made.certificate, record)


def other_certificate(made: Made) -> None:
    record = json.loads(made.certificate.read_text())
    write_json(made.certificate, {**record, "sha256": "ab" * 32})


def other_seed(made: Made) -> None:
    record = json.loads((made.run / "config.json").read_text())
    record["training"]["seed"] = 8
    write_json(made.run / "config.json", record)


def other_config(made: Made) -> None:
    text = (made.run / "config.yaml").read_text()
    (made.run / "config.yaml").write_text(text.replace("batch_size: 4", "batch_size: 8"))


def other_history(made: Made) -> None:
    rows = read_jsonl(made.run / "history.jsonl")
    for row in rows:
        if row["type"] == "validation":
            row["si_sdr"] += 1e-6
    write_jsonl(made.run / "history.jsonl", rows)


def fewer_heard(made: Made) -> None:
    rows = read_jsonl(made.run / "heard.jsonl")
    kept = [row for row in rows if row["part"] == "train" and row["kind"] == "speech"][1:]
    write_jsonl(made.run / "heard.jsonl", kept)


def other_model(kind: str) -> Callable[[Made], None]:
    def spoil(made: Made) -> None:
        def change(row: dict[str, Any]) -> None:
            if row["kind"] == kind and row["model_hash"] != "noisy":
                row["model_hash"] = "cd" * 32

        change_rows(made, change)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_certificate, r"certificate of another file \(abababababab, m\.int8\.onnx is "),
        (older_certificate, "does not say how look-ahead was tried; export it again"),
        (lambda m: m.certificate.unlink(), "no certificate of m.int8.onnx"),
        (lambda m: m.certificate.write_text("{"), "certificate.json: cannot be read as JSON"),
        (other_seed, r"did not train m\.int8\.onnx \(training\.seed is 8 there, 0 in"),
        (other_config, r"config\.yaml: is not of the run .*batch_size is 8 there, 4 in"),
        (other_history, "does not hold the validation at step"),
        (lambda m: (m.run / "heard.jsonl").unlink(), r"no heard\.jsonl"),
        (fewer_heard, "by the corpus it is 0.00"),
        (
            other_model("quality"),
            r"no quality rows of this file.*another file with its name.*evalu",
        ),
        (other_model("harm"), "no harm rows of this file.*enhance guard"),
        (other_model("latency"), "no latency rows of this file.*enhance bench"),
        (
            lambda m: change_rows(m, lambda r: r["kind"] != "harm" or bool(r["checks"])),
            "harm rows lack the noisy input",
        ),
        (lambda m: (m.report / "results.jsonl").unlink(), "no such results"),
    ],
)
def test_what_is_missing_or_of_another_model_is_refused(
    spoil: Callable[[Made], Any], words: str, made: Made
) -> None:
    spoil(made)
    with pytest.raises(EnhanceError, match=words) as caught:
        made.card()
    assert "\n" not in str(caught.value)
    assert not (made.root / "card.md").exists()
