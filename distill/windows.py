"""Long recordings in windows: attention costs memory by the square of the length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.layers import Layers
from distill.teacher import Teacher

WINDOW_SECONDS = 30.0
"""Files longer than this are embedded in windows of it."""
CONTEXT_SECONDS = 4.0
"""Frames this near to a cut between windows are taken from the other window."""


@dataclass(frozen=True)
class Window:
    """Frames ``[first, first + window)`` are heard, ``[begin, end)`` of them are kept."""

    first: int
    begin: int
    end: int


def windows(total: int, teacher: Teacher) -> Iterator[tuple[Window, slice]]:
    """Cut ``total`` frames into windows that overlap by twice the context.

    Yields
    ------
    Window
        Frames heard and frames kept; the kept parts tile the whole.
    slice
        Samples to hand to the teacher for it.
    """
    stride, rate = teacher.stride_samples, teacher.sample_rate
    window = int(WINDOW_SECONDS * rate) // stride  # frames
    context = int(CONTEXT_SECONDS * rate) // stride
    first, begin = 0, 0
    while begin < total:
        last = total - first <= window
        end = total if last else first + window - context
        stop = None if last else (first + window) * stride
        yield Window(first, begin, end), slice(first * stride, stop)
        begin, first = end, end - context


@torch.no_grad()
def listen(teacher: Teacher, layers: Layers, waves: Tensor) -> Tensor:
    """Normalised states of a batch of equally long waves, long ones in windows.

    Equal lengths need no mask, and teachers with group norm over time take them in one batch.

    Parameters
    ----------
    teacher
        Moved to the waves' device.
    layers
        Which of its states.
    waves
        (B, N).

    Returns
    -------
    Tensor
        float32 (K, B, T', D), without gradient.
    """
    teacher.to(waves.device)
    width = layers.width(teacher.widths, teacher.name)
    total = teacher.frames(waves.shape[1])
    out = waves.new_zeros((len(layers.indices), len(waves), total, width), dtype=torch.float32)
    for window, samples in windows(total, teacher):
        part = waves[:, samples]
        hidden = teacher(part, torch.full((len(part),), part.shape[1]))[0]
        states = layers.normalized(hidden, width)  # (K, B, T', D)
        out[:, :, window.begin : window.end] = states[
            :, :, window.begin - window.first : window.end - window.first
        ]
    return out
