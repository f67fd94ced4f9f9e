"""Configuration: strict types, unknown keys named, presets, overrides."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from enhance.config import MODELS, GcrnConfig, ModelConfig, RunConfig
from enhance.config.settings import dump_yaml, load_run, load_yaml, override, parse, to_dict
from enhance.errors import EnhanceError
from enhance.stft import FRAMINGS


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = parse(RunConfig, {"model": {"preset": "gcrn-tiny", "framing": "32-16"}}, "test")
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    again = parse(RunConfig, load_yaml(tmp_path / "c.yaml"), "again")
    assert again == config
    assert again.model.gcrn == MODELS["gcrn-tiny"]
    assert again.model.stft == FRAMINGS["32-16"]


def test_a_preset_is_refined_by_the_keys_beside_it() -> None:
    model = parse(ModelConfig, {"preset": "gcrn-tiny", "gcrn": {"cell": "lstm"}}, "test")
    assert model.gcrn.cell == "lstm"
    assert model.gcrn.channels == MODELS["gcrn-tiny"].channels


def test_overrides_win_over_the_file_and_the_file_over_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\nmodel: {gcrn: {hidden: 100, groups: 4}}\n")
    (tmp_path / "run.yaml").write_text("include: base.yaml\nmodel: {gcrn: {hidden: 200}}\n")
    config = load_run(tmp_path / "run.yaml", ["seed=7", "loss.si_sdr=1e-3"])
    assert (config.seed, config.model.gcrn.hidden, config.model.gcrn.groups) == (7, 200, 4)
    assert config.loss.si_sdr == 0.001


def test_a_preset_named_later_stands_for_all_it_decides(tmp_path: Path) -> None:
    """As a run's own config.yaml has it, written out, and --resume reads it."""
    whole = {"model": {"gcrn": to_dict(MODELS["gcrn-micro"]), "stft": to_dict(FRAMINGS["25-20"])}}
    (tmp_path / "config.yaml").write_text(dump_yaml(whole))
    for words in (["model.preset=gcrn-dual"], ["model.gcrn.hidden=8", "model.preset=gcrn-dual"]):
        model = load_run(tmp_path / "config.yaml", words).model
        hidden = 8 if len(words) == 2 else MODELS["gcrn-dual"].hidden
        assert model.gcrn == replace(MODELS["gcrn-dual"], hidden=hidden)
        assert model.stft == FRAMINGS["25-20"]
    model = load_run(tmp_path / "config.yaml", ["model.framing=32-16"]).model
    assert (model.gcrn, model.stft) == (MODELS["gcrn-micro"], FRAMINGS["32-16"])
    (tmp_path / "run.yaml").write_text("include: config.yaml\nmodel: {preset: gcrn-tiny}\n")
    assert load_run(tmp_path / "run.yaml", []).model.gcrn == MODELS["gcrn-tiny"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model.preset=[gcrn-tiny]", r"no preset \['gcrn-tiny'\]"),
        ("model.framing={a: 1}", "no preset {'a': 1}"),
        ("seed=-1", "seed: expected 0 or more"),
        ("seed=4294967296", "seed: expected less than"),
    ],
)
def test_presets_and_seeds_that_are_none_are_refused(word: str, told: str) -> None:
    with pytest.raises(EnhanceError, match=told):
        load_run(None, [word])


def test_several_files_are_included_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\nloss: {complex: 1.0, magnitude: 1.0}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nloss: {magnitude: 2.0}\n")
    (tmp_path / "run.yaml").write_text("include: [a.yaml, b.yaml]\nloss: {si_sdr: 3.0}\n")
    config = load_run(tmp_path / "run.yaml", [])
    assert config.seed == 2
    assert (config.loss.complex, config.loss.magnitude, config.loss.si_sdr) == (1.0, 2.0, 3.0)
    (tmp_path / "run.yaml").write_text("include: [a.yaml, 3]\n")
    with pytest.raises(EnhanceError, match="include: expected a file or a list"):
        load_run(tmp_path / "run.yaml", [])


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"channel": [1]}, "channel.*did you mean 'channels'"),
        ({"hidden": "many"}, "hidden.*expected int.*many"),
        ({"hidden": 2.5}, "hidden.*expected int"),
        ({"hidden": True}, "hidden.*expected int"),
        ({"cell": "rnn"}, "cell: expected 'lstm' or 'gru', found 'rnn'"),
        ({"channels": 3}, "channels.*list"),
        ({"channels": [3, "x"]}, r"channels\[1\]"),
    ],
)
def test_wrong_values_are_refused_by_name(mapping: dict[str, object], words: str) -> None:
    with pytest.raises(EnhanceError, match=words):
        parse(GcrnConfig, mapping, "here")


