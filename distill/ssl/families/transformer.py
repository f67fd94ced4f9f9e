"""Small WavLM, HuBERT and wav2vec 2.0: architecture, a faster front end, the folder on disk.

The models are those of `transformers` themselves. What is ours is the size, and a channels-last
evaluation of the convolutional front end (same weights, same output to rounding), which is two
to three times as fast on a CPU where layer norm would transpose every layer's output twice.

And a head start: inside the whole model the front end learns slowly, since masked frames tell it
little and the transformer takes four fifths of the time of a step. Alone (`warm_up`) it learns the
units of single frames, sees four times the audio in the same time, and every frame counts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones import import_transformers
from distill.backbones.folder import write_transformer
from distill.backbones.hf import conv_geometry
from distill.ssl.data.crops import SAMPLE_RATE, frame_count, normalize
from distill.ssl.data.units import Units, cluster, fit_first
from distill.ssl.families.family import SslConfig, Work
from distill.ssl.losses.masked_units import MaskedUnitLoss
from distill.teacher.windows import Geometry, windows
from enhance.config.checked import NonNegativeInt, PositiveFloat, PositiveInt, checked
from enhance.errors import EnhanceError
from enhance.progress import tracked

KINDS = {
    "wavlm": ("WavLMConfig", "WavLMModel"),
    "hubert": ("HubertConfig", "HubertModel"),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForPreTraining"),
}
"""For each family the configuration, and what is trained."""


@checked
class Architecture:
    """Size of the model. Kernels and strides of the front end are those of wav2vec 2.0."""

    hidden: PositiveInt = 192
    """Width D of the transformer."""
    layers: PositiveInt = 6
    """Transformer blocks L."""
    heads: PositiveInt = 4
    """Attention heads."""
    feed_forward: PositiveInt = 768
    """Inner width of each block."""
    conv_channels: tuple[PositiveInt, ...] = (32, 32, 64, 64, 128, 128, 192)
    """Channels of the seven convolutions; narrow where the frame rate is high."""
    positions: PositiveInt = 64
    """Kernel of the convolution that tells positions, frames."""
    position_groups: PositiveInt = 12
    """Groups of that convolution."""

    def build(
        self, seed: int, kind: str = "wavlm", more: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Make the model of one of `KINDS` with weights drawn from ``seed``, in eval mode; ``more``
        are further fields of the configuration class of transformers.

        An `EnhanceError` if the sizes do not fit together.
        """
        if self.hidden % self.heads or self.hidden % self.position_groups:
            raise EnhanceError(
                f"hidden {self.hidden}: must be a multiple of heads {self.heads} and of "
                f"position_groups {self.position_groups}"
            )
        if len(self.conv_channels) != 7:
            raise EnhanceError(f"conv_channels {self.conv_channels}: must be seven numbers")
        transformers = import_transformers()
        config = getattr(transformers, KINDS[kind][0])(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.feed_forward,
            conv_dim=list(self.conv_channels),
            conv_kernel=[10, 3, 3, 3, 3, 2, 2],
            conv_stride=[5, 2, 2, 2, 2, 2, 2],
            feat_extract_norm="layer",  # group norm would take statistics over time
            conv_bias=False,
            num_conv_pos_embeddings=self.positions,
            num_conv_pos_embedding_groups=self.position_groups,
            do_stable_layer_norm=True,  # norm before each sublayer: learns without a long warm-up
            initializer_range=0.05,  # 0.02 suits width 768 and more
            # The model sees the corpus a few times only: nothing to regularise
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            mask_time_prob=0.65,
            mask_time_length=10,
            mask_feature_prob=0.0,
            vocab_size=1,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            **(more or {}),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, KINDS[kind][1])(config).eval()
        return with_fast_front_end(model)


def base(model: Any) -> Any:
    """The model without its pre-training heads."""
    return getattr(model, "wav2vec2", model)


def with_fast_front_end(model: nn.Module) -> nn.Module:
    """Let the model compute its front end by `front_end`; weights and names stay."""
    extractor = base(model).feature_extractor
    extractor.forward = functools.partial(front_end, extractor)
    return model


