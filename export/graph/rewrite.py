"""Exact rewrites of a model for one frame at a time.

On one frame most of the time goes into calling small operators, not into arithmetic. So there are
fewer of them here, and one kind does the work:

* Convolutions over frequency become matrix products on (F, C), see `MatmulConv` and `JointDecoder`;
  one operator gathers what lies under a kernel.
* The DFT is two products of half the length, see `StepStft`.
* An LSTM's input and state make its gates in one product.
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
import math
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.network.dual_path import DualPath, RecurrentMixer
from enhance.network.gated import GatedConv, GatedDeconv
from enhance.network.gcrn import Gcrn, GroupedRnn, State
from enhance.network.waveform_model import WaveformModel
from export.graph.recurrence import OnnxRnn, gates_together, gru_step, lstm_step
from export.graph.transform import StepStft


class MatmulConv(nn.Module):
    """A `GatedConv` in evaluation, as one matrix product."""

    def __init__(self, layer: GatedConv) -> None:
        super().__init__()
        scale, self.shift = _fold_gated(layer)
        weight = layer.conv.weight.double().permute(2, 3, 1, 0).flatten(0, 2) * scale
        self.weight = _constant(weight)  # (taps C, 2 C')
        self.bias = _constant(cast(Tensor, layer.conv.bias).double() * scale)  # (2 C',)
        self.past = layer.past

    def forward(self, frames: Sequence[Tensor], size: int) -> Tensor:
        """Shape: this frame behind ``past`` earlier ones, (F or more, C) each -> (size, C')"""
        taps = torch.tensor([2 * f + k for f in range(size) for k in range(3)])
        near = [x.index_select(0, taps).view(size, -1) for x in frames]  # (size, 3 C)
        y = (torch.cat(near, 1) if self.past else near[0]) @ self.weight + self.bias
        return F.elu(F.glu(y, -1) + self.shift)


class JointDecoder(nn.Module):
    """One layer of all decoders in evaluation, one matrix product for each.

    A row of outputs 2f and 2f + 1 is made of the inputs f, under taps 0 and 1 of the transposed
    kernel, and f - 1, under tap 2; what their gates let through stands before both gates.
    """

    def __init__(self, layers: Sequence[GatedDeconv]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        shifts = []
        for layer in layers:
            taps, bias, shift = decoder_taps(layer)
            first, second, third = taps.unbind(1)  # (2 C, 2 C'): of the input and of the skip
            here = _paired(first, second)
            before = _paired(third, torch.zeros_like(third))
            self.weights.append(_constant(torch.cat([here, before])))  # (4 C, 4 C')
            self.biases.append(_constant(_paired(bias, bias)))  # (4 C',)
            shifts.append(torch.cat([shift, shift]))
        self.shift = _constant(torch.stack(shifts)[:, None])  # (D, 1, 2 C')
        self.last = isinstance(layers[0].activation, nn.Identity)

    def forward(self, inputs: Sequence[Tensor], skip: Tensor) -> list[Tensor]:
        """Shape: for each of D decoders (F or more, C), skip (F, C) -> D of (2 F + 2, C')"""
        size = skip.shape[0]
        products = []
        for x, weight, bias in zip(inputs, self.weights, self.biases, strict=True):
            # One row of each, and behind them one of zeros, which is there for f = F and f - 1 < 0.
            rows = torch.cat([x, skip, torch.zeros_like(skip[:1])])
            own, zero = x.shape[0], x.shape[0] + size
            here = [[f, own + f] for f in range(size)]
            taps = torch.tensor([
                *(here[f] + here[f - 1] if f else [*here[0], zero, zero] for f in range(size)),
                [zero, zero, *here[-1]],
            ])  # (F + 1, 4)  # fmt: skip
            near = rows.index_select(0, taps.flatten()).view(size + 1, -1)  # (F + 1, 4 C)
            products.append(near @ weight + bias)
        one = len(products) == 1  # and then no dimension for it: a reshape less in every layer
        y = products[0] if one else torch.stack(products)  # (D, F + 1, 4 C')
        y = F.glu(y, -1)  # (D, F + 1, 2 C')
        if not self.last:
            y = F.elu(y + (self.shift[0] if one else self.shift))
        y = y.unflatten(-1, (2, -1)).flatten(-3, -2)  # (D, 2 F + 2, C')
        return [y] if one else list(y.unbind(0))


def _paired(first: Tensor, second: Tensor) -> Tensor:
    """The halves of both in turn, a b and c d to a c b d: twice (..., 2 C') to (..., 4 C')."""
    halves = zip(first.chunk(2, -1), second.chunk(2, -1), strict=True)
    return torch.cat([part for both in halves for part in both], -1)


def decoder_taps(layer: GatedDeconv) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (C, 3, 2 C') and bias (2 C',) with the norm folded in, and the shift (C',)."""
    scale, shift = _fold_gated(layer)
    taps = layer.conv.weight[:, :, 0].double() * scale[:, None]  # (C, 2 C', 3)
    bias = cast(Tensor, layer.conv.bias).double() * scale
    return _constant(taps.transpose(1, 2)), _constant(bias), shift


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
        new = lstm_step(wx + wh, state[1]) if self.cell == "lstm" else gru_step(wx, wh, state[0])
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
        inputs, states = (gate_weights(path.cell, path.time, kind) for kind in ("ih", "hh"))
        if path.cell == "lstm":  # its gates are sums of both, so that one product makes them
            self.weight = _constant(torch.cat([inputs[0], states[0]]))
            self.bias = _constant(inputs[1] + states[1])
        else:
            self.weight, self.bias = inputs
            self.state_weight, self.state_bias = states
        self.time_weight, self.time_bias = _linear(path.time_out, path.time_norm)
        self.mix = path.mix
        if isinstance(path.mix, RecurrentMixer):
            # One operator, in float: step by step it would be some two hundred.
            self.mix.rnn = OnnxRnn(path.mix.rnn)
        self.mix_weight, self.mix_bias = _linear(path.mix_out, path.mix_norm)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Shape: x (1, F, C), every state (1, F, H) -> the same"""
        if self.cell == "lstm":
            gates = torch.cat([x, state[0]], 2) @ self.weight + self.bias
            new = lstm_step(gates, state[1])
        else:
            wh = state[0] @ self.state_weight + self.state_bias
            new = gru_step(x @ self.weight + self.bias, wh, state[0])
        x = x + (new[0] @ self.time_weight + self.time_bias)
        if isinstance(self.mix, RecurrentMixer):
            mixed = self.mix.rnn(x.view(-1, 1, x.shape[2]))[0].view(x.shape)
        else:
            mixed = self.mix(x)
        x = x + (mixed @ self.mix_weight + self.mix_bias)
        return x, tuple(new)


class StepGcrn(Gcrn):
    """A `Gcrn` in evaluation on one frame of one clip; made by `for_single_frames`.

    Spectra are (ways, 2, K) as `export.graph.transform.StepStft` has them, all else is rows of
    channels, one for each frequency. Where a layer gives a row too many, it is one that nothing
    takes.
    """

    def forward(
        self, spec: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Shape: spec (ways, 2, K) -> the same, state"""
        assert extra is None
        state = self.initial_state() if state is None else state
        x, new = self._levelled(spec, state)
        x = x.permute(2, 0, 1).reshape(-1, 2)  # bins in their order
        skips = []
        for i, layer in enumerate(cast(Iterable[MatmulConv], self.encoder), 1):
            frames = [x]
            if layer.past:
                name = f"encoder{i}.past"
                frames = [*state[name][0].permute(1, 2, 0).unbind(0), x[: self.sizes[i - 1]]]
                new[name] = torch.stack(frames[1:]).permute(2, 0, 1)[None]  # (1, C, past, F)
            x = layer(frames, self.sizes[i])
            skips.append(x)
        x, carried = self._recurred(x, state)
        both = [x] * self.config.decoders
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            both = decoder(both, skip)
        ways, _, places = spec.shape
        out = torch.cat(both, 1)[: ways * places].view(places, ways, -1).permute(1, 2, 0)
        return self.output(out, spec), {**new, **carried}

    def _levelled(self, spec: Tensor, state: State) -> tuple[Tensor, State]:
        """As `RunningLevel` and `compress`, with one gain for both. Shape: (ways, 2, K)"""
        power = self.config.compression
        if self.level is None and power == 1:
            return spec, {}
        energy = spec.square().sum(1, keepdim=True)  # (ways, 1, K)
        gains, new = [], {}
        if self.level is not None:
            count = (state["level.count"] + 1).clamp_max(self.level.frames)
            mean = state["level.mean"]
            mean = mean + (energy.sum() * (1 / self.sizes[0]) - mean) / count
            new = {"level.mean": mean, "level.count": count}
            floor = mean.clamp_min(1e-9)
            energy = energy / floor
            gains.append(floor**-0.5)
        if power != 1:
            gains.append(energy.clamp_min(1e-8) ** ((power - 1) / 2))
        return spec * math.prod(gains[1:], start=gains[0]), new

    def _recurred(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `Gcrn.recur`. Shape: (F, C) -> the same, state"""
        if self.config.bottleneck == "grouped":
            y, new = self.recur(x.T[None, :, None], state)
            return y[0, 0], new
        y, new = x[None], {}
        for i, path in enumerate(cast(Iterable[StepPath], self.rnns), 1):
            names = [f"rnn{i}.{name}" for name in path.state_names]
            y, carried = path(y, tuple(state[name] for name in names))
            new.update(zip(names, carried, strict=True))
        return y.squeeze(0), new

    def output(self, out: Tensor, spec: Tensor) -> Tensor:
        """Shape: out (ways, 2 or 3, K), spec (ways, 2, K) -> (ways, 2, K)"""
        if self.config.output != "complex_mask":
            return super().output(out[:, :, None], spec[:, :, None])[:, :, 0]
        real, imaginary = (2 * torch.tanh(out)).chunk(2, 1)
        # By a right angle.
        turned = spec.index_select(1, torch.tensor([1, 0])) * torch.tensor([[-1.0], [1.0]])
        return spec * real + turned * imaginary


def for_single_frames(model: WaveformModel) -> WaveformModel:
    """A copy of a model, in evaluation mode, that is the same function on one hop of one clip.

    It works in matrix products only.
    """
    model = copy.deepcopy(model).eval()
    model.stft = StepStft(model.config.stft)
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
