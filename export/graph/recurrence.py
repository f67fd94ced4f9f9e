"""Recurrent layers in exported graphs: one step in products, or ONNX's own operator."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

OPSET = 20
"""Version of the ONNX operator set of every artefact; stated here and nowhere else."""


def gates_together(cell: Literal["lstm", "gru"], rows: Tensor) -> Tensor:
    """Gates under a sigmoid side by side: torch's i, f, g, o becomes i, f, o, g.

    Shape: (gates H, ...) -> the same
    """
    if cell == "gru":
        return rows  # r, z, n
    i, f, g, o = rows.chunk(4)
    return torch.cat([i, f, o, g])


def lstm_step(gates: Tensor, held: Tensor) -> list[Tensor]:
    """One step from the sums of what input and state give the gates, ordered as above.

    Shape: gates (..., 4 H), held, the cell's memory, as many numbers as (..., H)
    -> output and memory (..., H)
    """
    last = gates.ndim - 1
    size = gates.shape[last] // 4
    gates, g = gates.split([3 * size, size], last)
    i, f, o = gates.sigmoid().chunk(3, last)
    c = f * held.view(f.shape) + i * g.tanh()
    return [o * c.tanh(), c]


def gru_step(wx: Tensor, wh: Tensor, held: Tensor) -> list[Tensor]:
    """One step from the products of input and state.

    Shape: wx, wh (..., 3 H), held, the state, as many numbers as (..., H) -> state (..., H)
    """
    last = wx.ndim - 1
    size = wx.shape[last] // 3
    gates_x, new_x = wx.split([2 * size, size], last)
    gates_h, new_h = wh.split([2 * size, size], last)
    r, z = (gates_x + gates_h).sigmoid().chunk(2, last)
    g = (new_x + r * new_h).tanh()
    return [g + z * (held.view(g.shape) - g)]


class OnnxRnn(nn.Module):
    """A one-layer `nn.LSTM` or `nn.GRU` as one ONNX operator; runs in exported graphs only.

    Gates are reordered from torch's i f g o and r z n to i o f c and z r h.
    """

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.lstm = isinstance(rnn, nn.LSTM)
        self.hidden = rnn.hidden_size
        self.batch_first = rnn.batch_first
        self.directions = 2 if rnn.bidirectional else 1
        order = (0, 3, 1, 2) if self.lstm else (1, 0, 2)

        def gates(name: str) -> Tensor:
            ways = []
            for way in ("", "_reverse")[: self.directions]:
                parts = cast(Tensor, getattr(rnn, f"{name}_l0{way}")).detach().chunk(len(order))
                ways.append(torch.cat([parts[i] for i in order]))
            return torch.stack(ways)

        self.w: Tensor
        self.r: Tensor
        self.b: Tensor
        self.register_buffer("w", gates("weight_ih"))  # (ways, G H, D)
        self.register_buffer("r", gates("weight_hh"))  # (ways, G H, H)
        biases = gates("bias_ih"), gates("bias_hh")
        self.register_buffer("b", torch.cat(biases, 1))  # (ways, 2 G H)

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, object]:
        """As torch's own. Shape: x (T, B, D), states (ways, B, H) -> (T, B, ways H), states"""
        if self.batch_first:
            x = x.transpose(0, 1)
        states: tuple[Tensor | None, ...] = state if isinstance(state, tuple) else (state,)
        if state is None and self.lstm:
            states = (None, None)
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if self.directions == 2:
            attributes["direction"] = "bidirectional"
        if not self.lstm:
            attributes["linear_before_reset"] = 1  # torch's GRU
        steps, batch, _ = x.shape
        last = (self.directions, batch, self.hidden)
        outputs = torch.onnx.ops.symbolic_multi_out(
            "LSTM" if self.lstm else "GRU",
            (x, self.w, self.r, self.b, None, *states),
            attributes,
            dtypes=[x.dtype] * (2 + self.lstm),
            shapes=[(steps, self.directions, batch, self.hidden), *[last] * (1 + self.lstm)],
            version=OPSET,
        )
        if isinstance(batch, int) and batch == 1:  # nothing to transpose
            y = outputs[0].view(steps, 1, -1)
        else:
            y = outputs[0].transpose(1, 2).flatten(2)  # (T, B, ways H)
        if self.batch_first:
            y = y.transpose(0, 1)
        return y, tuple(outputs[1:]) if self.lstm else outputs[1]
