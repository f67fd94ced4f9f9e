"""Exact rewrites of a model for one frame at a time.

On one frame most of the time goes into calling small operators, not into arithmetic. So there are
fewer of them here, and one kind does the work:

* Convolutions over frequency become matrix products on (F, C), see `MatmulConv` and `JointDecoder`.
* Two decoders do everything but their products together, and so do the groups of a recurrent
  layer.
* A batch norm behind a gate, ``s (a sigmoid(b)) + t``, becomes ``(s a) sigmoid(b) + t``: the scale
  goes into the weights that make ``a``, an addition stays.

The int8 operator that takes U8 rows by S8 columns and returns float (`DynamicQuantizeMatMul`) then
serves the whole network: no layer is rounded on its way out, and no range must be guessed
beforehand. Measured on a trained `gcrn-small` against static QLinearConv in the convolutional
graph: 45 dB instead of 32 dB of fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.network.dual_path import DualPath, RecurrentMixer
from enhance.network.gated import GatedConv, GatedDeconv
from enhance.network.gcrn import Gcrn, GroupedRnn
from enhance.network.waveform_model import WaveformModel
from export.graph.recurrence import OnnxRnn, cell_step, gates_together


class MatmulConv(nn.Module):
    """A `GatedConv` in evaluation, as one matrix product."""

    def __init__(self, layer: GatedConv) -> None:
        super().__init__()
        scale, self.shift = _fold_gated(layer)
        weight = layer.conv.weight.double().permute(2, 3, 1, 0).flatten(0, 2) * scale
        self.weight = _constant(weight)  # (taps C, 2 C')
        self.bias = _constant(cast(Tensor, layer.conv.bias).double() * scale)  # (2 C',)
        self.past = layer.past

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, past + T, F) -> (B, C', T, F'), F' = (F - 3) // 2 + 1"""
        x = x.permute(0, 2, 3, 1)  # (B, past + T, F, C)
        size, frames = (x.shape[2] - 3) // 2 + 1, x.shape[1] - self.past
        taps = torch.tensor([2 * f + k for f in range(size) for k in range(3)])
        near = x.index_select(2, taps).unflatten(2, (size, 3)).flatten(3)  # (B, past + T, F', 3 C)
        if self.past:
            near = torch.cat([near[:, t : t + frames] for t in range(self.past + 1)], 3)
        y = near @ self.weight + self.bias  # (B, T, F', 2 C')
        return F.elu(F.glu(y, -1) + self.shift).permute(0, 3, 1, 2)


