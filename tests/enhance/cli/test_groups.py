"""The commands in their groups, the names they had, and how long their help takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_cli import refusals
from typer.testing import CliRunner

from enhance.cli.app import RENAMED, app
from enhance.training.engine.processes import Hardware

GROUPS = {
    "": ["run", "train", "snapshot", "export", "evaluate", "bench", "guard", "card", "compare",
         "info", "stream", "live"],
    "data": ["manifest", "layout", "mix", "example", "align", "features", "copy-synthesis"],
    "analyze": ["reconstruct", "temporal", "cka", "maps", "probe", "codec", "all", "report"],
    "teacher": ["pretrain", "pretrain-speaker", "finetune-ctc", "table"],
    "dann": ["train", "evaluate"],
}  # fmt: skip
TRAININGS = ["train", "teacher pretrain", "teacher pretrain-speaker", "teacher finetune-ctc",
             "dann train"]  # fmt: skip
OLD = ["pretrain-ssl", "pretrain-speaker", "finetune-ctc", "teachers"]


def command(*words: str) -> Any:
    found = typer.main.get_command(app)
    for word in words:
        found = found.commands[word]
    return found


def shown(group: Any) -> list[str]:
    return [name for name, found in group.commands.items() if not found.hidden]


def facts(parameter: Any) -> tuple[Any, ...]:
    return tuple(getattr(parameter, key) for key in ("name", "opts", "help", "metavar", "nargs"))


def test_the_groups() -> None:
    top = command()
    assert sorted(shown(top)) == sorted([*GROUPS[""], "data", "analyze", "teacher", "dann"])
    for group in ("data", "analyze", "teacher", "dann"):
        assert shown(command(group)) == GROUPS[group]
    listed = re.findall(r"^  ([a-z-]+)  ", CliRunner().invoke(app, ["-h"]).output, re.M)
    assert listed[-4:] == ["data", "analyze", "teacher", "dann"]
    assert not {*OLD} & {*listed}


def test_what_is_written_is_named_alike_everywhere() -> None:
    named = [
        (group, name, parameter.opts)
        for group, names in GROUPS.items()
        for name in names
        for parameter in command(*group.split(), name).params
        if "-o" in parameter.opts and parameter.metavar != "DEVICE"
    ]
    assert len(named) > 20 and [entry for entry in named if "--out" not in entry[2]] == []


def test_old_names_are_hidden_and_are_the_same_commands() -> None:
    assert [*RENAMED] == OLD
    for old, (new, _) in RENAMED.items():
        was, now = command(old), command(*new.split())
        assert was.hidden and not now.hidden
        assert was.callback.__wrapped__ is now.callback.__wrapped__
        assert [(facts(p), p.default) for p in was.params] == [
            (facts(p), p.default) for p in now.params
        ]


def test_an_old_name_works_and_tells_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.analysis import teachers as teacher_table

    monkeypatch.setattr(teacher_table, "describe", lambda name, **_: {"name": name})
    monkeypatch.setattr(teacher_table, "markdown", lambda rows: json.dumps(rows))
    old = CliRunner().invoke(app, ["teachers", "mine"])
    new = CliRunner().invoke(app, ["teacher", "table", "mine"])
    assert old.exit_code == new.exit_code == 0
    assert old.stdout == new.stdout == '[{"name": "mine"}]\n'
    assert (old.stderr, new.stderr) == ("enhance: teachers is now teacher table\n", "")


def test_all_trainings_take_the_same_options_of_the_engine() -> None:
    wanted = ("assign", "devices", "strategy", "num_nodes", "accelerator", "precision", "quiet")

    def options(name: str) -> list[tuple[Any, ...]]:
        found = {p.name: facts(p) for p in command(*name.split()).params}
        return [found[key] for key in wanted]

    for name in TRAININGS[1:]:
        assert options(name) == options("train"), name


@pytest.mark.parametrize(
    ("words", "module", "function"),
    [
        (["train", "--run", "x"], "enhance.training.loop", "fit"),
        (["teacher", "pretrain", "-o", "x", "--corpus", "x"], "distill.ssl.run", "pretrain"),
        (
            ["teacher", "pretrain-speaker", "-o", "x", "--corpus", "x"],
            "distill.speaker.train",
            "train",
        ),
        (
            ["teacher", "finetune-ctc", "mini-wavlm", "-o", "x", "--transcripts", "x"],
            "distill.ctc.train",
            "finetune",
        ),
    ],
)
def test_the_engine_gets_them(
    monkeypatch: pytest.MonkeyPatch, words: list[str], module: str, function: str
) -> None:
    if "pretrain-speaker" in words:
        pytest.importorskip("speechbrain")
    asked = "--devices 2 --strategy ddp --num-nodes 3 --accelerator cuda --precision bf16"
    given: list = []

    def called(settings, *rest, hardware, **_):
        given.extend([getattr(settings, "training", settings).precision, hardware])
        return {"stopped": "SIGINT"}

    monkeypatch.setattr(f"{module}.{function}", called)
    done = CliRunner().invoke(app, [*words, *asked.split()])
    assert done.exit_code == 130, done.output
    assert given == ["bf16", Hardware("cuda", 2, "ddp", 3)]
    given.clear()
    refused = CliRunner().invoke(app, [*words, "--precision", "fp8"])
    assert "precision" in str(refused.exception) and "fp8" in str(refused.exception)
    assert given == []


def test_a_corpus_that_cannot_be_probed_is_refused_before_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("distill.ssl.run.pretrain", lambda *_, **__: pytest.fail("was trained"))
    pretrain = ["teacher", "pretrain", "-o", str(tmp_path / "out"), "--corpus", "x"]
    done = CliRunner().invoke(app, [*pretrain, "--probe", str(tmp_path)])
    assert "manifest.csv: no such manifest" in str(done.exception)


@pytest.mark.parametrize("name", ["pretrain", "pretrain-speaker", "finetune-ctc"])
def test_a_folder_to_go_on_with_must_be_named(name: str) -> None:
    words = {"pretrain-speaker": ["--corpus", "x"], "finetune-ctc": ["x", "--transcripts", "x"]}
    done = CliRunner().invoke(app, ["teacher", name, *words.get(name, []), "--resume"])
    assert "--resume: name the folder" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--config=~/none.yaml"], f"{Path.home()}/none.yaml: no such"),
        (["data", "features", "~no-user/c"], "~no-user/c: is in no home folder"),
        (["train", "--run", "n" * 300], "File name too long"),
        (["compare", "n" * 300], "File name too long"),
        (["snapshot", "n" * 300, "-o", "x"], "File name too long"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(
    words: list[object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = refusals(words, b"", monkeypatch)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1) and told in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def every_command() -> list[list[str]]:
    leaves = [[*group.split(), name] for group, names in GROUPS.items() for name in names]
    return [[], ["data"], ["analyze"], ["teacher"], ["dann"], *leaves, *([old] for old in OLD)]


def test_no_line_of_a_group_is_cut_short() -> None:
    for group in ("", "data", "analyze", "teacher", "dann"):
        told = CliRunner().invoke(app, [*group.split(), "--help"]).stdout
        listed = told.split("Commands:")[1]
        assert listed.strip() and "..." not in listed


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """By the processor's time, not the clock's: the machine may be busy."""
    code = (
        "import json, sys, time\n"
        "from enhance.cli.app import app\n"
        "begun = time.process_time()\n"
        "took = {}\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    name, tries = ' '.join(words), 3\n"
        "    while tries and took.get(name, 9) > 0.15:\n"
        "        begin, tries = time.process_time(), tries - 1\n"
        "        try: app([*words, '--help'])\n"
        "        except SystemExit as end: assert end.code == 0, words\n"
        "        took[name] = min(took.get(name, 9), time.process_time() - begin)\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'transformers', 'scipy', 'matplotlib',\n"
        "         'soundfile', 'yaml', 'joblib', 'lightning_fabric'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "print(json.dumps([begun, took]), file=sys.stderr)\n"
    )

    def helped(commands: list[list[str]]) -> tuple[float, dict[str, float]]:
        asked = [sys.executable, "-c", code, json.dumps(commands)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        begun, took = json.loads(done.stderr)
        return begun, took

    start = min(helped([])[0] for _ in range(3))  # what every command pays: Python, imports
    _, took = helped(every_command())
    slowest = max(took, key=lambda name: took[name])
    assert start + took[slowest] < 0.5, (start, slowest, took[slowest])
