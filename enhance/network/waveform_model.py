"""Torch transforms equal to `enhance.stft`, and the model from waveform to waveform.

The DFT is a matrix product with the window inside: exact to float32, the same operators in
training and in the exported graph (ONNX exporters do not take `torch.stft`), and cheap beside
the network.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.config import ModelConfig
from enhance.errors import EnhanceError
from enhance.network.companion import Companion
from enhance.network.gcrn import Gcrn, State, macs_per_frame
from enhance.stft import StftConfig, window


class Stft(nn.Module):
    """Causal analysis and overlap-add synthesis with carried tails.

    The one buffer holds the windowed cosines and sines of the DFT; synthesis is its transpose,
    with the weights of the inverse DFT (1/N at bin 0 and at N/2, 2/N between). In training mode
    both are fast transforms, a quarter of the time; the window is the cosine of bin 0.
    """

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.config = config
        n = np.arange(config.window_length)
        angle = 2 * np.pi * np.outer(n, np.arange(config.bins)) / config.fft_size
        basis = np.concatenate([np.cos(angle), -np.sin(angle)], 1) * window(config)[:, None]
        weight = np.full(config.bins, 2 / config.fft_size)
        weight[0] = 1 / config.fft_size
        if config.fft_size % 2 == 0:
            weight[-1] = 1 / config.fft_size
        self.basis: Tensor
        self.weight: Tensor
        # Not persistent: made from the config, so that a checkpoint holds only what was learned.
        self.register_buffer("basis", torch.from_numpy(basis).float(), persistent=False)  # (W, 2F)
        self.register_buffer(
            "weight", torch.from_numpy(np.tile(weight, 2)).float(), persistent=False
        )  # (2F,)

    def initial_state(self, batch: int = 1) -> State:
        """Zero tails, by name, each (batch, overlap)."""
        zeros = self.basis.new_zeros(batch, self.config.overlap)
        return {"analysis.tail": zeros, "synthesis.tail": zeros.clone()}

    def analyze(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Spectrum of whole hops.

        Shape: audio (B, T * hop) -> (B, 2, T, F), state
        """
        c = self.config
        state = self.initial_state(audio.shape[0]) if state is None else state
        joined = torch.cat([state["analysis.tail"], audio], 1)  # (B, overlap + T hop)
        if audio.shape[1] == c.hop_length:  # one frame: no unfold in the exported graph
            frames = joined[:, None]  # (B, 1, W)
        else:
            frames = joined.unfold(1, c.window_length, c.hop_length)  # (B, T, W)
        if self.training:
            parts = torch.view_as_real(torch.fft.rfft(frames * self.basis[:, 0], c.fft_size))
            spec = parts.permute(0, 3, 1, 2).contiguous()  # (B, 2, T, F)
        else:
            spec = (frames @ self.basis).unflatten(-1, (2, c.bins)).transpose(1, 2)
        return spec, {"analysis.tail": joined[:, joined.shape[1] - c.overlap :]}

    def synthesize(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Samples that the frames complete, ``overlap`` samples late.

        Shape: (B, 2, T, F) -> (B, T * hop), state
        """
        c = self.config
        state = self.initial_state(spec.shape[0]) if state is None else state
        if self.training:
            frames = torch.fft.irfft(torch.complex(*spec.unbind(1)), c.fft_size)  # (B, T, N)
            frames = frames[..., : c.window_length] * self.basis[:, 0]
        else:
            frames = (spec.transpose(1, 2).flatten(2) * self.weight) @ self.basis.T  # (B, T, W)
        head, body, tail = frames.split(
            [c.overlap, c.hop_length - c.overlap, c.overlap], -1
        )  # the first O samples of a frame lie on the last O of the one before
        before = torch.cat([state["synthesis.tail"][:, None], tail[:, :-1]], 1)  # (B, T, O)
        out = torch.cat([head + before, body], -1).flatten(1)  # (B, T hop)
        return out, {"synthesis.tail": tail[:, -1]}


class WaveformModel(nn.Module):
    """Analysis, network, synthesis: noisy audio in, enhanced audio out, state carried.

    A companion makes the features beside the recurrent output from the noisy waveform, for
    networks with ``gcrn.extra_features``; such a model enhances whole signals only. One whose
    features have another width than the network takes is refused by an `EnhanceError`.
    """

    def __init__(self, config: ModelConfig, companion: Companion | None = None) -> None:
        super().__init__()
        if companion is not None and companion.size != config.gcrn.extra_features:
            raise EnhanceError(
                f"gcrn.extra_features {config.gcrn.extra_features}: the features beside the "
                f"recurrent output are {companion.size} wide; leave the setting to the mode"
            )
        self.config = config
        self.stft = Stft(config.stft)
        self.network = Gcrn(config.gcrn, config.stft.bins)
        self.companion = companion

    def initial_state(self, batch: int = 1) -> State:
        """Zero states by name, in the order of the exported graph's inputs."""
        stft = self.stft.initial_state(batch)
        return {
            "analysis.tail": stft["analysis.tail"],
            **self.network.initial_state(batch),
            "synthesis.tail": stft["synthesis.tail"],
        }

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Stream whole hops; the output is ``latency_samples`` late.

        Shape: audio (B, T * hop) -> (B, T * hop), state

        An `EnhanceError` if the network takes features beside the audio: a stream has none.
        """
        if self.config.gcrn.extra_features:
            raise EnhanceError(
                f"this model takes {self.config.gcrn.extra_features} features beside each frame, "
                "which need the whole recording: it cannot stream; use enhance(), or a model of "
                "mode base, distill or pretrain"
            )
        return self._run(audio, state, None)

    def _run(
        self, audio: Tensor, state: State | None, features: Tensor | None
    ) -> tuple[Tensor, State]:
        state = self.initial_state(audio.shape[0]) if state is None else state
        spec, analysis = self.stft.analyze(audio, state)
        spec, recurrent = self.network(spec, state, features)
        out, synthesis = self.stft.synthesize(spec, state)
        return out, {**analysis, **recurrent, **synthesis}

    def enhance(self, audio: Tensor) -> Tensor:
        """Enhance whole signals of any length, aligned with the input.

        Shape: (B, N) -> (B, N)
        """
        return self.enhance_beside(audio, self.features(audio))

    def enhance_beside(self, audio: Tensor, features: Tensor | None) -> Tensor:
        """`enhance` with features that were made already.

        Shape: audio (B, N), features (B, T, D) -> (B, N)
        """
        late = self.config.stft.latency_samples
        out = self._run(self.pad(audio), None, features)[0]
        return out[:, late : late + audio.shape[1]]

    def features(self, audio: Tensor) -> Tensor | None:
        """What stands beside the recurrent output for these whole signals; None for nothing.

        Shape: audio (B, N) -> (B, T, D), T the frames of ``pad(audio)``

        An `EnhanceError` if the network takes features and the model has no companion that makes
        them.
        """
        if not self.config.gcrn.extra_features:
            return None
        if self.companion is None:
            raise EnhanceError(
                f"gcrn.extra_features {self.config.gcrn.extra_features}: nothing makes these "
                "features; train in mode concat, or set it to 0"
            )
        return self.companion(audio, self.frames(audio.shape[1]))

    def frames(self, samples: int) -> int:
        """Frames of a whole signal, padded to complete every sample of it."""
        c = self.config.stft
        # Of positive numbers only: exported integer division rounds negative ones up.
        return (samples + c.latency_samples + c.hop_length - 1) // c.hop_length

    def pad(self, audio: Tensor) -> Tensor:
        """Zeros on the right, up to whole hops that complete every sample of ``audio``."""
        samples = audio.shape[1]
        return F.pad(audio, (0, self.frames(samples) * self.config.stft.hop_length - samples))


def macs_per_second(config: ModelConfig) -> int:
    """Multiply-accumulates per second of audio: network and both transforms."""
    c = config.stft
    frame = macs_per_frame(config.gcrn, c.bins) + 2 * (c.window_length * 2 * c.bins)
    return frame * c.sample_rate // c.hop_length
