"""wav2vec 2.0, HuBERT and WavLM from the checkpoint FILES of their authors (fairseq, unilm).

Such a file holds settings and weights under names of its own. The settings become a configuration
of `transformers`, each weight goes where `published_name` says, and the result is the same frozen
teacher as one from a folder. `load` is the door for every published file: it looks once what
kind the file is and hands wav2vec and vq-wav2vec on to their own module.

Sources of the two layouts, read and not copied: ``fairseq/models/wav2vec/wav2vec2.py``,
``fairseq/models/hubert/hubert.py``, ``unilm/wavlm/WavLM.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.backbones import import_transformers
from distill.backbones.hf import CLASSES, HfTeacher
from distill.backbones.published import wav2vec as wav2vec_published
from distill.backbones.published.fairseq_files import flat, literal, read
from distill.teacher.contract import Teacher
from enhance.errors import EnhanceError

HEADS = (
    "final_proj",  # all: to the space of the pre-training loss
    "quantizer",  # wav2vec 2.0: codebook of its targets
    "project_q",  # wav2vec 2.0: codebook entries to the space of the loss
    "target_glu",  # wav2vec 2.0, HuBERT: gate on the targets, where there is one
    "label_embs_concat",  # HuBERT, WavLM: embeddings of the k-means units
)
"""Weights of pre-training alone, left in the file: no hidden state depends on them."""

_FINE_TUNED = "w2v_encoder.w2v_model."
_FINE_TUNED_HEAD = "w2v_encoder.proj"

_NORMS = {"default": "group", "layer_norm": "layer"}

_WHOLE = {
    "masked_spec_embed": "mask_emb",
    "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
    # torch's weight_norm: original0 is the length g of each tap, original1 the direction v.
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
}
_MODULES = {
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.layer_norm": "encoder.layer_norm",
}
_IN_BLOCK = {
    "layer_norm": "self_attn_layer_norm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.out_proj",
    "attention.gru_rel_pos_linear": "self_attn.grep_linear",
    "attention.gru_rel_pos_const": "self_attn.grep_a",
    "attention.rel_attn_embed": "self_attn.relative_attention_bias",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "final_layer_norm": "final_layer_norm",
}


def published_name(name: str, group_norm: bool) -> str:
    """Name that a weight (key of the transformers model's state dict) has in a published file.

    A group norm of the first convolution is the third member of its block (``0.2.weight``); a layer
    norm stands between two transpositions (``0.2.1.weight``). An `EnhanceError` if no published
    model has such a weight (another version of transformers).
    """
    if name in _WHOLE:
        return _WHOLE[name]
    module, end = re.fullmatch(r"(.+?)(\.weight|\.bias|)", name).groups()  # type: ignore[union-attr]
    if module in _MODULES:
        return _MODULES[module] + end
    if match := re.fullmatch(r"feature_extractor\.conv_layers\.(\d+)\.(conv|layer_norm)", module):
        member = "0" if match[2] == "conv" else "2" if group_norm else "2.1"
        return f"feature_extractor.conv_layers.{match[1]}.{member}{end}"
    match = re.fullmatch(r"(encoder\.layers\.\d+\.)(.+)", module)
    if match and match[2] in _IN_BLOCK:
        return match[1] + _IN_BLOCK[match[2]] + end
    raise EnhanceError(
        f"{name}: a weight of the installed transformers that no published file has; "
        "this version of transformers is not supported"
    )


def settings(kind: str, args: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Settings of the `transformers` configuration that a file's own flat settings describe.

    ``kind`` is ``wav2vec2``, ``hubert`` or ``wavlm``; messages name the path. An `EnhanceError` if
    a setting is missing, or describes what `transformers` cannot compute.
    """

    def need(key: str) -> Any:
        if args.get(key) is None:
            raise EnhanceError(
                f"{path}: its settings lack {key!r}, without which the architecture is unknown; "
                "take the file as it was published"
            )
        return args[key]

    convolutions = _convolutions(need("conv_feature_layers"), path)
    # What only newer recipes have; the published models have none of it.
    for key, plain in (
        ("activation_fn", "gelu"),
        ("layer_type", "transformer"),
        ("pos_conv_depth", 1),
        ("quantize_input", False),
        ("conv_pos_batch_norm", False),
    ):
        if args.get(key, plain) != plain:
            raise EnhanceError(
                f"{path}: {key} is {args[key]!r}; files with {plain!r} are read, as published "
                "for wav2vec 2.0, HuBERT and WavLM"
            )
    if need("extractor_mode") not in _NORMS:
        raise EnhanceError(
            f"{path}: extractor_mode {args['extractor_mode']!r} is unknown; "
            f"known are {', '.join(_NORMS)}"
        )
    result = {
        "hidden_size": int(need("encoder_embed_dim")),
        "num_hidden_layers": int(need("encoder_layers")),
        "num_attention_heads": int(need("encoder_attention_heads")),
        "intermediate_size": int(need("encoder_ffn_embed_dim")),
        "conv_dim": [dim for dim, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "conv_bias": bool(args.get("conv_bias", False)),  # as in fairseq; the weights tell, too
        "feat_extract_norm": _NORMS[args["extractor_mode"]],
        "num_conv_pos_embeddings": int(need("conv_pos")),
        "num_conv_pos_embedding_groups": int(need("conv_pos_groups")),
        "do_stable_layer_norm": bool(need("layer_norm_first")),
    }
    if kind == "wavlm":
        result["num_buckets"] = int(need("num_buckets"))
        result["max_bucket_distance"] = int(need("max_distance"))
    return result


def _convolutions(text: Any, path: str | Path) -> list[tuple[int, int, int]]:
    layers = literal(text, f"{path}: conv_feature_layers")
    try:
        result = [(int(dim), int(kernel), int(stride)) for dim, kernel, stride in layers]
    except (TypeError, ValueError) as error:
        raise EnhanceError(
            f"{path}: conv_feature_layers {str(text)[:80]!r} is no list of "
            "(channels, kernel, stride)"
        ) from error
    if not result or min(min(layer) for layer in result) < 1:
        raise EnhanceError(f"{path}: conv_feature_layers {str(text)[:80]!r} is no stack of layers")
    return result


def _normalize(args: Mapping[str, Any], path: str | Path) -> bool:
    """Whether the model hears clips of zero mean and unit variance."""
    value = args.get("normalize")
    if value is None and args.get("extractor_mode") == "default":
        return False  # files older than the setting; the group norm undoes gain and offset
    if not isinstance(value, bool):
        raise EnhanceError(
            f"{path}: its settings do not say whether clips are normalised ('normalize'), "
            "which decides what the model hears; take the file as it was published"
        )
    return value


def load(path: str | Path, name: str, left_pad: int | None = None) -> Teacher:
    """Make a teacher of a file such as ``wav2vec_small.pt``, ``hubert_base_ls960.pt``,
    ``WavLM-Base+.pt`` or ``wav2vec_large.pt``; see `distill.backbones.load`."""
    kind, args, tensors = read(path)
    if kind not in CLASSES:
        return wav2vec_published.load_published(kind, args, tensors, name, left_pad)
    if any(key.startswith(_FINE_TUNED) for key in tensors):
        args, tensors = _inner(args, tensors, path)
    model_class = getattr(import_transformers(), CLASSES[kind])
    try:
        made = settings(kind, args, path)
        if "mask_emb" not in tensors:  # then the model has none either, instead of a random one
            made |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
        rate = int(args.get("sample_rate") or 16000)
        config = model_class.config_class(**made)
        # No memory, and no random numbers are drawn: every weight comes from the file.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = model_class(config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnhanceError(
            f"{path}: its settings make no {model_class.__name__} ({reason})"
        ) from error
    weights = _weights(model.state_dict(), tensors, path, made["feat_extract_norm"] == "group")
    model.load_state_dict(weights, strict=True, assign=True)
    return HfTeacher(
        model,
        name,
        sample_rate=rate,
        do_normalize=_normalize(args, path),
        normalize_eps=1e-5,  # theirs is torch's layer_norm over the clip
        left_pad=left_pad,
    )


def _inner(
    args: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str | Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of the pre-trained model inside a fine-tuned one.

    What the audio is like (``normalize``, ``sample_rate``) is the fine-tuned model's own setting.
    """
    inner = args.get("w2v_args")
    if not isinstance(inner, Mapping):
        raise EnhanceError(
            f"{path}: a fine-tuned model without the settings of the pre-trained one "
            "('w2v_args'); take the file as it was published, or the pre-trained one"
        )
    kept = {
        key.removeprefix(_FINE_TUNED): tensor
        for key, tensor in tensors.items()
        if key.rpartition(".")[0] != _FINE_TUNED_HEAD
    }
    heard = {key: args[key] for key in ("normalize", "sample_rate") if args.get(key) is not None}
    return {**flat(inner), **heard}, kept


def _weights(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path, group_norm: bool
) -> dict[str, Tensor]:
    """The file's weights under the model's names, all of them and none but heads left over."""
    names = {key: published_name(key, group_norm) for key in own}
    missing = [there for there in names.values() if there not in tensors]
    known = {*names.values()}
    extra = [key for key in tensors if key not in known and key.split(".")[0] not in HEADS]
    shapes = [
        f"{there} {tuple(tensors[there].shape)}, not {tuple(own[here].shape)}"
        for here, there in names.items()
        if there in tensors and tensors[there].shape != own[here].shape
    ]
    for found, what in ((missing, "missing"), (extra, "unknown"), (shapes, "of another shape")):
        if found:
            raise EnhanceError(
                f"{path}: {len(found)} weights are {what} (first: {found[0]}); "
                "its settings do not fit its weights, or this variant is not known here"
            )
    return {here: tensors[there].float() for here, there in names.items()}
