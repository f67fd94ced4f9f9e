"""`enhance card` on a run of seconds, exported, evaluated, guarded and timed for real."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_card import Made, change_rows

from benchmarks.figures.tables import DIGITS, number, plus_minus
from benchmarks.pages.card import GUARDED, GUARDS, LIMITS, renew_guards
from enhance.cli import app as cli
from enhance.config.settings import dump_yaml, load_run, load_yaml, to_dict
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, sha256, write_jsonl
from enhance.measure.metrics import METRICS


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_front_matter_is_the_hubs(whole: Made) -> None:
    front = front_matter(whole.card())
    (row,) = [row for row in whole.rows("quality") if row["model_kind"] == "onnx"]
    assert front["license"] == "unknown"  # nobody named one
    assert front["language"] == ["nl"]
    assert front["pipeline_tag"] == "audio-to-audio"
    assert front["library_name"] == "onnxruntime"
    assert front["datasets"] == ["our-speech", "our-noise"]
    assert {"gcrn", "int8", "streaming"} <= set(front["tags"])
    (index,) = front["model-index"]
    (result,) = index["results"]
    assert index["name"] == "m"
    assert result["dataset"] == {
        "name": "pairs at -5 dB, 3 clips", "type": "pairs", "revision": row["set_hash"],
    }  # fmt: skip
    assert {x["type"]: x["value"] for x in result["metrics"]} == {
        m: round(row["metrics"][m]["mean"], DIGITS[m]) for m in METRICS
    }


def test_every_record_is_in_the_card(whole: Made) -> None:
    card = whole.card()
    certificate = json.loads(whole.certificate.read_text())
    assert f"`{sha256(whole.model)}`" in card
    for row in whole.rows("quality"):
        cells = [plus_minus(row["metrics"][m], DIGITS[m]) for m in METRICS]
        assert f"| {row['model']} | {' | '.join(cells)} |" in card
        assert row["set_hash"] in card
    error = certificate["equality"]["onnx_quantized"]["max_abs_error"]
    difference = certificate["metrics"]["onnx_quantized"]["si_sdr"]["difference"]
    assert f"| ONNX int8, streamed | {error:.1e} |" in card
    assert number(difference, 4, True) in card
    assert f"SNR {certificate['equality']['onnx_quantized']['snr_db']['worst']:.1f} dB" in card
    assert f"on 3 real clips ({certificate['measured_on']['seconds']:g} s) of pairs" in card
    assert f"Looks {certificate['look_ahead']['measured_samples']} samples ahead" in card
    (latency,) = whole.rows("latency")
    for regime in ("hot", "cold", "paced"):
        times = [number(latency["regimes"][regime]["cpu_ms"][k]) for k in ("p50", "p95")]
        assert f"| {latency['model']} | {regime} | {' | '.join(times)} |" in card
    assert latency["hardware"]["processor"] in card
    limits = card.partition("## Limits")[2]
    (harm,) = [row for row in whole.rows("harm") if row["checks"]]
    for check in harm["checks"]:
        if check["verdict"] == "fail":
            shown = number(check["value"], 3) if check["value"] is not None else "-"
            row = rf"\| {re.escape(check['name'])} \| [^|]* \| {re.escape(shown)}( \[.*\])? FAIL \|"
            assert re.search(row, card)
            case, _, figure = check["name"].partition(": ")
            assert f"{case} ({figure}" in limits or f"; {figure}" in limits
    assert harm["checks"]
    assert "was not measured: other language (gain of PESQ-WB; gain of ESTOI;" in limits


def test_guards_are_renewed_and_all_else_stays(made: Made) -> None:
    card = made.root / "shipped/m.md"
    before = made.card(out=card)
    assert renew_guards(made.model, [made.report]) == card
    assert card.read_text("utf-8") == before

    def spoil(row: dict[str, Any]) -> None:
        for check in row.get("checks", []):
            check["verdict"] = "pass"
        for check in row.get("checks", [])[-1:]:
            check["verdict"] = "not shown"

    change_rows(made, spoil)
    renew_guards(made.model, [made.report])
    after = card.read_text("utf-8")
    old, new = (text.split("\n\n## ") for text in (before, after))
    changed = [a.partition("\n")[0] for a, b in zip(old, new, strict=True) if a != b]
    assert changed == [GUARDS, LIMITS]
    assert "not shown by at most 4 clips: women less men" in after
    assert [line for line in new[-1].split("\n") if not line.startswith(GUARDED)] == [
        line for line in old[-1].split("\n") if not line.startswith(GUARDED)
    ]
    card.write_text(before.replace(sha256(made.model), "0" * 64), "utf-8")
    with pytest.raises(EnhanceError, match="is no card of this"):
        renew_guards(made.model, [made.report])
    card.unlink()
    with pytest.raises(EnhanceError, match="no card to renew"):
        renew_guards(made.model, [made.report])


def test_training_is_told_by_the_run(whole: Made) -> None:
    card = whole.card()
    kept = json.loads(json.dumps(to_dict(load_run(whole.run / "config.yaml", []))))
    history = read_jsonl(whole.run / "history.jsonl")
    curve = [row for row in history if row["type"] == "validation"]
    best = max(curve, key=lambda row: row["si_sdr"])
    for row in curve:
        figures = [number(row["si_sdr"], 2), number(row["si_sdr_gain"], 2, True)]
        mark = "kept" if row is best else ""
        cells = f"| {row['step']} | {' | '.join(figures)} | {number(row['pesq_wb'], 3)} | {mark} |"
        assert cells in card
    hours = best["step"] * 4 * 0.5 / 3600
    assert f"step {best['step']} of 12" in card
    assert f"{hours:.1f} h of mixtures" in card
    block = card.partition("```yaml\n")[2].partition("```")[0]
    shown = yaml.safe_load(block)
    assert shown.pop("data") == {**kept.pop("data"), "corpus": "DIR"}
    assert shown == kept
    assert str(whole.root) not in card  # no path of the machine
    heard = [row for row in read_jsonl(whole.run / "heard.jsonl") if row["part"] == "train"]
    speech = [row for row in heard if row["kind"] == "speech"]
    hours = 1.5 * len(speech) / 3600
    line = f"| our-speech | speech, trained on | Dutch | {len(speech)} | {hours:.2f} | CC0-1.0 |"
    assert line in card
    assert "| CC BY (somebody) |" in card


def test_hours_heard_counts_the_mixtures_of_the_kept_weights(whole: Made) -> None:
    from benchmarks.pages.card_records import gather

    records = gather(whole.model, whole.run, [whole.report])
    step = records.training["score"]["step"]
    assert records.hours_heard == pytest.approx(step * 4 * 0.5 / 3600)
    assert records.last_step == 12
    timing = [r for r in read_jsonl(whole.run / "timing.jsonl") if r["type"] == "stop"]
    assert records.seconds == timing[-1]["seconds"]


def test_another_record_gives_another_card(made: Made) -> None:
    before = made.card()

    def change(row: dict[str, Any]) -> None:
        if row["kind"] == "quality" and row["model_kind"] == "onnx":
            row["metrics"]["pesq_wb"].update(mean=4.321, low=4.221, high=4.421)
        if row["kind"] == "latency":
            row["regimes"]["paced"]["cpu_ms"]["p95"] = 98.765

    change_rows(made, change)
    after = made.card()
    assert "4.321 ±0.100" not in before
    assert "4.321 ±0.100" in after
    assert "98.765" in after
    metrics = front_matter(after)["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == 4.321


def command_of(card: str) -> list[str]:
    import shlex

    return shlex.split(card.partition("```sh\nenhance train")[2].partition("\n")[0])


def test_the_command_gives_the_runs_settings(made: Made, tmp_path: Path) -> None:
    wanted = to_dict(load_run(made.run / "config.yaml", []))
    preset = tmp_path / "configs/preset.yaml"
    preset.parent.mkdir()
    changed = load_yaml(made.run / "config.yaml")
    changed["mixing"]["snr"] = [0.0, 20.0]
    changed["seed"] = 9
    changed["data"]["corpus"] = ""
    preset.write_text(dump_yaml(changed))
    words = command_of(made.card(config=preset))
    assert words[:2] == ["--config", "configs/preset.yaml"]
    assignments = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert set(assignments) == {"data.corpus=DIR", "mixing.snr=[-5.0, 5.0]", "seed=0"}
    again = to_dict(
        load_run(preset, [x.replace("DIR", wanted["data"]["corpus"]) for x in assignments])
    )
    assert again == wanted
    assert command_of(made.card())[:4] == ["--config", "config.yaml", "--set", "data.corpus=DIR"]


def test_settings_newer_than_the_run_are_named(made: Made) -> None:
    assert "came after the run" not in made.card()
    text = (made.run / "config.yaml").read_text()
    assert "  clip_norm: 5.0\n" in text
    (made.run / "config.yaml").write_text(text.replace("  clip_norm: 5.0\n", ""))
    card = made.card()
    assert "today's defaults: training.clip_norm." in card
    assert "clip_norm" not in card.partition("```yaml")[2]  # what the run did not write


def test_a_precision_left_to_the_machine(made: Made) -> None:
    text = (made.run / "config.yaml").read_text()
    (made.run / "config.yaml").write_text(text.replace("precision: fp32", "precision: auto"))
    assert "precision: auto" in made.card()
    (made.run / "config.yaml").write_text(text.replace("precision: fp32", "precision: bf16"))
    with pytest.raises(EnhanceError, match="precision is 'bf16' there, 'fp32' in"):
        made.card()


def test_notes_go_in_as_they_are(whole: Made, tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("For calls in trains.\n\n* Not for music.\n")
    assert "## Intended use\n\nFor calls in trains.\n\n* Not for music.\n\n##" in whole.card(
        notes=notes
    )
    assert "## Intended use" not in whole.card()


def test_a_moved_corpus_is_found_by_names(made: Made, whole: Made, tmp_path: Path) -> None:
    rows = read_jsonl(made.run / "heard.jsonl")
    write_jsonl(made.run / "heard.jsonl", [{**r, "path": Path(r["path"]).name} for r in rows])
    moved = shutil.copytree(whole.root / "corpus", tmp_path / "elsewhere")
    assert made.card(corpus=moved) == whole.card()
    (moved / "speech/0.wav").unlink()
    lines = (moved / "manifest.csv").read_text().splitlines()
    (moved / "manifest.csv").write_text("\n".join(x for x in lines if "speech/0" not in x) + "\n")
    with pytest.raises(EnhanceError, match=r"heard\.jsonl: names 0\.wav of our-speech"):
        made.card(corpus=moved)


def test_command_line(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["enhance", "card", made.model, "--run", made.run, "--results", made.report]
    codes = []
    for extra in ([], [], ["--force"]):
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, *extra]])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        codes.append(code)
    assert codes == [0, 2, 0]
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "m.md: exists already" in captured.err
    assert (made.model.parent / "m.md").read_text("utf-8") == made.card()