@pytest.mark.parametrize("text", ["seed", "=3", "...=1", "a=[1"])
def test_malformed_assignments_are_refused(text: str) -> None:
    with pytest.raises(EnhanceError, match="--set"):
        override({}, [text])


@pytest.mark.parametrize(
    ("content", "words"), [("- 1\n", "keys and values"), ("a: [1\n", "not YAML")]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(EnhanceError, match=words):
        load_yaml(tmp_path / "c.yaml")
    with pytest.raises(EnhanceError, match="no such"):
        load_yaml(tmp_path / "absent.yaml")


def test_to_dict_is_plain_data() -> None:
    assert to_dict(GcrnConfig())["channels"] == [16, 32, 48, 64, 64]


def test_every_field_is_documented() -> None:
    import ast
    import dataclasses
    import inspect
    import typing

    def walk(cls: type) -> set[type]:
        nested = [t for t in typing.get_type_hints(cls).values() if dataclasses.is_dataclass(t)]
        return {cls}.union(*(walk(typing.cast(type, t)) for t in nested))

    classes = walk(RunConfig)
    assert len(classes) >= 8
    for cls in classes:
        (body,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{cls.__name__}.{ast.unparse(node.target)}"


def test_set_takes_text_as_it_stands_and_is_blamed_itself(tmp_path: Path) -> None:
    for text in ("~", "no", "1e3", "2026-11-28", "a: b", "[x", "~/c"):
        assert load_run(None, [f"data.corpus={text}"]).data.corpus == text
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3\n")
    assert load_run(path, ["training.steps=7", "data.speech=[a, b]"]).data.speech == ["a", "b"]
    with pytest.raises(EnhanceError, match=r"^--set: .*steps"):
        load_run(path, ["training.steps=many"])
    path.write_text("training: {steps: many}\n")
    with pytest.raises(EnhanceError, match=r"^\S*c\.yaml: .*steps"):
        load_run(path, ["seed=4"])


def test_what_begins_like_a_number_is_text_and_text_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {corpus: 1e3-hours, held_out: [12e4f7]}\ntraining: {minutes: 1.5e1}\n")
    config = load_run(path, ["training.matrix_rate=.2e-1"])
    assert (config.data.corpus, config.data.held_out) == ("1e3-hours", ["12e4f7"])
    assert (config.training.minutes, config.training.matrix_rate) == (15.0, 0.02)
    for text in ("1e5", "1.5e5", "-.5E+7", "12e4f7", "1:30", "no"):
        config = load_run(None, [f"data.corpus={text}"])
        path.write_text(dump_yaml(config))
        assert load_run(path, []) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {minutes: .nan}", "training.minutes: expected a finite number, found nan"),
        ("mixing: {snr: [-.inf, 0]}", "mixing.snr[0]: expected a finite number, found -inf"),
        ("loss: {si_sdr: '0.1'}", "loss.si_sdr: expected a number, found '0.1'"),
        ("loss: {pesq: true}", "loss.pesq: expected a number, found True"),
        ("loss: {level_invariant: 1}", "loss.level_invariant: expected true or false, found 1"),
        (
            "model: {gcrn: {hidden: 4800000}}",
            "model.gcrn.hidden: expected 16384 or less, found 4800000",
        ),
        (
            "model: {gcrn: {rnn_layers: 200}}",
            "model.gcrn.rnn_layers: expected 64 or less, found 200",
        ),
        (
            "training: {learning_rate: 1.0e+300}",
            "training.learning_rate: expected 1000 or less, found 1e+300",
        ),
        ("data: {workers: 5000}", "data.workers: expected 1024 or less, found 5000"),
        ("model: {gcrn: {decoders: true}}", "model.gcrn.decoders: expected int, found True"),
        ("model: {stft: {hop_length: 2.0}}", "model.stft.hop_length: expected int, found 2.0"),
        ("data: {corpus: 3}", "data.corpus: expected text, found 3"),
        ("mixing: {snr: -5}", "mixing.snr: expected a list, [A, B], found -5"),
        ("data: {speech: a}", "data.speech: expected a list, [A, B], found 'a'"),
        ("mixing: {snr: [1]}", "mixing.snr[1]: expected a value, found [1]"),
        ("mixing: {snr: [1, 2, 3]}", "mixing.snr: expected 2 values or fewer, found [1, 2, 3]"),
        ("mixing: {snr: [2, 1]}", "mixing.snr: the first must not be larger, found [2, 1]"),
        ("mixing: {speed: [0.4, 1]}", "mixing.speed[0]: expected 0.5 or more, found 0.4"),
        ("training: {ema_decay: 1}", "training.ema_decay: expected less than 1, found 1"),
        ("training: {batch_size: 0}", "training.batch_size: expected more than 0, found 0"),
        (
            "loss: {multi_resolution_sizes: [3]}",
            "loss.multi_resolution_sizes[0]: expected a multiple of 2, found 3",
        ),
        ("loss:", "loss: expected keys and values, found None"),
        ("model: {preset: gcrn-tiny, gcrn: 5}", "model.gcrn: expected keys and values, found 5"),
        ("model: {framing: 20-10, stft: []}", "model.stft: expected keys and values, found []"),
        ("curriculum: [{stp: 1}]", "curriculum[0]: unknown key 'stp'; did you mean 'step'?"),
        (
            "curriculum: [{step: 1, mixing: {rir_count: 0}}]",
            "curriculum[0].mixing: rir_count: expected more than 0, found 0",
        ),
        (
            "training: {steps: 0}",
            "training.steps 0: a cosine has an end; set steps or minutes, or schedule: wsd",
        ),
        ("seed: &a [*a]", "no plain keys and values (Circular reference detected)"),
        ("seed: 2026-02-31", None),
        ("2026-01-01: 3", None),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line(
    tmp_path: Path, text: str, words: str | None
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(EnhanceError) as caught:
        load_run(path, [])
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert words is None or message == f"{path}: {words}"


def test_a_key_that_stands_twice_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("loss: {pesq: 1}\ntraining:\n  steps: 3\n  steps: 4\n")
    with pytest.raises(EnhanceError, match=r"c\.yaml, line 4: key 'steps' stands twice$"):
        load_yaml(path)
    with pytest.raises(EnhanceError, match=r"^--set loss=\{.*line 1: key 'pesq' stands twice$"):
        override({}, ["loss={pesq: 1, pesq: 2}"])
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n")  # refined, not doubled
    assert load_yaml(path)["b"] == {"x": 3, "y": 2}


def test_includes_that_lead_nowhere_or_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("a", "include: b.yaml"), ("b", "include: [c.yaml]"), ("c", "seed: 1")):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert load_yaml(tmp_path / "a.yaml") == {"seed": 1}
    (tmp_path / "d.yaml").write_text("include: [b.yaml, c.yaml]")  # the same twice is no loop
    assert load_yaml(tmp_path / "d.yaml") == {"seed": 1}
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "e.yaml").write_text("include: ~/b.yaml")
    assert load_yaml(tmp_path / "e.yaml") == {"seed": 1}
    (tmp_path / "c.yaml").write_text("include: a.yaml")
    with pytest.raises(EnhanceError, match=r"^\S*a\.yaml: include: .*a\.yaml: includes itself$"):
        load_yaml(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("include: no.yaml")
    with pytest.raises(EnhanceError, match=r"c\.yaml: include: \S*no\.yaml: no such config"):
        load_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text('include: "a\\0b"')
    with pytest.raises(EnhanceError, match=r"c\.yaml: include: .* cannot be reached"):
        load_yaml(tmp_path / "c.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(EnhanceError, match=r"loop\.yaml: cannot be reached"):
        load_yaml(tmp_path / "loop.yaml")


def test_the_constructor_checks_too_and_numbers_survive() -> None:
    with pytest.raises(EnhanceError, match=r"^GcrnConfig: hidden: expected more than 0, found 0$"):
        GcrnConfig(hidden=0)
    with pytest.raises(EnhanceError, match=r"^GcrnConfig: unknown key 'hiden'; did you mean 'hid"):
        GcrnConfig(hiden=3)  # type: ignore[call-arg]
    for value in (0.1, 1e-300, 1 / 3, 123456789.123456789):
        assert parse(RunConfig, {"loss": {"waveform": value}}, "test").loss.waveform == value


def test_shipped_models_keep_their_words() -> None:
    """What a checkpoint says of its model, read and written again, is the same text."""
    found = sorted((Path(__file__).parents[3] / "checkpoints").glob("*/config.json"))
    assert found
    for path in found:
        text = json.dumps(json.loads(path.read_text("utf-8"))["model"], indent=2)
        read = to_dict(parse(ModelConfig, json.loads(text), str(path)))
        known = {part: set(json.loads(text)[part]) for part in ("stft", "gcrn")}
        older = {part: {k: v for k, v in read[part].items() if k in known[part]} for part in known}
        assert json.dumps(older, indent=2) == text, path


def test_without_pydantic_a_line_names_the_extra() -> None:
    code = (
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'pydantic' else f(n, *a)\n"
        "from enhance.cli.app import main; main()"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )

    absent = run("train", "--set", "training.steps=1")
    assert absent.returncode == 2 and "Traceback" not in absent.stderr
    assert "pydantic" in absent.stderr and "enhance[train]" in absent.stderr
    from enhance.device.hub import shipped_models

    shown = run("info", next(iter(shipped_models())))
    assert shown.returncode == 0 and "MAC/s" in shown.stdout
    rows = run("info").stdout.splitlines()  # what can be used without it
    assert [row.split()[0] for row in rows[1:]] == shipped_models()
