"""The weights of a model as one block of bytes that the plain C network reads.

The model is rewritten as for ONNX (`export.graph.rewrite`): norms are folded, convolutions are
matrix products. With int8 the larger matrices are rounded as for ONNX. Matrices, tables and the
header lie as the C reader wants them (`enhance/native/source/read.h`): every section begins at a
multiple of 64 bytes, little endian, and matrices are cut into tiles of 16 columns, so that a
processor reads one piece of memory whatever the width of its vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from enhance.config import GcrnConfig
from enhance.errors import EnhanceError
from enhance.network.dual_path import AttentionMixer, DenseMixer, DualPath
from enhance.network.gated import GatedDeconv
from enhance.network.waveform_model import WaveformModel
from enhance.stft import StftConfig, window
from export.graph.quantize import WEIGHT_BITS, round_columns, smallest
from export.graph.rewrite import (
    MatmulConv,
    StepPath,
    StepRnn,
    decoder_taps,
    for_single_frames,
    gate_weights,
)

MAGIC, FORMAT = 0x57484E45, 1
SECTION, TILE = 64, 16
MOST_INPUTS = 32768

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

Part = tuple[str, Tensor, Tensor | None]
"""Name; a matrix and its bias, or a row of numbers and None."""


def native_weights(
    model: WaveformModel, metadata: Mapping[str, str], *, int8: bool = False
) -> bytes:
    """What `enhance_open` of the C source takes, of a model and what `describe` says about it.

    ``int8`` rounds the larger matrices to bytes, as `export.graph.quantize` does. An `EnhanceError`
    tells that the network cannot stream, or is larger than the C source has room for.
    """
    config = model.config.gcrn
    check_native(config)
    sections = Sections()
    sections.tables(model.config.stft)
    parts = list(_parts(model))
    sizes = {name: w.numel() for name, w, bias in parts if bias is not None}
    left = smallest(sizes, FLOAT_SHARE)
    for name, part, bias in parts:
        values = part.detach().numpy()
        if bias is None:
            sections.add(values, np.float32)
        else:
            rounded = int8 and name not in left
            sections.product(values, bias.detach().numpy(), int8=rounded)
    states = {name: list(value.shape) for name, value in model.initial_state(1).items()}
    mode = "int8" if int8 else "none"
    about = {**metadata, "quantization": mode, "states": json.dumps(states)}
    text = json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
    return sections.finish(_numbers(model), text)


def check_native(config: GcrnConfig) -> None:
    """Refuse a network that plain C cannot run."""
    if config.extra_features:
        raise EnhanceError(
            f"export: extra_features {config.extra_features}: a stream has none; train without them"
        )
    for name, most in MOST.items():
        if name == "groups" and config.bottleneck == "dual_path":
            continue  # it has none
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
        rows = conv.weight.unflatten(0, (conv.past + 1, 3, -1))
        yield f"encoder.{i}", rows.transpose(0, 1).flatten(0, 2), conv.bias
        yield f"encoder.{i}.shift", conv.shift, None
    for i, (rnn, original) in enumerate(zip(step.rnns, network.rnns, strict=True)):
        if isinstance(rnn, StepPath):
            yield from _path(f"rnn.{i}", rnn, cast(DualPath, original))
        else:
            yield from _groups(f"rnn.{i}", cast(StepRnn, rnn))
    if isinstance(step.join, nn.Linear):
        yield "join", step.join.weight.T, step.join.bias
    for d in range(network.config.decoders):
        for i, layer in enumerate(cast(Iterable[GatedDeconv], network.decoders[d])):
            taps, bias, shift = decoder_taps(layer)
            yield (
                f"decoder.{d}.{i}",
                taps.flatten(1),
                torch.cat([bias, bias, torch.zeros_like(bias)]),
            )
            if not isinstance(layer.activation, nn.Identity):
                yield f"decoder.{d}.{i}.shift", shift, None


def _groups(name: str, rnn: StepRnn) -> Iterator[Part]:
    rows = zip(rnn.inputs, rnn.input_biases, rnn.states, rnn.state_biases, strict=True)
    for g, (inputs, input_bias, states, state_bias) in enumerate(rows):
        yield f"{name}.{g}.input", inputs, input_bias
        yield f"{name}.{g}.state", states, state_bias


def _path(name: str, path: StepPath, original: DualPath) -> Iterator[Part]:
    for part, kind in (("input", "ih"), ("state", "hh")):
        yield f"{name}.{part}", *gate_weights(path.cell, original.time, kind)
    yield f"{name}.out", path.time_weight, path.time_bias
    mix = original.mix
    if isinstance(mix, AttentionMixer):
        yield f"{name}.place", mix.place, None
        yield f"{name}.mix", mix.qkv.weight.T, mix.qkv.bias
    elif isinstance(mix, DenseMixer):
        for part, layer in (("positions", mix.positions), ("channels", mix.channels)):
            yield f"{name}.{part}", layer.weight.T, layer.bias
    else:
        for way in ("", "_reverse"):
            for kind in ("ih", "hh"):
                weight, bias = gate_weights(path.cell, cast(nn.LSTM, mix.rnn), kind, way)
                yield f"{name}.mix.{kind}{way}", weight, bias
    yield f"{name}.mix_out", path.mix_weight, path.mix_bias


class Sections:
    """Bytes that grow section by section, behind a header that is written last."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, values: np.ndarray | Sequence[float], kind: type[np.generic]) -> None:
        """One section of numbers of one kind, in C order."""
        data = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()
        self._parts.append(data + bytes(-len(data) % SECTION))

    def product(self, weight: np.ndarray, bias: np.ndarray, *, int8: bool) -> None:
        """A matrix (K, N) and what is added (N,): in float, or rounded to bytes."""
        inputs, outputs = weight.shape
        if inputs > MOST_INPUTS:
            raise EnhanceError(f"export: a matrix of {inputs} inputs is too wide for plain C")
        self.add([int(int8), inputs, outputs], np.uint32)
        self.add(_filled(bias), np.float32)
        if not int8:
            self.add(_tiles(weight), np.float32)
            return
        rounded, scale = round_columns(weight, WEIGHT_BITS["int8"])
        rows = np.pad(rounded, ((0, -inputs % 4), (0, 0)))
        tiles = _tiles(rows)  # (tiles, K, TILE) -> (tiles, K / 4, TILE, 4)
        tiles = tiles.reshape(len(tiles), -1, 4, TILE).transpose(0, 1, 3, 2)
        self.add(_filled(scale), np.float32)
        self.add(_filled(rounded.sum(0, dtype=np.int32)), np.int32)
        self.add(tiles, np.int8)

    def tables(self, config: StftConfig) -> None:
        """The window, and the roots of one that the transform multiplies by."""
        even = config.fft_size % 2 == 0
        n = config.fft_size // 2 if even else config.fft_size
        self.add(window(config), np.float32)
        self.add(_roots(n, n), np.float32)
        if even:
            self.add(_roots(n + 1, config.fft_size), np.float32)

    def finish(self, numbers: Sequence[int | float], metadata: bytes) -> bytes:
        """The whole file: header, sections, zeros that vectors may read, metadata."""
        words = b"".join(
            np.array(n, "<f4" if isinstance(n, float) else "<u4").tobytes() for n in numbers
        )
        body = words.ljust(256 - 20, b"\0") + b"".join(self._parts)
        body += bytes(SECTION) + metadata
        body += bytes(-(len(body) + 20) % SECTION)
        body = np.array([len(metadata)], "<u4").tobytes() + body
        head = np.array([MAGIC, FORMAT, len(body) + 16, checksum(body)], "<u4")
        return head.tobytes() + body


def checksum(data: bytes) -> int:
    """FNV-1a over 32-bit words."""
    total = 2166136261
    for word in np.frombuffer(data, "<u4").tolist():
        total = (total ^ word) * 16777619 & 0xFFFFFFFF
    return total


def _filled(row: np.ndarray) -> np.ndarray:
    return np.pad(row, (0, -len(row) % TILE))


def _tiles(weight: np.ndarray) -> np.ndarray:
    """Shape: (K, N) -> (tiles, K, TILE), N filled up with zeros"""
    wide = np.pad(weight, ((0, 0), (0, -weight.shape[1] % TILE)))
    return wide.reshape(len(wide), -1, TILE).transpose(1, 0, 2)


def _roots(count: int, order: int) -> np.ndarray:
    """Powers of exp(-2 pi i / order) as real and imaginary parts. Shape: -> (count, 2)"""
    angle = 2 * np.pi * np.arange(count) / order
    return np.stack([np.cos(angle), -np.sin(angle)], 1)