class JointDecoder(nn.Module):
    """One layer of all decoders in evaluation, one matrix product for each.

    Input f has a part in output 2f (tap 0 of the transposed kernel), in 2f + 1 (tap 1) and in
    2f + 2 (tap 2). One product makes the three parts, [tap 0, tap 1 | tap 2]; a row of two outputs
    is the first two of input f plus the third of input f - 1.
    """

    def __init__(self, layers: Sequence[GatedDeconv]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        ends: list[Tensor] = []
        shifts: list[Tensor] = []
        for layer in layers:
            scale, shift = _fold_gated(layer)
            taps = layer.conv.weight[:, :, 0].double() * scale[:, None]  # (C, 2 C', 3)
            self.weights.append(_constant(taps.transpose(1, 2).flatten(1)))  # (C, 6 C')
            bias = _constant(cast(Tensor, layer.conv.bias).double() * scale)  # (2 C',)
            end = torch.cat([bias, bias])  # (4 C',)
            self.biases.append(_constant(torch.cat([end, torch.zeros_like(bias)])))
            ends.append(end)
            shifts.append(shift)
        # Outputs 2F and 2F + 1 touch no input f = F: the bias is all that is there of it.
        self.end = _constant(torch.stack(ends)[:, None, None])  # (D, 1, 1, 4 C')
        self.shift = _constant(torch.stack(shifts)[:, None, None])  # (D, 1, 1, C')
        self.bins = layers[0].bins
        self.last = isinstance(layers[0].activation, nn.Identity)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Shape: for each of D decoders (1, T, F, C) -> (D, T, bins, C')"""
        products = zip(inputs, self.weights, self.biases, strict=True)
        parts = torch.cat([x @ weight + bias for x, weight, bias in products])  # (D, T, F, 6 C')
        width = parts.shape[3] // 3
        here, behind = parts.split([2 * width, width], 3)
        end = self.end.expand(-1, parts.shape[1], -1, -1)
        # One row in front, zeros beside: (D, T, F + 1, 4 C')
        y = torch.cat([here, end], 2) + F.pad(behind, (0, width, 1, 0))
        y = y.unflatten(3, (2, -1)).flatten(2, 3)  # (D, T, 2 F + 2, 2 C')
        y = F.glu(y[:, :, : self.bins], -1)
        return y if self.last else F.elu(y + self.shift)


class StepRnn(nn.Module):
    """A `GroupedRnn` on one frame: a product for each group, the gates of all groups together."""

    def __init__(self, rnn: GroupedRnn) -> None:
        super().__init__()
        self.cell, self.hidden, self.state_names = rnn.cell, rnn.hidden, rnn.state_names
        self.inputs, self.states = nn.ParameterList(), nn.ParameterList()
        self.input_biases, self.state_biases = nn.ParameterList(), nn.ParameterList()
        for group in rnn.groups:
            for weights, biases, kind in (
                (self.inputs, self.input_biases, "ih"),
                (self.states, self.state_biases, "hh"),
            ):
                weight, bias = gate_weights(self.cell, cast(nn.LSTM | nn.GRU, group), kind)
                weights.append(weight)
                biases.append(bias)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Shape: x (B, 1, D), every state (B, H) -> (B, 1, H), states (B, H)"""
        wx = self._products(x.squeeze(1), self.inputs, self.input_biases)  # (B, n, gates H/n)
        wh = self._products(state[0], self.states, self.state_biases)
        new = cell_step(self.cell, wx, wh, state[1] if self.cell == "lstm" else state[0])
        states = tuple(value.flatten(1) for value in new)
        return states[0][:, None], states

    def _products(self, x: Tensor, weights: nn.ParameterList, biases: nn.ParameterList) -> Tensor:
        parts = zip(x.chunk(len(weights), 1), weights, biases, strict=True)
        return torch.cat([p @ w + b for p, w, b in parts], 1).unflatten(1, (len(weights), -1))


class StepPath(nn.Module):
    """A `DualPath` on one frame, frequencies as rows; norms are folded into the products."""

    def __init__(self, path: DualPath) -> None:
        super().__init__()
        self.cell, self.hidden, self.state_names = path.cell, path.hidden, path.state_names
        self.input_weight, self.input_bias = gate_weights(path.cell, path.time, "ih")
        self.state_weight, self.state_bias = gate_weights(path.cell, path.time, "hh")
        self.time_weight, self.time_bias = _linear(path.time_out, path.time_norm)
        self.mix = path.mix
        if isinstance(path.mix, RecurrentMixer):
            # One operator, in float: step by step it would be some two hundred.
            self.mix.rnn = OnnxRnn(path.mix.rnn)
        self.mix_weight, self.mix_bias = _linear(path.mix_out, path.mix_norm)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Shape: x (1, 1, F, C), every state (1, F, H) -> the same"""
        rows = x.squeeze(0)  # (1, F, C)
        wx = rows @ self.input_weight + self.input_bias
        wh = state[0] @ self.state_weight + self.state_bias
        new = cell_step(self.cell, wx, wh, state[1] if self.cell == "lstm" else state[0])
        rows = rows + (new[0] @ self.time_weight + self.time_bias)
        if isinstance(self.mix, RecurrentMixer):
            mixed = self.mix.rnn(rows.view(-1, 1, rows.shape[2]))[0].view(rows.shape)
        else:
            mixed = self.mix(rows)
        rows = rows + (mixed @ self.mix_weight + self.mix_bias)
        return rows[None], tuple(new)


class StepGcrn(Gcrn):
    """A `Gcrn` in evaluation on one frame of one clip; made by `for_single_frames`."""

    def decode(self, x: Tensor, skips: list[Tensor], spec: Tensor) -> Tensor:
        """As `Gcrn.decode`.

        Shape: x (1, 1, F', C), spec (1, 2, 1, F) -> (1, 2, 1, F)
        """
        both: Sequence[Tensor] = [x]
        for layer, skip in zip(self.decoders, reversed(skips), strict=True):
            beside = skip.permute(0, 2, 3, 1)  # (1, 1, F', C)
            inputs = [torch.cat([y, beside], 3) for y in both]
            # The bottleneck's output goes to every decoder.
            out = layer(inputs * (self.config.decoders // len(inputs)))  # (D, 1, F, C')
            both = out.split(1)
        out = out.permute(0, 3, 1, 2)  # (D, outputs, 1, F)
        return self.output(out if len(both) == 1 else out.flatten(0, 1)[None], spec)


def for_single_frames(model: WaveformModel) -> WaveformModel:
    """A copy of a model, in evaluation mode, that is the same function on one hop of one clip.

    It works in matrix products only.
    """
    model = copy.deepcopy(model).eval()
    network = model.network
    network.__class__ = StepGcrn
    network.encoder = nn.ModuleList(MatmulConv(cast(GatedConv, layer)) for layer in network.encoder)
    network.rnns = nn.ModuleList(
        StepPath(rnn) if isinstance(rnn, DualPath) else StepRnn(cast(GroupedRnn, rnn))
        for rnn in network.rnns
    )
    layers = zip(*cast(Iterable[Iterable[GatedDeconv]], network.decoders), strict=True)
    network.decoders = nn.ModuleList(JointDecoder(both) for both in layers)
    return model


def _fold(norm: nn.Module, channels: int) -> tuple[Tensor, nn.Parameter]:
    """Scale (C,) in float64 and shift (C,) in float32 that stand for a batch norm."""
    scale, shift = torch.ones(channels).double(), torch.zeros(channels).double()
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
    return scale.detach(), _constant(shift)


def _fold_gated(layer: GatedConv | GatedDeconv) -> tuple[Tensor, nn.Parameter]:
    """As `_fold` of a layer; the half of its outputs under the sigmoid is not scaled: (2 C',)."""
    scale, shift = _fold(layer.norm, layer.conv.out_channels // 2)
    return torch.cat([scale, torch.ones_like(scale)]), shift


def gate_weights(
    cell: Literal["lstm", "gru"], rnn: nn.LSTM | nn.GRU, kind: str, way: str = ""
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (D, gates H) and bias (gates H,) of the input (``ih``) or the state (``hh``).

    ``way`` is ``"_reverse"`` for the second direction.
    """
    weight, bias = (getattr(rnn, f"{part}_{kind}_l0{way}") for part in ("weight", "bias"))
    return _constant(gates_together(cell, weight).T), _constant(gates_together(cell, bias))


def _linear(layer: nn.Linear, norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (D, C) and bias (C,) of a dense layer with the batch norm behind it."""
    scale, shift = _fold(norm, layer.out_features)
    bias = layer.bias.double() * scale + shift
    return _constant(layer.weight.double().T * scale), _constant(bias)


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().contiguous(), requires_grad=False)
