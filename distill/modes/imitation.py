"""What modes `distill` and `pretrain` share: an encoder that learns to say what a teacher says.

A linear projection of the GCRN encoder's output (of the noisy input) is held against the teacher's
embedding, frame by frame, after the integrations of Shankar, Tan, Xu and Kumar (arXiv 2403.01369).
The teacher is needed in training only; the projection is left behind with it.

Targets are layer-normalised: zero mean and unit variance over the D features of a frame. The
distances, and what a prediction gets that knows nothing (constant zero, or any direction at
random):

* ``l1``: mean absolute difference, 0.80 = E|x| of a unit Gaussian for a zero guess; unbounded
  above. The paper's.
* ``cosine``: 1 - cos of the angle between the two vectors: 1; from 0 to 2. The length of the
  prediction is free.
* ``correlation``: 1 - Pearson's r over the D features: 1; from 0 to 2. Length and mean of the
  prediction are free.

The last two reach all their range within the directions, so that one weight means more of them
than of L1 where the prediction is nearly right, and less where it is far off.

Controls (`shuffled`) are targets that keep what a teacher's embeddings look like and lose what they
tell. If an encoder gains as much from these as from the real ones, what it gains is no content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.modes.targets import Targets
from distill.teacher.contract import Teacher, check_rate
from distill.teacher.features import Features
from distill.teacher.frames import FrameGrid, resample
from enhance.config import ModelConfig
from enhance.config.checked import NonNegativeFloat, checked
from enhance.config.settings import to_dict
from enhance.data.corpus.clip_store import ClipStore
from enhance.errors import EnhanceError
from enhance.files import cache_folder, expanded
from enhance.network.gcrn import Gcrn

Distance = Literal["l1", "cosine", "correlation"]
Shuffle = bool | Literal["clips"]
"""No control, of frames (true), or of clips."""


@checked
class ImitationConfig:
    """Settings of both modes: keys of `objective` in a run's configuration."""

    teacher: str = "mini-wavlm"
    """Shipped name, folder in the transformers format, checkpoint file, or hub id."""
    layers: str = "last"
    """Which hidden state is taught: `last`, `single:k` (k = 0 is before the first block), or the
    fixed uniform mean of several layer-normalised states: `range:i-k`, `first_k:k`, `last_k:k`,
    `weighted` (all)."""
    distance: Distance = "l1"
    """`l1` (the paper's), `cosine` or `correlation`: see `distill.modes.imitation` for their
    scales."""
    shuffle_targets: Shuffle = False
    """Control experiment: `clips` hands every clip of a batch the targets of another one, `true`
    every frame those of another frame of the batch."""
    cache: str = ""
    """Folder of the feature cache, shared by any runs, teachers and analyses; empty for the
    user's cache folder."""
    cache_gb: NonNegativeFloat = 20.0
    """Bound on that folder as a whole. Where it is reached, features that nobody has used for an
    hour are removed, the longest unused first; where none are, further targets are made anew
    whenever they are needed. 0 keeps nothing. An hour of audio takes 0.28 GB at 768 features and
    50 frames a second, 0.09 at 256."""
    precompute: Literal["auto", "always", "never"] = "auto"
    """Fill the cache before the first step (with a progress bar; Ctrl-C keeps what is done).
    `auto` does so if the run will draw at least as many mixtures of unaltered speech as there
    are clips (without a cache each would have the teacher hear a whole clip, or several);
    otherwise each target is made when its clip is first drawn."""


