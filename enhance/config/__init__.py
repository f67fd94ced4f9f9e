"""Everything that can be set, as documented dataclasses; strict reading from YAML.

Importable without torch: a configuration is plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from enhance.config.checked import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Seed,
    Share,
    checked,
    read,
)
from enhance.config.mixing import Decibel, MixingConfig
from enhance.errors import EnhanceError
from enhance.stft import StftConfig

Even = Annotated[int, Field(ge=2, multiple_of=2)]

# Far above what any run has: a slip of the keyboard is refused at once, not by a full memory.
Size = Annotated[int, Field(gt=0, le=16_384)]
Depth = Annotated[int, Field(gt=0, le=64)]
Rate = Annotated[float, Field(gt=0, le=1000)]


@checked
class GcrnConfig:
    """Architecture of a `enhance.network.gcrn.Gcrn`."""

    channels: Annotated[tuple[Size, ...], Field(min_length=1)] = (16, 32, 48, 64, 64)
    """Output channels of the encoder layers; the decoders mirror them."""
    cell: Literal["lstm", "gru"] = "gru"
    """Recurrent cell of the bottleneck."""
    hidden: Size = 320
    """Units of each recurrent layer, over all groups; with `dual_path` those of each position."""
    rnn_layers: Depth = 2
    """Recurrent layers, or blocks of two paths."""
    groups: PositiveInt = 2
    """Independent groups of each recurrent layer; `dual_path` has none."""
    bottleneck: Literal["grouped", "dual_path"] = "grouped"
    """Between encoder and decoders: `grouped`, recurrent layers over the flattened frame, as in the
    paper; or `dual_path`, blocks of a recurrence over time that all frequencies share and a mixing
    over frequency (`enhance.network.dual_path`): a fraction of the weights, more arithmetic for
    each."""
    mixing: Literal["recurrent", "attention", "dense"] = "recurrent"
    """What mixes the frequencies of a frame in a block of two paths."""
    kernel_frames: Depth = 1
    """Frames that the encoder's kernels see: 1 as in the paper; 2 for the one before as well."""
    level_frames: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Frames over which the running level is taken that the network's input is divided by;
    0 leaves the input at its level."""
    decoders: Annotated[int, Field(ge=1, le=2)] = 2
    """2, one for the real and one for the imaginary part, as in the paper; or 1 for both parts,
    about half of the arithmetic."""
    extra_features: NonNegativeInt = 0
    """Width D of features that stand beside the recurrent output; 0 for none."""
    output: Literal["complex_mask", "complex_mapping", "magnitude_phase"] = "complex_mask"
    """`complex_mask` multiplies the noisy spectrum by 2 tanh of the decoders' output;
    `complex_mapping` (the paper's) takes the decoders' output as the spectrum; `magnitude_phase`
    has a branch more, for the magnitude of the mask, and takes the direction alone from the
    complex one."""
    compression: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Power on the magnitude of the network's input, and of its mapped output; 1 for the paper's
    linear spectrum."""

    @property
    def decoder_outputs(self) -> int:
        """Channels at the end of each decoder."""
        return (3 if self.output == "magnitude_phase" else 2) // self.decoders

    def check(self, sizes: tuple[int, ...]) -> None:
        """Refuse what cannot be built by an `EnhanceError` that names the field and the reason.

        ``sizes`` are the frequency positions of the input and after each encoder layer.
        """
        if sizes[-1] < 1:
            raise EnhanceError(
                f"channels {self.channels}: {len(self.channels)} layers of stride 2 leave nothing "
                f"of {sizes[0]} bins; use fewer layers or a longer window"
            )
        last = self.channels[-1]
        encoding = last * sizes[-1]
        if self.bottleneck == "dual_path":
            if self.mixing == "recurrent" and last % 2:
                raise EnhanceError(
                    f"channels {self.channels}: the last must be even to mix both ways"
                )
            if self.mixing == "attention" and last % max(1, last // 16):
                raise EnhanceError(f"channels {self.channels}: the last must be a multiple of 16")
        elif self.hidden % self.groups or encoding % self.groups:
            raise EnhanceError(
                f"groups {self.groups}: must divide hidden {self.hidden} and the encoder's output "
                f"{encoding}"
            )
        if self.output == "magnitude_phase" and self.decoders != 1:
            raise EnhanceError("output magnitude_phase: needs decoders 1")


@checked
class LossConfig:
    """Weights of the terms of `enhance.training.losses.enhancement.enhancement_loss`; a term of
    weight 0 is left out."""

    compression: Annotated[float, Field(gt=0, le=1)] = 0.3
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
    multi_resolution_sizes: Annotated[tuple[Even, ...], Field(min_length=1)] = (256, 512, 1024)
    """Transform lengths in samples of the multi-resolution term; Hann windows, hop half of each."""
    pesq: float = 0.0
    """What a differentiable wideband PESQ takes off its best score of 4.5
    (`enhance.training.losses.perceptual`); 16 kHz only."""
    estoi: float = 0.0
    """What a differentiable ESTOI lacks of 1 (`enhance.training.losses.intelligibility`)."""
    dnsmos: float = 0.0
    """Times the negative overall opinion of a differentiable DNSMOS P.835
    (`enhance.training.losses.opinion`) of a quarter of the batch; 16 kHz only."""
    level_invariant: bool = False
    """Bring each target to one level, and its estimate by the same gain, before they are compared.
    Else a compressed spectrum's error falls with the level, and quiet mixtures hardly teach it."""


@checked
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


@checked
class DataConfig:
    """What to train on. With no corpus, speech or noise named: the built-in synthetic corpus."""

    corpus: str = ""
    """Folder of speech and noise: a manifest whose `kind` column tells them apart, or
    subfolders `speech` and `noise`."""
    speech: list[str] = field(default_factory=list)
    """Manifests or folders of clean speech."""
    noise: list[str] = field(default_factory=list)
    """Manifests or folders of noise."""
    held_back: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Fraction kept from training for validation: by speaker for speech (by recording where the
    speaker is unknown), by recording for noise."""
    held_out: list[str] = field(default_factory=list)
    """Sources (the manifest's `source`) that neither training nor validation hears:
    `enhance data mix --held-out` makes a set of them."""
    balance: Share = 0.5
    """A source is drawn with probability in proportion to its hours to this power: 1 draws every
    hour equally often, 0 every source."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 1
    """Processes that mix ahead of training; 0 mixes in the training process. Any number gives
    the same mixtures."""
    cache_mb: NonNegativeInt = 2000
    """Decoded audio held in memory, in megabytes; an hour takes 115. Beyond it files are read at
    each mixture: keep those as WAV or FLAC at the model's rate."""
    cache_gb: NonNegativeFloat = 4.0
    """Decoded audio kept on disk for the next start, in the user's cache folder
    (`$XDG_CACHE_HOME/enhance/decoded`), in gigabytes, all corpora together: for a new one the
    longest unused are removed. A changed file is decoded anew. 0 keeps nothing."""
    rirs: str = ""
    """Folder of room impulse responses, for `mixing.rir_source: folder`."""


@checked
class TrainingConfig:
    """Settings of `enhance.training.loop.fit`."""

    steps: NonNegativeInt = 20000
    """Optimiser steps at most; 0 for no limit."""
    minutes: NonNegativeFloat = 0.0
    """Wall-clock minutes at most, validation included; 0 for no limit. The learning rate then
    follows whichever of steps and minutes is nearer its end."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Mixtures per step, over all processes."""
    epoch_size: PositiveInt = 10000
    """Mixtures in one epoch. Each is a function of (seed, epoch, index): never the same twice."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`adamw`, or `muon`: `enhance.training.optim.muon.Muon` for matrices and kernels, AdamW for
    the rest."""
    learning_rate: Rate = 2e-3
    """Peak of AdamW's learning rate."""
    matrix_rate: Rate = 0.02
    """Peak of Muon's learning rate."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` decays from the first step to the last. `wsd` (warm-up, stable, decay) keeps its
    peak until the last `decay_share`, so that a run need not know its end: without a limit it
    stays at the peak until it is stopped, and `--branch` decays from any state of it."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the budget, at its end, in which `wsd` decays; 1 for nothing but a decay."""
    final_rate: Share = 0.02
    """The decay ends at this fraction of the peak."""
    warmup_steps: NonNegativeInt = 200
    """Steps of linear rise at the start."""
    weight_decay: NonNegativeFloat = 0.03
    """Decoupled decay of matrices and kernels, times their rate; vectors (biases, norms) are left
    alone. Muon's steps have one size whatever the gradient, so that weights grow with the square
    root of their number: with 1e-4 a `gcrn-tiny` came apart after 4000 steps at 0.02."""
    clip_norm: NonNegativeFloat = 5.0
    """Largest norm of the gradient of all weights; longer ones are scaled down. 0 for no limit."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay per step of the averaged weights, which are the ones validated and kept. In step n
    (from 1) at most n / (n + 9), so that short runs forget their start."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16` runs the network in bfloat16; transforms, losses and weights stay in float32. `auto`
    is `bf16` where the device multiplies in it (GPUs since Ampere, CPUs with AVX512-BF16 or AMX),
    else `fp32`."""
    validate_every: NonNegativeInt = 1000
    """Steps between validations; 0 for none: then the last weights are kept."""
    keep: Literal["best", "last"] = "best"
    """Keep the validated weights of the highest SI-SDR, or the last: where the loss asks for more
    than SI-SDR, and where a decay has an end, the last are better."""
    validation_clips: NonNegativeInt = 24
    """Mixtures of held-back speakers and noises, the same in every run."""
    validation_snr: Decibel | None = None
    """SNR of the validation mixtures in dB; unset for the middle of `mixing.snr`."""
    checkpoint_every: PositiveInt = 500
    """Steps between writings of the state from which `--resume` continues."""
    log_every: PositiveInt = 50
    """Steps averaged into one line of history.jsonl."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Torch threads per process; 0 for torch's own choice."""

    def __post_init__(self) -> None:
        if self.schedule == "cosine" and not (self.steps or self.minutes):
            raise ValueError("steps 0: a cosine has an end; set steps or minutes, or schedule: wsd")
        if self.validate_every and not self.validation_clips:
            raise ValueError("validation_clips 0: validate_every: 0 turns validation off")


FIXED = ("segment_seconds", "rir_source", "rir_count", "rir_rt60")
"""What a mixer decides once: the shape of a batch, and the rooms."""


@checked
class Knot:
    """What mixtures are like at one step."""

    step: int
    """Counted from the start of the run."""
    mixing: dict[str, Any] = field(default_factory=dict)
    """Fields of `MixingConfig`; others keep their values of the knot before, at the first those of
    `RunConfig.mixing`."""


def knots(mixing: MixingConfig, curriculum: Sequence[Knot]) -> list[tuple[int, MixingConfig]]:
    """Steps and the configurations reached there, the first at step 0.

    An `EnhanceError` if steps do not rise, a field is unknown or has a wrong value, or one of
    `FIXED` changes.
    """
    found = [(0, mixing)]
    for number, knot in enumerate(curriculum):
        where = f"curriculum[{number}]"
        if knot.step < found[-1][0] or (number and knot.step == found[-1][0]):
            raise EnhanceError(f"{where}: step {knot.step}: steps must rise, from 0 on")
        found.append((
            knot.step,
            read(MixingConfig, {**asdict(found[-1][1]), **knot.mixing}, f"{where}.mixing"),
        ))  # fmt: skip
        for name in FIXED:
            if getattr(found[-1][1], name) != getattr(mixing, name):
                raise EnhanceError(f"{where}: mixing.{name} must be the same for the whole run")
    return found[1:] if curriculum and curriculum[0].step == 0 else found


@checked
class RunConfig:
    """One training run."""

    mode: str = "base"
    """What training minimises: `base`, or with a teacher `distill`, `concat` or `pretrain`, or
    several of these three joined by `+`."""
    seed: Seed = 0
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
        knots(self.mixing, self.curriculum)  # refuses what does not fit
