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
from distill.backbones.wav2vec.model import VqWav2Vec, VqWav2VecConfig, Wav2Vec, Wav2VecConfig
from distill.backbones.wav2vec.teacher import Wav2VecTeacher
from enhance.config.settings import parse
from enhance.errors import EnhanceError
from enhance.network.tensors import load_exactly

_DEFAULTS: dict[str, Any] = {
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3",
    "conv_aggregator_layers": "[(512, 3, 1)] * 9",
    "aggregator": "cnn",
    "activation": "relu",
    "log_compression": False,
    "skip_connections_feat": False,
    "skip_connections_agg": False,
    "residual_scale": 0.5,
    "no_conv_bias": False,
    "agg_zero_pad": False,
    "non_affine_group_norm": False,
    "dropout": 0.0,
    "dropout_features": 0.0,
    "dropout_agg": 0.0,
    "vq_type": "none",
    "vq_vars": 320,
    "vq_groups": 2,
    "vq_dim": 0,
    "vq_depth": 1,
    "combine_groups": False,
    "vq_temp": "(2.0, 0.5, 0.999995)",
    "vq_gamma": 0.25,
}

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
    (``vq-wav2vec.pt``, its k-means form); name and ``left_pad`` as in `FrozenTeacher`.

    Raises
    ------
    EnhanceError
        If settings or weights are not those of such a model.
    """
    given = _DEFAULTS | {k: v for k, v in args.items() if v is not None}
    settings = _settings(given, name)
    mine = {
        _renamed(key, name): tensor.float()
        for key, tensor in tensors.items()
        if not key.startswith(_UNUSED)
    }
    if kind == VqWav2VecConfig.model_type:
        config = parse(VqWav2VecConfig, settings | _quantiser(given, settings, name), name)
        book = mine.get("quantizer.codebook")
        if book is not None and book.ndim == 3:
            groups = 1 if config.vq_shared else config.vq_groups
            if config.vq_type == "gumbel":  # (1, G V, d), group by group
                mine["quantizer.codebook"] = book.reshape(groups, -1, book.shape[-1])
            else:  # (V, G, d)
                mine["quantizer.codebook"] = book.transpose(0, 1)
        model: Wav2Vec = VqWav2Vec(config)
    else:
        model = Wav2Vec(parse(Wav2VecConfig, settings, name))
    load_exactly(model, mine, name)
    return Wav2VecTeacher(model, name, left_pad=left_pad)


def _quantiser(given: dict[str, Any], settings: dict[str, Any], name: str) -> dict[str, Any]:
    width = settings["encoder"][-1][0]
    if given["vq_dim"] not in (0, width):
        raise EnhanceError(
            f"{name}: codewords of {given['vq_dim']} features for z of {width} are not supported"
        )
    return {
        "vq_type": given["vq_type"],
        "vq_codes": given["vq_vars"],
        "vq_groups": given["vq_groups"],
        "vq_shared": given["combine_groups"],
        "vq_depth": given["vq_depth"],
        "vq_temperature": literal(given["vq_temp"], f"{name}: vq_temp"),
        "vq_gamma": given["vq_gamma"],
    }


def _settings(given: dict[str, Any], name: str) -> dict[str, Any]:
    if given["aggregator"] != "cnn":
        raise EnhanceError(
            f"{name}: has a {given['aggregator']} aggregator; only the convolutional one of the "
            "published models is supported"
        )
    return {
        "encoder": literal(given["conv_feature_layers"], f"{name}: conv_feature_layers"),
        "aggregator": literal(given["conv_aggregator_layers"], f"{name}: conv_aggregator_layers"),
        "activation": given["activation"],
        "log_compression": bool(given["log_compression"]),
        "skip_encoder": bool(given["skip_connections_feat"]),
        "skip_aggregator": bool(given["skip_connections_agg"]),
        "residual_scale": float(given["residual_scale"]),
        "aggregator_bias": not given["no_conv_bias"],
        "zero_pad": bool(given["agg_zero_pad"]),
        "affine": not given["non_affine_group_norm"],
        "dropout": float(given["dropout"]),
        "dropout_features": float(given["dropout_features"]),
        "dropout_context": float(given["dropout_agg"]),
    }


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
