"""The teacher contract, the ways to find one, and which of its layers is taught.

A teacher turns waves into the hidden states of all its layers. Frame t covers the samples
``[offset + t stride, offset + t stride + field)`` of its input; the offset is negative where the
teacher pads on the left. It is frozen: eval mode, no gradient, no dropped layers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from enhance.errors import EnhanceError, require

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent / "models"
"""Folder of the teachers that come with the source distribution."""


class Teacher(Protocol):
    """What every backbone offers."""

    name: str
    """How it was asked for: shipped name, folder or hub id."""
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

    def to(self, device: Any) -> Any:
        """Move to a device, in place."""
        ...


@dataclass(frozen=True)
class Layers:
    """Which hidden states make the target: one of them, or the fixed mean of all."""

    text: str
    """As configured: ``last``, ``single:k`` or ``weighted``."""
    index: int | None
    """Hidden state 0..L, or None for the uniform mean of all L + 1."""

    @classmethod
    def parse(cls, text: str, num_layers: int) -> Layers:
        """Read ``last``, ``single:k`` (k = 0..L) or ``weighted``.

        Raises
        ------
        EnhanceError
            If the text is none of them or k is out of range.
        """
        if text == "last":
            return cls(text, num_layers)
        if text == "weighted":
            return cls(text, None)
        match = re.fullmatch(r"single:(\d+)", text)
        if match is None:
            raise EnhanceError(
                f"layers {text!r}: unknown; take last, weighted, "
                f"or single:k with k from 0 to {num_layers}"
            )
        if int(match[1]) > num_layers:
            raise EnhanceError(
                f"layers {text!r}: this teacher has {num_layers} layers; "
                f"take k from 0 (before the first) to {num_layers}"
            )
        return cls(text, int(match[1]))

    def select(self, hidden: Tensor) -> Tensor:
        """The target of each frame, layer-normalised over its features.

        Every state used is brought to zero mean and unit variance over its D features, frame by
        frame: layers differ strongly in scale, and the L1 distance then has a known one (0.80 =
        E|x| of a unit Gaussian for a constant zero guess). No statistic over time enters.
        ``weighted`` is the uniform mean of the L + 1 normalised states, normalised again; a
        learned weighting would drift to the layer that is easiest to predict.

        Shape: (L + 1, B, T', D) -> (B, T', D)
        """
        from torch.nn import functional as F

        width = hidden.shape[-1:]
        if self.index is not None:
            return F.layer_norm(hidden[self.index].float(), width)
        return F.layer_norm(F.layer_norm(hidden.float(), width).mean(0), width)


def load(name_or_path: str | Path, *, left_pad: int | None = None) -> Teacher:
    """Find and load a teacher: shipped name, then local folder, then hub id.

    Parameters
    ----------
    name_or_path
        Such as ``mini-wavlm``, ``/models/wavlm-base`` or ``microsoft/wavlm-base-plus``.
    left_pad
        Zeros the teacher puts before its input. None takes ``field - stride`` (80 for
        400/320): frame t then ends where the t-th stride of samples ends, as in a causal STFT.

    Raises
    ------
    EnhanceError
        If nothing is found, or what is found is no teacher.
    """
    from distill import backbones

    return backbones.load(resolve(name_or_path), str(name_or_path), left_pad)


def resolve(name_or_path: str | Path) -> Path:
    """Folder of a teacher, downloaded from the hub where the name asks for it.

    Raises
    ------
    EnhanceError
        If the name is neither shipped nor a folder nor a hub id that can be had.
    """
    text = str(name_or_path)
    if re.fullmatch(r"[\w.-]+", text) and (SHIPPED / text / "config.json").is_file():
        return SHIPPED / text
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not path.exists():
        return _download(text)
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))
    raise EnhanceError(
        f"{text}: no teacher of this name (shipped: {', '.join(shipped) or 'none'}), "
        "no folder, no hub id like microsoft/wavlm-base-plus"
    )


def _download(repo: str) -> Path:
    require("train", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub import errors
    from rich.console import Console

    wanted = ["config.json", "preprocessor_config.json"]
    try:  # what an earlier call fetched is used without a word to the network
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
        if weights and all((folder / name).is_file() for name in wanted):
            return folder
    except (errors.HfHubHTTPError, OSError, ValueError):
        pass
    try:
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        safe = [n for n in sizes if re.fullmatch(r"model[\w-]*\.safetensors(\.index\.json)?", n)]
        pickled = [n for n in sizes if re.fullmatch(r"pytorch_model[\w-]*\.bin(\.index\.json)?", n)]
        files = [n for n in wanted if n in sizes] + (safe or pickled)
        Console(stderr=True).print(
            f"downloading teacher {repo} from the Hugging Face hub: {', '.join(files)} "
            f"({sum(sizes[n] for n in files) / 1e6:.0f} MB)"
        )
        return Path(
            huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=files)
        )
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(
            f"{repo}: cannot be had from the Hugging Face hub ({reason}); "
            "name a local folder or the shipped mini-wavlm"
        ) from error
