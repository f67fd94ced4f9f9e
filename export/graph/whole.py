"""One ONNX graph of a whole model on whole recordings: audio of any length in, audio out.

For models that cannot stream (mode concat): the teacher is inside the graph. Three things differ
from the model that is exported, all exact:

* recurrent layers are written as ONNX's own LSTM and GRU (torch's exporter unrolls or refuses
  them at a length it does not know);
* what stands beside the recurrent output comes from `Companion.one_wave`, which has no Python that
  depends on the length;
* batch is one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import cast

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from enhance.errors import EnhanceError
from enhance.network.companion import OneWave
from enhance.network.dual_path import DualPath, RecurrentMixer
from enhance.network.gcrn import GroupedRnn
from enhance.network.waveform_model import WaveformModel
from export.graph.recurrence import OnnxRnn
from export.graph.step import strip, traced

LEAST_SAMPLES = 800
"""Shortest recording that a whole graph takes, unless its companion needs more."""


class Whole(nn.Module):
    """A model on one recording, fit for the exporter; its recurrent layers run in ONNX only."""

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.beside: OneWave | None = None
        if model.companion is not None:
            self.beside = model.companion.one_wave()
        self.model = copy.deepcopy(model).eval()
        if model.config.gcrn.level_frames:
            raise EnhanceError(
                "gcrn.level_frames: a running level cannot be exported for recordings of unknown "
                "length; export the streaming file, or train with level_frames 0"
            )
        for layer in cast(Iterable[GroupedRnn | DualPath], self.model.network.rnns):
            if isinstance(layer, DualPath):
                layer.time = cast(nn.LSTM, OnnxRnn(layer.time))
                if isinstance(layer.mix, RecurrentMixer):
                    layer.mix.rnn = cast(nn.LSTM, OnnxRnn(layer.mix.rnn))
                continue
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
    """The graph of a model on whole recordings: ``audio`` to ``enhanced``, both (1, samples).

    An `EnhanceError` tells that the model's companion, if it has one, cannot be exported.
    """
    whole = Whole(model).eval()
    samples = torch.export.Dim("samples", min=whole.least_samples, max=1 << 24)
    audio = torch.zeros(1, 16000 + 7)
    graph = traced(whole, {"audio": audio}, ["enhanced"], {"audio": {1: samples}})
    graph = strip(graph, metadata)
    for value in (graph.graph.input[0], graph.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "samples"
    onnx.checker.check_model(graph, full_check=True)
    return graph
