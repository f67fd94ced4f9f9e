"""The weights of a model as one block of bytes that the plain C network reads.

The model is rewritten as for ONNX (`export.graph.rewrite`): norms are folded, convolutions are
matrix products. With int8 the larger matrices are rounded as for ONNX.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from torch import Tensor, nn

from enhance.config import GcrnConfig
from enhance.errors import EnhanceError
from enhance.network.dual_path import AttentionMixer, DenseMixer, DualPath
from enhance.network.waveform_model import WaveformModel
from export.graph.quantize import smallest
from export.graph.rewrite import (
    JointDecoder,
    MatmulConv,
    StepPath,
    StepRnn,
    for_single_frames,
    gate_weights,
)
from export.native.layout import Sections

FLOAT_SHARE = 0.05
"""Of all weights, this share stays in float with int8: the smallest matrices. ONNX files keep 1 %;
here 5 % take no more time, and brought the trained models 1 to 3 dB nearer to fp32."""

MOST = {"channels": 12, "rnn_layers": 8, "groups": 8, "kernel_frames": 16}
"""What the C source has room for."""

CELLS = ("lstm", "gru")
BOTTLENECKS = ("grouped", "dual_path")
MIXINGS = ("recurrent", "attention", "dense")
OUTPUTS = ("complex_mask", "complex_mapping", "magnitude_phase")
"""The C source's numbers for these settings."""

Part = tuple[str, np.ndarray, np.ndarray | None]
"""Name; a matrix and its bias, or a row of numbers and None."""


def native_weights(
    model: WaveformModel, metadata: Mapping[str, str], *, int8: bool = False
) -> bytes:
    """What `enhance_open` of the C source takes.

    Parameters
    ----------
    model
        Any `WaveformModel` that streams; it is not changed.
    metadata
        What `export.metadata.describe` says about it.
    int8
        Round the larger matrices to bytes, as `export.graph.quantize` does.

    Raises
    ------
    EnhanceError
        If the network cannot stream, or is larger than the C source has room for.
    """
    config = model.config.gcrn
    check_native(config)
    sections = Sections()
    sections.tables(model.config.stft)
    parts = list(_parts(model))
    sizes = {name: w.size for name, w, bias in parts if bias is not None}
    left = smallest(sizes, FLOAT_SHARE)
    for name, values, bias in parts:
        if bias is None:
            sections.add(values, np.float32)
        else:
            sections.product(values, bias, int8=int8 and name not in left)
    states = {name: list(value.shape) for name, value in model.initial_state(1).items()}
    about = {
        **metadata,
        "quantization": "int8" if int8 else "none",
        "states": json.dumps(states),
    }
    text = json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
    return sections.finish(_numbers(model), text)


def check_native(config: GcrnConfig) -> None:
    """Refuse a network that plain C cannot run."""
    if config.extra_features:
        raise EnhanceError(
            f"export: extra_features {config.extra_features}: a stream has none; train without them"
        )
    for name, most in MOST.items():
        value = getattr(config, name)
        count = len(value) if isinstance(value, tuple) else value
        if count > most:
            raise EnhanceError(f"export: {name} {value}: plain C has room for {most} at most")


def _numbers(model: WaveformModel) -> list[int | float]:
    """The sizes in the header, in the order of `read_header`."""
    stft, gcrn = model.config.stft, model.config.gcrn
    return [
        stft.sample_rate,
        stft.window_length,
        stft.hop_length,
        stft.fft_size,
        len(gcrn.channels),
        gcrn.kernel_frames,
        CELLS.index(gcrn.cell),
        gcrn.hidden,
        gcrn.rnn_layers,
        gcrn.groups if gcrn.bottleneck == "grouped" else 1,
        BOTTLENECKS.index(gcrn.bottleneck),
        MIXINGS.index(gcrn.mixing),
        gcrn.level_frames,
        gcrn.decoders,
        OUTPUTS.index(gcrn.output),
        float((gcrn.compression - 1) / 2),
        float((1 / gcrn.compression - 1) / 2),
        *gcrn.channels,
    ]


def _parts(model: WaveformModel) -> Iterator[Part]:
    """Everything that was learned, in the order in which the C source reads it."""
    network = model.network
    step = for_single_frames(model).network
    for i, conv in enumerate(step.encoder):
        assert isinstance(conv, MatmulConv)
        # (t k C, N) -> (k t C, N): the frames of a frequency lie side by side.
        weight = _array(conv.weight)
        rows = weight.reshape(conv.past + 1, 3, -1, weight.shape[1])
        yield f"encoder.{i}", rows.transpose(1, 0, 2, 3).reshape(weight.shape), _array(conv.bias)
        yield f"encoder.{i}.shift", _array(conv.shift), None
    for i, (rnn, original) in enumerate(zip(step.rnns, network.rnns, strict=True)):
        if isinstance(rnn, StepPath):
            yield from _path(f"rnn.{i}", rnn, cast(DualPath, original))
        else:
            yield from _groups(f"rnn.{i}", cast(StepRnn, rnn))
    if isinstance(step.join, nn.Linear):
        yield "join", _array(step.join.weight).T, _array(step.join.bias)
    for d in range(network.config.decoders):
        for i, layer in enumerate(step.decoders):
            assert isinstance(layer, JointDecoder)
            yield f"decoder.{d}.{i}", _array(layer.weights[d]), _array(layer.biases[d])
            if not layer.last:
                yield f"decoder.{d}.{i}.shift", _array(layer.shift[d]).ravel(), None


def _groups(name: str, rnn: StepRnn) -> Iterator[Part]:
    rows = zip(rnn.inputs, rnn.input_biases, rnn.states, rnn.state_biases, strict=True)
    for g, (inputs, input_bias, states, state_bias) in enumerate(rows):
        yield f"{name}.{g}.input", _array(inputs), _array(input_bias)
        yield f"{name}.{g}.state", _array(states), _array(state_bias)


def _path(name: str, path: StepPath, original: DualPath) -> Iterator[Part]:
    yield f"{name}.input", _array(path.input_weight), _array(path.input_bias)
    yield f"{name}.state", _array(path.state_weight), _array(path.state_bias)
    yield f"{name}.out", _array(path.time_weight), _array(path.time_bias)
    mix = original.mix
    if isinstance(mix, AttentionMixer):
        yield f"{name}.place", _array(mix.place), None
        yield f"{name}.mix", _array(mix.qkv.weight).T, _array(mix.qkv.bias)
    elif isinstance(mix, DenseMixer):
        for part, layer in (("positions", mix.positions), ("channels", mix.channels)):
            yield f"{name}.{part}", _array(layer.weight).T, _array(layer.bias)
    else:
        for way in ("", "_reverse"):
            for kind in ("ih", "hh"):
                weight, bias = gate_weights(path.cell, cast(nn.LSTM, mix.rnn), kind, way)
                yield f"{name}.mix.{kind}{way}", _array(weight), _array(bias)
    yield f"{name}.mix_out", _array(path.mix_weight), _array(path.mix_bias)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().numpy()
