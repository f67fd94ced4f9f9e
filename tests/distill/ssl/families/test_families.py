"""Each family from its settings: a few steps, exact resumption, a teacher folder, its metric."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.analysis import teachers as teacher_table
from distill.backbones import find as teacher
from distill.ssl import card as ssl_card
from distill.ssl import run as pretrain_ssl
from distill.ssl.data.crops import SslData
from distill.ssl.families import family as families
from distill.ssl.families import masked_units, wav2vec, wav2vec2
from distill.ssl.families.family import SslConfig
from distill.ssl.losses import contrastive
from distill.ssl.run import FORMAT, pretrain
from distill.training.loop import Loop, begun
from enhance.cli.app import app
from enhance.errors import EnhanceError
from enhance.training.engine.interrupt import Interrupt

TINY = {
    "minutes": 0,
    "steps": [5],
    "batch_seconds": 2.0,
    "crop_seconds": 0.8,
    "warmup_steps": 2,
    "held_back": 0.3,
    "log_every": 2,
    "validate_every": 2,
}
TRANSFORMER = {
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "feed_forward": 32,
    "conv_channels": [4, 4, 4, 8, 8, 8, 16],
    "positions": 8,
    "position_groups": 2,
}
CONVOLUTIONS = {
    "encoder": [[4, 10, 5], [8, 8, 4], [8, 4, 2], [8, 4, 2], [8, 4, 2]],
    "aggregator": [[8, 2, 1], [12, 3, 1]],
}
CODES = {**CONVOLUTIONS, "vq_codes": 6}
UNITS = {"units": [4], "iterations": 1, "unit_layer": 1, "architecture": TRANSFORMER}
WAV2VEC2 = {
    "architecture": TRANSFORMER,
    "entries": 8,
    "code_width": 8,
    "projection": 6,
    "front_end_steps": 2,
    "front_end_units": 4,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec": ("wav2vec", {"architecture": CONVOLUTIONS, "prediction_steps": 3}),
    "vq-gumbel": ("vq-wav2vec", {"architecture": CODES}),
    "vq-kmeans": ("vq-wav2vec", {"architecture": {**CODES, "vq_type": "kmeans"}}),
    "wav2vec2": ("wav2vec2", {**WAV2VEC2, "distractors": 12}),
    "hubert": ("hubert", UNITS),
    "wavlm": ("wavlm", {**UNITS, "disturbance": {"reverberation_rooms": 2}}),
}


def configured(case: str, **more: Any) -> SslConfig:
    family, settings = CASES[case]
    return families.configure(family, None, {**TINY, **settings, **more})


@pytest.fixture(scope="module")
def made(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of an unstopped run of each case."""
    folders = {}
    for case in CASES:
        folders[case] = tmp_path_factory.mktemp("made") / case
        pretrain(configured(case), tiny_corpus, folders[case], quiet=True)
    return folders


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_exactly(
    case: str,
    made: dict[str, Path],
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    def stopping(config: SslConfig, at: int, total: int | None) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return rate(config, at, total)

    rate = SslConfig.rate
    monkeypatch.setattr(SslConfig, "rate", stopping)
    assert "stopped" in pretrain(configured(case), tiny_corpus, tmp_path, quiet=True)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    old = begun(tmp_path, FORMAT)["config"]
    assert old["steps"] == [5]
    with pytest.raises(EnhanceError, match="--preset: a resumed run keeps its own settings"):
        families.configure(None, "wavlm", {}, old)
    pretrain(
        families.configure(None, None, {}, old), tiny_corpus, tmp_path, resume=True, quiet=True
    )
    for name in ("history.jsonl", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (made[case] / name).read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_record_history_and_card(case: str, made: dict[str, Path]) -> None:
    record = json.loads((made[case] / "record.json").read_text())
    history = [json.loads(x) for x in (made[case] / "history.jsonl").read_text().splitlines()]
    assert [(r["type"][0], r["step"]) for r in history] == [("t", 2), ("v", 2), ("t", 4), ("v", 4)]
    assert all(np.isfinite(r["loss"]) and 0 <= r["accuracy"] <= 1 for r in history)
    last = record["iterations"][-1]
    found = last["clean"]
    assert found["files"] == 3  # of ten
    assert found["accuracy"]["low"] <= found["accuracy"]["mean"] <= found["accuracy"]["high"]
    chance = {"wav2vec": 1 / 11, "vq": 1 / 11, "wav2vec2": 1 / 13, "hubert": 1 / 4, "wavlm": 1 / 4}
    # Where a clip has fewer other frames than distractors were asked for, chance is larger
    assert found["chance"] == pytest.approx(chance[case.split("-")[0]], rel=0.1)
    if case in ("hubert", "wavlm"):
        assert found["chance"] == 0.25
    assert ("disturbed" in last) == (case == "wavlm")
    sizes = [code["size"] for code in last.get("codes", [])]
    assert sizes == {"wav2vec": [], "wav2vec2": [8, 8], "hubert": [4], "wavlm": [4]}.get(
        case, [6, 6]
    )
    for code in last.get("codes", []):
        assert 1 <= code["perplexity"] <= code["used"] <= code["size"]
    assert [row["step"] for row in record["curve"]] == [2, 4]
    card = (made[case] / "README.md").read_text()
    assert f"{100 * found['accuracy']['mean']:.1f} %" in card
    assert f"| {100 * found['chance']:.1f} % |" in card
    family = CASES[case][0]
    assert f"enhance teacher pretrain --family {family} --corpus DIR" in card
    assert f"\n- {family}\n" in card
    assert "licence" in card
    assert f"| 4 | {record['curve'][1]['loss']:.3f} |" in card


@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_a_teacher(case: str, made: dict[str, Path]) -> None:
    found = teacher.load(made[case])
    waves = torch.randn(2, 8000) * 0.1
    hidden, counts = found(waves, torch.tensor([8000, 6000]))
    assert hidden.shape[0] == found.num_layers + 1 == len(found.widths)
    assert counts.tolist() == [found.frames(8000), found.frames(6000)]
    assert torch.isfinite(hidden).all()
    assert hidden[:, 0].std() > 0
    row = teacher_table.describe(str(made[case]))
    assert row["family"] == CASES[case][0]
    assert row["metric"]["steps"] == 5
    assert (row["stride_samples"], row["field_samples"]) == (
        (160, 465) if "wav2vec" in row["family"] and case != "wav2vec2" else (320, 400)
    )


@pytest.mark.parametrize("case", CASES)
def test_training_moves_the_weights(case: str, made: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    start = families.build(configured(case)).model.state_dict()
    end = load_file(made[case] / "model.safetensors")
    assert set(start) == set(end)
    still = {n for n in start if torch.equal(start[n].to(end[n].dtype), end[n])}
    # A bias of all keys shifts a query's logits alike: no gradient
    assert {n for n in still if not n.endswith("k_proj.bias")} == set()


def test_an_oracle_is_right_and_a_fixed_answer_is_chance(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wav2vec 2.0's figure, whatever a model of a few steps makes of it."""
    family = families.build(configured("wav2vec2", distractors=12))
    assert isinstance(family, wav2vec2.Wav2Vec2)
    data, network = SslData.open(tiny_corpus, 0.3, 0, True), family._network

    def knows(waves: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, features = network(waves, mask)
        made = contrastive.quantize(family.model.quantizer, features.flatten(0, 1), None)
        return family.model.project_q(made.vectors).unflatten(0, mask.shape), features

    def fixed(waves: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        context, features = network(waves, mask)
        return torch.ones_like(context), features

    monkeypatch.setattr(family, "_network", knows)
    found = family.report(data)
    # Hits are shared among equal candidates: the mean of 1 / n is 1 / (mean n) or more
    assert found["clean"]["accuracy"]["mean"] >= 1 / (1 + 12 - found["rivals"])
    assert found["clean"]["accuracy"]["low"] > 2 * found["clean"]["chance"]
    monkeypatch.setattr(family, "_network", fixed)
    found = family.report(data)["clean"]
    assert found["accuracy"]["low"] <= found["chance"] + 0.02
    assert found["accuracy"]["high"] >= found["chance"] - 0.02


def test_mean_loss_of_a_step_is_the_families_own(tiny_corpus: Path) -> None:
    """wav2vec 2.0's step is contrastive plus weighted diversity, of the same draw of noise."""
    config = configured("wav2vec2", diversity_weight=0.7, visible_weight=0.3)
    family = families.build(config)
    assert isinstance(family, wav2vec2.Wav2Vec2)
    data = SslData.open(tiny_corpus, 0.3, 0, True)
    crops = [masked_units.Crop(data.train[0], 0, 25), masked_units.Crop(data.train[1], 0, 25)]
    batch = family.batch(crops, data, np.random.default_rng(0))
    torch.manual_seed(0)
    found = family.losses(batch, 4)
    figures = found.means
    expected = figures["loss"] + 0.7 * figures["diversity"] + 0.3 * figures["visible_loss"]
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    assert figures["temperature"] == pytest.approx(2 * 0.25 ** (4 / 2000))
    assert found.counted == int(batch[1].sum()) == len(batch[2])
    assert len(batch[3]) == int((~batch[1]).sum())
    # The visible frames are told by the same rule: masks exchanged, the two losses change places
    family.model.eval()
    flipped = family.losses((batch[0], ~batch[1], batch[3], batch[2]), 4)
    assert flipped.counted == len(batch[3])


def test_the_present_frame_guess_by_plain_loops() -> None:
    torch.manual_seed(0)
    head = wav2vec.FuturePrediction(5, 5, 2, steps=3, negatives=4)
    values = torch.randn(2, 9, 5)
    values[1, 5] = values[1, 3]  # frames may be equal, as codewords are
    found = wav2vec.present_frame_hits(head, values, torch.Generator().manual_seed(1))
    drawn = head.draw(2, 9, torch.Generator().manual_seed(1)).numpy()
    flat = values.flatten(0, 1).double().numpy()

    def similar(i: int, j: int) -> float:
        return float(flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j]))

    tied = 0
    for b in range(2):
        hits = 0.0
        for ahead in (2, 3, 4):
            for t in range(9 - ahead):
                now, true = 9 * b + t, 9 * b + t + ahead
                others = [int(n) for n in drawn[:, b, t + ahead]]
                copies = sum(bool((flat[n] == flat[true]).all()) for n in others)
                wrong = [similar(now, n) for n in others if (flat[n] != flat[true]).any()]
                tied += copies
                hits += (similar(now, true) > max(wrong, default=-2.0)) / (1 + copies)
        assert float(found[b]) == pytest.approx(hits)
    assert tied > 0


def test_settings_that_do_not_fit_are_refused() -> None:
    for case, settings, message in (
        ("wav2vec2", {"entries": 1}, "entries: expected 2 or more"),
        ("wav2vec2", {"gumbel": [0.5, 2.0]}, "gumbel"),
        ("wav2vec2", {"steps": [3, 4]}, "the one iteration"),
        ("wav2vec", {"negatives": 0}, "negatives"),
        ("vq-gumbel", {"diversity_weight": -1.0}, "diversity_weight"),
        ("hubert", {"unit_layer": 9}, "unit_layer 9"),
        ("hubert", {"architecture": {**TRANSFORMER, "heads": 0}}, "heads: expected more than 0"),
        ("hubert", {"crop_seconds": 0.001}, "crop_seconds: expected 0.04 or more"),
        ("hubert", {"units": [40000]}, r"units\[0\]: expected 32768 or less"),
        ("wav2vec", {"architecture": {"dropout": 2.0}}, "architecture.dropout: expected 1 or less"),
        ("wavlm", {"disturbance": {"speech_overlap": [0.5, 1.5]}}, "speech_overlap"),
        ("wavlm", {"disturbance": {"noise_probability": 0.9}}, "together"),
        ("wavlm", {"held_back": 1.0}, "held_back"),
    ):
        with pytest.raises(EnhanceError, match=message):
            configured(case, **settings)


def test_the_cards_command_makes_the_same_weights(
    made: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    import shlex

    card = (made["wav2vec2"] / "README.md").read_text()
    line = next(x for x in card.splitlines() if "enhance teacher pretrain --family" in x)
    words = shlex.split(line[line.index("`enhance ") + 1 :].rstrip("`."))[1:]
    words = [str(tiny_corpus) if w == "DIR" and words[i - 1] == "--corpus" else w
             for i, w in enumerate(words)]  # fmt: skip
    words = [str(tmp_path) if w == "DIR" else w for w in words]
    result = CliRunner().invoke(app, [*words, "--quiet"])
    assert result.exit_code == 0, result.output
    weights = [(x / "model.safetensors").read_bytes() for x in (tmp_path, made["wav2vec2"])]
    assert weights[0] == weights[1]


def test_controls_have_a_row_of_no_record() -> None:
    rows = [teacher_table.describe(name) for name in ("log-mel:320", "random:mini-wavlm")]
    assert [row["name"] for row in rows] == ["log-mel:320", "random:mini-wavlm"]
    assert [row["family"] for row in rows] == ["log-mel", "random"]
    assert [row["metric"] for row in rows] == [None, None]


def test_teachers_prints_and_writes_a_table(
    made: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    names = [str(made[case]) for case in ("wav2vec", "wav2vec2", "hubert")]
    options = ["--audio", str(tiny_corpus), "--seconds", "2", "-o", str(tmp_path / "t"), "-q"]
    result = CliRunner().invoke(app, ["teacher", "table", *names, *options])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "t.json").read_text())
    assert [row["family"] for row in rows] == ["wav2vec", "wav2vec2", "hubert"]
    assert rows[0]["widths"] == [8, 8, 12]
    for name in ("second", "cpu_second"):
        assert all(row["throughput"][f"audio_seconds_per_{name}"] > 0 for row in rows)
    text = (tmp_path / "t.md").read_text()
    assert text.strip() == result.output.strip()
    record = json.loads((made["wav2vec2"] / "record.json").read_text())
    mean = record["iterations"][0]["clean"]["accuracy"]["mean"]
    assert f"| accuracy {100 * mean:.1f} % (" in text
    assert f"| {100 * record['iterations'][0]['clean']['chance']:.1f} % |" in text
    assert "3 x 16" in text and "2 x 8, 1 x 12" in text
    again = CliRunner().invoke(app, ["teacher", "table", names[0], "-o", str(tmp_path / "t")])
    assert isinstance(again.exception, EnhanceError)
    assert "exists already" in str(again.exception)


def test_a_teacher_below_its_baseline_is_told(made: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(made["hubert"], folder)
    record = json.loads((folder / "record.json").read_text())
    clean = record["iterations"][0]["clean"]
    for mean, gain, told in (
        (0.30, {"mean": 0.09, "low": 0.04, "high": 0.13}, "| +9.0 (+4.0 to +13.0) |"),
        (0.13, {"mean": -0.08, "low": -0.11, "high": -0.05}, "| -8.0 (-11.0 to -5.0), BELOW it |"),
        (0.13, None, "| -8.0, BELOW it |"),
    ):
        clean["accuracy"] = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        clean["nearest_visible"] = {"mean": 0.21, "low": 0.16, "high": 0.27}
        clean["majority"] = {"mean": 0.02, "low": 0.01, "high": 0.03}
        clean["gains"] = {"nearest_visible": gain} if gain else {}
        (folder / "record.json").write_text(json.dumps(record))
        table = teacher_table.markdown([teacher_table.describe(str(folder))])
        assert "| nearest visible frame 21.0 % (16.0 to 27.0) |" in table
        assert told in table
        card = ssl_card.text(record, "x", 1000)
        # Unpaired, 25 to 35 % and 16 to 27 % overlap; the paired difference decides.
        verdict = "better than" if mean > 0.2 else "worse than"
        assert (f"It is {verdict} the best guess" in card) == bool(gain)
        assert ("no paired difference" in card) == (not gain)


def test_a_record_of_another_kind_is_no_metric(made: dict[str, Path], tmp_path: Path) -> None:

    folder = tmp_path / "model"
    shutil.copytree(made["hubert"], folder)
    (folder / "record.json").write_text('{"config": {"lr": 1}}')
    assert teacher_table.describe(str(folder))["metric"] is None
    (folder / "record.json").write_text('{"config": {"family": "hubert"}, "iterations": []}')
    with pytest.raises(EnhanceError, match="not a record of enhance teacher pretrain"):
        teacher_table.describe(str(folder))


def test_without_held_back_files_the_card_says_so(made: dict[str, Path]) -> None:
    record = json.loads((made["hubert"] / "record.json").read_text())
    for key in ("clean", "codes"):
        record["iterations"][0].pop(key)
    assert "None were held back" in ssl_card.text(record, "x", 1000)


def test_minutes_are_free_to_change_on_resume(made: dict[str, Path], tiny_corpus: Path) -> None:
    config = dataclasses.replace(configured("hubert"), minutes=3.0)
    record = pretrain(config, tiny_corpus, made["hubert"], resume=True, quiet=True)
    assert record["iterations"][0]["steps"] == 5


def test_the_front_end_of_wav2vec2_learns_first(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(self: Loop, learner: pretrain_ssl.FamilyLearner, *_: object, **__: object) -> bool:
        seen.append({n: t.clone() for n, t in learner.family.model.state_dict().items()})
        self.save(learner.learnt())
        return False

    monkeypatch.setattr(Loop, "train", stop)
    for steps in (0, 3):
        config = configured("wav2vec2", front_end_steps=steps)
        pretrain(config, tiny_corpus, tmp_path / str(steps), quiet=True)
    moved = {n for n in seen[0] if not torch.equal(seen[0][n], seen[1][n])}
    assert {n.split(".")[1] for n in moved} == {"feature_extractor", "feature_projection"}
    # Stopped between head start and first step: it is not given twice
    monkeypatch.undo()
    pretrain(config, tiny_corpus, tmp_path / "3", resume=True, quiet=True)
    pretrain(config, tiny_corpus, tmp_path / "unstopped", quiet=True)
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("3", "unstopped")]
    assert weights[0] == weights[1]


def test_a_stopped_head_start_is_made_again(tiny_corpus: Path, tmp_path: Path) -> None:
    config = configured("wav2vec2")
    work = families.Work(0, SslData.open(tiny_corpus, 0.3, 0, True), tmp_path, False, False,
                         lambda: iter(()), Interrupt(), True)  # fmt: skip
    work.interrupt.caught = "SIGINT"
    assert families.build(config).prepare(work) == "the head start of the front end"
