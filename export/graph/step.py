"""One streaming ONNX file from a model: a hop of audio and named states in, the same out.

The step graph is the model itself on one hop, traced by torch's exporter; nothing of the network
is written twice: `export.graph.rewrite` exchanges single layers for what they are on one frame. The
windowed DFT matrix is stored once; synthesis takes its transpose, which ONNX Runtime folds when it
loads the file. What a tracer leaves behind (source lines, paths of the exporting machine) is taken
out, so that the same model gives the same bytes.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.files import atomic
from enhance.network.waveform_model import WaveformModel
from enhance.parallel import uncollected
from export.graph.recurrence import OPSET
from export.graph.rewrite import for_single_frames

IR_VERSION = 9
"""Version of the file format: the oldest that goes with the operator set; old devices read it."""

FORBIDDEN = ("LSTM", "GRU", "RNN", "Gemm", "Conv", "ConvTranspose", "BatchNormalization", "DFT")
"""Operators that a quantiser of matrix products would pass over in silence."""

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")
_GEMM = {"transA": 0, "alpha": 1.0, "beta": 1.0}


class Step(nn.Module):
    """A model on one hop, its state dictionary laid flat for the exporter."""

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.model = model
        self.state_names = tuple(model.initial_state())

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Shape: audio (1, hop), states -> audio (1, hop), states"""
        out, new = self.model(audio, dict(zip(self.state_names, states, strict=True)))
        return out, *(new[name] for name in self.state_names)


def step_graph(model: WaveformModel, metadata: Mapping[str, str]) -> ModelProto:
    """The streaming graph of a model, with what `export.metadata.describe` says about it.

    Inputs are ``audio`` (1, hop) and every state, outputs ``enhanced`` (1, hop) and
    ``<state>.out`` in the same order. Checked; the same for the same model. An `EnhanceError` tells
    that an operator of `FORBIDDEN` is left.
    """
    step = Step(for_single_frames(model)).eval()
    states = step.model.initial_state(1)
    audio = torch.zeros(1, model.config.stft.hop_length)
    outputs = ["enhanced", *(f"{name}.out" for name in states)]
    graph = tidy(traced(step, {"audio": audio, **states}, outputs), metadata)
    check(graph, allowed=_operators_of(model))
    return graph


def traced(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any] | None = None,
) -> ModelProto:
    """What torch's exporter makes of a module: its inputs by name, the names of its outputs.

    The exporter is silenced: it speaks of optional packages, not of the model.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), uncollected():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=dynamic_shapes,
            )
    finally:
        logging.disable(before)
    assert program is not None
    return program.model_proto


def _operators_of(model: WaveformModel) -> tuple[str, ...]:
    """What of `FORBIDDEN` a network has by design: its recurrence over frequency, in float."""
    gcrn = model.config.gcrn
    recurrent = gcrn.bottleneck == "dual_path" and gcrn.mixing == "recurrent"
    return (gcrn.cell.upper(),) if recurrent else ()


def tidy(graph: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """A copy without the tracer's marks, with our metadata, and all products as ``MatMul``."""
    graph = strip(graph, metadata)
    _split_gemms(graph.graph)
    _drop_copies(graph.graph)
    return graph


def strip(graph: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """A copy without the tracer's marks, with our metadata."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    graph.producer_name, _, graph.producer_version = metadata["producer"].partition(" ")
    graph.ir_version = IR_VERSION
    graph.doc_string = ""
    del graph.functions[:], graph.metadata_props[:]
    main = graph.graph
    main.name = "enhance"
    main.doc_string = ""
    del main.value_info[:], main.metadata_props[:]
    for part in (*main.node, *main.initializer, *main.input, *main.output):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(metadata))
    return graph


def _split_gemms(main: onnx.GraphProto) -> None:
    """Write ``Gemm`` as ``MatMul`` and ``Add``, so that one operator holds all the work."""
    constants = {tensor.name: tensor for tensor in main.initializer}
    nodes = []
    for node in main.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        x, weight, bias = node.input
        if settings.pop("transB", 0):
            tensor = constants[weight]
            turned = numpy_helper.to_array(tensor).T.copy()
            tensor.CopyFrom(numpy_helper.from_array(turned, weight))
        if any(settings.get(key, default) != default for key, default in _GEMM.items()):
            raise EnhanceError(f"export: {node.name} is a Gemm with {settings}; not supported")
        product = f"{node.output[0]}.product"
        nodes.append(onnx.helper.make_node("MatMul", [x, weight], [product], product))
        nodes.append(onnx.helper.make_node("Add", [product, bias], [node.output[0]], node.name))
    del main.node[:]
    main.node.extend(nodes)


def _drop_copies(main: onnx.GraphProto) -> None:
    """Leave out what only copies: ``Split`` into one part, and of a chain of reshapes all but the
    last, where the shape that it asks for does not depend on what it is given.
    """
    constants = {tensor.name: tensor for tensor in main.initializer}
    outputs = {value.name for value in main.output}
    same: dict[str, str] = {}
    flat: dict[str, str] = {}
    nodes = []
    for node in main.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Split" and len(node.output) == 1 and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
            continue
        if node.op_type in _RESHAPES:
            before = flat.get(node.input[0], node.input[0])
            flat[node.output[0]] = before
            shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
            if shape is not None and numpy_helper.to_array(shape).all():  # 0 is "as it was"
                node.input[0] = before
        nodes.append(node)
    kept: list[onnx.NodeProto] = []
    used = set(outputs)
    for node in reversed(nodes):
        if node.op_type not in _RESHAPES or node.output[0] in used:
            kept.append(node)
            used.update(node.input)
    del main.node[:]
    main.node.extend(reversed(kept))


def check(graph: ModelProto, allowed: tuple[str, ...] = ()) -> None:
    """Refuse a graph that is not valid ONNX, or holds what is `FORBIDDEN` and not ``allowed``."""
    onnx.checker.check_model(graph, full_check=True)
    found = operators(graph)
    left = [name for name in FORBIDDEN if name in found and name not in allowed]
    if left:
        raise EnhanceError(
            f"export: the step graph still holds {', '.join(left)} (quantisers pass over it); "
            "write the layer with convolutions and matrix products"
        )


def operators(graph: ModelProto) -> dict[str, int]:
    """How often each operator stands in the graph, by name."""
    return dict(sorted(Counter(node.op_type for node in graph.graph.node).items()))


def save(graph: ModelProto, path: Path | str) -> Path:
    """Write a graph whole or not at all; the same graph gives the same bytes."""
    path = Path(path)
    with atomic(path) as temporary:
        temporary.write_bytes(graph.SerializeToString(deterministic=True))
    return path
