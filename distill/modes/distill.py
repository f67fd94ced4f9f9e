"""Mode `distill`: the enhancer's encoder learns to say what a teacher says of the CLEAN speech.

The loss is the enhancement loss plus ``weight`` times the L1 distance between a linear projection
of the GCRN encoder's output (of the noisy input) and the teacher's embedding of the clean speech,
frame by frame, after the *distill* integration of Shankar, Tan, Xu and Kumar (arXiv 2403.01369).
The teacher is needed in training only; the projection is left behind with it.

Targets are layer-normalised per frame (`distill.teacher.layers.Layers.select`), so that the L1 has
a known scale: a constant zero guess scores about 0.80 before the weight. Two more distances, which
the field uses, can be chosen: see `distill.modes.distances`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.modes.distances import Distance, distance
from distill.modes.shuffle import Shuffle, shuffled
from distill.modes.targets import Precompute, Targets, pays
from distill.teacher.contract import Teacher
from distill.teacher.frames import FrameGrid, resample
from enhance.config import LossConfig, ModelConfig, RunConfig
from enhance.config.checked import NonNegativeFloat, checked
from enhance.config.settings import parse, to_dict
from enhance.network.gcrn import Gcrn
from enhance.network.waveform_model import WaveformModel
from enhance.training.objective import Objective, clean_loss, enhance_batch

_ENDLESS = 10**9  # steps of a run without a limit

if TYPE_CHECKING:
    from enhance.data.clip_store import ClipStore


@checked
class DistillConfig:
    """Settings of mode `distill`: the keys of `objective` in a run's configuration."""

    teacher: str = "mini-wavlm"
    """Shipped name, folder in the transformers format, or hub id."""
    layers: str = "last"
    """Which hidden state is taught: `last`, `single:k` (k = 0 is before the first block), or the
    fixed uniform mean of several layer-normalised states: `first_k:k`, `last_k:k`, `weighted`
    (all)."""
    distance: Distance = "l1"
    """`l1` (the paper's), `cosine` or `correlation`: see `distill.modes.distances` for their
    scales."""
    weight: NonNegativeFloat = 0.5
    """Factor on the distance. The scale of L1 is about 0.8 for a constant guess; at weight 1 its
    gradient in the encoder was half of the enhancement loss' (`gcrn-tiny`, steps 60 to 120)."""
    shuffle_targets: Shuffle = False
    """Control experiment (`distill.modes.shuffle`): `clips` hands every clip of a batch the targets
    of another one, `true` every frame those of another frame of the batch."""
    cache: str = ""
    """Folder of the feature cache, shared by any runs, teachers and analyses; empty for the
    user's cache folder."""
    cache_gb: NonNegativeFloat = 20.0
    """Bound on that folder as a whole. Where it is reached, features that nobody has used for an
    hour are removed, the longest unused first; where none are, further targets are made anew
    whenever they are needed. 0 keeps nothing. An hour of audio takes 0.28 GB at 768 features and
    50 frames a second, 0.09 at 256."""
    precompute: Precompute = "auto"
    """Fill the cache before the first step (with a progress bar; Ctrl-C keeps what is done).
    `auto` does so if the run will draw at least as many mixtures of unaltered speech as there
    are clips; otherwise each target is made when its clip is first drawn."""


class Distillation(Objective):
    """Enhancement loss + weight * distance(projection(encoding), embedding of clean speech).

    Parameters
    ----------
    config
        Settings.
    loss
        Weights of the enhancement loss.
    model
        Configuration of the model to be trained: the projection fits its encoder.
    teacher
        Frozen teacher; None loads ``config.teacher``.
    expected_mixtures
        Mixtures of unaltered speech that the run will draw at most; `precompute: auto` decides
        by it.
    seed
        Of the projection's first weights.
    quiet
        No progress bar.

    Raises
    ------
    EnhanceError
        If the teacher cannot be loaded, has no such layer, or hears another sample rate.
    """

    def __init__(
        self,
        config: DistillConfig,
        loss: LossConfig,
        model: ModelConfig,
        *,
        teacher: Teacher | None = None,
        expected_mixtures: int = 0,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.loss = loss
        self.expected_mixtures = expected_mixtures
        self.quiet = quiet
        # `Targets` is no module, so that the teacher is neither trained nor saved with this one.
        self.targets = Targets.from_settings(config, model.stft.sample_rate, teacher)
        self.alignment = math.lcm(Objective.alignment, self.targets.grid.stride)
        self.grid = FrameGrid.of_student(model.stft)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoding = Gcrn(model.gcrn, model.stft.bins).encoding_size
            self.projection = nn.Linear(encoding, self.targets.width)

    @classmethod
    def from_run(
        cls,
        run: RunConfig,
        config: DistillConfig | None = None,
        *,
        teacher: Teacher | None = None,
        quiet: bool = False,
    ) -> Distillation:
        """The objective of a run in mode `distill`, by default with its `objective` settings.

        Raises
        ------
        EnhanceError
            For an unknown key, or a teacher that cannot be had.
        """
        plain = run.mixing.natural_share  # these mixtures ask the cache
        steps = run.training.steps or _ENDLESS
        return cls(
            config or parse(DistillConfig, run.objective, "objective"),
            run.loss,
            run.model,
            teacher=teacher,
            expected_mixtures=int(plain * steps * run.training.batch_size),
            seed=run.seed,
            quiet=quiet,
        )

    def prepare(self, speech: ClipStore) -> None:
        """Bind the clips and, where it pays, fill the cache of targets."""
        wanted = pays(self.config.precompute, self.expected_mixtures, speech)
        wanted = wanted and self.config.weight > 0
        self.targets.prepare(speech, wanted, self.projection.weight.device, self.quiet)

    def forward(self, model: WaveformModel, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of the enhancement loss, and ``distill``."""
        spec, wave, encoding = enhance_batch(model, batch["noisy"])
        losses = clean_loss(self.loss, model, spec, wave, batch["clean"])
        losses["distill"] = self.config.weight * self.distance(encoding, batch)
        return losses

    def distance(self, encoding: Tensor, batch: dict[str, Any]) -> Tensor:
        """Mean distance over frames; no target counts as no difference.

        Divided by all frames rather than by those with a target, so that every frame weighs the
        same however a batch is parted among processes. A batch without any target gives zero,
        with a gradient of zero.

        Shape: encoding (B, T, C F') -> scalar
        """
        values, valid = self.targets.batch(batch["clean"], batch["pieces"], batch["altered"])
        target, valid = resample(
            values, valid, self.targets.grid, self.grid, encoding.shape[1]
        )  # (B, T, D), (B, T)
        target, valid = shuffled(self.config.shuffle_targets, target, valid, batch["index"])
        predicted = self.projection(encoding)  # (B, T, D), in the network's precision
        with torch.autocast(encoding.device.type, enabled=False):
            apart = distance(self.config.distance, predicted.float(), target)  # (B, T)
            return (apart * valid).mean()

    def describe(self) -> dict[str, Any]:
        """Mode, settings and the teacher's identity."""
        teacher = self.targets.teacher
        return {
            "mode": "distill",
            **to_dict(self.config),
            "teacher_fingerprint": teacher.fingerprint,
            "teacher_frames": to_dict(self.targets.grid),
            "teacher_causal": teacher.causal,
        }

    def log(self) -> dict[str, float]:
        """See `Targets.log`."""
        return self.targets.log()
