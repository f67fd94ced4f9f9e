"""Gated convolutional recurrent network for causal complex spectral enhancement.

After K. Tan and D. Wang, "Learning complex spectral mapping with gated convolutional recurrent
networks for monaural speech enhancement", IEEE/ACM TASLP 28, 2020: an encoder of gated (GLU)
convolutions over frequency, a grouped recurrent bottleneck with representation rearrangement, and
two decoders of gated transposed convolutions with skip connections, one for the real and one for
the imaginary part; or one decoder for both, half of the arithmetic. In place of the grouped
recurrence there can be blocks of two paths (`enhance.network.dual_path`). All memory is in named
states (of the recurrences, of the running level, of kernels that see earlier frames): many frames
are offline use, one frame is streaming, and the code is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from enhance.config import GcrnConfig
from enhance.network.dual_path import GATES, KINDS, STATES, DualPath
from enhance.network.gated import GatedConv, GatedDeconv

State = dict[str, Tensor]


def compress(spec: Tensor, power: float) -> Tensor:
    """Compress the magnitude of a complex spectrum and keep its phase.

    Shape: (B, 2, ...) -> (B, 2, ...), real and imaginary part in dimension 1.
    """
    if power == 1.0:
        return spec
    energy = spec.square().sum(1, keepdim=True)
    # Bounds the gain of silence, 80 dB below one unit of spectrum. A floor and not a sum: ONNX
    # optimisers take the addition of 1e-8 for nothing, and silence then becomes NaN.
    return spec * energy.clamp_min(1e-8) ** ((power - 1) / 2)


class RunningLevel(nn.Module):
    """Divides a spectrum by its running level: the root of the mean power of a bin so far.

    The mean runs over all frames until there are ``frames`` of them; from then on it forgets, each
    frame counting 1 / ``frames``. So a recording's level, and slow changes of it, do not reach the
    network.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, spec: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Shape: spec (B, 2, T, F), mean power and number of frames (B, 1) -> the same"""
        mean, count = state
        power = spec.square().sum(1).mean(2)  # (B, T)
        means = []
        for now in power.split(1, 1):  # (B, 1); in turn, so that a stream has the same numbers
            count = (count + 1).clamp_max(self.frames)
            mean = mean + (now - mean) / count
            means.append(mean)
        # A floor and not a sum, for ONNX optimisers: silence stays silence.
        gain = torch.cat(means, 1).clamp_min(1e-9).rsqrt()  # (B, T)
        return spec * gain[:, None, :, None], (mean, count)


class GroupedRnn(nn.Module):
    """One recurrent layer whose units fall into independent groups.

    Gao et al., "Efficient sequence learning with group recurrent networks", NAACL 2018.
    """

    def __init__(self, cell: Literal["lstm", "gru"], inputs: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.cell, self.hidden = cell, hidden
        self.state_names = STATES[cell]
        self.groups = nn.ModuleList(
            KINDS[cell](inputs // groups, hidden // groups, batch_first=True) for _ in range(groups)
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run T steps.

        Shape: x (B, T, D), every state (B, H) -> (B, T, H), states (B, H)
        """
        n = len(self.groups)
        outputs, states = [], []
        parts = zip(x.chunk(n, -1), *(s.chunk(n, -1) for s in state), strict=True)
        for rnn, (part, *inner) in zip(self.groups, parts, strict=True):
            first = tuple(s[None].contiguous() for s in inner)  # (1, B, H/n)
            y, last = rnn(part, first if self.cell == "lstm" else first[0])
            outputs.append(y)
            states.append([s[0] for s in (last if self.cell == "lstm" else (last,))])
        return torch.cat(outputs, -1), tuple(torch.cat(s, -1) for s in zip(*states, strict=True))


def flat(x: Tensor) -> Tensor:
    """Channels and frequencies of a frame side by side. Shape: (B, C, T, F) -> (B, T, C F)"""
    return x.transpose(1, 2).flatten(2)


