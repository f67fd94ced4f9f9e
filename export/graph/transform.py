"""The transforms of a model on one frame, a quarter of the arithmetic of a product with the DFT.

Sums and differences of the samples that lie alike about the middle and about the quarters of a
frame feed bins in groups: real and imaginary parts of the even ones, then of the odd ones, each a
product of a quarter of the length with a quarter of the places. (That halves are taken together is
decimation in frequency, Gentleman and Sande, 1966; that real parts are even functions of time and
imaginary ones odd makes the other half.) A file then holds a quarter of the numbers, and a
processor reads no more of them. Synthesis takes the transposes in the reverse order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from enhance.network.gcrn import State
from enhance.network.waveform_model import Stft
from enhance.stft import StftConfig, window

_SIGNS = ((1, 1, 1, 1), (1, -1, 1, -1), (1, -1, -1, 1), (1, 1, -1, -1))
"""How x[n], x[N/2 - n], x[N/2 + n] and x[N - n] enter the four groups."""


class StepStft(Stft):
    """`Stft` on one frame of one clip.

    Its spectra are (ways, 2, K): bin b lies at ``b // ways`` of row ``b % ways``, real and
    imaginary part in dimension 1; where that makes one place too many, it is zero. There are two
    ways; one, and a whole product, if the length of the DFT is no multiple of four.
    """

    def __init__(self, config: StftConfig) -> None:
        super().__init__(config)
        size, bins = config.fft_size, config.bins
        before = after = np.pad(window(config), (0, size - config.window_length))
        if size % 4:
            self.ways, n = 1, np.arange(size)
            signs, there, back = np.ones((1, 1)), n[None], n
        else:
            self.ways, n = 2, np.arange(size // 4 + 1)
            signs = np.array(_SIGNS)
            there = np.stack([n, size // 2 - n, size // 2 + n, -n % size])  # (4, L)
            rows = np.arange(there.size).reshape(there.shape)
            back = np.concatenate(
                [rows[0, :-1], rows[1, :0:-1], rows[2, :-1], rows[3, :0:-1]]
            )  # (N,), the reverse of `there`
        k = np.arange(self.ways * -(-bins // self.ways)).reshape(-1, self.ways).T  # (ways, K)
        angle = 2 * np.pi * n[:, None] * k[:, None] / size
        basis = np.stack([np.cos(angle), -np.sin(angle)], 1)  # (ways, 2, L, K)
        basis *= (k < bins)[:, None, None]
        if self.ways == 2:  # samples on an axis of symmetry come twice, and go back once
            basis[:, :, [0, -1]] /= 2
            after = after * np.where(np.arange(size) % (size // 4), 1, 2)
        # Of the inverse: a bin is there twice, but the first and, of even N, the last.
        weight = np.where((k == 0) | (2 * k == size), 1, 2) / size
        self.places = k.shape[1]
        basis = (
            basis.reshape(4, len(n), -1) if self.ways == 2 else np.concatenate(basis[0], 1)[None]
        )
        self.basis = torch.from_numpy(basis).float()  # (4, L, K) or (1, N, 2 K)
        self.weight = torch.from_numpy(weight[:, None]).float()  # (ways, 1, K)
        for name, value in {"before": before, "after": after, "signs": signs}.items():
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)
        for name, index in {"there": there, "back": back}.items():
            self.register_buffer(name, torch.from_numpy(index), persistent=False)

    before: Tensor  # windows (N,)
    after: Tensor
    signs: Tensor
    there: Tensor
    back: Tensor

    def analyze(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Shape: audio (1, hop) -> (ways, 2, K), state"""
        c = self.config
        state = self.initial_state() if state is None else state
        joined = torch.cat([state["analysis.tail"], audio], 1)  # (1, W)
        behind = c.fft_size - c.window_length
        x = (F.pad(joined, (0, behind)) if behind else joined) * self.before  # (1, N)
        x = x.index_select(1, self.there.flatten()).view(self.there.shape)
        spec = (self.signs @ x)[:, None] @ self.basis
        tail = joined.split([c.hop_length, c.overlap], 1)[1]
        return spec.view(self.ways, 2, self.places), {"analysis.tail": tail}

    def synthesize(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Shape: (ways, 2, K) -> (1, hop), state"""
        c = self.config
        state = self.initial_state() if state is None else state
        x = (spec * self.weight).view(len(self.signs), 1, -1) @ self.basis.transpose(1, 2)
        x = self.signs.T @ x.view(len(self.signs), -1)
        x = x.view(1, -1).index_select(1, self.back) * self.after  # (1, N)
        out, tail = x[:, : c.window_length].split([c.hop_length, c.overlap], 1)
        before, alone = state["synthesis.tail"], c.hop_length - c.overlap
        return out + (F.pad(before, (0, alone)) if alone else before), {"synthesis.tail": tail}
