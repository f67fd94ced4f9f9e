"""The streaming graph against the model that it was made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_export import Exported, make_model, voice

from enhance.audio import read as audio
from enhance.config import GcrnConfig, ModelConfig
from enhance.device.enhancer import Enhancer
from enhance.errors import EnhanceError
from enhance.network.waveform_model import WaveformModel
from export.graph.recurrence import OPSET
from export.graph.rewrite import for_single_frames
from export.graph.step import check, save, step_graph, tidy

ROOT = Path(__file__).resolve().parents[3]
META = {
    "producer": "enhance 0",
    "sample_rate": "16000",
    "hop_length": "320",
    "latency_samples": "80",
}


def run_torch(model: WaveformModel, wave: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Whole clip at once: (N,) -> (N,), last states."""
    with torch.no_grad():
        out, state = model(torch.from_numpy(wave)[None])
    return out[0].numpy(), state


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """120 frames."""
    noise = np.random.default_rng(1).normal(0, 0.05, 120 * 320)
    return (voice(2.4, 140) + noise).astype(np.float32)


def assert_equal_stream(path: Path, model: WaveformModel, wave: np.ndarray) -> None:
    expected, state = run_torch(model, wave)
    stream = Enhancer(path)
    cuts = np.cumsum([1, 7, 320, 321, 5000, 3, 640])
    out = np.concatenate([stream.process(piece) for piece in np.split(wave, cuts)])
    assert np.abs(expected).max() > 1e-3
    # Float32 in another order: a few units in the last place of the largest intermediate value.
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    found = stream.state()
    for name, value in state.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=0, atol=1e-5)


def test_streams_like_torch_over_120_frames(
    exported: Exported, model: WaveformModel, wave: np.ndarray
) -> None:
    assert_equal_stream(exported.paths[0], model, wave)


def test_streams_like_torch_on_real_audio(
    exported: Exported, model: WaveformModel, corpus: Path
) -> None:
    clips = sorted((corpus / "dev" / "noisy").glob("*.flac"))[:4]
    wave = np.concatenate([audio.read(clip, 16000) for clip in clips])
    assert len(wave) > 10 * 16000
    assert_equal_stream(exported.paths[0], model, wave[: len(wave) // 320 * 320])


@pytest.mark.parametrize(
    "gcrn",
    [
        GcrnConfig((4, 8), "lstm", hidden=12, groups=1, output="complex_mapping"),
        GcrnConfig((4, 8, 8), "gru", hidden=24, rnn_layers=1, groups=3, compression=1.0),
        GcrnConfig((4, 8, 8), "lstm", hidden=16, decoders=1),
        GcrnConfig((4, 8, 8), "lstm", hidden=12, decoders=1, bottleneck="dual_path"),
        GcrnConfig((4, 8, 16), "gru", hidden=8, bottleneck="dual_path", kernel_frames=2),
        GcrnConfig(
            (4, 16),
            "lstm",
            hidden=8,
            decoders=1,
            bottleneck="dual_path",
            mixing="attention",
            output="magnitude_phase",
            level_frames=5,
        ),
        GcrnConfig(
            (4, 8), "gru", hidden=8, bottleneck="dual_path", mixing="dense", kernel_frames=3
        ),
    ],
)
def test_other_architectures(gcrn: GcrnConfig, wave: np.ndarray, tmp_path: Path) -> None:
    model = make_model(ModelConfig(gcrn=gcrn))
    graph = step_graph(model, META)
    assert_equal_stream(save(graph, tmp_path / "a.onnx"), model, wave)


def test_rewritten_model_is_the_same_function(model: WaveformModel, wave: np.ndarray) -> None:
    rewritten = for_single_frames(model)
    expected, _ = run_torch(model, wave)
    state, parts = rewritten.initial_state(), []
    with torch.no_grad():
        for hop in torch.from_numpy(wave)[None].split(320, 1):
            out, state = rewritten(hop, state)
            parts.append(out[0].numpy())
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-6)
    kinds = {type(layer).__name__ for layer in rewritten.modules()}
    assert not kinds & {"BatchNorm2d", "Conv2d", "GRU"}
    assert type(model.network).__name__ == "Gcrn"
    assert any(type(layer).__name__ == "BatchNorm2d" for layer in model.modules())


def test_same_bytes_twice(exported: Exported, checkpoint: Path) -> None:
    from enhance.network.checkpoint import load_model
    from export.metadata import describe

    model, info = load_model(checkpoint)
    again = step_graph(model, describe(model, info)).SerializeToString(deterministic=True)
    assert again == exported.paths[0].read_bytes()


def test_interface_and_operators(exported: Exported, model: WaveformModel) -> None:
    graph = exported.graphs[0]
    onnx.checker.check_model(graph, full_check=True)
    assert [o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")] == [OPSET]
    states = model.initial_state()

    def shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
        return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)

    inputs = {value.name: shape(value) for value in graph.graph.input}
    assert list(inputs) == ["audio", *states]
    assert inputs == {"audio": (1, 320), **{k: tuple(v.shape) for k, v in states.items()}}
    outputs = [value.name for value in graph.graph.output]
    assert outputs == ["enhanced", *(f"{name}.out" for name in states)]
    kinds = {node.op_type for node in graph.graph.node}
    assert not kinds & {"LSTM", "GRU", "RNN", "ConvTranspose", "BatchNormalization", "Conv", "Gemm"}
    dft = [t for t in graph.graph.initializer if list(t.dims) in [[4, 101, 101]]]
    assert len(dft) == 1


def test_no_trace_of_the_exporting_machine(exported: Exported) -> None:
    data = exported.paths[0].read_bytes()
    for trace in (b".py", b"site-packages", str(ROOT).encode(), b"stack_trace", b"torch."):
        assert trace not in data


def test_what_only_copies_is_left_out(exported: Exported) -> None:
    """A runtime calls each of them, at more than a microsecond."""
    graph = exported.graphs[0].graph
    made = {name: node for node in graph.node for name in node.output}
    reshapes = ("Reshape", "Squeeze", "Unsqueeze")
    for node in graph.node:
        assert not (node.op_type == "Split" and len(node.output) == 1)
        before = made.get(node.input[0])
        assert not (node.op_type == "Reshape" and before and before.op_type in reshapes)


def test_a_shape_that_depends_on_what_it_is_given_stays() -> None:
    """In a `Reshape` 0 is the size that was there."""
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["x", "axis"], ["a"]),
        onnx.helper.make_node("Reshape", ["a", "kept"], ["b"]),
        onnx.helper.make_node("Reshape", ["b", "last"], ["y"]),
    ]
    shapes = {"axis": [0], "kept": [0, -1], "last": [3, 4]}
    constants = [onnx.helper.make_tensor(k, 7, [len(v)], v) for k, v in shapes.items()]
    x, y = (onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [2, 6]), ("y", [3, 4])))
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], constants)
    model = tidy(onnx.helper.make_model(graph), {"producer": "a 1"})
    assert [(n.op_type, n.input[0]) for n in model.graph.node] == [("Reshape", "x")]
    del graph.node[2]
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("b", 1, [1, 12]))
    model = tidy(onnx.helper.make_model(graph), {"producer": "a 1"})
    assert [(n.op_type, n.input[0]) for n in model.graph.node] == [
        ("Unsqueeze", "x"),
        ("Reshape", "a"),
    ]


