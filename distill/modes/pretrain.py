"""Mode `pretrain`: the encoder first learns to say what a teacher says, then to enhance.

In the first ``pretrain_steps`` steps only the GCRN's encoder and a linear projection are trained:
the L1 distance between the projection of the encoder's output (of the noisy input) and the
teacher's embedding. Then the whole network is trained for enhancement, with the encoder free,
frozen for the first ``freeze_steps`` of those steps, or frozen for good. After the *pretrain*
integration of Shankar, Tan, Xu and Kumar (arXiv 2403.01369). The teacher is needed in training
only, and the kept model is an ordinary one.

It is ONE run: the steps of both phases count into its budget (``training.steps``, and the audio
heard of `enhance compare`), there is one history, and one cosine of the learning rate over all.
Where mode base has N steps to learn to enhance, this one has N - ``pretrain_steps``. What a phase
does not train has no gradient, and the optimiser leaves it alone: no decay, no momentum. A frozen
encoder is in evaluation mode, so that the statistics of its batch norms stay too. Before
fine-tuning begins nothing is validated and no model is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from distill.modes.distances import Distance, distance
from distill.modes.shuffle import Shuffle, shuffled
from distill.modes.targets import Precompute, Targets, pays
from distill.modes.wrapper import Around
from distill.teacher.contract import Teacher
from distill.teacher.frames import FrameGrid, resample
from distill.teacher.windows import listen
from enhance.config import ModelConfig, TrainingConfig
from enhance.config.checked import Field, NonNegativeFloat, PositiveInt, checked
from enhance.config.settings import to_dict
from enhance.errors import EnhanceError
from enhance.network.gcrn import Gcrn
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Objective, encode_batch

if TYPE_CHECKING:
    from enhance.data.clip_store import ClipStore


@checked
class PretrainConfig:
    """Settings of mode `pretrain`: keys of `objective` in a run's configuration."""

    teacher: str = "mini-wavlm"
    """Shipped name, folder in the transformers format, checkpoint file, or hub id."""
    layers: str = "last"
    """Which hidden state is predicted: `last`, `single:k`, or the fixed uniform mean of several
    layer-normalised states: `first_k:k`, `last_k:k`, `weighted` (all)."""
    target: Literal["noisy", "clean"] = "noisy"
    """Whose embedding: of the noisy input (the live teacher hears each mixture), or of the clean
    speech (from the cache of targets, as in mode distill)."""
    distance: Distance = "l1"
    """`l1` (the paper's), `cosine` or `correlation`: see `distill.modes.distances`."""
    shuffle_targets: Shuffle = False
    """Control experiment, as in mode distill: `clips` or `true` (frames)."""
    pretrain_steps: PositiveInt = 2000
    """Steps of the first phase; part of `training.steps`."""
    freeze_steps: Annotated[int, Field(ge=-1)] = 0
    """Steps of fine-tuning in which the encoder is frozen: 0 for none, -1 for all."""
    cache: str = ""
    """Folder of the feature cache (target clean); empty for the user's cache folder."""
    cache_gb: NonNegativeFloat = 20.0
    """Bound on that folder as a whole (target clean): see mode distill."""
    precompute: Precompute = "auto"
    """Fill the cache before the first step (target clean); `auto` does so if the first phase will
    draw at least as many mixtures of unaltered speech as there are clips."""


