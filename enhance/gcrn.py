"""Gated convolutional recurrent network for causal complex spectral enhancement.

After K. Tan and D. Wang, "Learning complex spectral mapping with gated convolutional recurrent
networks for monaural speech enhancement", IEEE/ACM TASLP 28, 2020: an encoder of gated (GLU)
convolutions over frequency, a grouped recurrent bottleneck with representation rearrangement, and
two decoders of gated transposed convolutions with skip connections, one for the real and one for
the imaginary part. Kernels see one frame, so that the recurrent states are the only memory: many
frames are offline use, one frame is streaming, and the code is the same.

Two things are written so that one graph serves training and an int8 artefact alike:

* A transposed convolution of kernel 3 and stride 2 is two ordinary convolutions, one for the even
  and one for the odd outputs, interleaved. Exact, and quantisable as Conv.
* A single frame runs the recurrent cell as matrix products with the parameters of the `nn.LSTM` or
  `nn.GRU` that serves sequences, because quantisers pass over recurrent operators.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

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
    """Convolution over frequency, stride 2, with a sigmoid gate, batch norm and ELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, (1, 3), (1, 2))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T, F) -> (B, C', T, (F - 3) // 2 + 1)"""
        return F.elu(self.norm(F.glu(self.conv(x), dim=1)))


class GatedDeconv(nn.Module):
    """Transposed convolution over frequency, kernel 3, stride 2, with a sigmoid gate.

    Output 2f is made of inputs f and f - 1 (taps 0 and 2), output 2f + 1 of input f (tap 1).
    """

    def __init__(self, inputs: int, outputs: int, bins: int, *, last: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, 2 * outputs, (1, 2), padding=(0, 1))
        self.odd = nn.Conv2d(inputs, 2 * outputs, (1, 1))
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.ELU()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, T, F) -> (B, C', T, bins), bins = 2 F + 1 or 2 F + 2"""
        even = self.even(x)  # (B, 2C', T, F + 1)
        odd = self.odd(F.pad(x, (0, 1)))  # (B, 2C', T, F + 1); the last touches no input
        y = torch.stack([even, odd], dim=-1).flatten(-2)[..., : self.bins]  # (B, 2C', T, bins)
        return self.activation(self.norm(F.glu(y, dim=1)))


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
        for rnn, part, *inner in zip(
            self.groups, x.chunk(n, -1), *(s.chunk(n, -1) for s in state), strict=True
        ):
            if x.shape[1] == 1 and not self.training:
                carried = self._step(rnn, part[:, 0], inner)
                outputs.append(carried[0][:, None])  # (B, 1, H/n)
            else:
                first = tuple(s[None].contiguous() for s in inner)  # (1, B, H/n)
                y, last = rnn(part, first if self.cell == "lstm" else first[0])
                carried = [s[0] for s in (last if self.cell == "lstm" else (last,))]
                outputs.append(y)
            states.append(carried)
        return torch.cat(outputs, -1), tuple(torch.cat(s, -1) for s in zip(*states, strict=True))

    def _step(self, rnn: nn.Module, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        h = state[0]
        wx = F.linear(x, rnn.weight_ih_l0, rnn.bias_ih_l0)
        wh = F.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0)
        if self.cell == "lstm":
            i, f, g, o = (wx + wh).chunk(4, -1)
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            return [torch.sigmoid(o) * torch.tanh(c), c]
        (rx, zx, nx), (rh, zh, nh) = wx.chunk(3, -1), wh.chunk(3, -1)
        z = torch.sigmoid(zx + zh)
        new = torch.tanh(nx + torch.sigmoid(rx + rh) * nh)
        return [new + z * (h - new)]


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
            GroupedRnn(config.cell, i, o, config.groups)
            for i, o in itertools.pairwise(widths)
        )
        beside = config.hidden + config.extra_features
        self.join = (
            nn.Identity() if beside == self.encoding_size else nn.Linear(beside, self.encoding_size)
        )
        # Decoder layer k doubles the frequency positions back to those of encoder layer k's input.
        outs = (*reversed(c[:-1]), 1)
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                GatedDeconv(2 * i, o, b, last=b == bins)
                for i, o, b in zip(reversed(c), outs, reversed(sizes[:-1]), strict=True)
            )
            for _ in ("real", "imaginary")
        )
        if config.output == "complex_mask":
            # The mask starts near one: the first thing learned need not be to let sound through.
            real = self.decoders[0][-1]
            for conv in (real.even, real.odd):
                with torch.no_grad():
                    conv.bias[0] = 2 * math.atanh(0.5)  # the gate halves it, 2 tanh makes it 1

    def initial_state(self, batch: int = 1) -> State:
        """Zero states, by name, in a fixed order; each (batch, hidden)."""
        parameter = next(self.parameters())
        return {
            f"rnn{i}.{name}": parameter.new_zeros(batch, rnn.hidden)
            for i, rnn in enumerate(self.rnns, 1)
            for name in rnn.state_names
        }

    def encode(self, spec: Tensor) -> list[Tensor]:
        """Outputs of the encoder layers, the last being the encoder's output.

        Shape: (B, 2, T, F) -> list of (B, C_k, T, F_k)
        """
        x = compress(spec, self.config.compression)
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
        for i, rnn in enumerate(self.rnns, 1):
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
        for decoder in self.decoders:
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
    for i, o, f in zip(reversed(c), (*reversed(c[:-1]), 1), reversed(sizes[1:]), strict=True):
        # two decoders; inputs double by the skip, outputs by the gate; three taps, F + 1 positions
        total += 2 * (2 * i) * (2 * o) * 3 * (f + 1)
    gates = 4 if config.cell == "lstm" else 3
    encoding = c[-1] * sizes[-1]
    width = encoding
    for _ in range(config.rnn_layers):
        total += gates * (width + config.hidden) * config.hidden // config.groups
        width = config.hidden
    if config.hidden + config.extra_features != encoding:
        total += (config.hidden + config.extra_features) * encoding
    return total + (4 * bins if config.output == "complex_mask" else 0)
