"""What every frozen teacher does alike: padding, lengths, company in a batch, its fingerprint."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from enhance.errors import EnhanceError


class FrozenTeacher(nn.Module, abc.ABC):
    """A model behind the `distill.teacher.contract.Teacher` contract; subclasses say how clips are
    run.

    Parameters
    ----------
    model
        Its weights are frozen, in float32 and eval mode.
    equal_lengths_only
        Whether clips of other lengths in a batch would change a frame: they run apart then.
    left_pad
        Zeros before the input; None takes field - stride.
    name, sample_rate, field_samples, stride_samples, widths, reach_frames
        Fields of the contract.

    Raises
    ------
    EnhanceError
        If ``left_pad`` is out of range.
    """

    causal = False
    family: str
    fingerprint: str

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        sample_rate: int = 16000,
        field_samples: int,
        stride_samples: int,
        widths: Sequence[int],
        equal_lengths_only: bool = True,
        left_pad: int | None,
        reach_frames: int = 0,
    ) -> None:
        super().__init__()
        self.model: Any = model.float().requires_grad_(False).eval()
        self.name = name
        self.sample_rate = sample_rate
        self.field_samples, self.stride_samples = field_samples, stride_samples
        self.widths: tuple[int, ...] = tuple(widths)
        self.num_layers = len(self.widths) - 1
        self.equal_lengths_only = equal_lengths_only
        self.reach_frames = reach_frames
        usual = max(field_samples - stride_samples, 0)
        self.left_pad = usual if left_pad is None else left_pad
        if not 0 <= self.left_pad < field_samples:
            raise EnhanceError(
                f"left_pad {self.left_pad}: must be from 0 to {field_samples - 1} samples "
                "(a whole field of zeros would make a frame of nothing)"
            )
        self.offset_samples = -self.left_pad

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: dropout, layer drop or batch norm would make the target random."""
        return super().train(False)

    def frames(self, samples: int) -> int:
        """Frames of a clip: floor((N + left_pad - field) / stride) + 1, or 0."""
        return max((samples + self.left_pad - self.field_samples) // self.stride_samples + 1, 0)

    def twin(self, seed: int) -> Self:
        """The same architecture with random weights: what it lets through untrained.

        Layers draw their weights as torch does; a tensor that belongs to none that can keeps its
        values in another order. Equal seeds, equal twins.
        """
        twin = copy.deepcopy(self)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for module in twin.model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                    continue
                for tensor in module.parameters(recurse=False):
                    tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor))
        twin.name = f"random:{self.name}:{seed}"
        twin.fingerprint = fingerprint([self.fingerprint, "twin", seed], {})
        return twin

    @torch.no_grad()
    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of a batch, each item as if it were alone.

        States narrower than the widest are followed by zeros; ``widths`` has their true widths.

        Shape: waves (B, N), lengths (B,) -> (L + 1, B, T', D), counts (B,)

        An `EnhanceError` if the shapes do not fit together.
        """
        sizes = check_lengths(waves, lengths)
        counts = [self.frames(n) for n in sizes]
        shape = (len(self.widths), len(sizes), max(counts, default=0), max(self.widths))
        out = waves.new_zeros(shape, dtype=torch.float32)
        heard = [row for row, count in enumerate(counts) if count]  # the others: nothing to run
        groups = by_length(heard, sizes) if self.equal_lengths_only else [heard] if heard else []
        for rows in groups:
            with torch.autocast(waves.device.type, enabled=False):
                states = self.run([waves[row, : sizes[row]].float() for row in rows])
            for layer, state in enumerate(states):
                for item, row in enumerate(rows):
                    count = counts[row]
                    out[layer, row, :count, : state.shape[-1]] = state[item, :count]
        return out, torch.tensor(counts, device=lengths.device)

    @abc.abstractmethod
    def run(self, clips: list[Tensor]) -> Sequence[Tensor]:
        """States of clips that may run together.

        Shape: B clips (n,) -> L + 1 states (B, T', D of the state)
        """


def check_lengths(waves: Tensor, lengths: Tensor) -> list[int]:
    """The lengths as numbers; an `EnhanceError` if they do not belong to these waves."""
    if waves.ndim != 2 or lengths.shape != waves.shape[:1]:
        raise EnhanceError(
            f"teacher input of shapes {tuple(waves.shape)} and {tuple(lengths.shape)}: "
            "need waves (B, N) and lengths (B,)"
        )
    sizes = [int(n) for n in lengths.tolist()]
    if any(not 0 <= n <= waves.shape[1] for n in sizes):
        raise EnhanceError(f"lengths {sizes}: must be from 0 to {waves.shape[1]} samples")
    return sizes


def by_length(rows: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """The rows parted by their size, in order of appearance."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        groups[sizes[row]].append(row)
    return list(groups.values())


def fingerprint(settings: Any, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over settings (as JSON) and every weight by name, shape, type and bytes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
