"""`enhance evaluate` on four generated clips."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.figures import results
from benchmarks.figures.results import read_rows
from benchmarks.figures.statistics import mean_interval
from benchmarks.pages.report import write_report
from benchmarks.quality import clips
from benchmarks.quality import evaluate as evaluation
from benchmarks.quality.clips import snr_db
from benchmarks.quality.evaluate import check_snr, evaluate
from benchmarks.quality.heard import heard_names, source_names
from enhance.errors import EnhanceError
from enhance.files import read_jsonl, sha256, write_jsonl
from enhance.measure.metrics import METRICS, measure
from enhance.measure.opinions import DNSMOS, distillmos, dnsmos

RATE = 16000
SetMaker = Callable[..., Path]
ModelMaker = Callable[..., Path]


def waves(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return tuple(soundfile.read(folder / part / name)[0] for part in ("clean", "noisy"))


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than measuring here; one test draws."""
    if "draws" not in request.node.name:
        monkeypatch.setattr("benchmarks.figures.plots.quality_plot", lambda *_: False)


def test_noisy_alone(make_set: SetMaker, tmp_path: Path) -> None:
    folder = make_set()
    found = evaluate("noisy", folder, -5, tmp_path / "out", 1, quiet=True)
    (row,) = found.models
    assert row["model"] == "noisy"
    for metric in METRICS:
        values = []
        for index in range(4):
            clean, noisy = waves(folder, f"{index:03d}.wav")
            values.append(measure(clean, noisy, RATE)[metric])
        entry = row["metrics"][metric]
        assert entry["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert (entry["n"], entry["refused"]) == (4, 0)
        assert entry["low"] < entry["mean"] < entry["high"]
        assert entry["gain"]["mean"] == 0
    assert row["set_hash"] == found.set_hash
    assert len(found.set_hash) == 64
    per_clip = read_jsonl(tmp_path / "out" / "clips.jsonl")
    assert [item["clip"] for item in per_clip] == ["000", "001", "002", "003"]
    assert per_clip[0]["labels"]["speech_group"] == "even"
    assert set(per_clip[0]["gains"]) == set(METRICS)


def test_intervals_are_clustered_by_the_labels_of_the_set(
    make_set: SetMaker, tmp_path: Path
) -> None:
    folder = make_set()
    path = folder / "manifest.csv"
    path.write_text(re.sub(r"voice-(\d)", lambda m: f"voice-{int(m[1]) // 2}", path.read_text()))
    (row,) = evaluate("noisy", folder, -5, tmp_path / "out", 1, quiet=True).models
    assert "clustered by speaker (2)" in row["interval"]
    clips = read_jsonl(tmp_path / "out" / "clips.jsonl")
    expected = mean_interval([clip["metrics"]["stoi"] for clip in clips], {"speaker": [*"aabb"]})
    found = row["metrics"]["stoi"]
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_groups_of_a_set_without_labels_are_refused(make_set: SetMaker, tmp_path: Path) -> None:
    folder = make_set()
    (folder / "manifest.csv").unlink()
    with pytest.raises(EnhanceError, match=r"--by speaker: .* no manifest with labels$"):
        evaluate("noisy", folder, -5, tmp_path / "out", 1, groups=["speaker"], quiet=True)


def test_compares_models_pair_by_pair_and_draws(
    make_set: SetMaker, make_model: ModelMaker, tmp_path: Path
) -> None:
    folder = make_set()
    a, b = make_model("a", gain=0.5), make_model("b", gain=0.25)
    found = evaluate([str(a), str(b)], folder, -5, tmp_path / "out", 1, quiet=True)
    assert [row["model"] for row in found.models] == ["noisy", "a", "b"]
    for row in found.models[1:]:  # a gain changes neither SI-SDR nor STOI
        assert row["metrics"]["si_sdr"]["gain"]["mean"] == pytest.approx(0, abs=1e-4)
        assert row["metrics"]["stoi"]["gain"]["mean"] == pytest.approx(0, abs=1e-5)
    (pair,) = found.comparisons
    assert (pair["a"], pair["b"]) == ("a", "b")
    assert pair["metrics"]["si_sdr"]["n"] == 4
    report = write_report(found.folder).read_text()
    assert "b - a" in report
    assert found.set_hash in report
    image = (tmp_path / "out" / f"quality-{found.set_hash[:8]}.png").read_bytes()
    assert image.startswith(b"\x89PNG")


def test_what_another_system_made_is_measured(make_set: SetMaker, tmp_path: Path) -> None:
    folder, other = make_set(), tmp_path / "other"
    other.mkdir()
    for i in range(4):
        clean, noisy = waves(folder, f"{i:03d}.wav")
        soundfile.write(other / f"{i:03d}.flac", (clean + noisy) / 2, RATE)
    evaluated = evaluate(["noisy", other], folder, -5, tmp_path / "out", 1, quiet=True)
    gain = evaluated.models[1]["metrics"]["si_sdr"]["gain"]
    assert (evaluated.models[1]["model"], gain["n"]) == ("other", 4)
    assert gain["mean"] == pytest.approx(6.02, abs=0.3)  # half of the noise is left
    soundfile.write(other / "003.flac", noisy[:-1], RATE)
    with pytest.raises(EnhanceError, match=r"as many samples as the noisy clip"):
        evaluate([other], folder, -5, tmp_path / "out", 1, quiet=True)
    (other / "003.flac").unlink()
    with pytest.raises(EnhanceError, match=r"other: holds nothing for clip 003; give every clip"):
        evaluate([other], folder, -5, tmp_path / "again", 1, quiet=True)


def test_workers_give_the_rows_of_one_process(
    make_set: SetMaker, make_model: ModelMaker, tmp_path: Path
) -> None:
    folder, model = make_set(2), make_model()
    rows = []
    for jobs in (1, 2):
        evaluate(str(model), folder, -5, tmp_path / f"out{jobs}", jobs, quiet=True)
        rows.append(read_jsonl(tmp_path / f"out{jobs}" / "clips.jsonl"))
    assert rows[0] == rows[1]


def test_another_snr_is_refused_by_name(make_set: SetMaker, tmp_path: Path) -> None:
    folder = make_set()
    clean, noisy = waves(folder, "002.wav")
    soundfile.write(folder / "noisy" / "002.wav", clean + 1.02 * (noisy - clean), RATE, "FLOAT")
    with pytest.raises(EnhanceError, match=r"1 of 4 pairs .* first 002 \(-5\.17 dB\)"):
        evaluate("noisy", folder, -5, tmp_path / "out", 1, quiet=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(EnhanceError, match=r"4 of 4 pairs are not at 0 dB .* with --snr any"):
        evaluate("noisy", folder, 0, tmp_path / "out", 1, quiet=True)
    assert evaluate("noisy", folder, None, tmp_path / "out", 1, quiet=True).models


def test_snr_of_a_pair() -> None:
    clean = np.sin(np.arange(1000))
    assert snr_db(clean, clean * 3) == pytest.approx(-20 * np.log10(2), abs=1e-9)
    assert np.isnan(snr_db(clean, clean))
    check_snr([("a", -5.09), ("b", -4.91)], -5, "set")
    for value in (-5.11, -4.89, float("nan")):
        with pytest.raises(EnhanceError, match="1 of 1"):
            check_snr([("a", value)], -5, "set")
    with pytest.raises(EnhanceError, match=r"with --snr 2\.5$"):  # one SNR, another than was named
        check_snr([("a", 2.46), ("b", 2.54)], -5, "set")
    with pytest.raises(EnhanceError, match="with --snr any"):
        check_snr([("a", -5.0), ("b", float("nan"))], -5, "set")


def test_refused_clips_are_counted_and_named(make_set: SetMaker, tmp_path: Path) -> None:
    found = evaluate("noisy", make_set(short=1), -5, tmp_path / "out", 1, quiet=True)
    (row,) = found.models
    refused = {metric: row["metrics"][metric]["refused"] for metric in METRICS}
    assert refused == {"pesq_wb": 1, "stoi": 1, "estoi": 1, "si_sdr": 0}
    assert row["metrics"]["stoi"]["n"] == 3
    assert {item["clip"] for item in row["refusals"]} == {"000"}
    assert any("stoi refused 1 of 4" in line and "000" in line for line in found.warnings)
    assert "refused 000" in write_report(found.folder).read_text()


def test_groups_are_reported_apart(make_set: SetMaker, tmp_path: Path) -> None:
    found = evaluate("noisy", make_set(), -5, tmp_path / "out", 1, quiet=True)
    groups = found.models[0]["groups"]["speech_group"]
    assert {name: group["clips"] for name, group in groups.items()} == {"even": 2, "odd": 2}
    rows = read_jsonl(tmp_path / "out" / "clips.jsonl")
    odd = [row["metrics"]["si_sdr"] for row in rows if row["clip"] in ("001", "003")]
    assert groups["odd"]["metrics"]["si_sdr"]["mean"] == pytest.approx(np.mean(odd), abs=1e-12)
    with pytest.raises(EnhanceError, match="speech_group"):
        evaluate(
            "noisy", tmp_path / "set", -5, tmp_path / "o", 1, groups=["accent"], quiet=True
        )  # fmt: skip


def test_a_stopped_run_goes_on(
    make_set: SetMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_set(), tmp_path / "out"
    real, calls = clips.measure_pair, []

    def stop_at_third(pair: clips.Pair, *rest: object) -> clips.Row:
        calls.append(pair.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(pair, *rest)

    monkeypatch.setattr(clips, "measure_pair", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate("noisy", folder, -5, out, 1, quiet=True)
    assert not (out / "results.jsonl").exists()
    with (out / "clips.jsonl").open("a") as file:
        file.write('{"clip": "002", "mod')  # killed in writing
    calls[:] = ["", "", ""]
    found = evaluate("noisy", folder, -5, out, 1, quiet=True)
    assert calls[3:] == ["002", "003"]
    assert found.reused == 2
    fresh = evaluate("noisy", folder, -5, tmp_path / "fresh", 1, quiet=True)
    assert found.models[0]["metrics"] == fresh.models[0]["metrics"]
    assert read_jsonl(out / "clips.jsonl") == read_jsonl(tmp_path / "fresh" / "clips.jsonl")


def test_rows_of_changed_clips_or_models_are_measured_anew(
    make_set: SetMaker, make_model: ModelMaker, tmp_path: Path
) -> None:
    folder, out, model = make_set(2), tmp_path / "out", make_model(gain=0.5)
    evaluate(str(model), folder, -5, out, 1, quiet=True)
    assert evaluate(str(model), folder, -5, out, 1, quiet=True).reused == 4
    make_model(gain=0.25)  # another file under the same name
    assert evaluate(str(model), folder, -5, out, 1, quiet=True).reused == 2  # the noisy rows
    clean, noisy = waves(folder, "001.wav")
    soundfile.write(folder / "noisy" / "001.wav", clean - (noisy - clean), RATE, "FLOAT")
    assert evaluate(str(model), folder, -5, out, 1, quiet=True).reused == 0  # another set


def test_dnsmos_is_added_to_what_was_measured(
    make_set: SetMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("speechmos")
    folder, out = make_set(2), tmp_path / "out"
    plain = evaluate("noisy", folder, -5, out, 1, quiet=True)
    asked: list[tuple[str, ...]] = []

    def note(clean: np.ndarray, wave: np.ndarray, rate: int, names: tuple[str, ...], _) -> dict:  # type: ignore[no-untyped-def]
        asked.append(names)
        return measure(clean, wave, rate, names)

    monkeypatch.setattr(clips, "measure", note)
    found = evaluate("noisy", folder, -5, out, 1, dnsmos=True, quiet=True)
    assert asked == [DNSMOS, DNSMOS]  # the others are taken from the earlier rows
    row = found.models[0]["metrics"]
    assert list(row) == [*METRICS, *DNSMOS]
    assert {m: row[m] for m in METRICS} == plain.models[0]["metrics"]
    values = [dnsmos(waves(folder, f"00{i}.wav")[1])["dnsmos_sig"] for i in range(2)]
    assert row["dnsmos_sig"]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert "DNSMOS OVRL" in write_report(out).read_text()
    asked.clear()
    again = evaluate("noisy", folder, -5, out, 1, quiet=True)
    assert (again.reused, asked) == (2, [])
    assert list(again.models[0]["metrics"]) == list(METRICS)


def test_what_measured_a_figure_is_known_when_others_join_it(
    make_set: SetMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word errors of one recogniser are not another's, whatever was measured in between."""
    words = pytest.importorskip("benchmarks.recognizers.words")
    rates = {"first": 0.25, "second": 0.75}
    monkeypatch.setattr("benchmarks.recognizers.choose.load", lambda name: name)
    monkeypatch.setattr(words, "word_errors", lambda name: lambda *_: rates[name])

    def quick(*asked: Any) -> dict[str, float]:
        return {name: asked[4](*asked[:2]) if name == "wer" else 1.0 for name in asked[3]}

    monkeypatch.setattr(clips, "measure", quick)
    monkeypatch.setattr(evaluation, "require", lambda *_: None)
    ask: Any = {"set": make_set(2), "out": tmp_path / "out", "jobs": 1, "quiet": True}
    for asked in ({"wer": "first"}, {"dnsmos": True}, {"wer": "second"}):
        found = evaluate("noisy", **asked, **ask)
        if "wer" in asked:
            assert found.models[0]["metrics"]["wer"]["mean"] == rates[asked["wer"]]


def test_distillmos_is_added_too(make_set: SetMaker, tmp_path: Path) -> None:
    pytest.importorskip("xls_r_sqa")
    folder = make_set(2)
    found = evaluate("noisy", folder, -5, tmp_path, 1, distillmos=True, quiet=True)
    row = found.models[0]["metrics"]
    assert list(row) == [*METRICS, "distillmos"]
    values = [distillmos(waves(folder, f"00{i}.wav")[1]) for i in range(2)]
    assert row["distillmos"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert found.models[0]["hardware"]["metric_versions"]["distillmos"] == version("distillmos")


def test_older_results_are_replaced_and_others_kept(make_set: SetMaker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, snr in (("a", -5), ("b", 0), ("a", -5)):
        folder = tmp_path / name
        evaluate("noisy", folder if folder.exists() else make_set(2, snr, name=name), snr, out, 1,
                 quiet=True)  # fmt: skip
    rows = read_jsonl(out / "results.jsonl")
    assert sorted(row["snr_db"] for row in rows) == [-5, 0]
    assert len(read_jsonl(out / "clips.jsonl")) == 4


def test_pairs_of_different_length_are_refused(make_set: SetMaker, tmp_path: Path) -> None:
    folder = make_set()
    _, noisy = waves(folder, "001.wav")
    soundfile.write(folder / "noisy" / "001.wav", noisy[:-1], RATE, "FLOAT")
    with pytest.raises(EnhanceError, match=r"001\.wav: .* equally long"):
        evaluate("noisy", folder, -5, tmp_path / "out", 1, quiet=True)


def test_warns_of_clips_heard_in_training(
    make_set: SetMaker, make_model: ModelMaker, tmp_path: Path
) -> None:
    folder, model, out = make_set(), make_model(), tmp_path / "out"
    found = evaluate(str(model), folder, -5, out, 1, quiet=True)
    assert any("heard.jsonl" in line for line in found.warnings)  # it cannot tell, and says so
    heard = [
        {"path": "elsewhere/renamed.wav", "sha256": sha256(folder / "clean" / "000.wav")},
        {"path": "train/Story-2B.opus", "sha256": "0" * 64},
        {"path": "train/003.wav", "sha256": "1" * 64},  # digits only: says nothing
    ]
    write_jsonl(model.with_name("tiny.heard.jsonl"), heard)
    found = evaluate(str(model), folder, -5, out, 1, quiet=True)
    assert found.models[1]["heard"]["same_bytes"] == [["000", "renamed.wav"]]
    assert found.models[1]["heard"]["same_name"] == [["002", "Story-2B.opus"]]
    assert [line for line in found.warnings if "same bytes: 000 (renamed.wav)" in line]
    assert [line for line in found.warnings if "same name: 002 (Story-2B.opus)" in line]


def test_a_name_with_spaces_is_one_name() -> None:
    """Two files of Debian packages do not share the name "Debian"."""
    labels = {"noise_name": "Debian lincity/sounds/track.wav", "source_files": "it-0772.wav w1.mp3"}
    assert source_names("0001", labels) == {"track", "it-0772"}
    heard = {"path": "speech/one_0001.opus", "recordings": ["Debian asterisk/Demo Instruct.g722"]}
    assert "debian" not in heard_names(heard) and heard_names(heard) >= {"one_0001"}


def test_a_checkpoint_is_evaluated_by_torch(make_set: SetMaker, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from enhance.config import MODELS, ModelConfig
    from enhance.network.checkpoint import CheckpointInfo, save_model
    from enhance.network.waveform_model import WaveformModel
    from enhance.stft import StftConfig

    torch.manual_seed(0)
    config = ModelConfig(stft=StftConfig(), gcrn=MODELS["gcrn-tiny"])
    model = WaveformModel(config)
    torch.nn.init.normal_(model.network.decoders[0][-1].conv.weight)  # a mask of noise
    save_model(tmp_path / "run", model, CheckpointInfo(config))
    folder = make_set(2)
    before = torch.get_num_threads()
    found = evaluate(tmp_path / "run", folder, -5, tmp_path / "out", 1, quiet=True)
    assert torch.get_num_threads() == before
    row = found.models[1]
    assert (row["model"], row["model_kind"]) == ("run", "checkpoint")
    noisy = found.models[0]
    for metric in METRICS:
        gain = row["metrics"][metric]["gain"]
        assert gain["n"] == 2
        assert gain["mean"] == pytest.approx(
            row["metrics"][metric]["mean"] - noisy["metrics"][metric]["mean"], abs=1e-9
        )
    # It destroys: a gain below zero, and not by rounding.
    assert row["metrics"]["si_sdr"]["gain"]["mean"] < -1


def test_unreadable_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text('{"clip": 1}\nnot json\n{"a": 1}\n')
    with pytest.raises(EnhanceError, match="line 2"):
        read_rows(path)


def test_a_cluster_that_is_not_there_leaves_nothing_behind(
    make_set: SetMaker, tmp_path: Path
) -> None:
    for address in ("nonsense", "tcp://127.0.0.1:1"):
        with pytest.raises(EnhanceError, match=f"--cluster {address}: no Dask scheduler"):
            evaluate("noisy", make_set(2), -5, tmp_path / "out", cluster=address, quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_is_refused_is_named_by_its_option(make_set: SetMaker, tmp_path: Path) -> None:
    for snr in (500, -61, float("nan")):
        with pytest.raises(EnhanceError, match=f"^--snr {snr:g}: .* -60 to 60 dB"):
            evaluate("noisy", None, snr, tmp_path / "out", 1, quiet=True)
    with pytest.raises(EnhanceError, match=r"^recogniser nosuch: no such folder"):
        evaluate("noisy", make_set(2), -5, tmp_path / "out", 1, wer="nosuch", quiet=True)
    with pytest.raises(EnhanceError, match=r"^~no-user/x: is in no home folder"):
        evaluate("noisy", tmp_path / "set", -5, tmp_path / "out", 1, wer="~no-user/x", quiet=True)


def test_missing_things_are_one_line(make_set: SetMaker, tmp_path: Path) -> None:
    folder = make_set(2)
    with pytest.raises(EnhanceError, match="no such model"):
        evaluate("nothing.onnx", folder, -5, tmp_path / "out", 1, quiet=True)
    with pytest.raises(EnhanceError):
        evaluate(tmp_path, folder, -5, tmp_path / "out", 1, quiet=True)
    with pytest.raises(EnhanceError):
        evaluate("noisy", tmp_path / "absent", -5, tmp_path / "out", 1, quiet=True)
    shutil.rmtree(folder / "noisy")
    with pytest.raises(EnhanceError):
        evaluate("noisy", folder, -5, tmp_path / "out", 1, quiet=True)


def test_noisy_dev_baseline(corpus: Path, tmp_path: Path) -> None:
    found = evaluate("noisy", corpus / "dev", -5, tmp_path, 1, limit=6, quiet=True)
    (row,) = found.models
    # -5 dB by construction; speech and noise correlate a little, so that SI-SDR differs.
    assert row["metrics"]["si_sdr"]["mean"] == pytest.approx(-5, abs=0.15)
    assert set(row["groups"]) == {"speech_group", "speaker_in_train"}
    assert json.loads(json.dumps(row)) == row
    assert results.RESULTS in {path.name for path in tmp_path.iterdir()}