def front_end(extractor: Any, waves: Tensor) -> Tensor:
    """Convolution, layer norm, GELU, seven times, with channels last.

    A strided convolution is a matrix product over frames laid side by side.

    Shape: (B, N) to (B, C, T), as the extractor's own forward.
    """
    x = waves[:, :, None]  # (B, N, 1)
    for layer in extractor.conv_layers:
        kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        count = (x.shape[1] - kernel) // stride + 1
        taps = [x[:, k : k + (count - 1) * stride + 1 : stride] for k in range(kernel)]
        weight = layer.conv.weight.transpose(1, 2).flatten(1)  # (C', kernel * C)
        x = F.linear(torch.cat(taps, dim=-1), weight, layer.conv.bias)  # (B, T, C')
        norm = layer.layer_norm
        x = F.gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    return x.transpose(1, 2)


@torch.no_grad()
def hidden_states(model: nn.Module, wave: np.ndarray) -> np.ndarray:
    """All hidden states of one clip, its level normalised; in windows where it is a long one.

    Shape: (N,) float32 to (L + 1, T, D) float32.
    """
    waves, network = torch.from_numpy(normalize(wave[None])), base(model)
    width, stride = conv_geometry(network.config.conv_kernel, network.config.conv_stride)
    reach = network.config.num_conv_pos_embeddings // 2
    shape = Geometry(SAMPLE_RATE, stride, width, reach)
    parts = []
    for samples, kept in windows((len(wave) - width) // stride + 1, shape):
        heard = network(waves[:, samples], output_hidden_states=True)
        parts.append(torch.cat(heard.hidden_states)[:, kept])
    return torch.cat(parts, dim=1).numpy()


def save(model: Any, folder: Path) -> None:
    """Write a model folder in the format of transformers, weights in fp16.

    ``preprocessor_config.json`` asks for the normalisation that training used. Errors as of
    `distill.backbones.folder.write`: a weight may not be finite in fp16.
    """
    write_transformer(folder, model, {n: t.half() for n, t in model.state_dict().items()})


log = logging.getLogger("enhance")


@checked
class FrontEndConfig(SslConfig):
    """What decides the weights of a transformer, apart from its objective."""

    architecture: Architecture = field(default_factory=Architecture)
    """Size of the model."""
    front_end_steps: NonNegativeInt = 0
    """Steps before the first iteration in which the convolutions alone learn to tell the units of
    the (visible) frames, of MFCC: four times as fast a step, since there is no transformer. The
    papers have no such thing: they need days instead."""
    front_end_rate: PositiveFloat = 2e-3
    """Learning rate of these steps, after a warm-up over the first 40."""


def units_of(
    work: Work, what: str, make: Callable[[np.ndarray], np.ndarray], count: int, seed: int
) -> Units | None:
    """k-means units of all files of a corpus, as by `cluster`; None if interrupted.

    ``make`` gives the features (T, D) of a whole wave, ``what`` names them.
    """
    speech = work.data.speech
    lengths = [frame_count(speech.length(clip)) for clip in range(len(speech))]
    order, first = fit_first(lengths, work.data.train, seed)

    def heard() -> Iterator[np.ndarray]:
        for clip in tracked(order, f"{what} for units", len(order), quiet=work.quiet):
            if work.interrupt.caught:
                return
            yield make(speech.whole(clip))

    return cluster(heard(), order, first, count, seed)


def warm_up(
    model: Any,
    units: int,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: FrontEndConfig,
    work: Work,
) -> bool:
    """Train ``feature_extractor`` and ``feature_projection`` to tell which of K ``units`` every
    frame is; False if interrupted.

    The transformer stays as it is, the head is thrown away. ``batches`` are waves (B, N) and units
    (B, T), of which no more than ``front_end_steps`` are taken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 500)
        head = MaskedUnitLoss(model.config.hidden_size, units)
    modules = (model.feature_extractor, model.feature_projection, head)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    correct, frames, steps = 0, 0, config.front_end_steps
    heard = zip(range(steps), batches, strict=False)
    for step, (waves, wanted) in tracked(heard, "front end", steps, quiet=work.quiet):
        if work.interrupt.caught:
            return False
        for group in optimizer.param_groups:
            group["lr"] = config.front_end_rate * min(1.0, (step + 1) / 40)
        local = model.feature_extractor(waves).transpose(1, 2)  # (B, T, C)
        states, _ = model.feature_projection(local)  # (B, T, D)
        found = head(states, wanted, torch.ones_like(wanted, dtype=torch.bool))
        optimizer.zero_grad(set_to_none=True)
        found.masked_loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        correct, frames = correct + found.correct, frames + found.masked
        if (step + 1) % config.log_every == 0:
            log.info("front end, step %d: %.3f right", step + 1, correct / frames)
            correct = frames = 0
    return True
