"""`enhance card` on a run of seconds, exported, evaluated, guarded and timed for real."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_training as tiny
import yaml

from benchmarks.figures.tables import DIGITS, number, plus_minus
from benchmarks.guard.run import guard
from benchmarks.latency.bench import bench
from benchmarks.pages.card import write_card
from benchmarks.pages.card_guards import GUARDED, GUARDS, LIMITS, renew_guards
from benchmarks.quality.evaluate import evaluate
from enhance.cli import app as cli
from enhance.config.settings import dump_yaml, load_run, load_yaml, to_dict
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, sha256, write_json, write_jsonl
from enhance.measure.metrics import METRICS
from enhance.training.engine.engine import seed_everything
from enhance.training.loop import fit
from enhance.training.objective import Enhancement
from export.certificate import Bounds
from export.stream import export_model

LICENCES = {"speech": "CC0-1.0", "noise": "CC BY (somebody)"}


@dataclass
class Made:
    """A trained, exported and measured model."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "shipped/m.int8.onnx"

    @property
    def certificate(self) -> Path:
        return self.model.with_suffix(".certificate.json")

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def results(self) -> list[dict[str, Any]]:
        return read_jsonl(self.report / "results.jsonl")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.results if row["kind"] == kind]

    def card(self, **options: Any) -> str:
        options = {"out": self.root / "card.md", "force": True, **options}
        return write_card(self.model, self.run, [self.report], **options).read_text("utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("card"))
    corpus = tiny.make_clips(made.root / "corpus")
    with (corpus / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "seconds", "kind", "source", "language", "licence"])
        for kind, licence in LICENCES.items():
            for path in sorted((corpus / kind).iterdir()):
                name = path.relative_to(corpus).as_posix()
                language = "nl" if kind == "speech" else "none"
                writer.writerow([name, "1.5", kind, f"our-{kind}", language, licence])
    settings = tiny.config(corpus)
    seed_everything(settings.seed)
    fit(settings, Enhancement(settings.loss), made.run, quiet=True)
    pairs = made.root / "pairs"
    for index in range(3):
        t = np.arange(round(3.5 * 16000)) / 16000
        voice = sum(np.sin(2 * np.pi * (100 + 20 * index) * k * t + k) / k for k in range(1, 15))
        clean = 0.05 * voice * np.clip(np.sin(2 * np.pi * 2.3 * t), 0.02, None)
        rough = np.random.default_rng(index).standard_normal(t.size)
        rough *= np.sqrt(np.sum(clean**2) / np.sum(rough**2)) * 10 ** (5 / 20)
        for part, wave in (("clean", clean), ("noisy", clean + rough)):
            (pairs / part).mkdir(parents=True, exist_ok=True)
            soundfile.write(pairs / part / f"{index}.wav", wave, 16000, subtype="FLOAT")
    loose = Bounds(si_sdr_db=9.0, pesq=3.0, snr_db=0.0)
    out = made.root / "shipped/m.onnx"
    export_model(made.run, out, int8=True, clips=pairs, bounds=loose, quiet=True)
    evaluate(made.model, pairs, -5, made.report, 1, quiet=True)
    guard(made.model, pairs, made.report, limit=4, jobs=1, quiet=True)
    bench([made.model], 0.1, made.report, repeats=1, quiet=True)
    return made


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy that a test may spoil."""
    for part in ("shipped", "run", "report"):
        shutil.copytree(whole.root / part, tmp_path / part)
    return Made(tmp_path)


def change_rows(made: Made, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change each row of the results in place; a row for which ``change`` is False goes."""
    rows = [row for row in made.results if change(row) is not False]
    write_jsonl(made.report / "results.jsonl", rows)


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
        (lambda m: m.certificate.write_text("{"), "no certificate of m.int8.onnx can be read"),
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