def test_left_operator_is_refused(exported: Exported) -> None:
    graph = exported.graphs[0]
    constants = {"axis": np.array([0]), "w": np.ones((1, 1, 1), np.float32)}
    for name, value in constants.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for kind, inputs, output in (
        ("Unsqueeze", ["audio", "axis"], "left.x"),
        ("ConvTranspose", ["left.x", "w"], "left.y"),
    ):
        graph.graph.node.append(onnx.helper.make_node(kind, inputs, [output], output))
    with pytest.raises(EnhanceError, match="ConvTranspose"):
        check(graph)


def test_runs_without_torch_or_onnx(exported: Exported, tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("torch", "onnx", "onnxscript", "scipy"):
    sys.modules[name] = None
import numpy as np
from enhance import Enhancer
enhancer = Enhancer.from_pretrained({str(exported.paths[1])!r})
out = enhancer(np.full(1000, 0.1, np.float32), 16000)
assert out.shape == (1000,) and np.isfinite(out).all() and np.abs(out).max() > 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_digital_silence_is_no_trap(exported: Exported, model: WaveformModel) -> None:
    # A bound on the gain of silence that an optimiser removes gives NaN here, and for ever after.
    speech = voice(1.0, 140)
    wave = np.concatenate([np.zeros(3000, np.float32), speech, np.zeros(20000, np.float32), speech])
    with torch.no_grad():
        expected = model.enhance(torch.from_numpy(wave)[None])[0].numpy()
    assert np.abs(Enhancer(exported.paths[0])(wave, 16000) - expected).max() < 1e-5
    for path in exported.paths[1:]:
        out = Enhancer(path)(wave, 16000)
        assert np.isfinite(out).all()
        error = np.sum((out - expected) ** 2) / np.sum(expected**2)
        assert error < 0.01  # 20 dB, as the other tests ask of random weights
