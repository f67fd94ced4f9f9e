"""A tiny evaluation set and tiny ONNX models, made here, and a process that holds a lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_set import RATE, voice, write_set
from tiny_study import make_material

SetMaker = Callable[..., Path]
ModelMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips to train on, and an evaluation set. Not to be changed."""
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def make_set(tmp_path: Path) -> SetMaker:
    """Make a folder with clean/ and noisy/ of ``count`` clips at ``snr`` dB and a manifest."""

    def make(
        count: int = 4, snr: float = -5.0, seconds: float = 1.2, name: str = "set", short: int = 0
    ) -> Path:
        clean = [voice(index, 0.15 if index < short else seconds) for index in range(count)]

        def labels(index: int, part: str) -> dict[str, str]:
            return {
                "seconds": f"{clean[index].size / RATE:.4f}",
                "source": "made here",
                "speaker": f"voice-{index}",
                "kind": part,
                "speech_group": "odd" if index % 2 else "even",
                "source_files": f"story-{index}a.wav story-{index}b.wav",
            }

        return write_set(tmp_path / name, clean, labels, snr)

    return make


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Make an ONNX file that keeps the artefact's contract: a gain, and some work for nothing."""
    pytest.importorskip("onnx")

    def make(name: str = "tiny", gain: float = 0.5, width: int = 8, hop: int = 320) -> Path:
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(0)
        weights = {
            "gain": np.array([gain], np.float32),
            "into": (rng.standard_normal((hop, width)) / width).astype(np.float32),
            "loop": (rng.standard_normal((width, width)) / width).astype(np.float32),
        }
        nodes = [
            helper.make_node("Mul", ["audio", "gain"], ["enhanced"]),
            helper.make_node("MatMul", ["audio", "into"], ["now"]),
            helper.make_node("MatMul", ["h", "loop"], ["before"]),
            helper.make_node("Add", ["now", "before"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h.out"]),
        ]
        audio, state = [1, hop], [1, width]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [
                helper.make_tensor_value_info("audio", TensorProto.FLOAT, audio),
                helper.make_tensor_value_info("h", TensorProto.FLOAT, state),
            ],
            [
                helper.make_tensor_value_info("enhanced", TensorProto.FLOAT, audio),
                helper.make_tensor_value_info("h.out", TensorProto.FLOAT, state),
            ],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        model.ir_version = 9
        helper.set_model_props(
            model,
            {
                "sample_rate": str(RATE),
                "hop_length": str(hop),
                "latency_samples": "0",
                "algorithmic_latency_samples": str(hop),
                "parameters": str(sum(value.size for value in weights.values())),
                "macs_per_second": "12345678",
                "quantization": "none",
            },
        )
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(timeout=0)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Another process that takes a lock and keeps it."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
