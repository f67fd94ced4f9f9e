"""Configuration: strict types, unknown keys named, presets, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from enhance.config import MODELS, GcrnConfig, ModelConfig, RunConfig
from enhance.errors import EnhanceError
from enhance.settings import dump_yaml, load_run, load_yaml, override, parse, to_dict
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
        ({"cell": "rnn"}, "cell.*'lstm', 'gru'"),
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