class Pretraining(Around):
    """An objective with a first phase in which the encoder learns from a teacher.

    Parameters
    ----------
    config
        Settings.
    model
        Configuration of the model to be trained: the projection fits its encoder.
    inner
        What fine-tuning minimises.
    teacher
        Frozen teacher; None loads ``config.teacher``.
    expected_mixtures
        Mixtures of unaltered speech that the first phase will draw at most.
    seed
        Of the projection's first weights.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If the teacher cannot be loaded, has no such layers, or hears another sample rate.
    """

    mode = "pretrain"

    def __init__(
        self,
        config: PretrainConfig,
        model: ModelConfig,
        inner: Objective,
        *,
        teacher: Teacher | None = None,
        expected_mixtures: int = 0,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        super().__init__(inner)
        self.config = config
        self.expected_mixtures = expected_mixtures
        self.quiet = quiet
        self.partial = True
        # `Targets` is no module, so that the teacher is neither trained nor saved with this one.
        self.targets = Targets.from_settings(config, model.stft.sample_rate, teacher)
        self.alignment = math.lcm(inner.alignment, self.targets.grid.stride)
        self.step = 0
        self.grid = FrameGrid.of_student(model.stft)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoding = Gcrn(model.gcrn, model.stft.bins).encoding_size
            self.projection = nn.Linear(encoding, self.targets.width)

    def prepare(self, speech: ClipStore) -> None:
        """Bind the clips and, where it pays, fill the cache of clean targets."""
        super().prepare(speech)
        if self.config.target == "clean":
            wanted = pays(self.config.precompute, self.expected_mixtures, speech)
            self.targets.prepare(speech, wanted, self.projection.weight.device, self.quiet)

    def begin_step(self, step: int, model: WaveformModel) -> None:
        """Choose the phase, and freeze the encoder or set it free."""
        super().begin_step(step, model)
        self.step = step
        frozen = self.freezes(step)
        model.network.encoder.requires_grad_(not frozen).train(not frozen)

    def freezes(self, step: int) -> bool:
        """Whether the encoder is frozen in the step after ``step`` finished ones."""
        tuned = step - self.config.pretrain_steps
        return tuned >= 0 and (self.config.freeze_steps < 0 or tuned < self.config.freeze_steps)

    def trains_enhancer(self, step: int) -> bool:
        """Whether at least one step of fine-tuning is done."""
        return step > self.config.pretrain_steps and super().trains_enhancer(step)

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``pretrain`` alone in the first phase, then the losses of the objective inside."""
        if self.step >= self.config.pretrain_steps:
            return self.inner(model, batch)
        encoding = encode_batch(model, batch["noisy"])  # (B, T, C F')
        target, valid = self.target(batch, encoding.shape[1])
        predicted = self.projection(encoding)  # (B, T, D), in the network's precision
        with torch.autocast(encoding.device.type, enabled=False):
            apart = distance(self.config.distance, predicted.float(), target)  # (B, T)
            # By all frames, so that each weighs the same however a batch is parted.
            return {"pretrain": (apart * valid).mean()}

    def target(self, batch: dict[str, Any], frames: int) -> tuple[Tensor, Tensor]:
        """The teacher's embedding on the student's frames, and which of them have one.

        Shape: -> (B, T, D), bool (B, T)
        """
        with torch.autocast(batch["noisy"].device.type, enabled=False):
            if self.config.target == "clean":
                segments = batch["clean"], batch["pieces"], batch["altered"]
                values, valid = self.targets.batch(*segments)
            else:
                layers = self.targets.layers
                values = layers.mean(listen(self.targets.teacher, layers, batch["noisy"].float()))
                valid = values.new_ones(values.shape[:2], dtype=torch.bool)
            aligned = resample(values, valid, self.targets.grid, self.grid, frames)
            return shuffled(self.config.shuffle_targets, *aligned, batch["index"])

    def about(self) -> dict[str, Any]:
        """Settings and the teacher's identity."""
        teacher = self.targets.teacher
        return {
            **to_dict(self.config),
            "teacher_fingerprint": teacher.fingerprint,
            "teacher_frames": to_dict(self.targets.grid),
            "teacher_causal": teacher.causal,
        }

    def log(self) -> dict[str, float]:
        """And the cache of targets, where there is one."""
        mine = self.targets.log() if self.config.target == "clean" else {}
        return {**mine, **self.inner.log()}


def check_steps(config: PretrainConfig, training: TrainingConfig) -> None:
    """Refuse a first phase that leaves no step to enhance.

    Raises
    ------
    EnhanceError
        Names both settings.
    """
    if 0 < training.steps <= config.pretrain_steps:
        raise EnhanceError(
            f"objective.pretrain_steps {config.pretrain_steps}: leaves nothing of training.steps "
            f"{training.steps} to enhance in; pre-training counts into the budget"
        )
