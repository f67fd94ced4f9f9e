"""One ONNX graph of a whole model on whole recordings: audio of any length in, audio out.

For models that cannot stream (mode concat): the teacher is inside the graph. Three things differ
from the model that is exported, all exact:

* recurrent layers are written as ONNX's own LSTM and GRU (torch's exporter unrolls or refuses
  them at a length it does not know), gates reordered from torch's i f g o and r z n to i o f c
  and z r h;
* what stands beside the recurrent output comes from `Companion.one_wave`, which has no Python that
  depends on the length;
* batch is one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, cast

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from enhance.companion import OneWave
from enhance.gcrn import GroupedRnn
from enhance.spectral import WaveformModel
from export.onnx import OPSET, quiet_exporter, strip

LEAST_SAMPLES = 800
"""Shortest recording that a whole graph takes, unless its companion needs more."""


class OnnxRnn(nn.Module):
    """A one-layer `nn.LSTM` or `nn.GRU` as one ONNX operator; runs in the exported graph only."""

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.lstm = isinstance(rnn, nn.LSTM)
        self.hidden = rnn.hidden_size
        order = (0, 3, 1, 2) if self.lstm else (1, 0, 2)

        def gates(name: str) -> Tensor:
            parts = cast(Tensor, getattr(rnn, f"{name}_l0")).detach().chunk(len(order))
            return torch.cat([parts[i] for i in order])[None]  # one direction

        self.w: Tensor
        self.r: Tensor
        self.b: Tensor
        self.register_buffer("w", gates("weight_ih"))  # (1, G H, D)
        self.register_buffer("r", gates("weight_hh"))  # (1, G H, H)
        biases = gates("bias_ih"), gates("bias_hh")
        self.register_buffer("b", torch.cat(biases, 1))  # (1, 2 G H)

    def forward(self, x: Tensor, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, object]:
        """Shape: x (1, T, D), states (1, 1, H) -> (1, T, H), states"""
        x = x.transpose(0, 1)  # (T, 1, D)
        states = state if isinstance(state, tuple) else (state,)
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if not self.lstm:
            attributes["linear_before_reset"] = 1  # torch's GRU
        outputs = torch.onnx.ops.symbolic_multi_out(
            "LSTM" if self.lstm else "GRU",
            (x, self.w, self.r, self.b, None, *states),
            attributes,
            dtypes=[x.dtype] * (1 + len(states)),
            shapes=[(x.shape[0], 1, 1, self.hidden), *[(1, 1, self.hidden)] * len(states)],
            version=OPSET,
        )
        y = outputs[0].squeeze(1).transpose(0, 1)  # (1, T, H)
        return y, tuple(outputs[1:]) if self.lstm else outputs[1]


class Whole(nn.Module):
    """A model on one recording, fit for the exporter; its recurrent layers run in ONNX only."""

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.beside: OneWave | None = None
        if model.companion is not None:
            self.beside = model.companion.one_wave()
        self.model = copy.deepcopy(model).eval()
        for layer in cast(Iterable[GroupedRnn], self.model.network.rnns):
            groups = cast(Iterable[nn.LSTM | nn.GRU], layer.groups)
            layer.groups = nn.ModuleList(OnnxRnn(group) for group in groups)

    @property
    def least_samples(self) -> int:
        """Shortest recording."""
        return max(LEAST_SAMPLES, self.beside.least_samples if self.beside else 0)

    def forward(self, audio: Tensor) -> Tensor:
        """Shape: (1, N) -> (1, N)"""
        model = self.model
        features = None
        if self.beside is not None:
            features = self.beside(audio, model.frames(audio.shape[1]))
        return model.enhance_beside(audio, features)


def whole_graph(model: WaveformModel, metadata: Mapping[str, str]) -> ModelProto:
    """The graph of a model on whole recordings.

    Parameters
    ----------
    model
        Any `WaveformModel` whose companion, if it has one, can be exported; it is not changed.
    metadata
        Written into the file.

    Returns
    -------
    ModelProto
        Input ``audio`` (1, samples), output ``enhanced`` (1, samples).

    Raises
    ------
    EnhanceError
        If the companion cannot be exported.
    """
    whole = Whole(model).eval()
    samples = torch.export.Dim("samples", min=whole.least_samples, max=1 << 24)
    audio = torch.zeros(1, 16000 + 7)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            whole,
            (audio,),
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["audio"],
            output_names=["enhanced"],
            dynamic_shapes={"audio": {1: samples}},
        )
    assert program is not None
    graph = strip(program.model_proto, metadata)
    for value in (graph.graph.input[0], graph.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "samples"
    onnx.checker.check_model(graph, full_check=True)
    return graph
