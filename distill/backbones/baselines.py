"""What stands beside self-supervised models: log-mel features, and the enhancer's own network.

Both are behind the teacher contract, so that every analysis, cache and mode takes them by name
like any other teacher: ``log-mel``, ``log-mel:320``, ``encoder:checkpoints/default``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn

from distill.backbones.frozen import FrozenTeacher, fingerprint
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.files import expanded
from enhance.network.checkpoint import load_model
from enhance.network.gcrn import flat
from enhance.network.waveform_model import WaveformModel

SAMPLE_RATE = 16000
BANDS = 80
_FFT = 512


class LogMel(FrozenTeacher):
    """Log-mel energies of a clip brought to a root mean square of 1; one hidden state.

    The bands are triangles between 0 and 8 kHz, on the HTK scale; the window is a periodic Hann of
    25 ms.
    """

    family = "log-mel"
    FIELD = 400
    """Samples of a window, 25 ms."""
    STRIDE = 160
    """Samples from frame to frame where nothing else is asked, 10 ms."""

    def __init__(
        self, stride_samples: int = STRIDE, left_pad: int | None = None, bands: int = BANDS
    ) -> None:
        super().__init__(
            nn.Identity(),
            "log-mel" if stride_samples == self.STRIDE else f"log-mel:{stride_samples}",
            field_samples=self.FIELD,
            stride_samples=stride_samples,
            widths=(bands,),
            left_pad=left_pad,
        )
        self.fingerprint = fingerprint(["log-mel", bands, stride_samples, self.left_pad], {})

    def twin(self, seed: int) -> Self:
        """Refused by an `EnhanceError`: nothing here is learnt."""
        raise EnhanceError(f"random:{self.name}: log-mel features have no weights to draw")

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """The one state of clips of one length."""
        waves = torch.stack(clips)
        level = waves.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-9)
        padded = nn.functional.pad(waves / level, (self.left_pad, 0))
        frames = padded.unfold(-1, self.FIELD, self.stride_samples)  # (B, T', 400)
        window = torch.hann_window(self.FIELD, device=waves.device)
        power = torch.fft.rfft(frames * window, _FFT).abs().square()  # (B, T', 257)
        return [torch.log(power @ _bank(self.widths[0]).to(waves.device) + 1e-3)]


@lru_cache(maxsize=4)
def _bank(bands: int) -> Tensor:
    """Triangles (257, bands)."""
    from torchaudio.functional import melscale_fbanks

    bank: Tensor = melscale_fbanks(_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE)
    return bank


class Encoder(FrozenTeacher):
    """The enhancer's own hidden states: each encoder layer, then the recurrent bottleneck.

    A frame of a state is that of the STFT, channels and frequencies side by side. Nothing looks
    ahead. ``left_pad`` is None, or the overlap of the windows: the STFT has its own zeros.
    """

    family = "encoder"
    causal = True

    def __init__(self, model: WaveformModel, name: str, left_pad: int | None = None) -> None:
        stft, network = model.config.stft, model.network
        channels = network.config.channels
        widths = [c * f for c, f in zip(channels, network.sizes[1:], strict=True)]
        super().__init__(
            model,
            name,
            sample_rate=stft.sample_rate,
            field_samples=stft.window_length,
            stride_samples=stft.hop_length,
            widths=[*widths, network.encoding_size],
            left_pad=stft.overlap if left_pad is None else left_pad,
            reach_frames=len(channels) * (network.config.kernel_frames - 1),
        )
        if self.left_pad != stft.overlap:
            raise EnhanceError(
                f"{name}: frames begin {stft.overlap} samples before the clip, not {left_pad}"
            )
        self.fingerprint = fingerprint(to_dict(model.config), model.state_dict())

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """States of clips of one length; samples behind the last whole hop are left out."""
        waves = torch.stack(clips)
        hop = self.stride_samples
        spec, _ = self.model.stft.analyze(waves[:, : waves.shape[1] // hop * hop])
        layers, _ = self.model.network.encode(spec)
        bottleneck, _ = self.model.network.recur(layers[-1])  # (B, T', F, C)
        return [*map(flat, layers), bottleneck.transpose(2, 3).flatten(2)]


def load_encoder(path: str, name: str, left_pad: int | None = None) -> Encoder:
    """The `Encoder` of a checkpoint or run folder.

    An `EnhanceError` if there is none, or it is of mode concat, whose bottleneck needs a teacher.
    """
    return Encoder(load_model(expanded(path))[0], name, left_pad)
