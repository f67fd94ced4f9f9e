"""What ONNX Runtime really computes: the graph after its own optimisation, and its speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from enhance.device.enhancer import Enhancer
from enhance.files import temporary_folder
from enhance.measure.timing import hardware, hot, split_frames
from export.graph.quantize import products
from export.graph.step import operators

INT8_OPERATORS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)
"""Operators of ONNX Runtime that multiply with int8 weights."""

_ROUNDS, _FRAMES = 15, 40
"""Turns in which the speed of two models is compared, and frames in each."""


def optimised(graph: ModelProto) -> ModelProto:
    """The graph as ONNX Runtime runs it on this processor."""
    import onnxruntime

    with temporary_folder() as folder:
        path = folder / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)


def inspect(graph: ModelProto, fp32: ModelProto) -> dict[str, Any]:
    """Which products are int8, from the graphs: the artefact, and the fp32 one it was made of.

    `file` and `as_run` are operator counts, `int8_products` and `float_products` names of the
    matrices in the file, `float_recurrences` those of recurrent operators, which no quantiser here
    touches. `int8_weight_share` is the part of all matrix elements that is stored as int8,
    `int8_operators_as_run` how many heavy operators work on int8 after ONNX Runtime's optimisation.
    """
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    chosen, left = products(fp32)
    everything = [*chosen, *left]
    int8 = [p for p in everything if kinds.get(f"{p.name}.s8") == TensorProto.INT8]
    floating = [p for p in everything if kinds.get(p.name) == TensorProto.FLOAT]
    as_run = operators(optimised(graph))
    recurrent = {
        name
        for node in graph.graph.node
        if node.op_type in ("LSTM", "GRU")
        for name in node.input[1:3]  # of its input, and of its state
    }
    sizes = {t.name: int(np.prod(t.dims)) for t in graph.graph.initializer if t.name in recurrent}
    size = sum(p.inputs * p.outputs for p in everything) + sum(sizes.values())
    return {
        "file": operators(graph),
        "as_run": as_run,
        "int8_products": [p.name for p in int8],
        "float_products": [p.name for p in floating],
        "float_recurrences": sorted(sizes),
        "int8_weight_share": sum(p.inputs * p.outputs for p in int8) / size,
        "int8_operators_as_run": sum(as_run.get(name, 0) for name in INT8_OPERATORS),
    }


def compare_speed(fp32: Enhancer, other: Enhancer, wave: np.ndarray) -> dict[str, Any]:
    """CPU time of a frame, two models of one hop in turn, one thread, frames back to back.

    `ratio` is other to fp32: the median over the turns of the ratio of their medians, so that
    another process' load, which changes from turn to turn, falls out. `fp32_us` and `this_us` are
    medians, microseconds; beside them stand `regime`, `threads` and what
    `enhance.measure.timing.hardware` gives.
    """
    pieces = split_frames(wave, fp32.hop_length, _FRAMES)
    streams = [fp32.new_stream(), other.new_stream()]
    medians = [
        [np.median(hot(s.process, pieces, warm_up=4).cpu_ns) for s in streams]
        for _ in range(_ROUNDS)
    ]
    first, second = np.array(medians).T
    return {
        "ratio": float(np.median(second / first)),
        "fp32_us": float(np.median(first)) / 1e3,
        "this_us": float(np.median(second)) / 1e3,
        "regime": "hot, interleaved",
        "threads": 1,
        **hardware(),
    }
