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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from distill.backbones import import_transformers, read_json
from distill.backbones.folder import prepared
from distill.backbones.frozen import FrozenTeacher, fingerprint
from enhance.errors import EnhanceError

CLASSES = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}
"""Class of `transformers` for each ``model_type``."""

_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}


def needs_equal_lengths(config: Any) -> bool:
    """Whether zeros behind a clip change its frames, attention mask or not; see above."""
    batch_norm = getattr(config, "conv_pos_batch_norm", False)
    return config.feat_extract_norm == "group" or bool(batch_norm)


def conv_geometry(kernels: list[int], strides: list[int]) -> tuple[int, int]:
    """Receptive field and stride, in samples, of a stack of convolutions without padding.

    Each layer of kernel k widens the field by ``(k - 1)`` times the stride before it.
    """
    field, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


class HfTeacher(FrozenTeacher):
    """A frozen `Wav2Vec2Model`, `HubertModel` or `WavLMModel`; see `FrozenTeacher` for the rest.

    Parameters
    ----------
    do_normalize
        Whether each clip is brought to zero mean and unit variance first
        (``preprocessor_config.json``); ``left_pad`` zeros come after that.
    normalize_eps
        Added to the variance of a clip before the division: 1e-7 in transformers, 1e-5 in fairseq
        and unilm. It matters for quiet clips only.
    """

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
        config: Any = model.config
        if getattr(config, "add_adapter", False):
            raise EnhanceError(
                f"{name}: has a convolutional adapter (add_adapter), which changes the frame "
                "rate of its last layer; take the model without it"
            )
        field, stride = conv_geometry(config.conv_kernel, config.conv_stride)
        # As they were before folding, whose rounding depends on the number of threads
        weights = model.float().state_dict()
        super().__init__(
            _fold_weight_norm(model),
            name,
            sample_rate=sample_rate,
            field_samples=field,
            stride_samples=stride,
            widths=(config.hidden_size,) * (config.num_hidden_layers + 1),
            equal_lengths_only=needs_equal_lengths(config),
            left_pad=left_pad,
            reach_frames=config.num_conv_pos_embeddings // 2,
        )
        self.family = str(config.model_type)
        self.do_normalize = do_normalize
        self.normalize_eps = normalize_eps
        known = {k: v for k, v in config.to_dict().items() if k not in _VOLATILE}
        settings = [known, self.sample_rate, self.do_normalize, self.left_pad]
        if self.do_normalize and self.normalize_eps != 1e-7:
            settings.append(self.normalize_eps)
        self.fingerprint = fingerprint(settings, weights)

    def twin(self, seed: int) -> HfTeacher:
        """As `FrozenTeacher.twin`, drawn as transformers draws them before pre-training."""
        kind: Any = type(self.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = kind(self.model.config)
        return HfTeacher(
            model,
            f"random:{self.name}:{seed}",
            sample_rate=self.sample_rate,
            do_normalize=self.do_normalize,
            left_pad=self.left_pad,
            normalize_eps=self.normalize_eps,
        )

    def run(self, clips: list[Tensor]) -> list[Tensor]:
        """All hidden states; a mask tells clips of unequal length apart."""
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
        result = self.model(batch, attention_mask=mask, output_hidden_states=True, return_dict=True)
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
        return states


def _fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace g * v / |v| by the weight it stands for: it never changes here."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model


def load(folder: Path, name: str, left_pad: int | None = None) -> HfTeacher:
    """Load a teacher from a folder in the transformers format; see `distill.backbones.load`."""
    transformers = import_transformers()
    kind = read_json(folder / "config.json", "it names the kind of model")["model_type"]
    heard = prepared(folder)
    hint = "they would be random, so that nothing could be learned from this teacher"
    model, missing = from_pretrained(getattr(transformers, CLASSES[kind]), folder, hint)
    if missing:
        model.get_parameter("masked_spec_embed").detach().zero_()  # not random: see fingerprint
    return HfTeacher(model, name, **heard, left_pad=left_pad)


def from_pretrained(cls: Any, folder: Path, hint: str) -> tuple[nn.Module, bool]:
    """A model of a class of transformers in float32, and whether its mask embedding is missing.

    That serves pre-training only; everything else must come from the file. An `EnhanceError` if the
    folder holds none, or weights are missing or of another shape; ``hint`` says then what that
    means.
    """
    try:
        with silent():
            model, info = cls.from_pretrained(
                str(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # a dozen kinds, from safetensors, json and torch
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(f"{folder}: cannot be loaded as {cls.__name__} ({reason})") from error
    missing = [str(key) for key in info["missing_keys"]]
    lost = [key for key in missing if not key.endswith("masked_spec_embed")]
    lost += [str(key) for key in info.get("mismatched_keys", [])]
    if lost:
        raise EnhanceError(
            f"{folder}: {len(lost)} weights are missing or of another shape (first: {lost[0]}); "
            f"{hint}"
        )
    return model, bool(missing)


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
