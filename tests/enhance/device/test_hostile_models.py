"""ONNX files that are made to mislead: one line each, and nothing allocated by their promises."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_onnx import build, metadata

from enhance.cli.info import describe
from enhance.device.enhancer import Enhancer
from enhance.device.offline import open_model
from enhance.errors import EnhanceError

OFFLINE = {"model_type": "gcrn-offline", "sample_rate": "16000", "least_samples": "8"}


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """2 GB more than now: an array that a file promises falsely would not fit."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def changed(path: Path, change: Callable[[ModelProto], None]) -> Path:
    model = onnx.load(build(path, pole=0.9))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def passed_on(*shape: int, kind: int = TensorProto.FLOAT, out: list[int] | None = None):
    """A further state that the graph hands on as it is."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        graph.input.append(helper.make_tensor_value_info("s", kind, shape))
        graph.output.append(helper.make_tensor_value_info("s.out", kind, out or shape))
        graph.node.append(helper.make_node("Identity", ["s"], ["s.out"]))

    return change


@pytest.mark.parametrize("place", ["w.bin", "../w.bin", "/dev/zero"])
def test_weights_in_another_file_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def outside(model: ModelProto) -> None:
        (weights,) = (t for t in model.graph.initializer if t.name == "filter")
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "256")):
            weights.external_data.add(key=key, value=value)

    (tmp_path / "w.bin").write_bytes(bytes(256))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "w.bin").write_bytes(bytes(256))
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(EnhanceError, match=r"m\.onnx: keeps weights in another file"):
        open_model(changed(tmp_path / "m.onnx", outside))


def test_weights_for_plain_c_are_no_broken_model(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(bytes(64))
    with pytest.raises(EnhanceError, match=r"m\.bin: holds weights for plain C; take the \.onnx"):
        open_model(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (passed_on(1, 10**12), "hold more than"),
        (passed_on(2**31, 2**31, 2**31), "hold more than"),
        (passed_on(1, 4, kind=TensorProto.STRING), "state 's' is tensor"),
        (lambda m: m.graph.output.pop(1), "has no output 'analysis.tail.out'"),
        (lambda m: m.graph.ClearField("output"), "no output 'enhanced'"),
        (lambda m: m.graph.ClearField("input"), "not an ONNX model that can be run"),
        (lambda m: m.graph.input.pop(2), "not an ONNX model that can be run"),
        (lambda m: m.graph.initializer[0].dims.append(10**9), "not an ONNX model that can be run"),
    ],
)
def test_missing_and_huge_states(
    tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    with pytest.raises(EnhanceError, match=message) as caught:
        open_model(changed(tmp_path / "m.onnx", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate", "7"),
        ("sample_rate", "16000000"),
        ("sample_rate", "16000.0"),
        ("hop_length", "9" * 5000),
        ("hop_length", "\u0668"),  # 8 in Arabic
        ("latency_samples", str(10**12)),
        ("latency_samples", "-3"),
    ],
)
def test_wrong_metadata(tmp_path: Path, key: str, value: str) -> None:
    path = build(tmp_path / "m.onnx", props={**metadata(), key: value})
    with pytest.raises(EnhanceError, match=f"not a streaming enhancer.*'{key}' in its") as caught:
        Enhancer(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    good = build(tmp_path / "m.onnx").read_bytes()
    for name in (b"one-pole", b"pole.y.out"):
        (tmp_path / "bad.onnx").write_bytes(good.replace(name, b"\x9f" * len(name)))
        with pytest.raises(EnhanceError, match=r"bad\.onnx: is not an ONNX model that can be run"):
            open_model(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"sample_rate": "x"}, "'sample_rate'.*'x'"),
        ({"least_samples": str(10**13)}, "'least_samples'"),
        ({"equal_up_to_samples": "100"}, "'equal_up_to_samples'"),  # windows could not overlap
        ({}, "its inputs are"),
    ],
)
def test_offline_files(tmp_path: Path, props: dict[str, str], message: str) -> None:
    path = build(tmp_path / "m.onnx", props={**OFFLINE, **props})
    with pytest.raises(EnhanceError, match=f"no offline enhancer that can be run.*{message}"):
        open_model(path)


def test_a_graph_that_fails_while_it_runs(tmp_path: Path) -> None:
    """What a graph computes cannot be seen before: the stream is left where it was."""

    def too_large(model: ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array([10**13]), "large"))
        graph.node.insert(0, helper.make_node("ConstantOfShape", ["large"], ["many"]))
        graph.node.insert(1, helper.make_node("ReduceMax", ["many"], ["most"], keepdims=0))
        (add,) = (node for node in graph.node if node.op_type == "Add")
        graph.node.append(helper.make_node("Add", ["sum", "most"], ["enhanced"]))
        add.output[0] = "sum"
        (cut,) = (node for node in graph.node if "pole.y.out" in node.output)
        cut.input[0] = "sum"

    enhancer = Enhancer(changed(tmp_path / "m.onnx", too_large))
    with pytest.raises(EnhanceError, match=r"m\.onnx: the model cannot be run") as caught:
        enhancer.process(np.ones(100, np.float32))
    assert "\n" not in str(caught.value)
    assert not enhancer.state()["analysis.tail"].any()


def test_info_of_a_file_that_says_too_little(tmp_path: Path) -> None:
    props = {**metadata(), "model_type": "gcrn"}
    for more, message in [({}, "'fft_size' is missing"), ({"fft_size": "x"}, "invalid literal")]:
        path = build(tmp_path / "m.onnx", props={**props, **more})
        with pytest.raises(EnhanceError, match=f"its metadata are not .*{message}"):
            describe(str(path))


def test_a_state_that_is_longer_than_was_said_is_not_written(tmp_path: Path) -> None:
    """Its length depends on samples, so that only the run shows it; the stream's own memory, in
    which ONNX Runtime writes, has room for what the file declares.
    """

    def longer(model: ModelProto) -> None:
        graph = model.graph
        for values, name in ((graph.input, "s"), (graph.output, "s.out")):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]))
        constants = {"least": np.array(1, np.int64), "one": np.array([1], np.int64)}
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        graph.node.extend(
            [
                helper.make_node("ReduceMax", ["audio"], ["peak"], keepdims=0),
                helper.make_node("Ceil", ["peak"], ["up"]),
                helper.make_node("Cast", ["up"], ["whole"], to=TensorProto.INT64),
                helper.make_node("Add", ["whole", "least"], ["often"]),
                helper.make_node("Reshape", ["often", "one"], ["row"]),
                helper.make_node("Concat", ["one", "row"], ["times"], axis=0),
                helper.make_node("Tile", ["s", "times"], ["s.out"]),
            ]
        )

    enhancer = Enhancer(changed(tmp_path / "a.onnx", longer))
    silence = np.zeros(enhancer.hop_length, np.float32)
    assert len(enhancer.process(silence)) == len(silence)
    with pytest.raises(EnhanceError, match=r"a\.onnx: the model cannot be run"):
        enhancer.process(silence + 0.5)
    assert len(enhancer.process(silence)) == len(silence)  # the stream is where it was
