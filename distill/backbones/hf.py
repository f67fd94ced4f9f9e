"""wav2vec 2.0, HuBERT and WavLM from folders in the transformers format, as frozen teachers.

Sources: Baevski et al., "wav2vec 2.0", 2020; Hsu et al., "HuBERT", 2021; Chen et al., "WavLM",
2022; the code is that of the `transformers` library.

Three facts decide how a batch is run:

* ``feat_extract_norm="group"`` (Base models) normalises the first convolution over TIME. Zeros
  behind a short clip change every one of its frames, with or without an attention mask. Such
  models run in batches of equal length only. A batch norm before the positional convolution
  (``conv_pos_batch_norm``) lifts padding off zero and is treated alike.
* ``feat_extract_norm="layer"`` (Large models) normalises frame by frame; clips of any length run
  together with an attention mask, and no frame changes beyond float32 rounding.
* ``do_stable_layer_norm`` models end with a layer norm that transformers leaves out of the last
  of its ``hidden_states``. Here state L is ``last_hidden_state``, behind that norm, for all models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from distill.backbones import import_transformers, read_json
from enhance.errors import EnhanceError

CLASSES = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}
"""Class of `transformers` for each ``model_type``."""

_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}


def conv_geometry(kernels: list[int], strides: list[int]) -> tuple[int, int]:
    """Receptive field and stride, in samples, of a stack of convolutions without padding.

    Each layer of kernel k widens the field by ``(k - 1)`` times the stride before it.
    """
    field, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


class HfTeacher(nn.Module):
    """A frozen transformers speech model behind the `distill.teacher.Teacher` contract.

    Parameters
    ----------
    model
        `Wav2Vec2Model`, `HubertModel` or `WavLMModel`.
    name
        How it was asked for.
    sample_rate
        Samples per second of its input.
    do_normalize
        Whether each clip is brought to zero mean and unit variance first
        (``preprocessor_config.json``).
    left_pad
        Zeros before the (normalised) input; None takes field - stride.
    normalize_eps
        Added to the variance of a clip before the division: 1e-7 in transformers, 1e-5 in fairseq
        and unilm. It matters for quiet clips only.
    """

    causal = False

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        sample_rate: int,
        do_normalize: bool,
        left_pad: int | None = None,
        normalize_eps: float = 1e-7,
    ) -> None:
        super().__init__()
        config: Any = model.config
        if getattr(config, "add_adapter", False):
            raise EnhanceError(
                f"{name}: has a convolutional adapter (add_adapter), which changes the frame "
                "rate of its last layer; take the model without it"
            )
        self.model = _fold_weight_norm(model).float().requires_grad_(False).eval()
        self.name = name
        self.sample_rate = sample_rate
        self.do_normalize = do_normalize
        self.normalize_eps = normalize_eps
        self.field_samples, self.stride_samples = conv_geometry(
            config.conv_kernel, config.conv_stride
        )
        self.left_pad = self.field_samples - self.stride_samples if left_pad is None else left_pad
        if not 0 <= self.left_pad < self.field_samples:
            raise EnhanceError(
                f"left_pad {self.left_pad}: must be from 0 to {self.field_samples - 1} samples "
                "(a whole field of zeros would make a frame of nothing)"
            )
        self.offset_samples = -self.left_pad
        self.num_layers: int = config.num_hidden_layers
        self.widths: tuple[int, ...] = (config.hidden_size,) * (self.num_layers + 1)
        self.equal_lengths_only: bool = config.feat_extract_norm == "group" or bool(
            getattr(config, "conv_pos_batch_norm", False)
        )
        self.fingerprint = self._fingerprint(config.to_dict())

    def _fingerprint(self, config: dict[str, Any]) -> str:
        config = {k: v for k, v in config.items() if k not in _VOLATILE}
        settings = [config, self.sample_rate, self.do_normalize, self.left_pad]
        if self.do_normalize and self.normalize_eps != 1e-7:
            settings.append(self.normalize_eps)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> HfTeacher:
        """Stay in eval mode: dropout and layer drop would make the target random."""
        return super().train(False)

    def frames(self, samples: int) -> int:
        """Frames of a clip: floor((N + left_pad - field) / stride) + 1, or 0."""
        return max((samples + self.left_pad - self.field_samples) // self.stride_samples + 1, 0)

    @torch.no_grad()
    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of a batch, each item as if it were alone.

        Shape: waves (B, N), lengths (B,) -> (L + 1, B, T', D), counts (B,)

        Raises
        ------
        EnhanceError
            If the shapes do not fit together.
        """
        if waves.ndim != 2 or lengths.shape != waves.shape[:1]:
            raise EnhanceError(
                f"teacher input of shapes {tuple(waves.shape)} and {tuple(lengths.shape)}: "
                "need waves (B, N) and lengths (B,)"
            )
        sizes = [int(n) for n in lengths.tolist()]
        if any(not 0 <= n <= waves.shape[1] for n in sizes):
            raise EnhanceError(f"lengths {sizes}: must be from 0 to {waves.shape[1]} samples")
        counts = [self.frames(n) for n in sizes]
        shape = (self.num_layers + 1, len(sizes), max(counts, default=0), self.widths[0])
        out = waves.new_zeros(shape, dtype=torch.float32)
        groups: dict[int, list[int]] = defaultdict(list)
        for row, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            if count:  # too short for one frame: nothing to run
                groups[size if self.equal_lengths_only else 0].append(row)
        for rows in groups.values():
            hidden = self._run([waves[row, : sizes[row]] for row in rows])
            for k, row in enumerate(rows):
                out[:, row, : counts[row]] = hidden[:, k, : counts[row]]
        return out, torch.tensor(counts, device=lengths.device)

    def _run(self, clips: list[Tensor]) -> Tensor:
        """Shape: B clips (n,) -> (L + 1, B, T', D)"""
        clips = [clip.float() for clip in clips]
        if self.do_normalize:  # as transformers' Wav2Vec2FeatureExtractor, padding excluded
            eps = self.normalize_eps
            clips = [(c - c.mean()) / (c.var(unbiased=False) + eps).sqrt() for c in clips]
        sizes = torch.tensor([len(clip) + self.left_pad for clip in clips])
        longest = int(sizes.max())
        batch = torch.stack(
            [F.pad(c, (self.left_pad, longest - self.left_pad - len(c))) for c in clips]
        )  # (B, left_pad + N)
        mask = None
        if int(sizes.min()) < longest:
            mask = (torch.arange(longest) < sizes[:, None]).long().to(batch.device)  # (B, N)
        with torch.autocast(batch.device.type, enabled=False):
            result = self.model(
                batch, attention_mask=mask, output_hidden_states=True, return_dict=True
            )
        states = list(result.hidden_states)
        if len(states) != self.num_layers + 1:
            raise EnhanceError(
                f"{self.name}: gave {len(states)} hidden states instead of "
                f"{self.num_layers + 1} (a layer was dropped?); this transformers is not supported"
            )
        states[-1] = result.last_hidden_state  # behind the final layer norm, where there is one
        frames = self.frames(longest - self.left_pad)
        if states[0].shape[1] != frames:
            raise EnhanceError(
                f"{self.name}: made {states[0].shape[1]} frames of {longest} samples, not {frames} "
                "as its conv_kernel and conv_stride say; its config does not fit its weights"
            )
        return torch.stack(states)


