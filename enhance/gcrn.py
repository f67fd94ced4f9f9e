"""Gated convolutional recurrent network for causal complex spectral enhancement.

After K. Tan and D. Wang, "Learning complex spectral mapping with gated convolutional recurrent
networks for monaural speech enhancement", IEEE/ACM TASLP 28, 2020: an encoder of gated (GLU)
convolutions over frequency, a grouped recurrent bottleneck with representation rearrangement, and
two decoders of gated transposed convolutions with skip connections, one for the real and one for
the imaginary part; or one decoder for both, half of the arithmetic. Kernels see one frame, so that
the recurrent states are the only memory: many frames are offline use, one frame is streaming, and
the code is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.config import GcrnConfig

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


class GatedConv(nn.Module):
    """Convolution over frequency, stride 2, with a sigmoid gate (GLU), batch norm and ELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, (1, 3), (1, 2))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T, F) -> (B, C', T, (F - 3) // 2 + 1)"""
        value, gate = (F.conv2d(x, *half, stride=(1, 2)) for half in halves(self.conv, 0))
        return F.elu(self.norm(value * gate.sigmoid()))


class GatedDeconv(nn.Module):
    """Transposed convolution over frequency, stride 2, with a sigmoid gate, batch norm and ELU.

    The last layer of a decoder has neither norm nor activation: its output is the spectrum or mask.
    """

    def __init__(self, inputs: int, outputs: int, bins: int, *, last: bool) -> None:
        super().__init__()
        # One more output position where halving had lost one: bins = 2 F + 1 or 2 F + 2.
        self.conv = nn.ConvTranspose2d(
            inputs, 2 * outputs, (1, 3), (1, 2), output_padding=(0, 1 - bins % 2)
        )
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.ELU()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T, F) -> (B, C', T, bins)"""
        x = F.pad(x, (1, 1))
        value, gate = (in_pairs(x, *half)[..., : self.bins] for half in halves(self.conv, 1))
        return self.activation(self.norm(value * gate.sigmoid()))


def halves(conv: nn.Conv2d | nn.ConvTranspose2d, axis: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of a gated layer's values, then of its gates.

    One convolution for both and `torch.nn.functional.glu` do the same. But with channels last in
    memory the halves of a pixel then lie between each other, and everything behind is slow.
    """
    assert conv.bias is not None
    return zip(conv.weight.chunk(2, axis), conv.bias.chunk(2), strict=True)


def in_pairs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution, kernel 3 and stride 2, as an ordinary one that makes two outputs.

    Input f has a part in outputs 2f, 2f + 1 and 2f + 2, so outputs 2f and 2f + 1 are made of the
    inputs f - 1 and f. The same sums; oneDNN's transposed convolution takes several times as long.

    Shape: x (B, C, T, 1 + F + 1) with zeros at both ends, weight (C, C', 1, 3), bias (C',)
    -> (B, C', T, 2 F + 2)
    """
    first, second, third = weight.unbind(-1)  # (C, C', 1)
    even = torch.stack([third, first], -1)
    odd = torch.stack([torch.zeros_like(second), second], -1)
    pair = torch.cat([even, odd], 1).transpose(0, 1)  # (2 C', C, 1, 2)
    y = F.conv2d(x, pair, torch.cat([bias, bias]))  # (B, 2 C', T, F + 1)
    # With channels last in memory this moves nothing.
    y = y.permute(0, 2, 3, 1).unflatten(3, (2, -1)).flatten(2, 3)  # (B, T, 2 F + 2, C')
    return y.permute(0, 3, 1, 2)


class GroupedRnn(nn.Module):
    """One recurrent layer whose units fall into independent groups.

    Gao et al., "Efficient sequence learning with group recurrent networks", NAACL 2018.
    """

    def __init__(self, cell: Literal["lstm", "gru"], inputs: int, hidden: int, groups: int) -> None:
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.cell = cell
        self.hidden = hidden
        self.groups = nn.ModuleList(
            kind(inputs // groups, hidden // groups, batch_first=True) for _ in range(groups)
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states of this layer, without the layer's own name."""
        return ("h", "c") if self.cell == "lstm" else ("h",)

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


def frequency_sizes(bins: int, layers: int) -> tuple[int, ...]:
    """Frequency positions of the input and after each layer of kernel 3 and stride 2."""
    sizes = [bins]
    for _ in range(layers):
        sizes.append((sizes[-1] - 3) // 2 + 1)
    return tuple(sizes)


class Gcrn(nn.Module):
    """The network: complex spectrum in, enhanced complex spectrum out, state carried.

    Parameters
    ----------
    config
        Architecture.
    bins
        Number of frequency bins F of the spectrum (`StftConfig.bins`).
    """

    def __init__(self, config: GcrnConfig, bins: int) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        sizes = frequency_sizes(bins, len(c))
        config.check(sizes)
        self.encoder = nn.ModuleList(GatedConv(i, o) for i, o in zip((2, *c[:-1]), c, strict=True))
        self.encoding_size = c[-1] * sizes[-1]
        widths = [self.encoding_size] + [config.hidden] * config.rnn_layers
        self.rnns = nn.ModuleList(
            GroupedRnn(config.cell, i, o, config.groups) for i, o in itertools.pairwise(widths)
        )
        beside = config.hidden + config.extra_features
        self.join = (
            nn.Identity() if beside == self.encoding_size else nn.Linear(beside, self.encoding_size)
        )
        # Decoder layer k doubles the frequency positions back to those of encoder layer k's input.
        outs = (*reversed(c[:-1]), 2 // config.decoders)
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                GatedDeconv(2 * i, o, b, last=b == bins)
                for i, o, b in zip(reversed(c), outs, reversed(sizes[:-1]), strict=True)
            )
            for _ in range(config.decoders)  # two: the real part, the imaginary part
        )
        if config.output == "complex_mask":
            # The mask starts near one: the first thing learned need not be to let sound through.
            last = cast(list[list[GatedDeconv]], self.decoders)[0][-1]
            with torch.no_grad():  # the gate halves it, 2 tanh makes it 1
                cast(Tensor, last.conv.bias)[0] = 2 * math.atanh(0.5)

    def initial_state(self, batch: int = 1) -> State:
        """Zero states, by name, in a fixed order; each (batch, hidden)."""
        parameter = next(self.parameters())
        return {
            f"rnn{i}.{name}": parameter.new_zeros(batch, rnn.hidden)
            for i, rnn in enumerate(cast(Iterable[GroupedRnn], self.rnns), 1)
            for name in rnn.state_names
        }

    def encode(self, spec: Tensor) -> list[Tensor]:
        """Outputs of the encoder layers, the last being the encoder's output.

        Shape: (B, 2, T, F) -> list of (B, C_k, T, F_k)
        """
        x = compress(spec, self.config.compression)
        # Kernels over frequency want the channels of a bin side by side; in bfloat16 on a CPU the
        # network then trains 1.5 times as fast.
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        return skips

    def recur(
        self, x: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The recurrent bottleneck.

        Shape: x (B, T, encoding_size), extra (B, T, D) -> (B, T, encoding_size), state
        """
        state = self.initial_state(x.shape[0]) if state is None else state
        new: State = {}
        for i, rnn in enumerate(cast(Iterable[GroupedRnn], self.rnns), 1):
            if i > 1:  # rearrange: unit k of every group feeds each group of the next layer
                n = self.config.groups
                x = x.unflatten(-1, (n, -1)).transpose(-1, -2).flatten(-2)
            names = [f"rnn{i}.{name}" for name in rnn.state_names]
            x, carried = rnn(x, tuple(state[name] for name in names))
            new.update(zip(names, carried, strict=True))
        if extra is not None:
            x = torch.cat([x, extra], -1)  # (B, T, H + D)
        return self.join(x), new

    def decode(self, x: Tensor, skips: list[Tensor], spec: Tensor) -> Tensor:
        """From the bottleneck to the enhanced spectrum.

        Shape: x (B, T, encoding_size), spec (B, 2, T, F) -> (B, 2, T, F)
        """
        x = x.unflatten(-1, (self.config.channels[-1], -1)).transpose(1, 2)  # (B, C, T, F')
        parts = []
        for decoder in cast(Iterable[Iterable[GatedDeconv]], self.decoders):
            y = x
            for layer, skip in zip(decoder, reversed(skips), strict=True):
                y = layer(torch.cat([y, skip], 1))  # (B, C', T, F')
            parts.append(y)
        return self.output(torch.cat(parts, 1), spec)

    def output(self, out: Tensor, spec: Tensor) -> Tensor:
        """From what the decoders give to the enhanced spectrum.

        Shape: out (B, 2, T, F), spec (B, 2, T, F) -> (B, 2, T, F)
        """
        if self.config.output == "complex_mapping":
            return compress(out, 1 / self.config.compression)
        mask = 2 * torch.tanh(out)
        (mr, mi), (sr, si) = mask.unbind(1), spec.unbind(1)
        return torch.stack([mr * sr - mi * si, mr * si + mi * sr], 1)

    def forward_with_encoding(
        self, spec: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """As `forward`, with the encoder's output (B, T, encoding_size) as third value."""
        skips = self.encode(spec)
        encoding = skips[-1].transpose(1, 2).flatten(2)  # (B, T, C F')
        x, state = self.recur(encoding, state, extra)
        return self.decode(x, skips, spec), state, encoding

    def forward(
        self, spec: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Enhance T frames, or one.

        Parameters
        ----------
        spec
            Noisy spectrum, real and imaginary part, (B, 2, T, F).
        state
            What an earlier call returned; None stands for zeros.
        extra
            Features that stand beside the recurrent output, (B, T, extra_features).

        Returns
        -------
        spec
            Enhanced spectrum (B, 2, T, F).
        state
            To be handed to the next call.
        """
        out, state, _ = self.forward_with_encoding(spec, state, extra)
        return out, state


def macs_per_frame(config: GcrnConfig, bins: int) -> int:
    """Multiply-accumulate operations of the network per frame, from the layer sizes.

    Counts convolutions, matrix products and the complex mask; not element-wise functions.
    """
    c = config.channels
    sizes = frequency_sizes(bins, len(c))
    total = sum(i * 2 * o * 3 * f for i, o, f in zip((2, *c[:-1]), c, sizes[1:], strict=True))
    outs = (*reversed(c[:-1]), 2 // config.decoders)
    for i, o, f in zip(reversed(c), outs, reversed(sizes[1:]), strict=True):
        # inputs double by the skip, outputs by the gate
        total += config.decoders * (2 * i) * (2 * o) * 3 * f
    gates = 4 if config.cell == "lstm" else 3
    encoding = c[-1] * sizes[-1]
    width = encoding
    for _ in range(config.rnn_layers):
        total += gates * (width + config.hidden) * config.hidden // config.groups
        width = config.hidden
    if config.hidden + config.extra_features != encoding:
        total += (config.hidden + config.extra_features) * encoding
    return total + (4 * bins if config.output == "complex_mask" else 0)
