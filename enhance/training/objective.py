"""What training minimises: the `Objective` contract, and plain enhancement (mode `base`)."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from enhance.config import LossConfig, ModelConfig
from enhance.network.gcrn import flat
from enhance.network.waveform_model import WaveformModel
from enhance.training.losses.enhancement import enhancement_loss

if TYPE_CHECKING:
    from enhance.data.corpus.clip_store import ClipStore
    from enhance.network.companion import Companion


class Objective(nn.Module, abc.ABC):
    """Turns (model, batch) into named, weighted losses, whose sum is minimised.

    Parameters that an objective owns (a projection, a predictor) are trained beside the model's
    and live in the trainer's state only: the kept model does not know them. A frozen network, a
    teacher say, must not be registered as a submodule; hold it in
    `enhance.network.companion.Frozen`.

    Everything random must come from torch's, numpy's or Python's global generators: training
    seeds all three in each step, which makes a resumed run equal to one never stopped.
    """

    alignment: int = 320
    """Mixtures cut and place speech in multiples of this many samples: 320 is the stride of the
    usual teachers, and the default of every mode, so that all modes hear the same mixtures."""

    partial: bool = False
    """Whether some steps leave weights without a gradient (a phase that trains a part of the
    model). The optimiser leaves those alone; several processes then look for them in each step."""

    @abc.abstractmethod
    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of one batch: scalars, each a mean over it.

        ``model`` is in training mode; reach its parts (``model.stft``, ``model.network``).
        ``batch`` has ``noisy`` and ``clean`` (B, N) on the model's device, ``pieces``, ``altered``,
        ``files``, ``index``: see `enhance.data.mixing.loader`. The names of losses may differ
        between phases (see `begin_step`), and must be the same on all processes.
        """

    def model_config(self, config: ModelConfig) -> ModelConfig:
        """The configuration of the model to be trained: what was asked for, and what the mode
        itself decides. Called once, before anything is made; a resumed run hands in its result.
        """
        return config

    def companion(self) -> Companion | None:
        """What makes features beside the recurrent output, always the same one; None for nothing.

        It becomes a part of the model: it must not be a submodule of the objective too.
        """
        return None

    def prepare(self, speech: ClipStore) -> None:
        """Called once before the first step, on every process at once, with the clips to be heard.

        The objective is on its device by then. Processes may share the work, but must not wait
        for one another.
        """

    def begin_step(self, step: int, model: WaveformModel) -> None:
        """Called before the losses of each step, on every process.

        For objectives with phases: here parts of the model are frozen (no gradient, evaluation
        mode) or set free. What is set must follow from ``step`` alone, so that a resumed run does
        the same. ``step`` steps were finished before, 0 in the first; ``model`` is in training
        mode, on its device.
        """

    def trains_enhancer(self, step: int) -> bool:
        """Whether weights after ``step`` finished steps are worth validating and keeping: not in a
        phase that has not trained them to enhance. Once true it stays true.
        """
        return True

    def describe(self) -> dict[str, Any]:
        """What the record of the run says about the objective; plain data."""
        return {}

    def log(self) -> dict[str, float]:
        """Numbers for timing.jsonl, such as a cache's hit rate; they may depend on the clock."""
        return {}


def enhance_batch(model: WaveformModel, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pass of the model, with the transforms in float32 whatever the precision of the network.

    A model with a companion hears it on the same noisy signals. Returns the estimated spectrum
    (B, 2, T, F) of the signal padded to whole hops, the aligned estimate (B, N), and the output of
    the encoder (B, T, C F').
    """
    late, length = model.config.stft.latency_samples, noisy.shape[1]
    with torch.autocast(noisy.device.type, enabled=False):
        noisy_spec, _ = model.stft.analyze(model.pad(noisy))
    features = model.features(noisy)
    spec, _, encoding = model.network.forward_with_encoding(noisy_spec, None, features)
    with torch.autocast(noisy.device.type, enabled=False):
        spec = spec.float()
        wave = model.stft.synthesize(spec)[0][:, late : late + length]
    return spec, wave, encoding


def encode_batch(model: WaveformModel, noisy: Tensor) -> Tensor:
    """The encoder's output alone, as `enhance_batch` has it; nothing behind it runs.

    Shape: (B, N) -> (B, T, C F')
    """
    with torch.autocast(noisy.device.type, enabled=False):
        spec, _ = model.stft.analyze(model.pad(noisy))
    return flat(model.network.encode(spec)[0][-1])


def clean_loss(
    config: LossConfig, model: WaveformModel, spec: Tensor, wave: Tensor, clean: Tensor
) -> dict[str, Tensor]:
    """`enhancement_loss` of what `enhance_batch` returned against clean (B, N), in float32."""
    half = torch.is_autocast_enabled(clean.device.type)
    with torch.autocast(clean.device.type, enabled=False):
        target, _ = model.stft.analyze(model.pad(clean))
        rate = model.config.stft.sample_rate
        return enhancement_loss(config, spec, target, wave, clean, rate, half)


class Enhancement(Objective):
    """Plain enhancement: the estimate against the clean signal."""

    def __init__(self, loss: LossConfig) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of `enhancement_loss`."""
        spec, wave, _ = enhance_batch(model, batch["noisy"])
        return clean_loss(self.loss, model, spec, wave, batch["clean"])

    def describe(self) -> dict[str, Any]:
        return {"mode": "base"}
