"""The page over all analyses, and what records say of the claims."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.analysis.parts.work import Work
from benchmarks.analysis.report import everything, page
from benchmarks.analysis.report.evidence import Evidence, paired, setting_of
from benchmarks.analysis.report.seeds import CLAIMS
from enhance.audio.write import write
from enhance.cli.app import main
from enhance.data.corpus.manifest import Clip, write_manifest
from enhance.errors import EnhanceError

SSL, SPEAKER = "mini-wavlm", "resemblyzer"
FAMILIES = {SSL: "wavlm", "w2v": "wav2vec2", SPEAKER: "resemblyzer"}


def judge(source: str, text: str, evidence: Evidence) -> tuple[str, str]:
    (claim,) = [c for c in CLAIMS if c.source == source and c.text.startswith(text)]
    verdict = claim.judge(evidence)
    return verdict.word, verdict.figure


def probe(metric: str = "accuracy", **values: list[float]) -> dict[str, Any]:
    """A record of a probe: the figure of each state of each model, intervals of .01."""
    rows = [
        {"backbone": name, "kind": "model", "features": f"state {k}", "mean": mean,
         "low": mean - 0.01, "high": mean + 0.01}
        for name, means in values.items() for k, mean in enumerate(means)
    ]  # fmt: skip
    return {"analysis": "probe", "about": {"metric": metric}, "rows": rows, "gains": []}


def evidence(**records: dict[str, Any]) -> Evidence:
    return Evidence({k.replace("_", "-"): v for k, v in records.items()}, FAMILIES)


def test_a_claimed_layer_is_held_against_the_share_of_the_depth() -> None:
    phones = probe(**{SSL: [0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1]})
    assert judge("001, table", "phones", evidence(probe_phone=phones))[0] == "supported"
    phones = probe(**{SSL: [0.1, 0.2, 0.3, 0.2, 0.3, 0.5, 0.1]})
    word, figure = judge("001, table", "phones", evidence(probe_phone=phones))
    assert word == "not supported"
    assert "best state 5 of 6, 0.500" in figure and "claimed depth state 2, 0.300" in figure
    # The least error is the best, not the largest.
    errors = probe("mean error", **{SSL: [9, 1, 5, 6, 7, 8, 9]})
    assert judge("001, text", "pitch", evidence(probe_pitch=errors))[0] == "supported"
    assert judge("001, text", "pitch", evidence())[0] == "not testable here"


def test_speaker_models_hold_phones_early() -> None:
    phones = probe(**{SSL: [0.1, 0.2, 0.3, 0.5], SPEAKER: [0.2, 0.5, 0.3, 0.1]})
    assert judge("003, finding 2", "", evidence(probe_phone=phones))[0] == "supported"
    phones = probe(**{SSL: [0.1, 0.5, 0.3, 0.2], SPEAKER: [0.2, 0.1, 0.3, 0.5]})
    assert judge("003, finding 2", "", evidence(probe_phone=phones))[0] == "not supported"


def test_a_better_model_for_phones_need_not_be_one_for_speakers() -> None:
    phones = probe(**{SSL: [0.1, 0.5, 0.3], SPEAKER: [0.1, 0.2, 0.3]})
    for ours, word in ((0.2, "supported"), (0.05, "not supported")):
        eers = probe("EER", **{SSL: [0.4, ours, 0.3], SPEAKER: [0.4, 0.3, 0.1]})
        found = evidence(probe_phone=phones, probe_verification=eers)
        assert judge("003, finding 1", "", found)[0] == word


def codec(**values: list[float]) -> dict[str, Any]:
    rows = [
        {"kind": "probe", "task": "all", "backbone": name, "state": str(k), "mean": mean,
         "low": mean - 0.02, "high": mean + 0.02}
        for name, means in values.items() for k, mean in enumerate(means)
    ]  # fmt: skip
    return {"analysis": "codec", "about": {}, "rows": rows}


def test_codec_claims_compare_means_and_ranges() -> None:
    found = evidence(codec=codec(**{SSL: [0.4, 0.3, 0.3], "w2v": [0.5, 0.8, 0.4]}))
    assert judge("000, hypothesis 1", "", found)[0] == "supported"
    assert judge("000, hypothesis 2", "", found)[0] == "supported"
    found = evidence(codec=codec(**{SSL: [0.4, 0.9, 0.3], "w2v": [0.4, 0.4, 0.4]}))
    assert judge("000, hypothesis 1", "", found)[0] == "not supported"
    assert judge("000, hypothesis 2", "", found)[0] == "not supported"


def runs(**eers: list[Any]) -> dict[str, Any]:
    """Adversarial runs of a setting, an EER of each seed."""
    about: dict[str, Any] = {}
    rows = []
    for setting, values in eers.items():
        for seed, eer in enumerate(values):
            name = f"{setting}-{seed}"
            about[name] = {
                "backbone": SSL, "seed": seed, "freeze": True, "layers": "weighted",
                "pooling": "attention" if setting == "attention" else "statistics",
                "lambda": [0.0, 0.0 if setting == "erm" else 1.0], "discriminator": [256, 256],
            }  # fmt: skip
            rows.append({"kind": "errors", "run": name, "group": "pooled", "mean": eer})
    return {"analysis": "dann", "about": {"runs": about}, "rows": rows}


def test_training_claims_need_three_seeds_and_an_interval_apart() -> None:
    three = runs(erm=[0.20, 0.21, 0.22], dann=[0.10, 0.11, 0.12], attention=[0.10, 0.15, 0.08])
    found = evidence(dann=three)
    word, figure = judge("000, summary", "DANN betters", found)
    assert word == "supported" and "0.100" in figure and "3 seeds" in figure
    assert judge("000, 3.5", "", found)[0] == "not supported"
    two = runs(erm=[0.20, 0.21], dann=[0.10, 0.11])
    assert judge("000, summary", "DANN betters", evidence(dann=two))[0] == "not testable here"
    assert paired({0: 0.1, 1: 0.2}, {0: 0.3, 1: 0.4}) is None
    none = runs(erm=[None] * 3, dann=[None] * 3)  # of clips that were all bona fide
    assert judge("000, summary", "DANN betters", evidence(dann=none))[0] == "not testable here"
    told = {"lambda": [0.05, 2.0], "layers": "first_k:6", "freeze": False, "pooling": "attention",
            "discriminator": [1024] * 3}  # fmt: skip
    assert setting_of(told) == "first-k+unfreeze+lambda+discriminator+attention"
    # Plain training of another network is not what the plain adversary is compared with.
    assert setting_of(told | {"lambda": [0.0, 0.0]}) == "erm+first-k+unfreeze+attention"


def curve(quantity: str, at_60: float, half: float | None, low: float | None) -> dict[str, Any]:
    return {
        "backbone": "w2v", "state": 2, "heard": "clean", "snr_db": None, "quantity": quantity,
        "lags_ms": [0.0, 20.0, 60.0, 300.0], "mean": [1.0, 0.9, at_60, 0.1],
        "half_mean": half, "half_low": low, "half_high": None,
    }  # fmt: skip


def test_correlation_must_last_longer_than_sixty_milliseconds() -> None:
    for half, low, word in (
        (None, None, "supported"), (80.0, 75.0, "supported"), (62.0, 57.0, "not supported"),
        (None, 40.0, "not supported"),  # an interval from 40 ms to beyond the largest lag
    ):  # fmt: skip
        rows = [curve("raw", 0.8, None, None), curve("centred", 0.6, half, low)]
        found = evidence(temporal={"analysis": "temporal", "about": {}, "rows": rows})
        assert judge("004, section 3.4", "frames correlate", found)[0] == word


def test_a_gain_within_the_bounds_is_little() -> None:
    def study(high: float) -> tuple[dict[str, Any], ...]:
        inside = {"mean": 0.0, "low": -0.01, "high": 0.01}
        found = {"pesq_wb": inside, "si_sdr": {"mean": 0.1, "low": 0.0, "high": high}}
        return tuple({"kind": "trial-mean", "name": n, "difference": found, "seeds": [0, 1, 2]}
                     for n in ("concat", "distill"))  # fmt: skip

    for high, word in ((0.3, "supported"), (0.6, "not supported")):
        assert judge("004, result", "", Evidence({}, FAMILIES, study(high)))[0] == word
    first, second = study(0.3)
    two = (first, {**second, "difference_seeds": [0, 2]})  # the baseline lacks one
    word, figure = judge("004, result", "", Evidence({}, FAMILIES, two))
    assert (word, figure) == ("not testable here", "needs 3 seeds of these modes")


def test_what_has_no_interval_decides_nothing() -> None:
    alone = {"mean": -3.0, "low": None, "high": None}
    study = tuple({"kind": "trial-mean", "name": n, "seeds": [0, 1, 2],
                   "difference": {"pesq_wb": p, "si_sdr": alone}}
                  for n, p in (("concat", None), ("distill", alone)))  # fmt: skip
    word, figure = judge("004, result", "", Evidence({}, FAMILIES, study))
    assert word == "not testable here" and "two clips or more" in figure
    for apart, why in (({"spectrum high": alone}, "one gives no interval"), ({}, "no control")):
        row = {"method": "a, last", "method_kind": "teacher", "metrics": {"spectrum high": alone},
               "differences": {"log-mel 80": apart}}  # fmt: skip
        found = evidence(reconstruct={"analysis": "reconstruct", "about": {}, "rows": [row]})
        word, figure = judge("004, section 3.3", "it lacks", found)
        assert word == "not testable here" and why in figure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ends = [("mini-wavlm", k) for k in range(3)] + [("log-mel", 0)]
    rows = [
        {"backbone_a": a, "state_a": i, "backbone_b": b, "state_b": j, "cka": float(a == b),
         "low": 0.0, "high": 1.0}
        for n, (a, i) in enumerate(ends) for b, j in ends[n:]
    ]  # fmt: skip
    about = {"title": "<b>CKA</b>", "backbones": {SSL: "wavlm", "log-mel": "log-mel"}, "clips": 3}
    about |= {"frames": 9, "frame_ms": 20.0, "intervals": "95 %"}
    record = {"analysis": "cka", "versions": {"torch": "2"}, "about": about, "rows": rows}
    (tmp_path / "cka.json").write_text(json.dumps(record))
    return tmp_path


def test_the_page_needs_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["enhance", "analyze", "report", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert f"{len(CLAIMS)} not testable here" in capsys.readouterr().out
    text = (folder / page.PAGE).read_text("utf-8")
    assert "&lt;b&gt;CKA&lt;/b&gt;" in text and text.count("<svg") == 1
    assert "<script" not in text and not re.findall(r'(?:src|href)=\s*"(?!#|\n*data:)[^"]*', text)
    assert text.count('<td class="verdict') == len(CLAIMS)


def test_the_page_opens_in_a_browser(folder: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("NO BROWSER: the page was not opened; install Debian's chromium")
    page.write(folder)
    wanted = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    shown = subprocess.run(
        [*wanted, f"--user-data-dir={folder / 'profile'}", (folder / page.PAGE).as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert shown.count('<td class="verdict') == len(CLAIMS) and "<h2" in shown and "<svg" in shown


def test_what_is_no_folder_of_records_is_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(EnhanceError, match="holds no record; run enhance analyze all"):
        page.write(empty)
    (empty / "maps").mkdir()
    (empty / "maps" / "maps.json").write_text("{}")
    with pytest.raises(EnhanceError, match="there are some in maps: name one"):
        page.write(empty)
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(EnhanceError, match="most of it are the plots of cka"):
        page.write(folder)
    assert not (folder / page.PAGE).exists()
    record = json.loads((folder / "cka.json").read_text())
    record["about"]["backbones"] = ["mini-wavlm", "log-mel"]
    (folder / "maps.json").write_text(json.dumps(record))
    with pytest.raises(EnhanceError, match=r"maps\.json: does not tell the kinds of its models"):
        page.write(folder)
    (folder / "maps.json").write_text(json.dumps(record | {"about": []}))
    with pytest.raises(EnhanceError, match=r"maps\.json: does not tell the kinds of its models"):
        page.write(folder)
    (folder / "maps.json").write_text(json.dumps(record | {"about": {}}))
    with pytest.raises(EnhanceError, match=r"record of maps is damaged, or .* \(KeyError: 'chance"):
        page.write(folder)
    (folder / "reconstruct").mkdir()
    (folder / "reconstruct/results.jsonl").write_text("{}\n")
    (folder / "reconstruct/record.json").write_text("{}")
    with pytest.raises(EnhanceError, match=r"record\.json: not the record of enhance"):
        page.write(folder)
    (folder / "codec.json").write_text("{")
    with pytest.raises(EnhanceError, match=r"codec\.json: cannot be read as JSON"):
        page.write(folder)


def test_analyses_are_resumed_and_never_run_twice(folder: Path) -> None:
    with pytest.raises(EnhanceError, match="holds no train/"):
        everything.analyses(["log-mel"], folder, folder, Work(limit=10))
    (folder / "train").mkdir()
    write(folder / "train/hum.wav", np.zeros(800, np.float32), 16000)
    noise = Clip(folder / "train/hum.wav", 0.05, 16000, "noise", "fan_7")
    always = {"temporal", "cka", *(f"probe-{task}" for task in everything.TASKS)}
    labels: dict[str, str]
    for labels, kinds, found in (
        ({}, "", set()),
        ({}, "source:([a-z]+)_", {"probe-noise"}),
        ({"type": "fan"}, "", {"probe-noise"}),
    ):
        write_manifest(folder / "train/manifest.jsonl", [replace(noise, labels=labels)])
        asked = everything.analyses(["log-mel"], folder, folder, Work(limit=10, quiet=True), kinds)
        assert always | found == set(asked)
    done: list[str] = []
    work = {name: (lambda name=name: done.append(name)) for name in asked}
    with pytest.raises(EnhanceError, match=r"cka\.json already; --resume"):
        everything.run(work, folder, {}, resume=False)
    assert everything.run(work, folder, {}, resume=True) == []
    assert done == [name for name in asked if name != "cka"]


def test_what_one_analysis_lacks_ends_it_alone(tmp_path: Path) -> None:
    def refuse() -> None:
        raise EnhanceError("no clip has a language")

    done: list[str] = []
    work = {"probe-language": refuse, "cka": lambda: done.append("cka")}
    assert everything.run(work, tmp_path, {}, resume=False) == [
        "probe-language: no clip has a language"
    ]
    assert done == ["cka"]


def test_a_page_is_not_resumed_with_another_request(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(name: str, limit: int, seed: int, *, resume: bool = True) -> list[str]:
        wanted = everything.request([name], folder, Work(limit=limit, seed=seed), "")
        return everything.run({"cka": write_record, "maps": refuse}, out, wanted, resume=resume)

    def write_record() -> None:
        shutil.copy(folder / "cka.json", out)

    def refuse() -> None:
        raise EnhanceError("too few frames")

    out = folder / "out"
    assert ask("log-mel:320", 400, 0, resume=False) == ["maps: too few frames"]
    assert list(Evidence.open(out, None).records) == ["cka"]
    changed = (
        r"out: cannot go on with another request \(--backbone was \['log-mel:320'\], is "
        r"\['log-mel:160'\]; --limit was 400, is 20; --seed was 0, is 5\)"
    )
    with pytest.raises(EnhanceError, match=changed):
        ask("log-mel:160", 20, 5)
    assert ask("log-mel:320", 400, 0) == ["maps: too few frames"]
    (out / everything.REQUEST).write_text("[]\n")
    with pytest.raises(EnhanceError, match=r"request\.jsonl: is damaged"):
        ask("log-mel:320", 400, 0)
    (out / everything.REQUEST).unlink()  # as an older version left it
    assert "does not tell what cka.json was asked with" not in caplog.text
    ask("log-mel:320", 400, 0)
    assert "does not tell what cka.json was asked with" in caplog.text


def test_what_every_analysis_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write(tmp_path / "train/hum.wav", np.zeros(800, np.float32), 16000)
    noise = Clip(tmp_path / "train/hum.wav", 0.05, 16000, "noise", "fan_7", labels={"room": "a"})
    write_manifest(tmp_path / "train/manifest.jsonl", [noise])
    for backbones, kinds, why in (
        (["log-mel:320", "typo"], "", "^typo: no teacher of this name"),
        (["log-mel"], "nocol", "has a kind by it; columns there: path, room, source"),
        (["log-mel"], "room:(", r"^room:\(: not a regular expression"),
    ):
        with pytest.raises(EnhanceError, match=why):
            everything.analyses(backbones, tmp_path, tmp_path, Work(quiet=True), kinds)


def test_where_nothing_could_be_analysed_the_last_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise EnhanceError("two or more clips")

    monkeypatch.setattr(everything, "analyses", lambda *_: {"cka": refuse, "temporal": refuse})
    words = ["enhance", "analyze", "all", "--backbone", "log-mel", "--corpus", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*words, "-o", str(tmp_path / "out"), "-q"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "enhance: analyze all: nothing could be analysed: cka: two or more clips; "
        "temporal: two or more clips"
    )
