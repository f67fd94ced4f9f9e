"""`enhance guard`: models whose fault is known by how they were built, and what is played."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import tiny_onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from benchmarks import harm
from benchmarks import harm_cases as c
from benchmarks import harm_signals as s
from benchmarks.clips import Pair
from benchmarks.harm import Guard, guard, welch
from benchmarks.harm_bounds import Check, Harm, judge
from benchmarks.harm_report import checks_table
from enhance import cli
from enhance.errors import EnhanceError
from enhance.files import read_jsonl
from enhance.metrics import measure

RATE = 16000
COUNT = 6


def voice(seed: int, seconds: float = 1.2) -> np.ndarray:
    """A buzz in syllables with silence between, different for each seed."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 100 + 15 * seed
    buzz = sum(np.sin(2 * np.pi * pitch * k * t + k * k) / k for k in range(1, 30))
    return (0.05 * np.clip(np.sin(2 * np.pi * 3.7 * t + seed), 0, None) * buzz).astype(np.float32)


def write_set(folder: Path) -> Path:
    """Pairs at -5 dB of six voices: one half women, one half heard in training."""
    rows = []
    for index in range(COUNT):
        clean = voice(index)
        rough = np.random.default_rng(index).standard_normal(clean.size).astype(np.float32)
        scale = np.sqrt(np.sum(clean**2) / np.sum(rough**2)) * 10 ** (5 / 20)
        for part, wave in (("clean", clean), ("noisy", clean + scale * rough)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            path = f"{part}/{index:03d}.wav"
            soundfile.write(folder / path, wave, RATE, subtype="FLOAT")
            speaker = f"an4_{'fm'[index % 2]}{index}"
            heard = ("yes", "no", "unknown (not told)")[index // 2]
            rows.append({"path": path, "speaker": speaker, "speaker_in_train": heard})
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def on_silence(path: Path, value: float) -> Path:
    """A model that leaves everything as it is, and gives ``value`` for a hop of zeros."""
    hop = 320
    constants = {"huge": np.float32(1e30), "one": np.float32(1), "value": np.float32(value)}
    nodes = [
        helper.make_node("Abs", ["audio"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["peak"], keepdims=1),
        helper.make_node("Mul", ["peak", "huge"], ["large"]),
        helper.make_node("Min", ["large", "one"], ["sound"]),
        helper.make_node("Equal", ["sound", "one"], ["heard"]),
        helper.make_node("Where", ["heard", "audio", "value"], ["enhanced"]),
        helper.make_node("Identity", ["h"], ["h.out"]),
    ]
    shapes = {"audio": hop, "h": 1, "enhanced": hop, "h.out": 1}
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in shapes.items()
    }
    graph = helper.make_graph(
        nodes,
        "on-silence",
        [infos["audio"], infos["h"]],
        [infos["enhanced"], infos["h.out"]],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, tiny_onnx.metadata(hop, 0))
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="module")
def found(place: Path) -> Guard:
    """One run over models whose faults are known."""
    folder = place / "talk"
    folder.mkdir()
    for index in range(5):
        soundfile.write(folder / f"t{index}.wav", voice(20 + index, 1.5), RATE)
    soundfile.write(folder / "short.wav", voice(30, 0.4), RATE)
    build = tiny_onnx.build
    models = [
        build(place / "identity.onnx", hop=320),
        build(place / "half.onnx", gain=0.5, hop=320),
        build(place / "smeared.onnx", pole=0.97, gain=0.1, hop=320),
        build(place / "loud.onnx", gain=2.0, hop=320),
        on_silence(place / "bang.onnx", 0.5),
        on_silence(place / "nan.onnx", float("nan")),
    ]
    return guard(
        list(map(str, models)),
        write_set(place / "set"),
        place / "out",
        speech=folder,
        limit=4,
        jobs=1,
        quiet=True,
    )


def row_of(found: Guard, name: str) -> dict[str, Any]:
    return next(row for row in found.models if row["model"] == name)


def failed(found: Guard, name: str) -> set[str]:
    return {check["name"] for check in row_of(found, name)["checks"] if check["verdict"] == "fail"}


def test_what_changes_nothing_passes_everything(found: Guard) -> None:
    row = row_of(found, "identity")
    assert Counter(check["verdict"] for check in row["checks"]) == {"pass": len(row["checks"])}
    clean = row["cases"]["clean speech, -50 dBFS"]
    assert clean["metrics"]["pesq_wb"]["mean"] == pytest.approx(4.644, abs=0.001)
    assert clean["metrics"]["si_sdr"]["worst_tenth"] == c.EXACT_DB
    assert clean["change_db"]["mean"] == 0
    assert clean["overshoot_db"] == 0
    assert {case: x["clips"] for case, x in row["cases"].items() if x["clips"] != 4} == {
        "-5 dB": COUNT, "music": 1, "silence": 1, "dither": 1, "room noise": 1,
    }  # fmt: skip


def test_the_input_is_always_a_row_and_never_judged(found: Guard) -> None:
    first = found.models[0]
    assert (first["model"], first["checks"]) == ("noisy", [])
    assert first["cases"]["15 dB"]["metrics"]["si_sdr"]["mean"] == pytest.approx(15, abs=0.01)
    assert first["cases"]["15 dB"]["metrics"]["si_sdr"]["gain"]["mean"] == 0


def test_half_the_level_fails_the_level_of_clean_speech_alone(found: Guard) -> None:
    assert failed(found, "half") == {f"{case}: change of level" for case in c.CLEAN}
    change = row_of(found, "half")["cases"]["clean speech, -3 dBFS peak"]["change_db"]
    assert change["mean"] == pytest.approx(-6.02, abs=0.01)


def test_smeared_speech_fails_clean_speech_and_no_silence(found: Guard) -> None:
    names = failed(found, "smeared")
    assert {f"{case}: SI-SDR" for case in c.CLEAN} <= names
    assert "15 dB: gain of SI-SDR" in names
    assert not any("silence" in name or "finite" in name for name in names)


def test_a_louder_output_overshoots_and_lifts_the_noise(found: Guard) -> None:
    names = failed(found, "loud")
    assert {"rise of a peak", "dither: change of level", "noise alone: change of level"} <= names
    rise = next(x for x in row_of(found, "loud")["checks"] if x["name"] == "rise of a peak")
    assert rise["value"] == pytest.approx(6.02, abs=0.01)


def test_an_explosion_on_silence_fails_silence(found: Guard) -> None:
    names = failed(found, "bang")
    assert {"silence: largest sample", "silence after speech: largest sample"} <= names
    peak = row_of(found, "bang")["cases"]["silence"]["peak_out_dbfs"]
    assert peak == pytest.approx(-6.02, abs=0.01)


def test_nan_is_a_finding_and_not_the_end(found: Guard) -> None:
    row = row_of(found, "nan")
    first = row["checks"][0]
    assert (first["name"], first["verdict"]) == ("inputs without a finite output", "fail")
    assert "NaN" in first["detail"]
    silence = next(x for x in row["checks"] if x["name"] == "silence: largest sample")
    assert (silence["verdict"], silence["value"]) == ("fail", None)
    assert "NaN" in silence["detail"]
    # Voices with silence between the syllables: nothing came out that could be measured.
    clean = next(x for x in row["checks"] if x["name"] == "clean speech, -25 dBFS: PESQ-WB")
    assert (clean["verdict"], clean["value"]) == ("fail", None)


def test_figures_follow_from_the_rows_kept(found: Guard) -> None:
    rows = read_jsonl(found.folder / harm.CLIPS)
    own = [row for row in rows if row["model"] == "smeared"]
    inputs = {(r["case"], r["clip"]): r for r in rows if r["model"] == "noisy"}
    summary = row_of(found, "smeared")
    values = [r["metrics"]["pesq_wb"] for r in own if r["case"] == "clean speech, -25 dBFS"]
    entry = summary["cases"]["clean speech, -25 dBFS"]["metrics"]["pesq_wb"]
    assert entry["mean"] == pytest.approx(np.mean(values))
    assert entry["worst_tenth"] == min(values)
    gains = {}
    for case in ("-5 dB", "-5 dB, -50 dBFS"):
        for row in own:
            if row["case"] == case:
                base = inputs[case, row["clip"]]["metrics"]["si_sdr"]
                gains[case, row["clip"]] = row["metrics"]["si_sdr"] - base
    quiet = [clip for case, clip in gains if case == "-5 dB, -50 dBFS"]
    change = [gains["-5 dB, -50 dBFS", clip] - gains["-5 dB", clip] for clip in quiet]
    assert len(quiet) == 4
    entry = summary["levels"]["-5 dB, -50 dBFS"]["si_sdr"]
    assert entry["mean"] == pytest.approx(np.mean(change), abs=1e-9)
    women = [gains["-5 dB", f"{i:03d}"] for i in (0, 2, 4)]
    men = [gains["-5 dB", f"{i:03d}"] for i in (1, 3, 5)]
    sex = summary["groups"]["sex"]
    assert sex["values"]["female"]["gain"]["si_sdr"]["mean"] == pytest.approx(np.mean(women))
    assert (sex["values"]["male"]["clips"], sex["values"]["male"]["speakers"]) == (3, 3)
    expected = np.mean(women) - np.mean(men)
    assert sex["difference"]["si_sdr"]["mean"] == pytest.approx(expected)
    heard = summary["groups"]["speaker"]["values"]
    assert {name: value["clips"] for name, value in heard.items()} == {
        "heard": 2, "unheard": 2, "(unknown)": 2,
    }  # fmt: skip
    assert summary["groups"]["language"]["values"]["other"]["clips"] == 4


def test_the_report_holds_every_verdict(found: Guard) -> None:
    text = (found.folder / "report.md").read_text("utf-8")
    assert "## Harm guards" in text
    (table,) = [checks_table(found.models)]
    assert all("| " + " | ".join(row) + " |" in text for row in table.rows)
    assert "FAIL" in text
    assert "| music (made) | 1 | noisy |" in text
    assert "made from formulas, not recorded: music, silence, dither, room noise" in text
    assert found.failed == sum(row.count("FAIL") for row in map(" ".join, table.rows))
    stored = [r for r in read_jsonl(found.folder / "results.jsonl") if r["kind"] == "harm"]
    assert [row["model"] for row in stored] == [row["model"] for row in found.models]
    assert stored[0]["given"]["speech"]["files"] == 5  # the one under a second is left out
    assert stored[0]["bounds"] == asdict(Harm())


def test_another_run_stands_beside_the_first(found: Guard, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(found.folder, out)
    guard(place / "half.onnx", place / "set", out, limit=5, jobs=1, quiet=True)
    rows = read_jsonl(out / "results.jsonl")
    assert rows[:-2] == read_jsonl(found.folder / "results.jsonl")
    assert [(row["model"], row["limit"]) for row in rows[-2:]] == [("noisy", 5), ("half", 5)]
    text = (out / "report.md").read_text("utf-8")
    assert text.count("## Harm guards") == 2
    # No speech was named: those checks say so, and do not pass.
    verdicts = {x["name"]: x["verdict"] for x in rows[-1]["checks"]}
    assert verdicts["other language: gain of PESQ-WB"] == "not measured"
    same = [check["name"] for check in row_of(found, "half")["checks"]]
    assert list(verdicts) == same


def test_command_and_strict(
    place: Path, found: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    calls: list[dict[str, Any]] = []

    def measured(*arguments: Any, **options: Any) -> Guard:
        calls.append({"arguments": arguments, **options})
        return replace(found, models=[found.models[0], row_of(found, "half")])

    monkeypatch.setattr(harm, "guard", measured)
    codes = []
    for extra in ([], ["--strict"]):
        words = ["enhance", "guard", "a.onnx", "b", "--set", "S", "--speech", "T", *extra]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        codes.append(caught.value.code or 0)
    assert codes == [0, 1]
    assert calls[0]["arguments"][:2] == (["a.onnx", "b"], Path("S"))
    assert (calls[0]["speech"], calls[0]["limit"]) == (Path("T"), 48)
    out = capsys.readouterr().out
    assert "half: " in out
    assert "3 failed" in out
    assert "FAIL" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": []}, "no model named"),
        ({"models": ["nowhere.onnx"]}, "no such model"),
        ({"limit": 3}, "at least 4"),
        ({"sex": "("}, "not a regular expression"),
        ({"sex": "an4"}, "no group"),
        ({"speech": "nowhere"}, "no such manifest"),
        ({"set": "nowhere"}, "no such evaluation set"),
    ],
)
def test_refusals(options: dict[str, Any], words: str, place: Path, tmp_path: Path) -> None:
    model = tiny_onnx.build(tmp_path / "m.onnx")
    arguments = {"models": [str(model)], "set": place / "set", "out": tmp_path / "o", **options}
    write_set(place / "set")
    with pytest.raises(EnhanceError, match=words):
        guard(**arguments, jobs=1, quiet=True)
    assert not (tmp_path / "o" / "results.jsonl").exists()


def test_bounds_are_on_the_figure_as_shown() -> None:
    entry = {"mean": None, "worst_tenth": None, "lost": 0, "reason": "", "gain": {"mean": None}}
    case = {
        "metrics": dict.fromkeys(("pesq_wb", "stoi", "estoi", "si_sdr"), entry),
        "errors": [], "overshoot_db": None, "peak_out_dbfs": None, "change_db": {"mean": None},
    }  # fmt: skip
    names = [*c.CLEAN, *c.SNRS, *c.LEVELS, c.NOISE, c.SILENCE, c.TAIL, c.DITHER, c.ROOM]
    gap = {"mean": 0.3, "low": 0.1004, "high": 0.5}
    summary: dict[str, Any] = {
        "cases": dict.fromkeys(names, case),
        "levels": {case: {"pesq_wb": None, "si_sdr": None} for case in c.LEVELS},
        "groups": {"sex": {"difference": {"pesq_wb": gap, "estoi": None, "si_sdr": None}}},
    }
    silent = {**case, "peak_out_dbfs": -89.9996}
    loud = {**case, "peak_out_dbfs": -89.999}
    summary["cases"] = {**summary["cases"], c.SILENCE: silent, c.TAIL: loud}
    checks = {check.name: check for check in judge(summary, Harm())}
    assert checks["silence: largest sample"].verdict == "pass"
    assert checks["silence after speech: largest sample"].verdict == "fail"
    assert checks["women, men: gap of PESQ-WB gain, at least"].verdict == "pass"
    gap["low"] = 0.101
    checks = {check.name: check for check in judge(summary, Harm())}
    assert checks["women, men: gap of PESQ-WB gain, at least"].verdict == "fail"
    rest = {check.verdict for check in checks.values()} - {"fail", "pass"}
    assert rest == {"not measured"}
    assert isinstance(checks["rise of a peak"], Check)


def test_welch_is_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 9), rng.normal(0, 0.5, 23)
    found = welch(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert welch([], b) is None
    assert welch([1.0], [0.0]) == {"mean": 1.0, "low": None, "high": None, "n": [1, 1]}


def files(folder: Path) -> tuple[str, str]:
    folder = write_set(folder)
    return str(folder / "clean/002.wav"), str(folder / "noisy/002.wav")


@pytest.mark.parametrize("level", [None, s.Level("rms", -50.0), s.Level("peak", -3.0)])
def test_mixtures_have_their_snr_and_level(level: s.Level | None, tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    played = s.Mixture(clean, s.Noise(noisy, clean), 15.0, level).make()
    assert played.reference is not None
    wave, speech = played.wave.astype(float), played.reference.astype(float)
    snr = 10 * np.log10(np.sum(speech**2) / np.sum((wave - speech) ** 2))
    assert snr == pytest.approx(15, abs=1e-3)
    if level:
        now = s.rms_dbfs(wave) if level.kind == "rms" else s.peak_dbfs(wave)
        assert now == pytest.approx(level.dbfs, abs=1e-4)
    else:
        np.testing.assert_allclose(speech, soundfile.read(clean)[0], atol=1e-7)
    # Before noise and speech were mixed anew, they were those of the pair.
    noise = soundfile.read(noisy)[0] - soundfile.read(clean)[0]
    assert np.corrcoef(wave - speech, noise)[0, 1] == pytest.approx(1, abs=1e-6)


def test_noise_is_repeated_and_mixtures_do_not_clip(tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, 0.9 * np.sin(np.arange(4000)), RATE, subtype="FLOAT")
    long = tmp_path / "long.wav"
    soundfile.write(long, voice(3), RATE, subtype="FLOAT")
    played = s.Mixture(str(long), s.Noise(str(short)), -20.0).make()
    noise = played.wave - played.reference
    np.testing.assert_allclose(noise[:4000], noise[4000:8000], atol=1e-6)
    played = s.Mixture(str(long), s.Noise(str(short)), -40.0).make()
    assert np.abs(played.wave).max() == pytest.approx(0.99, abs=1e-6)


def test_made_signals_are_what_they_are_called() -> None:
    for what, level in (("silence", s.FLOOR_DBFS), ("room", -60.0), ("music", -20.0)):
        played = s.Made(what, 6.0).make()
        assert played.wave.shape == (6 * RATE,)
        assert played.wave.dtype == np.float32
        assert s.rms_dbfs(played.wave) == pytest.approx(level, abs=1e-3)
        np.testing.assert_array_equal(played.wave, s.Made(what, 6.0).make().wave)
        assert played.reference is None
    steps = s.dither(4.0) * 32768
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert s.rms_dbfs(s.dither(4.0)) == pytest.approx(-96.3, abs=0.1)
    tune = s.music(6.0)
    assert np.abs(tune).max() < 1
    beats = np.abs(tune[: 12 * 8000].reshape(12, 8000)[:, :800]).mean(axis=1)
    rests = np.abs(tune[: 12 * 8000].reshape(12, 8000)[:, 7000:]).mean(axis=1)
    assert (beats > rests).all()  # a beat every half second


def test_silence_after_speech_is_measured_in_its_second_half(tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    played = s.SilenceAfter(noisy, 4.0).make()
    assert played.wave.size - played.start == 2 * RATE
    assert not played.wave[-4 * RATE :].any()
    assert played.wave[: -4 * RATE].any()
    with pytest.raises(EnhanceError, match="no noise"):
        s.Noise(clean, clean).make()


def test_a_silent_clip_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "still.wav", np.zeros(RATE), RATE)
    with pytest.raises(EnhanceError, match=r"still\.wav: is silent"):
        s.Speech(str(tmp_path / "still.wav"), s.Level("rms", -25.0)).make()


def test_choice_is_in_proportion() -> None:
    pairs = [
        Pair(f"{i:03d}", "", "", {"speech_group": "abbb"[i % 4], "speaker": str(i % 7)}, "", "")
        for i in range(200)
    ]
    chosen = c.spread(pairs, 40, c.stratum)
    assert Counter(pair.labels["speech_group"] for pair in chosen) == {"a": 10, "b": 30}
    assert len({pair.name for pair in chosen}) == 40
    assert chosen == c.spread(pairs[::-1], 40, c.stratum)
    assert len(c.spread(pairs[:3], 40, c.stratum)) == 3
    cases = {case.name: case for case in c.make_cases(pairs, 10)}
    wide = {pair.name for pair, _ in cases[c.HARD].stimuli}
    assert len(wide) == 10 * c.GROUP_FACTOR
    for name in (*c.CLEAN, *c.LEVELS, "15 dB"):
        assert {pair.name for pair, _ in cases[name].stimuli} < wide
    assert c.LANGUAGE not in cases


@pytest.mark.parametrize(
    ("labels", "sex"),
    [
        ({"speaker": "an4_fash"}, "female"),
        ({"speaker": "an4_menk"}, "male"),
        ({"speaker": "kerstin"}, ""),
        ({"speaker": "an4_menk", "gender": "F"}, "female"),
        ({"note": "male, close microphone"}, "male"),
        ({"note": "maleware"}, ""),
        ({}, ""),
    ],
)
def test_sex_is_told_or_unknown(labels: dict[str, str], sex: str) -> None:
    assert c.sex_of(labels, harm.SEX) == sex


def test_heard_by_label_or_else_by_the_training_list() -> None:
    assert c.heard_of({"speaker_in_train": "no", "speaker": "ann"}, {"ann"}) == "unheard"
    assert c.heard_of({"speaker_in_train": "unknown (x)", "speaker": "ann"}, {"ann"}) == ""
    assert c.heard_of({"speaker": "ann"}, {"ann"}) == "heard"
    assert c.heard_of({"speaker": "bob"}, {"ann"}) == "unheard"
    assert c.heard_of({"speaker": "unknown"}, {"ann"}) == ""
    assert c.heard_of({"speaker": "bob"}, None) == ""


def test_probe_travels_and_measures_as_metrics_do(tmp_path: Path) -> None:
    clean, noisy = files(tmp_path)
    (case,) = [
        case
        for case in c.make_cases([Pair("2", clean, noisy, {}, "", "")], 4)
        if case.name == "0 dB"
    ]
    pair, stimulus = case.stimuli[0]
    probe = c.Probe(pair, 0, case.name, stimulus, case.metrics)
    assert pickle.loads(pickle.dumps(probe)) == probe
    row = probe.measure(harm.resolve_all([], noisy=True)[0], lambda wave: 0.5 * wave)
    played = stimulus.make()
    expected = measure(played.reference, 0.5 * played.wave, RATE)
    assert row["metrics"] == pytest.approx(expected)
    assert row["change_db"] == pytest.approx(-6.0206, abs=1e-4)
    json.dumps(row, allow_nan=False)
    still = probe.measure(harm.resolve_all([], noisy=True)[0], np.zeros_like)
    assert still["metrics"] == {}
    assert {item["metric"] for item in still["refusals"]} == set(case.metrics)
