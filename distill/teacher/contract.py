"""The teacher contract: what every backbone offers.

A teacher turns waves into the hidden states of all its layers. Frame t covers the samples
``[offset + t stride, offset + t stride + field)`` of its input; the offset is negative where the
teacher pads on the left. It is frozen: eval mode, no gradient, no dropped layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from enhance.errors import EnhanceError

if TYPE_CHECKING:
    from torch import Tensor


class Teacher(Protocol):
    """What every backbone offers."""

    name: str
    """How it was asked for: shipped name, folder, published file or hub id."""
    family: str
    """Kind of model: ``wavlm``, ``wav2vec2``, ``ecapa-tdnn``, ``log-mel`` and so on."""
    fingerprint: str
    """SHA-256 over weights, configuration and padding: equal prints, equal hidden states."""
    sample_rate: int
    """Samples per second of the input."""
    num_layers: int
    """Blocks L; there are L + 1 hidden states, the first before the first block."""
    widths: tuple[int, ...]
    """Feature dimension D of each of the L + 1 states."""
    offset_samples: int
    """First sample of frame 0's field; -80 where 80 zeros stand on the left."""
    stride_samples: int
    """Samples between frames."""
    field_samples: int
    """Samples that the convolutions of one frame see."""
    reach_frames: int
    """Frames to a side that convolutions over frames see besides, in the state that sees most."""
    causal: bool
    """Whether a frame depends on nothing after its field."""

    def __call__(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of a batch.

        Shape: waves (B, N) float32, lengths (B,) -> (L + 1, B, T', D), frame counts (B,).
        Frames past an item's count are zero.
        """
        ...

    def frames(self, samples: int) -> int:
        """Frames of an input of this many samples; 0 where it is too short for one."""
        ...

    def twin(self, seed: int) -> Teacher:
        """The same architecture with random weights."""
        ...

    def to(self, device: Any) -> Any:
        """Move to a device, in place."""
        ...


def check_rate(teacher: Teacher, sample_rate: int) -> None:
    """Refuse a teacher that hears another sample rate than the model; both are named."""
    if teacher.sample_rate != sample_rate:
        raise EnhanceError(
            f"teacher {teacher.name}: hears {teacher.sample_rate} Hz, the model "
            f"{sample_rate} Hz; take another teacher or framing"
        )
