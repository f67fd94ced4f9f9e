"""`enhance guard`: models whose fault is known by how they were built, and what is played."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import tiny_onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_harm import COUNT, RATE, voice, write_set
from tiny_kinds import KINDS, few_kinds

from benchmarks.guard import cases as c
from benchmarks.guard import run as harm
from benchmarks.guard.bounds import Harm
from benchmarks.guard.run import Guard, guard
from benchmarks.guard.tables import checks_table, show_guard
from benchmarks.pages.report import write_report
from benchmarks.quality import clips as rows_of
from benchmarks.quality.candidates import Candidate, Enhance
from benchmarks.quality.clips import Pair
from enhance.cli import app as cli
from enhance.data.evaluation_set import open_set
from enhance.errors import EnhanceError
from enhance.files import read_jsonl

MUSIC = "music: level of what should stay"
WOMEN = "women less men: level of what should stay"


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


@pytest.fixture(scope="module", autouse=True)
def four_kinds() -> Iterator[None]:
    with few_kinds():
        yield


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
        "-5 dB": COUNT, "silence": 1, **dict.fromkeys(c.KINDS, 2),
        **dict.fromkeys((c.MUSIC, c.DITHER, c.ROOM), c.MADE_CLIPS),
    }  # fmt: skip
    # Every kind of formula is judged, and alarms against the rest.
    judged = {check["name"] for check in row["checks"]}
    assert {f"-5 dB, {kind}: gain of SI-SDR" for kind in KINDS} <= judged
    assert "alarms against other noise: SI-SDR gain" in judged


def test_the_input_is_always_a_row_and_never_judged(found: Guard) -> None:
    first = found.models[0]
    assert (first["model"], first["checks"]) == ("noisy", [])
    assert first["cases"]["15 dB"]["metrics"]["si_sdr"]["mean"] == pytest.approx(15, abs=0.01)
    assert first["cases"]["15 dB"]["metrics"]["si_sdr"]["gain"]["mean"] == 0


def test_half_the_level_fails_the_level_of_clean_speech_and_of_music_alone(found: Guard) -> None:
    quiet = {f"{case}: change of level" for case in c.CLEAN}
    assert failed(found, "half") == {*quiet, MUSIC}
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
    assert entry["worst_tenth"] == pytest.approx(min(values))
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
    text = write_report(found.folder).read_text("utf-8")
    assert "## Harm guards" in text
    (table,) = [checks_table(found.models)]
    assert all("| " + " | ".join(row) + " |" in text for row in table.rows)
    assert "FAIL" in text
    assert f"| music (made) | {c.MADE_CLIPS} | noisy |" in text
    assert "made from formulas, not recorded: music, silence, dither, room noise" in text
    assert found.failed == sum(row.count("FAIL") for row in map(" ".join, table.rows))
    stored = [r for r in read_jsonl(found.folder / "results.jsonl") if r["kind"] == "harm"]
    assert [row["model"] for row in stored] == [row["model"] for row in found.models]
    assert stored[0]["given"]["speech"]["files"] == 5  # the one under a second is left out
    assert stored[0]["bounds"] == asdict(Harm())


def test_a_model_of_before_a_check_has_a_dash_there(found: Guard) -> None:
    """Kinds of noise join from version to version; a report keeps what it measured before."""
    before, now = row_of(found, "half"), row_of(found, "loud")
    older = {**before, "checks": [x for x in before["checks"] if x["name"] != WOMEN]}
    whole, table = checks_table([before, now]), checks_table([older, now])
    assert table.headers == ["check", "bound", "half", "loud"]
    expected = [[*row[:2], "-", row[3]] if row[0] == WOMEN else row for row in whole.rows]
    assert sorted(table.rows) == sorted(expected) != sorted(whole.rows)


def test_files_are_guarded_without_torch() -> None:
    code = "import sys, benchmarks.guard.run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_run_stands_beside_the_first(found: Guard, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(found.folder, out)
    guard(place / "half.onnx", place / "set", out, limit=5, jobs=1, quiet=True)
    rows = read_jsonl(out / "results.jsonl")
    assert rows[:-2] == read_jsonl(found.folder / "results.jsonl")
    assert [(row["model"], row["limit"]) for row in rows[-2:]] == [("noisy", 5), ("half", 5)]
    text = write_report(out).read_text("utf-8")
    assert text.count("## Harm guards") == 2
    # No speech was named: those checks say so, and do not pass.
    verdicts = {x["name"]: x["verdict"] for x in rows[-1]["checks"]}
    assert verdicts["other language: gain of PESQ-WB"] == "not measured"
    same = [check["name"] for check in row_of(found, "half")["checks"]]
    assert list(verdicts) == same


def test_a_damaged_list_of_training_files_is_told_before_the_long_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_onnx.build(tmp_path / "m.onnx")
    (tmp_path / "heard.jsonl").write_text("no JSON")
    write_set(place / "set")
    monkeypatch.setattr(harm, "_measure", None)
    with pytest.raises(EnhanceError, match=r"heard\.jsonl, line 1: not JSON"):
        guard(model, place / "set", tmp_path / "o", limit=4, jobs=1, quiet=True)
    assert not (tmp_path / "o").exists()


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
    counts = Counter(check["verdict"] for check in row_of(found, "half")["checks"])
    told = f"{counts['pass']} passed, 4 failed, {counts['not shown']} not shown, 0 not measured"
    assert told in out
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
        ({"set": Path(__file__).parent}, "guard"),
        ({"noise": Path(__file__).parent}, "guard"),
    ],
)
def test_refusals(options: dict[str, Any], words: str, place: Path, tmp_path: Path) -> None:
    model = tiny_onnx.build(tmp_path / "m.onnx")
    arguments = {"models": [str(model)], "set": place / "set", "out": tmp_path / "o", **options}
    write_set(place / "set")
    with pytest.raises(EnhanceError, match=words):
        guard(**arguments, jobs=1, quiet=True)
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def spoilt(place: Path) -> Guard:
    """One run over functions: music deleted, women 4 dB down, both, and women 1 dB down."""
    stimuli = [
        (case.name, pair.labels, stimulus.make().wave.tobytes())
        for case in c.make_cases(
            [
                Pair(name, str(clean), str(noisy), dict(labels), "", "")
                for name, clean, noisy, labels in open_set(write_set(place / "set")).pairs
            ],
            4,
        )
        for pair, stimulus in case.stimuli
    ]
    tunes = {wave for case, _, wave in stimuli if case == c.MUSIC}
    women = {wave for _, told, wave in stimuli if c.sex_of(told, harm.SEX) == "female"}
    assert len(tunes) == c.MADE_CLIPS
    assert len(women) > 20

    def turned(group: set[bytes], decibel: float) -> Enhance:
        gain = np.float32(10 ** (decibel / 20))
        return lambda wave: wave * gain if wave.tobytes() in group else wave

    deaf, unfair = turned(tunes, -400.0), turned(women, -4.0)
    functions = {
        "noisy": lambda wave: wave, "deaf": deaf, "unfair": unfair,
        "both": lambda wave: unfair(deaf(wave)), "slightly": turned(women, -1.0),
    }  # fmt: skip
    path = str(tiny_onnx.build(place / "plain.onnx"))  # stands for the functions, and is not run
    models = [
        Candidate(name, "noisy" if name == "noisy" else "onnx", path, name) for name in functions
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harm, "resolve_all", lambda *_, **__: models)
        patch.setattr(rows_of, "_loaded", lambda candidate: functions[candidate.name])
        return guard([], place / "set", place / "spoilt", limit=4, jobs=1, quiet=True)


def test_deleted_music_fails(spoilt: Guard) -> None:
    assert failed(spoilt, "deaf") == {MUSIC}
    (check,) = [x for x in row_of(spoilt, "deaf")["checks"] if x["name"] == MUSIC]
    assert check["value"] == pytest.approx(-200)


def test_women_turned_down_fail_though_no_metric_hears_it(spoilt: Guard) -> None:
    assert failed(spoilt, "unfair") == {WOMEN}
    (check,) = [x for x in row_of(spoilt, "unfair")["checks"] if x["name"] == WOMEN]
    assert (check["value"], check["low"]) == pytest.approx((-4, -4), abs=1e-4)
    gaps = row_of(spoilt, "unfair")["groups"]["sex"]["difference"]
    assert [gaps[metric]["mean"] for metric in ("estoi", "si_sdr")] == pytest.approx(
        [0, 0], abs=1e-3
    )
    # Half of the clean clips are 4 dB down: a mean of -2 dB, but not of every half.
    told = {x["name"]: x["verdict"] for x in row_of(spoilt, "unfair")["checks"]}
    assert told["clean speech, -25 dBFS: change of level"] == "not shown"
    assert failed(spoilt, "both") == {MUSIC, WOMEN}
    # A bound is allowed as it stands.
    assert not failed(spoilt, "slightly")


def test_not_shown_is_counted_apart_and_no_failure(
    spoilt: Guard, capsys: pytest.CaptureFixture[str]
) -> None:
    show_guard(spoilt)
    counts = Counter(x["verdict"] for x in row_of(spoilt, "unfair")["checks"])
    told = f"unfair: {counts['pass']} passed, 1 failed, {counts['not shown']} not shown, 3 not"
    assert told in capsys.readouterr().out
    assert counts["not shown"] >= len(c.CLEAN)
    assert replace(spoilt, models=[row_of(spoilt, "slightly")]).failed == 0
    text = write_report(spoilt.folder).read_text("utf-8")
    assert re.search(
        r"change of level \| ± 1 dB \|.* -2\.000 \[-\d\.\d+, \d\.\d+\] not shown \|", text
    )
