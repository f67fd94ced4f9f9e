"""A transformers model with a CTC head, run on clips of any length, and its loss.

Two rules of `distill.backbones.hf` hold here too: models with group norm hear clips of equal length
together and no others, models with layer norm hear any with an attention mask. No frame depends on
the company in the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from distill.backbones.frozen import by_length
from distill.backbones.hf import conv_geometry, needs_equal_lengths
from distill.ssl.data.crops import normalize
from distill.ssl.families.transformer import with_fast_front_end
from enhance.training.engine.engine import to_device

SAMPLE_RATE = 16000


class CtcModel(nn.Module):
    """Clips to logits by a `Wav2Vec2ForCTC`, `HubertForCTC` or `WavLMForCTC`.

    ``do_normalize`` brings each clip to zero mean and unit variance first.
    """

    def __init__(self, network: nn.Module, *, do_normalize: bool) -> None:
        super().__init__()
        self.network: Any = network
        self.do_normalize = do_normalize
        config: Any = network.config
        self.equal_lengths_only = needs_equal_lengths(config)
        self.field, self.stride = conv_geometry(config.conv_kernel, config.conv_stride)
        if config.feat_extract_norm == "layer" and config.feat_extract_activation == "gelu":
            base: Any = network.base_model
            with_fast_front_end(base)

    def frames(self, samples: int) -> int:
        """Frames of a clip; 0 where it is too short for one."""
        return max((samples - self.field) // self.stride + 1, 0)

    def forward(
        self,
        clips: Sequence[np.ndarray],
        masks: Sequence[np.ndarray] | None = None,
        *,
        head_only: bool = False,
    ) -> list[Tensor]:
        """Logits of each clip, the same in any company.

        The clips are long enough for a frame. ``masks`` are frames whose input is the mask
        embedding; None masks nothing. With ``head_only`` nothing but the head has a gradient.

        Shape: float32 (N,) each, at 16 kHz, and bool (T,) each -> (T, V) each
        """
        sizes = [len(clip) for clip in clips]
        everyone = list(range(len(clips)))
        groups = by_length(everyone, sizes) if self.equal_lengths_only else [everyone]
        found: dict[int, Tensor] = {}
        for rows in groups:
            chosen = None if masks is None else [masks[row] for row in rows]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not head_only):
                states = self._states([clips[row] for row in rows], chosen)  # (B, T, D)
            logits = self.network.lm_head(self.network.dropout(states))  # (B, T, V)
            for item, row in enumerate(rows):
                found[row] = logits[item, : self.frames(sizes[row])]
        return [found[row] for row in everyone]

    def _states(self, clips: list[np.ndarray], masks: list[np.ndarray] | None) -> Tensor:
        device = self.network.device
        waves = [torch.from_numpy(normalize(c) if self.do_normalize else c) for c in clips]
        sizes = torch.tensor([len(wave) for wave in waves])
        batch = pad_sequence(waves, batch_first=True)  # (B, N)
        attention = None
        if int(sizes.min()) < batch.shape[1]:
            attention = (torch.arange(batch.shape[1]) < sizes[:, None]).long()  # (B, N)
        masked = None
        if masks is not None:
            masked = pad_sequence([torch.from_numpy(m) for m in masks], batch_first=True)  # (B, T)
        with warnings.catch_warnings():  # WavLM of transformers hands torch masks of two types
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            found = self.network.base_model(
                *to_device((batch, attention), device),
                mask_time_indices=to_device(masked, device),
                return_dict=True,
            )
        states: Tensor = found.last_hidden_state
        return states


def ctc_loss(logits: Sequence[Tensor], targets: Sequence[Sequence[int]], blank: int = 0) -> Tensor:
    """Negative log-likelihood of each text over its tokens, mean over the clips, nats.

    It is infinite, and stays so, for a clip too short for its text (see `least_frames`).

    Shape: B of (T, V), B of numbers -> ()
    """
    log_probs = pad_sequence([x.float().log_softmax(dim=-1) for x in logits])  # (T, B, V)
    return F.ctc_loss(
        log_probs,
        torch.tensor([number for target in targets for number in target]).to(log_probs.device),
        torch.tensor([len(x) for x in logits]),
        torch.tensor([len(target) for target in targets]),
        blank=blank,
        reduction="mean",
        zero_infinity=False,
    )


def least_frames(target: Sequence[int]) -> int:
    """Frames that a text needs: one for each token, and a blank between two of a kind."""
    return len(target) + sum(a == b for a, b in pairwise(target))
