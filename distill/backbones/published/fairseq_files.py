"""Published checkpoint files of fairseq and unilm, read without either and without risk.

The files are pickles. They are read by `torch.load(weights_only=True)`, which builds tensors and
plain containers and calls nothing but what an allow-list names. Settings come as an
``argparse.Namespace`` under ``args`` (wav2vec, vq-wav2vec, the first wav2vec 2.0 files), as plain
dicts under ``cfg`` (HuBERT, unilm's WavLM) or as omegaconf containers under ``cfg``; all become one
flat dict here. omegaconf need not be installed: its types, and a few others that lie in such files
beside the model, are allowed by NAME only and stand for an inert holder of what was stored.
Anything else is refused by name, and nothing of it runs.
"""

from __future__ import annotations

import argparse
import ast
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from enhance.errors import EnhanceError

KINDS = ("wav2vec", "vq-wav2vec", "wav2vec2", "hubert", "wavlm")
"""Models whose files are known."""


class Checkpoint(NamedTuple):
    """What `read` found in a file."""

    kind: str
    """One of `KINDS`."""
    args: dict[str, Any]
    """Settings of task and model in one flat dict, the model's first; strings, numbers, lists."""
    tensors: dict[str, Tensor]
    """Weights under their published names, on the CPU."""


def read(path: str | Path) -> Checkpoint:
    """Read a published ``.pt`` file such as ``wav2vec_large.pt``, ``vq-wav2vec_kmeans.pt``,
    ``wav2vec_small.pt``, ``hubert_base_ls960.pt`` or ``WavLM-Base+.pt``.

    An `EnhanceError` if the file cannot be read, holds a type off the allow-list (it is named), or
    is no checkpoint of a known kind.
    """
    path = Path(path)
    state = _unpickle(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise EnhanceError(
            f"{path}: holds no 'model' entry with weights; take the file as it was published"
        )
    tensors = dict(state["model"])
    odd = [str(n) for n, t in tensors.items() if not (isinstance(n, str) and torch.is_tensor(t))]
    if odd or not tensors:
        raise EnhanceError(
            f"{path}: 'model' holds {odd[0] + ', which is no tensor' if odd else 'nothing'}; "
            "take the file as it was published"
        )
    args = _settings(path, state)
    return Checkpoint(_kind(path, args, tensors), args, tensors)


def literal(text: Any, what: str) -> Any:
    """Value of a setting that fairseq evaluates as Python: numbers, lists and tuples only.

    ``"[(512, 10, 5)] + [(512, 4, 2)] * 3"`` and ``"512*3"`` are such settings. Only literals,
    ``+``, ``-`` and ``*`` are understood; nothing is called or looked up. What is no string is
    given back as it is. An `EnhanceError` if the text holds anything else, or would make a list of
    more than a thousand items.
    """
    if not isinstance(text, str):
        return text
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise EnhanceError(
            f"{what} {text[:80]!r}: no list of numbers ({error}); the checkpoint's settings are "
            "not those of a published model"
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | None):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        for many, times in ((left, right), (right, left)):
            if isinstance(many, list | tuple) and len(many) * times > 1000:
                raise ValueError("too long")
        return left * right
    raise ValueError(f"{type(node).__name__} is not understood")


class _Inert:
    """Holds what a pickle stored for a foreign type; does nothing with it."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __new__(cls, *_: Any) -> _Inert:
        made = super().__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


_FOREIGN = (
    "fairseq.data.dictionary.Dictionary",  # labels of a fine-tuned or HuBERT file
    "numpy.core.multiarray.scalar",  # losses and step counts of the training that made the file
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
    "collections.defaultdict",  # empty caches of omegaconf
    "typing.Any",  # the types that omegaconf notes beside its values
    "builtins.dict",
    "builtins.list",
    "builtins.str",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
)


def _unpickle(path: Path) -> Any:
    if not path.is_file():
        raise EnhanceError(f"{path}: no such file; name a published checkpoint (.pt)")
    allowed: list[Any] = [argparse.Namespace, *((_Inert, name) for name in _FOREIGN)]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on protocols and storages of older torch versions
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen kinds, from torch, zipfile and pickle
        found = re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", str(error))
        if found:
            raise EnhanceError(
                f"{path}: holds a {found[1]}, which is not on the list of types that are read; "
                "nothing of the file was run. If you trust its source, load it there and save "
                "{'cfg': its settings as plain dict, 'model': its state dict} anew"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise EnhanceError(
            f"{path}: cannot be read as a checkpoint ({reason}); download it again"
        ) from error


def _plain(value: Any) -> Any:
    """Namespaces and omegaconf containers as dicts, lists and scalars."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, _Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return _plain(state["_val"] if "_val" in state else state.get("_content"))
    if isinstance(value, Mapping):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value


def _settings(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    try:
        for found in (_plain(state.get("args")), _plain(state.get("cfg"))):
            if isinstance(found, dict) and found:
                return flat(found)
    except RecursionError as error:
        raise EnhanceError(f"{path}: its settings contain themselves") from error
    raise EnhanceError(
        f"{path}: holds no settings ('args' or 'cfg'), so that its architecture is unknown; "
        "take the file as it was published"
    )


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in one dict: sections of a hydra configuration put together, the model's last."""
    parts = [settings.get("task"), settings.get("model")]
    if isinstance(parts[1], Mapping):
        return {k: v for part in parts if isinstance(part, Mapping) for k, v in part.items()}
    return dict(settings)


def _kind(path: Path, args: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """By the weights' names where they tell, else by the name of the architecture."""
    arch = str(args.get("_name") or args.get("arch") or "")
    if any(name.startswith("feature_aggregator.") for name in tensors):
        quantised = any(name.startswith("vector_quantizer.") for name in tensors)
        return "vq-wav2vec" if quantised else "wav2vec"
    if any(".self_attn." in name for name in tensors):
        if any(".grep_linear." in name or ".relative_attention_bias." in name for name in tensors):
            return "wavlm"
        if arch.startswith("hubert") or "label_embs_concat" in tensors:
            return "hubert"
        if arch.startswith(("wav2vec2", "wav2vec_ctc")) or "quantizer.vars" in tensors:
            return "wav2vec2"
    raise EnhanceError(
        f"{path}: holds a model of architecture {arch or 'unknown'!r}; "
        f"files of {', '.join(KINDS)} are read"
    )
