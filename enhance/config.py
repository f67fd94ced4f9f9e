"""Everything that can be set, as documented dataclasses; strict reading from YAML.

Importable without torch: a configuration is plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from enhance.data.clips import DataConfig
from enhance.data.mixing import MixingConfig
from enhance.errors import EnhanceError
from enhance.stft import StftConfig
from enhance.training.config import TrainingConfig
from enhance.training.curriculum import Knot, knots

__all__ = [
    "DataConfig",
    "GcrnConfig",
    "Knot",
    "LossConfig",
    "MixingConfig",
    "ModelConfig",
    "RunConfig",
    "StftConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class GcrnConfig:
    """Architecture of a `enhance.network.gcrn.Gcrn`."""

    channels: tuple[int, ...] = (16, 32, 48, 64, 64)
    """Output channels of the encoder layers; the decoders mirror them."""
    cell: Literal["lstm", "gru"] = "gru"
    """Recurrent cell of the bottleneck."""
    hidden: int = 320
    """Units of each recurrent layer, over all groups; with `dual_path` those of each position."""
    rnn_layers: int = 2
    """Recurrent layers, or blocks of two paths."""
    groups: int = 2
    """Independent groups of each recurrent layer; `dual_path` has none."""
    bottleneck: Literal["grouped", "dual_path"] = "grouped"
    """Between encoder and decoders: `grouped`, recurrent layers over the flattened frame, as in the
    paper; or `dual_path`, blocks of a recurrence over time that all frequencies share and a mixing
    over frequency (`enhance.network.dual_path`): a fraction of the weights, more arithmetic for
    each."""
    mixing: Literal["recurrent", "attention", "dense"] = "recurrent"
    """What mixes the frequencies of a frame in a block of two paths."""
    kernel_frames: int = 1
    """Frames that the encoder's kernels see: 1 as in the paper; 2 for the one before as well."""
    level_frames: int = 0
    """Frames over which the running level is taken that the network's input is divided by;
    0 leaves the input at its level."""
    decoders: Literal[1, 2] = 2
    """2, one for the real and one for the imaginary part, as in the paper; or 1 for both parts,
    about half of the arithmetic."""
    extra_features: int = 0
    """Width D of features that stand beside the recurrent output; 0 for none."""
    output: Literal["complex_mask", "complex_mapping", "magnitude_phase"] = "complex_mask"
    """`complex_mask` multiplies the noisy spectrum by 2 tanh of the decoders' output;
    `complex_mapping` (the paper's) takes the decoders' output as the spectrum; `magnitude_phase`
    has a branch more, for the magnitude of the mask, and takes the direction alone from the
    complex one."""
    compression: float = 0.3
    """Power on the magnitude of the network's input, and of its mapped output; 1 for the paper's
    linear spectrum."""

    @property
    def decoder_outputs(self) -> int:
        """Channels at the end of each decoder."""
        return (3 if self.output == "magnitude_phase" else 2) // self.decoders

    def check(self, sizes: tuple[int, ...]) -> None:
        """Refuse what cannot be built.

        Parameters
        ----------
        sizes
            Frequency positions of the input and after each encoder layer.

        Raises
        ------
        EnhanceError
            Names the field and the reason.
        """
        if not self.channels or min(self.channels) < 1:
            raise EnhanceError(f"channels {self.channels}: need one or more positive numbers")
        if sizes[-1] < 1:
            raise EnhanceError(
                f"channels {self.channels}: {len(self.channels)} layers of stride 2 leave nothing "
                f"of {sizes[0]} bins; use fewer layers or a longer window"
            )
        if self.rnn_layers < 1 or self.groups < 1 or self.hidden < 1:
            raise EnhanceError("rnn_layers, groups and hidden: must be positive")
        encoding = self.channels[-1] * sizes[-1]
        dual = self.bottleneck == "dual_path"
        if dual and self.mixing == "recurrent" and self.channels[-1] % 2:
            raise EnhanceError(f"channels {self.channels}: the last must be even to mix both ways")
        if (
            dual
            and self.mixing == "attention"
            and self.channels[-1] % max(1, self.channels[-1] // 16)
        ):
            raise EnhanceError(f"channels {self.channels}: the last must be a multiple of 16")
        if not dual and (self.hidden % self.groups or encoding % self.groups):
            raise EnhanceError(
                f"groups {self.groups}: must divide hidden {self.hidden} and the encoder's output "
                f"{encoding}"
            )
        if self.decoders not in (1, 2):
            raise EnhanceError(f"decoders {self.decoders}: must be 1 or 2")
        if self.output == "magnitude_phase" and self.decoders != 1:
            raise EnhanceError("output magnitude_phase: needs decoders 1")
        if self.kernel_frames < 1 or self.level_frames < 0:
            raise EnhanceError("kernel_frames must be positive, level_frames not negative")
        if not 0 < self.compression <= 1:
            raise EnhanceError(f"compression {self.compression}: must be in (0, 1]")
        if self.extra_features < 0:
            raise EnhanceError(f"extra_features {self.extra_features}: must not be negative")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of `enhance.training.losses.enhancement_loss`; a term of weight 0 is
    left out."""

    compression: float = 0.3
    """Power on the magnitude of both spectra before they are compared."""
    complex: float = 0.5
    """Mean absolute-square error of the compressed complex spectrum."""
    magnitude: float = 0.5
    """Mean square error of the compressed magnitude."""
    si_sdr: float = 0.02
    """Times the negative SI-SDR in dB."""
    waveform: float = 0.0
    """Mean absolute error of the waveform, relative to the mean absolute value of the target."""
    multi_resolution: float = 0.0
    """Mean square error of the compressed magnitude of the waveform, averaged over
    `multi_resolution_sizes`."""
    multi_resolution_sizes: tuple[int, ...] = (256, 512, 1024)
    """Transform lengths in samples of the multi-resolution term; Hann windows, hop half of each."""
    pesq: float = 0.0
    """What a differentiable wideband PESQ takes off its best score of 4.5
    (`enhance.training.perceptual`); 16 kHz only."""
    level_invariant: bool = False
    """Bring each target to one level, and its estimate by the same gain, before they are compared.
    Else a compressed spectrum's error falls with the level, and quiet mixtures hardly teach it."""

    def __post_init__(self) -> None:
        sizes = self.multi_resolution_sizes
        if not sizes or min(sizes) < 2 or any(size % 2 for size in sizes):
            raise EnhanceError(
                f"loss.multi_resolution_sizes {sizes}: need one or more even numbers of samples"
            )


@dataclass(frozen=True)
class ModelConfig:
    """A model from waveform to waveform: framing and network."""

    stft: StftConfig = field(default_factory=StftConfig)
    """Framing."""
    gcrn: GcrnConfig = field(default_factory=GcrnConfig)
    """Network."""


MODELS: dict[str, GcrnConfig] = {
    "gcrn-16mb": GcrnConfig((16, 32, 64, 128, 120), "lstm", 600),
    "gcrn-small": GcrnConfig((16, 32, 48, 64, 64), "lstm", 320, decoders=1),
    "gcrn-tiny": GcrnConfig((8, 16, 24, 32, 48), "lstm", 240, decoders=1),
    "gcrn-micro": GcrnConfig((4, 8, 12, 16, 24), "lstm", 120, decoders=1),
    "gcrn-dual": GcrnConfig(
        (16, 32, 48, 64), "lstm", 96, decoders=1, bottleneck="dual_path", level_frames=188
    ),
}
"""Network presets, sized at 25-20 framing: at most 16,000,000 bytes of exported fp32 ONNX with the
DFT in it, at most 1 M parameters, about half of that, and half of that network's width. `gcrn-dual`
has two blocks of two paths, and a level that runs over three seconds of 16 ms hops."""


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    mode: str = "base"
    """What training minimises: `base`, or with a teacher `distill`, `concat` or `pretrain`, or
    several of these three joined by `+`."""
    seed: int = 0
    """Seed of weights and mixtures. What is held back for validation is the same for all seeds."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model. In YAML, `preset` (a network preset) and `framing` (a framing preset) may stand
    beside `stft` and `gcrn`, whose keys then refine the preset."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is heard."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    """How speech and noise are mixed."""
    curriculum: list[Knot] = field(default_factory=list)
    """How `mixing` changes in the course of training: a list of `step` and `mixing`, each of which
    refines the one before and is reached at its step, in a straight line from the one before (what
    counts, such as `noise_layers`, changes at the step). Validation keeps to `mixing`."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The enhancement loss."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Steps, batch, optimiser."""
    objective: dict[str, Any] = field(default_factory=dict)
    """Settings of the objective that `--mode` chose, read by that objective."""

    def __post_init__(self) -> None:
        knots(self.mixing, self.curriculum)
