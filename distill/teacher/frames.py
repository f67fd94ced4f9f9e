"""Where the frames of two models meet: resampling by the overlap of cells, in samples.

A frame "owns" one stride of samples centred on its field: frame t of a grid owns
``[offset + t stride + (field - stride)/2, + stride)``. Cells of one grid tile the line without
gap or overlap. A frame of another grid takes the mean of the frames whose cells its own cell
overlaps, weighted by the overlap. Grids of equal offset, stride and field map onto each other
by the identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from distill.teacher.contract import Teacher
from enhance.errors import EnhanceError
from enhance.stft import StftConfig


@dataclass(frozen=True)
class FrameGrid:
    """Frames on the sample axis: frame t sees ``[offset + t stride, + field)``."""

    offset: int
    """First sample of frame 0's field."""
    stride: int
    """Samples from frame to frame."""
    field: int
    """Samples of one frame's field."""

    def __post_init__(self) -> None:
        if self.stride <= 0 or self.field <= 0:
            raise EnhanceError(f"{self}: stride and field must be positive")

    @classmethod
    def of_teacher(cls, teacher: Teacher) -> FrameGrid:
        """The grid of a teacher's hidden states."""
        return cls(teacher.offset_samples, teacher.stride_samples, teacher.field_samples)

    @classmethod
    def of_student(cls, config: StftConfig) -> FrameGrid:
        """The grid of the enhancer's STFT: frame t covers ``[t hop - overlap, t hop + hop)``."""
        return cls(-config.overlap, config.hop_length, config.window_length)

    def cells(self, frames: int) -> Tensor:
        """Where each frame's cell starts, in HALF samples so that odd differences stay exact.

        Shape: int64 (frames,)
        """
        first = 2 * self.offset + self.field - self.stride
        return first + 2 * self.stride * torch.arange(frames)

    def owned(self, start: int, length: int, frames: int) -> range:
        """Frames whose cell has its centre in the samples ``[start, start + length)``."""
        middle = 2 * self.offset + self.field  # of frame 0, in half samples
        first = -((middle - 2 * start) // (2 * self.stride))
        stop = -((middle - 2 * (start + length)) // (2 * self.stride))
        return range(max(first, 0), max(min(stop, frames), max(first, 0)))


def overlaps(
    source: FrameGrid, target: FrameGrid, source_frames: int, target_frames: int
) -> Tensor:
    """Share of each target cell that each source cell covers.

    Arithmetic on tensors alone: an exported graph finds out the numbers of frames itself.

    Shape: float32 (target_frames, source_frames); a row sums to at most one, and to less at the
    ends, where no source frame is.
    """

    a, b = target.cells(target_frames)[:, None], source.cells(source_frames)[None]
    ends = torch.minimum(a + 2 * target.stride, b + 2 * source.stride)
    shared = (ends - torch.maximum(a, b)).clamp_min(0)
    return shared.float() / (2 * target.stride)


# Crops of training share a few; of whole clips each has its own.
_kept = lru_cache(maxsize=8)(overlaps)
_BLOCK = 4096  # target frames at once: of a long recording all overlaps would be its square


def resample(
    values: Tensor, valid: Tensor, source: FrameGrid, target: FrameGrid, frames: int
) -> tuple[Tensor, Tensor]:
    """Carry features from one frame rate to another by the overlap of cells: overlap-weighted means
    of the valid source frames, zero where there is none; valid where these cover at least half of
    the cell.

    Shape: values (B, T', D), valid bool (B, T') -> (B, T, D), bool (B, T)
    """
    if frames > _BLOCK:
        parts = [
            _block(values, valid, source, target, range(start, min(start + _BLOCK, frames)))
            for start in range(0, frames, _BLOCK)
        ]
        means, covered = zip(*parts, strict=True)
        return torch.cat(means, 1), torch.cat(covered, 1)
    weights = _kept(source, target, values.shape[1], frames).to(values)  # (T, T')
    counts = valid.to(values)
    cover = counts @ weights.T  # (B, T)
    summed = weights @ (values * counts[..., None])  # (B, T, D)
    mean = torch.where(cover[..., None] > 0, summed / cover[..., None].clamp_min(1e-9), 0.0)
    # Half, less a rounding error of float32: three thirds of a cell may sum to 0.99999994.
    return mean, cover >= 0.5 - 1e-4


def _block(
    values: Tensor, valid: Tensor, source: FrameGrid, target: FrameGrid, block: range
) -> tuple[Tensor, Tensor]:
    """`resample` to a block of target frames, of the source frames that meet them."""
    mine = replace(target, offset=target.offset + block.start * target.stride)
    first = mine.offset + (mine.field - mine.stride) // 2  # where the block's cells start
    # Whose centre is not as far as a stride from these cells; half of it would do.
    around = first - source.stride, len(block) * mine.stride + 2 * source.stride
    near = source.owned(*around, values.shape[1])
    met = slice(near.start, near.stop)
    theirs = replace(source, offset=source.offset + near.start * source.stride)
    return resample(values[:, met], valid[:, met], theirs, mine, len(block))