def frequency_sizes(bins: int, layers: int) -> tuple[int, ...]:
    """Frequency positions of the input and after each layer of kernel 3 and stride 2."""
    sizes = [bins]
    for _ in range(layers):
        sizes.append((sizes[-1] - 3) // 2 + 1)
    return tuple(sizes)


class Gcrn(nn.Module):
    """The network: complex spectrum of F bins in, enhanced complex spectrum out, state carried."""

    def __init__(self, config: GcrnConfig, bins: int) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        sizes = frequency_sizes(bins, len(c))
        config.check(sizes)
        self.sizes = sizes
        self.level = RunningLevel(config.level_frames) if config.level_frames else None
        self.encoder = nn.ModuleList(
            GatedConv(i, o, config.kernel_frames) for i, o in zip((2, *c[:-1]), c, strict=True)
        )
        self.encoding_size = c[-1] * sizes[-1]
        dual = config.bottleneck == "dual_path"
        widths = [self.encoding_size] + [config.hidden] * config.rnn_layers
        self.rnns = nn.ModuleList(
            DualPath(config, sizes[-1]) if dual else GroupedRnn(config.cell, i, o, config.groups)
            for i, o in itertools.pairwise(widths)
        )
        # What stands beside is joined to the recurrent output; blocks of two paths are residual,
        # and theirs needs no joining where nothing stands beside.
        beside = (self.encoding_size if dual else config.hidden) + config.extra_features
        self.join = (
            nn.Identity() if beside == self.encoding_size else nn.Linear(beside, self.encoding_size)
        )
        # Decoder layer k doubles the frequency positions back to those of encoder layer k's input.
        outs = (*reversed(c[:-1]), config.decoder_outputs)
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                GatedDeconv(2 * i, o, b, last=b == bins)
                for i, o, b in zip(reversed(c), outs, reversed(sizes[:-1]), strict=True)
            )
            for _ in range(config.decoders)  # two: the real part, the imaginary part
        )
        if config.output != "complex_mapping":
            # The mask starts near one: the first thing learned need not be to let sound through.
            last = cast(list[list[GatedDeconv]], self.decoders)[0][-1]
            bias = cast(Tensor, last.conv.bias)
            ones = [0, 2] if config.output == "magnitude_phase" else [0]
            with torch.no_grad():  # the gate halves it, 2 tanh makes it 1
                bias[ones] = 2 * math.atanh(0.5)

    def initial_state(self, batch: int = 1) -> State:
        """Zero states, by name, in a fixed order; ``batch`` is their first dimension."""
        zeros = next(self.parameters()).new_zeros
        state: State = {}
        if self.level is not None:
            state |= {name: zeros(batch, 1) for name in ("level.mean", "level.count")}
        c = (2, *self.config.channels)
        for i, layer in enumerate(cast(Iterable[GatedConv], self.encoder)):
            if layer.past:
                state[f"encoder{i + 1}.past"] = zeros(batch, c[i], layer.past, self.sizes[i])
        for i, rnn in enumerate(cast(Iterable[GroupedRnn | DualPath], self.rnns), 1):
            size = (self.sizes[-1],) if self.config.bottleneck == "dual_path" else ()
            for name in rnn.state_names:
                state[f"rnn{i}.{name}"] = zeros(batch, *size, rnn.hidden)
        return state

    def encode(self, spec: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """Outputs of the encoder layers, the last being the encoder's output.

        Shape: (B, 2, T, F) -> list of (B, C_k, T, F_k), state
        """
        state = self.initial_state(spec.shape[0]) if state is None else state
        new: State = {}
        if self.level is not None:
            names = ("level.mean", "level.count")
            spec, carried = self.level(spec, tuple(state[name] for name in names))
            new.update(zip(names, carried, strict=True))
        x = compress(spec, self.config.compression)
        # Kernels over frequency want the channels of a bin side by side; in bfloat16 on a CPU the
        # network then trains 1.5 times as fast.
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for i, layer in enumerate(cast(Iterable[GatedConv], self.encoder), 1):
            if layer.past:
                name = f"encoder{i}.past"
                x = torch.cat([state[name].to(x.dtype), x], 2)  # (B, C, past + T, F)
                new[name] = x[:, :, -layer.past :]
            x = layer(x)
            skips.append(x)
        return skips, new

    def recur(
        self, x: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The recurrent bottleneck.

        Shape: x (B, C, T, F'), extra (B, T, D) -> (B, T, F', C), state
        """
        state = self.initial_state(x.shape[0]) if state is None else state
        dual = self.config.bottleneck == "dual_path"
        # With channels last in memory the first of these moves nothing.
        y = x.permute(0, 2, 3, 1) if dual else flat(x)
        new: State = {}
        for i, rnn in enumerate(cast(Iterable[GroupedRnn | DualPath], self.rnns), 1):
            if i > 1 and not dual:  # rearrange: unit k of every group feeds each group of the next
                y = y.unflatten(-1, (self.config.groups, -1)).transpose(-1, -2).flatten(-2)
            names = [f"rnn{i}.{name}" for name in rnn.state_names]
            y, carried = rnn(y, tuple(state[name] for name in names))
            new.update(zip(names, carried, strict=True))
        if dual:
            if extra is None:
                return y, new
            y = y.transpose(2, 3).flatten(2)  # (B, T, C F')
        if extra is not None:
            y = torch.cat([y, extra], -1)
        return self.join(y).unflatten(-1, (self.config.channels[-1], -1)).transpose(2, 3), new

    def decode(self, x: Tensor, skips: list[Tensor], spec: Tensor) -> Tensor:
        """From the bottleneck to the enhanced spectrum.

        Shape: x (B, T, F', C), spec (B, 2, T, F) -> (B, 2, T, F)
        """
        x = x.permute(0, 3, 1, 2)  # (B, C, T, F')
        parts = []
        for decoder in cast(Iterable[Iterable[GatedDeconv]], self.decoders):
            y = x
            for layer, skip in zip(decoder, reversed(skips), strict=True):
                y = layer(y, skip)  # (B, C', T, F')
            parts.append(y)
        return self.output(torch.cat(parts, 1), spec)

    def output(self, out: Tensor, spec: Tensor) -> Tensor:
        """From what the decoders give to the enhanced spectrum.

        Shape: out (B, 2 or 3, T, F), spec (B, 2, T, F) -> (B, 2, T, F)
        """
        if self.config.output == "complex_mapping":
            return compress(out, 1 / self.config.compression)
        mask = 2 * torch.tanh(out)
        if self.config.output == "magnitude_phase":
            mr, mi, magnitude = mask.chunk(3, 1)
            # A direction needs some length: below 1e-2 the mask shrinks instead of turning.
            turn = magnitude.abs() * (mr.square() + mi.square()).clamp_min(1e-4).rsqrt()
            mr, mi = mr * turn, mi * turn
        else:
            mr, mi = mask.chunk(2, 1)
        sr, si = spec.chunk(2, 1)
        return torch.cat([mr * sr - mi * si, mr * si + mi * sr], 1)

    def forward_with_encoding(
        self, spec: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """As `forward`, with the encoder's output (B, T, encoding_size) as third value."""
        out, state, encoded = self._run(spec, state, extra)
        return out, state, flat(encoded)

    def _run(
        self, spec: Tensor, state: State | None, extra: Tensor | None
    ) -> tuple[Tensor, State, Tensor]:
        state = self.initial_state(spec.shape[0]) if state is None else state
        skips, seen = self.encode(spec, state)
        x, recurrent = self.recur(skips[-1], state, extra)
        return self.decode(x, skips, spec), {**seen, **recurrent}, skips[-1]

    def forward(
        self, spec: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Enhance T frames, or one; the state that comes out is for the next call, None is zeros.

        Shape: spec (B, 2, T, F), real and imaginary part; extra (B, T, extra_features), what stands
        beside the recurrent output -> (B, 2, T, F), state
        """
        out, state, _ = self._run(spec, state, extra)
        return out, state


def macs_per_frame(config: GcrnConfig, bins: int) -> int:
    """Multiply-accumulate operations of the network per frame, from the layer sizes.

    Counts convolutions, matrix products and the complex mask; not element-wise functions.
    """
    c = config.channels
    sizes = frequency_sizes(bins, len(c))
    taps = 3 * config.kernel_frames
    total = sum(i * 2 * o * taps * f for i, o, f in zip((2, *c[:-1]), c, sizes[1:], strict=True))
    outs = (*reversed(c[:-1]), config.decoder_outputs)
    for i, o, f in zip(reversed(c), outs, reversed(sizes[1:]), strict=True):
        # inputs double by the skip, outputs by the gate
        total += config.decoders * (2 * i) * (2 * o) * 3 * f
    width = encoding = c[-1] * sizes[-1]
    if config.bottleneck == "dual_path":
        total += config.rnn_layers * sizes[-1] * dual_path_macs(config, sizes[-1])
    else:
        gates = GATES[config.cell]
        for _ in range(config.rnn_layers):
            total += gates * (width + config.hidden) * config.hidden // config.groups
            width = config.hidden
    if width + config.extra_features != encoding:
        total += (width + config.extra_features) * encoding
    return total + (0 if config.output == "complex_mapping" else 4 * bins)


def dual_path_macs(config: GcrnConfig, positions: int) -> int:
    """Of one block, per frame and frequency position."""
    c, h, gates = config.channels[-1], config.hidden, GATES[config.cell]
    mixing = {
        "recurrent": 2 * gates * (c + c // 2) * (c // 2),
        "attention": 3 * c * c + 2 * positions * c,
        "dense": positions * c + c * c,
    }[config.mixing]
    return gates * (c + h) * h + h * c + mixing + c * c
