"""ECAPA-TDNN: speechbrain's network behind the log-mel front end of its published recipes.

Sources: Desplanques et al., "ECAPA-TDNN", 2020; network and filter bank are those of the
speechbrain library (Apache 2.0), the settings those of its published VoxCeleb models.

Nothing here is local to a frame, however short its window: the log-mel floor lies 80 dB under the
loudest bin of the clip, the clip's mean is taken off every bin, and squeeze-excitation multiplies
every channel by a function of its mean over the clip. Besides, speechbrain mirrors the clip at its
ends before each convolution, and its ``lengths`` mask those means but not the mirrors. A padded
clip therefore gets other frames: clips run one by one or in batches of equal length.
"""

from __future__ import annotations

import importlib
import itertools
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones import read_json
from distill.backbones.folder import read_weights, write
from enhance.config.checked import Field, PositiveInt, checked
from enhance.config.settings import parse
from enhance.errors import EnhanceError, require
from enhance.network.tensors import load_exactly

SAMPLE_RATE = 16000
FIELD = 400
"""Samples of the STFT window (25 ms, Hamming)."""
STRIDE = 160
"""Samples from frame to frame (10 ms)."""
CENTRE = 200
"""Zeros that the published framing puts before and behind a clip: frame t is centred on 160 t."""
MODEL_TYPE = "ecapa-tdnn"
_FRONT_END = {
    "sampling_rate": SAMPLE_RATE,
    "do_normalize": False,
    "n_fft": FIELD,
    "win_length": FIELD,
    "hop_length": STRIDE,
    "mean_norm": "sentence",
}


def import_speechbrain(module: str) -> ModuleType:
    """Import a module of speechbrain.

    speechbrain imports torchaudio though nothing here reads audio with it, and allows TF32 in this
    process, which would round every other model too: that is undone. An `EnhanceError` if
    speechbrain is missing, or it cannot be imported, such as beside a torchaudio built for another
    torch.
    """
    require("speaker", "torch", "speechbrain")
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(
            f"speechbrain cannot be imported ({reason}); it needs a torchaudio that fits the "
            "installed torch: pip install --force-reinstall 'enhance[speaker]'"
        ) from error
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