def _fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace g * v / |v| by the weight it stands for: it never changes here."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model


def load(folder: Path, name: str, left_pad: int | None = None) -> HfTeacher:
    """Load a teacher from a folder in the transformers format.

    Raises
    ------
    EnhanceError
        If a file is missing, weights do not fit the config, or some of them are missing.
    """
    transformers = import_transformers()
    kind = read_json(folder / "config.json", "it names the kind of model")["model_type"]
    prepare = read_json(
        folder / "preprocessor_config.json", "do_normalize decides what the model hears"
    )
    if not isinstance(prepare.get("do_normalize"), bool):
        raise EnhanceError(
            f"{folder / 'preprocessor_config.json'}: do_normalize must be true or false "
            "(it decides what the model hears)"
        )
    model, info = _from_pretrained(getattr(transformers, CLASSES[kind]), folder)
    # The mask embedding serves pre-training only; everything else must come from the file.
    if any(key.endswith("masked_spec_embed") for key in info["missing_keys"]):
        model.get_parameter("masked_spec_embed").detach().zero_()  # not random: see fingerprint
    lost = [key for key in info["missing_keys"] if not key.endswith("masked_spec_embed")]
    lost += [str(key) for key in info.get("mismatched_keys", [])]
    if lost:
        raise EnhanceError(
            f"{folder}: {len(lost)} weights are missing or of another shape (first: {lost[0]}); "
            "they would be random, so that nothing could be learned from this teacher"
        )
    return HfTeacher(
        model,
        name,
        sample_rate=int(prepare.get("sampling_rate", 16000)),
        do_normalize=prepare["do_normalize"],
        left_pad=left_pad,
    )


def _from_pretrained(cls: Any, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with silent():
            return cls.from_pretrained(
                str(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # a dozen kinds, from safetensors, json and torch
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(f"{folder}: cannot be loaded as {cls.__name__} ({reason})") from error


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep transformers from drawing bars and telling of unused pre-training heads."""
    log = import_transformers().utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
