"""Long recordings in windows: attention costs memory by the square of the length.

A window hears more than is kept of it: a context to each side, which covers whatever the teacher's
convolutions reach, the zeros before a window included. What then still differs from hearing the
recording whole depends on the teacher:

* convolutions come out the same, to float32 rounding: so state 0 of a transformer whose front end
  has a layer norm, where the input is not normalised;
* attention hears the window and not the recording, in every frame alike: more context does not
  bring it nearer. On a minute of joined clips the shipped mini-wavlm (whose input is normalised)
  gave a cosine to the whole of 1.000 in state 0 and 0.971 in state 6;
* statistics over time are those of the window: the group norms of Base front ends, of wav2vec and
  of vq-wav2vec (all their states), the level where the input is normalised, and the loudest bin,
  mean spectrum and squeeze-excitation of ECAPA-TDNN. On the same minute a small wav2vec gave 0.998
  to 0.988, an ECAPA-TDNN 0.986 to 0.977.

A recording up to 30 s is heard whole, so that nothing differs there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from distill.teacher.contract import Teacher

WINDOW_SECONDS = 30.0
"""Files longer than this are embedded in windows of it."""
CONTEXT_SECONDS = 4.0
"""Frames this near to a cut between windows are taken from the other window. Attention has no end,
and 4 s hold several words; the convolutions of the known teachers reach 1.3 s at most, and where
one reaches further it has what it needs."""


class Geometry(NamedTuple):
    """What of a `Teacher` windows depend on, of a model that is none yet."""

    sample_rate: int
    stride_samples: int
    field_samples: int
    reach_frames: int


def spans(teacher: Teacher | Geometry) -> tuple[int, int]:
    """Frames of a window, and of its context to either side.

    The context is at least what convolutions reach, and the frames whose own field passes the
    window's ends. At least half of a window is kept.
    """
    stride, rate = teacher.stride_samples, teacher.sample_rate
    needed = teacher.reach_frames + math.ceil(teacher.field_samples / stride)
    context = max(int(CONTEXT_SECONDS * rate) // stride, needed)
    return max(int(WINDOW_SECONDS * rate) // stride, 4 * context), context


def windows(total: int, teacher: Teacher | Geometry) -> Iterator[tuple[slice, slice]]:
    """Cut ``total`` frames into windows that overlap by twice the context: the samples to hand to
    the teacher, and which frames of what it says to keep; the kept parts tile the whole.
    """
    stride = teacher.stride_samples
    window, context = spans(teacher)
    first, begin = 0, 0
    while begin < total:
        last = total - first <= window
        end = total if last else first + window - context
        stop = None if last else (first + window) * stride
        yield slice(first * stride, stop), slice(begin - first, end - first)
        begin, first = end, end - context


@torch.no_grad()
def hear(teacher: Teacher, waves: Tensor, take: Callable[[Tensor], Tensor]) -> Tensor:
    """What is taken of the states of equally long waves, long ones in windows.

    Equal lengths need no mask, and teachers with group norm over time take them in one batch. The
    teacher is moved to the waves' device. ``take`` says frame by frame what to keep of hidden
    states (L + 1, B, t, D): it gives (..., t, D').

    Shape: (B, N) -> (..., T', D'), without gradient
    """
    teacher.to(waves.device)
    total = teacher.frames(waves.shape[1])
    parts = []
    for samples, kept in windows(total, teacher):
        part = waves[:, samples]
        hidden = teacher(part, torch.full((len(part),), part.shape[1]))[0]
        parts.append(take(hidden[:, :, kept]))
    if not parts:  # too short for a frame
        parts = [take(waves.new_zeros(len(teacher.widths), len(waves), 0, max(teacher.widths)))]
    return torch.cat(parts, dim=-2)
