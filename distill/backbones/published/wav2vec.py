"""Published wav2vec and vq-wav2vec checkpoints as our modules: settings and names of weights.

The architecture comes from the checkpoint's own settings. Files of 2019 and 2020 may lack a
setting that came later; it then has the default that the public code gave such files, which is
not always that of our configuration.

Published names (i counts layers): ``feature_extractor.conv_layers.i.0`` convolution and ``.2``
norm; ``feature_aggregator.conv_layers.i.1`` convolution and ``.3`` norm;
``feature_aggregator.residual_proj.i``; ``vector_quantizer.vars`` and ``.weight_proj`` (Gumbel) or
``.embedding`` and ``.projection`` (k-means). ``wav2vec_predictions`` and ``project_features``
serve pre-training only.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from distill.backbones.published.fairseq_files import literal
from distill.backbones.wav2vec.model import VqWav2VecConfig, Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.teacher import NETWORKS, Wav2VecTeacher
from enhance.config.settings import parse
from enhance.errors import EnhanceError
from enhance.network.tensors import load_exactly

_SETTINGS: dict[str, tuple[str, Any]] = {
    "encoder": ("conv_feature_layers", "[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3"),
    "aggregator": ("conv_aggregator_layers", "[(512, 3, 1)] * 9"),
    "activation": ("activation", "relu"),
    "log_compression": ("log_compression", False),
    "skip_encoder": ("skip_connections_feat", False),
    "skip_aggregator": ("skip_connections_agg", False),
    "residual_scale": ("residual_scale", 0.5),
    "aggregator_bias": ("no_conv_bias", False),
    "zero_pad": ("agg_zero_pad", False),
    "affine": ("non_affine_group_norm", False),
    "dropout": ("dropout", 0.0),
    "dropout_features": ("dropout_features", 0.0),
    "dropout_context": ("dropout_agg", 0.0),
}
"""Fields of `Wav2VecConfig`, what they are called in a file, and what a file without them has."""
_QUANTISER: dict[str, tuple[str, Any]] = {
    "vq_type": ("vq_type", "none"),
    "vq_codes": ("vq_vars", 320),
    "vq_groups": ("vq_groups", 2),
    "vq_shared": ("combine_groups", False),
    "vq_depth": ("vq_depth", 1),
    "vq_temperature": ("vq_temp", "(2.0, 0.5, 0.999995)"),
    "vq_gamma": ("vq_gamma", 0.25),
}
"""The same of those that `VqWav2VecConfig` has besides."""
_LITERAL = {"conv_feature_layers", "conv_aggregator_layers", "vq_temp"}
_OPPOSITE = {"no_conv_bias", "non_affine_group_norm"}

_RENAMED = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight)", r"encoder.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(weight|bias)", r"encoder.\1.norm.\2"),
    (r"feature_aggregator\.conv_layers\.(\d+)\.1\.(weight|bias)", r"aggregator.\1.conv.\2"),
    (r"feature_aggregator\.conv_layers\.(\d+)\.3\.(weight|bias)", r"aggregator.\1.norm.\2"),
    (r"feature_aggregator\.residual_proj\.(\d+)\.(weight)", r"aggregator.\1.skip.\2"),
    (r"vector_quantizer\.projection\.0\.(weight)", r"quantizer.project.\1"),
    (r"vector_quantizer\.projection\.1\.(weight|bias)", r"quantizer.norm.\1"),
    (r"vector_quantizer\.(?:vars|embedding)", "quantizer.codebook"),
    (r"vector_quantizer\.weight_proj\.(weight|bias)", r"quantizer.project.0.\1"),
)
_UNUSED = ("wav2vec_predictions.", "project_features.")


def load_published(
    kind: str,
    args: dict[str, Any],
    tensors: dict[str, Tensor],
    name: str,
    left_pad: int | None = None,
) -> Wav2VecTeacher:
    """Make a teacher of what `fairseq_files.read` found in a published file.

    The kind is ``wav2vec`` (``wav2vec_large.pt`` and its like) or ``vq-wav2vec``
    (``vq-wav2vec.pt``, its k-means form); name and ``left_pad`` as in `FrozenTeacher`. An
    `EnhanceError` if settings or weights are not those of such a model.
    """
    network: Any = NETWORKS[kind]
    config: Wav2VecConfig = parse(network.config_type, _settings(args, kind, name), name)
    if args.get("vq_dim") not in (None, 0, config.width):
        raise EnhanceError(
            f"{name}: codewords of {args['vq_dim']} features for z of {config.width} are not "
            "supported"
        )
    mine = {
        _renamed(key, name): tensor.float()
        for key, tensor in tensors.items()
        if not key.startswith(_UNUSED)
    }
    book = mine.get("quantizer.codebook")
    if isinstance(config, VqWav2VecConfig) and book is not None and book.ndim == 3:
        groups = 1 if config.vq_shared else config.vq_groups
        if config.vq_type == "gumbel":  # (1, G V, d), group by group
            mine["quantizer.codebook"] = book.reshape(groups, -1, book.shape[-1])
        else:  # (V, G, d)
            mine["quantizer.codebook"] = book.transpose(0, 1)
    model: Wav2Vec = network(config)
    load_exactly(model, mine, name)
    return Wav2VecTeacher(model, name, left_pad=left_pad)


def _settings(args: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Fields of our configuration of what a file says, and of defaults where it says nothing."""
    if args.get("aggregator") not in (None, "cnn"):
        raise EnhanceError(
            f"{name}: has a {args['aggregator']} aggregator; only the convolutional one of the "
            "published models is supported"
        )
    names = _SETTINGS if kind == Wav2VecConfig.model_type else _SETTINGS | _QUANTISER
    found = {}
    for ours, (theirs, default) in names.items():
        value = default if args.get(theirs) is None else args[theirs]
        if theirs in _LITERAL:
            value = literal(value, f"{name}: {theirs}")
        elif isinstance(default, bool):
            value = bool(value) != (theirs in _OPPOSITE)
        found[ours] = value
    return found


def _renamed(published: str, name: str) -> str:
    deep = re.fullmatch(
        r"vector_quantizer\.weight_proj\.(\d+)(?:\.0)?\.(weight|bias)", published
    )  # hidden layers are pairs of linear layer and activation; in ours both stand in one row
    if deep:
        return f"quantizer.project.{2 * int(deep[1])}.{deep[2]}"
    for pattern, replacement in _RENAMED:
        if re.fullmatch(pattern, published):
            return re.sub(pattern, replacement, published)
    raise EnhanceError(f"{name}: holds a weight {published}, which no published model of it has")