@checked
class EcapaConfig:
    """Sizes of the network; the defaults are those of speechbrain/spkrec-ecapa-voxceleb."""

    n_mels: PositiveInt = 80
    """Bins of the log-mel spectrogram, 0 to 8 kHz."""
    channels: tuple[PositiveInt, ...] = (1024, 1024, 1024, 1024, 3072)
    """Of the first TDNN block, the SE-Res2 blocks, and their aggregation (MFA)."""
    kernel_sizes: tuple[PositiveInt, ...] = (5, 3, 3, 3, 1)
    """Taps in frames, odd, one number per block."""
    dilations: tuple[PositiveInt, ...] = (1, 2, 3, 4, 1)
    """Frames between taps."""
    groups: tuple[PositiveInt, ...] = (1, 1, 1, 1, 1)
    """Of the convolutions."""
    attention_channels: PositiveInt = 128
    """Inside the attentive pooling."""
    res2net_scale: Annotated[int, Field(ge=2)] = 8
    """Parts into which a SE-Res2 block splits its channels."""
    se_channels: PositiveInt = 128
    """Inside squeeze-excitation."""
    global_context: bool = True
    """Whether the pooling's attention sees mean and deviation of the clip."""
    embedding: PositiveInt = 192
    """Size of the speaker embedding."""

    def __post_init__(self) -> None:
        count = len(self.channels)
        for name in ("channels", "kernel_sizes", "dilations", "groups"):
            if len(getattr(self, name)) != count or count < 3:
                raise ValueError(f"{name}: as many as channels, and at least three")
        if any(k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError(f"kernel_sizes {self.kernel_sizes} must be odd")
        if any(c % self.res2net_scale for c in self.channels[1:-1]):
            raise ValueError(
                f"channels {self.channels[1:-1]} cannot be split into res2net_scale "
                f"{self.res2net_scale} parts"
            )

    @property
    def context_frames(self) -> tuple[int, ...]:
        """Frames on either side that the convolutions of each frame-level output reach.

        A SE-Res2 block chains ``scale - 1`` convolutions, so that with the published sizes its
        reach is seven times that of one: 2, 16, 37, 65, 65 frames.
        """
        first, *middle, last = self._reach
        chained = [frames * (self.res2net_scale - 1) for frames in middle]
        return tuple(itertools.accumulate([first, *chained, last]))

    @property
    def _reach(self) -> list[int]:
        """Frames to a side that one convolution of each block sees."""
        return [d * (k - 1) // 2 for k, d in zip(self.kernel_sizes, self.dilations, strict=True)]

    @property
    def min_frames(self) -> int:
        """Fewest frames the network runs on: mirroring needs more of them than it mirrors."""
        return max(self._reach) + 1

    def frames(self, samples: int, left_pad: int = CENTRE) -> int:
        """Frames of a clip: floor((N + left_pad + 200 - 400) / 160) + 1, or 0 if too few."""
        count = (samples + left_pad + CENTRE - FIELD) // STRIDE + 1
        return count if samples > 0 and count >= self.min_frames else 0

    def build(self, seed: int) -> Ecapa:
        """A network with random weights, those of ``seed``; an `EnhanceError` if there is none."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return Ecapa(self)
            except ValueError as error:  # such as groups that do not divide channels
                raise EnhanceError(
                    f"{MODEL_TYPE}: these sizes make no network ({error})"
                ) from error


class Ecapa(nn.Module):
    """Front end and network. Only the network has weights: `network.state_dict()`."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        lobe = import_speechbrain("speechbrain.lobes.models.ECAPA_TDNN")
        features = import_speechbrain("speechbrain.lobes.features")
        self.config = config
        self.fbank = features.Fbank(sample_rate=SAMPLE_RATE, n_fft=FIELD, n_mels=config.n_mels)
        self.fbank.compute_STFT.center = False  # the zeros come from `features`
        self.network = lobe.ECAPA_TDNN(
            config.n_mels,
            lin_neurons=config.embedding,
            channels=list(config.channels),
            kernel_sizes=list(config.kernel_sizes),
            dilations=list(config.dilations),
            groups=list(config.groups),
            attention_channels=config.attention_channels,
            res2net_scale=config.res2net_scale,
            se_channels=config.se_channels,
            global_context=config.global_context,
        )

    @torch.no_grad()
    def features(self, waves: Tensor, left_pad: int = CENTRE) -> Tensor:
        """Log-mel spectrogram in dB, each bin without its mean over the clip.

        Shape: (B, N) -> (B, T, M)
        """
        mel = self.fbank(F.pad(waves.float(), (left_pad, CENTRE)))  # (B, T, M)
        return mel - mel.mean(1, keepdim=True)

    def states(self, features: Tensor) -> list[Tensor]:
        """Outputs of the first TDNN block, of each SE-Res2 block, and of their aggregation.

        Shape: (B, T, M) -> list of (B, C_l, T)
        """
        out = [features.transpose(1, 2)]  # (B, M, T)
        for block in self.network.blocks:
            out.append(block(out[-1]))  # (B, C, T)
        return [*out[1:], self.network.mfa(torch.cat(out[2:], dim=1))]

    def forward(self, waves: Tensor) -> Tensor:
        """Speaker embeddings of clips of equal length.

        Shape: (B, N) -> (B, E)
        """
        aggregated = self.states(self.features(waves))[-1]  # (B, C, T)
        pooled = self.network.asp_bn(self.network.asp(aggregated))  # (B, 2 C, 1)
        return self.network.fc(pooled).squeeze(2)


def save(model: Ecapa, folder: Path) -> None:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors`` (fp32).

    An `EnhanceError` if a weight is not finite, or a file cannot be written.
    """
    prepare = _FRONT_END | {"n_mels": model.config.n_mels}
    config = {"model_type": MODEL_TYPE, **asdict(model.config)}
    write(folder, model.network.state_dict(), config, prepare)


def read(folder: Path) -> Ecapa:
    """Build what `save` wrote.

    An `EnhanceError` if a file is missing, a setting unknown, or weights missing, damaged or of
    another shape.
    """
    config = read_json(folder / "config.json", "it holds the sizes of the network")
    prepare = read_json(folder / "preprocessor_config.json", "it holds the front end's settings")
    sizes = {k: v for k, v in config.items() if k != "model_type"}
    settings = parse(EcapaConfig, sizes, str(folder / "config.json"))
    for key, value in (_FRONT_END | {"n_mels": settings.n_mels}).items():
        if prepare.get(key) != value:
            raise EnhanceError(
                f"{folder / 'preprocessor_config.json'}: {key} is {prepare.get(key)!r}, the front "
                f"end of ecapa-tdnn has {value!r}"
            )
    path = folder / "model.safetensors"
    model = settings.build(0)
    load_exactly(model.network, read_weights(path), str(path))
    return model