class Imitation(nn.Module):
    """Part of an objective: `imitate` sets it up."""

    config: ImitationConfig

    def imitate(
        self,
        config: ImitationConfig,
        model: ModelConfig,
        teacher: Teacher,
        expected_mixtures: int,
        seed: int,
        quiet: bool,
    ) -> None:
        """Make targets, and a projection that fits the encoder of the ``model`` to be trained.

        ``expected_mixtures`` of unaltered speech will ask for targets at most: `precompute: auto`
        decides by it. ``seed`` draws the projection's first weights; ``quiet`` is without a bar.
        An `EnhanceError` if the teacher has no such layers, or hears another sample rate.
        """
        self.config = config
        self.expected_mixtures, self.quiet = expected_mixtures, quiet
        check_rate(teacher, model.stft.sample_rate)
        cache = expanded(config.cache) if config.cache else cache_folder("features")
        # `Targets` is no module, so that the teacher is neither trained nor saved with this one.
        self.targets = Targets(Features(teacher, config.layers, cache, config.cache_gb * 1e9))
        self.grid = FrameGrid.of_student(model.stft)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoding = Gcrn(model.gcrn, model.stft.bins).encoding_size
            self.projection = nn.Linear(encoding, self.targets.width)

    def fill(self, speech: ClipStore, wanted: bool = True) -> None:
        """Bind the clips and, where it pays and is wanted, fill the cache of targets."""
        enough = self.expected_mixtures >= len(speech)
        how = self.config.precompute
        wanted = wanted and (how == "always" or (how == "auto" and enough))
        self.targets.prepare(speech, wanted, self.projection.weight.device, self.quiet)

    def cached(self, batch: dict[str, Any], frames: int) -> tuple[Tensor, Tensor]:
        """Embedding of the clean speech on the student's frames, and which of them have one.

        Shape: -> (B, T, D), bool (B, T)
        """
        values, valid = self.targets.batch(batch["clean"], batch["pieces"], batch["altered"])
        return resample(values, valid, self.targets.grid, self.grid, frames)

    def apart(
        self, encoding: Tensor, target: Tensor, valid: Tensor, index: Sequence[Sequence[int]]
    ) -> Tensor:
        """Mean distance over frames, under the control asked for; no target is no difference.

        Divided by all frames rather than by those with a target, so that every frame weighs the
        same however a batch is parted among processes. A batch without any target gives zero,
        with a gradient of zero.

        Shape: encoding (B, T, C F'), target (B, T, D), valid (B, T), index: (epoch, index) of each
        item -> scalar
        """
        target, valid = shuffled(self.config.shuffle_targets, target, valid, index)
        predicted = self.projection(encoding)  # (B, T, D), in the network's precision
        with torch.autocast(encoding.device.type, enabled=False):
            far = distance(self.config.distance, predicted.float(), target)  # (B, T)
            return (far * valid).mean()

    def about(self) -> dict[str, Any]:
        teacher = self.targets.teacher
        return {
            **to_dict(self.config),
            "teacher_fingerprint": teacher.fingerprint,
            "teacher_frames": to_dict(self.targets.grid),
            "teacher_causal": teacher.causal,
        }


def distance(kind: Distance, predicted: Tensor, target: Tensor) -> Tensor:
    """Distance of each frame.

    Shape: predicted, target (B, T, D) -> (B, T)
    """
    if kind == "l1":
        return (predicted - target).abs().mean(-1)
    if kind == "correlation":
        predicted = predicted - predicted.mean(-1, keepdim=True)
        target = target - target.mean(-1, keepdim=True)
    return 1 - F.cosine_similarity(predicted, target, dim=-1)


def shuffled(
    how: Shuffle, target: Tensor, valid: Tensor, index: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Targets of a batch, and which frames have one, under a control.

    ``clips`` hands every clip of a batch the targets of the one before it, so that their course
    over time stays as well, and only whose speech they tell of is wrong; true permutes frames, see
    `shuffle`. Both are pure functions of the mixtures, which are functions of the run's seed and
    drawn at random: a resumed run sees the same, and the one before is any other. An `EnhanceError`
    if a clip has no other beside it.

    Shape: target (B, T, D), valid (B, T), index: (epoch, index) of each item -> the first two
    """
    if how == "clips":
        if len(target) < 2:
            raise EnhanceError(
                "objective.shuffle_targets clips: a batch of one has no other clip; set "
                "training.batch_size to 2 or more (for each process)"
            )
        return target.roll(1, 0), valid.roll(1, 0)
    return (shuffle(target, valid, index) if how else target), valid


def shuffle(target: Tensor, valid: Tensor, index: Sequence[Sequence[int]]) -> Tensor:
    """Permute the targets of all valid frames of a batch, over items and time together.

    The set of target vectors, and with it every marginal statistic and the scale of the loss, stays
    the same; which frame gets which tells nothing about the speech any more, whatever the batch
    size, and nothing is left of what all items share at the same time.

    Shape: target (B, T, D), valid (B, T), index: (epoch, index) of each item -> (B, T, D)
    """
    flat = [int(number) & 0xFFFFFFFF for pair in index for number in pair]
    rng = np.random.default_rng(np.random.SeedSequence(flat))
    order = torch.from_numpy(rng.permutation(int(valid.sum()))).to(target.device)
    shuffled = target.clone()
    shuffled[valid] = target[valid][order]
    return shuffled
