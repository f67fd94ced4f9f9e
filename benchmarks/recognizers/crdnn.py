"""Recognisers of speechbrain: a CRDNN encoder, an attention decoder, a beam search.

Such a folder holds ``hyperparams.yaml``, which names Python classes to be made and their
arguments, and a ``.ckpt`` for each part with weights. HyperPyYAML would run whatever is named
there. Here only classes of `CLASSES` are let in, and only as text that this file has read and
written again, so that both parsers see the same; then speechbrain's own `EncoderDecoderASR` is
made of them. Checkpoints are opened by torch's ``weights_only`` loading, the tokenizer by
sentencepiece. Audio is passed as tensors: nothing here reads a file of sound.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.backbones.ecapa_model import import_speechbrain
from distill.backbones.ecapa_published import Tagged, read_settings
from distill.backbones.find import fetch
from enhance.errors import EnhanceError, require

SETTINGS = "hyperparams.yaml"

_PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"
CLASSES = frozenset({
    "sentencepiece.SentencePieceProcessor",
    "speechbrain.decoders.S2SRNNBeamSearcher",
    "speechbrain.decoders.S2SRNNGreedySearcher",
    "speechbrain.decoders.scorer.CTCScorer",
    "speechbrain.decoders.scorer.CoverageScorer",
    "speechbrain.decoders.scorer.LengthScorer",
    "speechbrain.decoders.scorer.RNNLMScorer",
    "speechbrain.decoders.scorer.ScorerBuilder",
    "speechbrain.decoders.seq2seq.S2SRNNBeamSearcher",
    "speechbrain.decoders.seq2seq.S2SRNNGreedySearcher",
    "speechbrain.lobes.features.Fbank",
    "speechbrain.lobes.models.CRDNN.CRDNN",
    "speechbrain.lobes.models.RNNLM.RNNLM",
    "speechbrain.nnet.RNN.AttentionalRNNDecoder",
    "speechbrain.nnet.RNN.GRU",
    "speechbrain.nnet.RNN.LSTM",
    "speechbrain.nnet.RNN.LiGRU",
    "speechbrain.nnet.activations.Softmax",
    "speechbrain.nnet.containers.LengthsCapableSequential",
    "speechbrain.nnet.embedding.Embedding",
    "speechbrain.nnet.linear.Linear",
    "speechbrain.processing.features.InputNormalization",
    "torch.nn.GELU",
    "torch.nn.LeakyReLU",
    "torch.nn.ModuleList",
    "torch.nn.ReLU",
    _PRETRAINER,
})  # fmt: skip
"""What may be made: the parts of a CRDNN recogniser, none of which touches files or the network."""


class Crdnn:
    """A loaded recogniser: speechbrain's ``EncoderDecoderASR``, and how it was asked for."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def transcribe(self, wave: np.ndarray) -> str:
        """Text of (N,) float32 at 16 kHz."""
        waves = torch.from_numpy(np.array(wave, np.float32))[None]  # (1, N)
        return str(self.model.transcribe_batch(waves, torch.ones(1))[0][0])


def load(folder: Path, name: str) -> Crdnn:
    """Load a recogniser from a folder.

    Raises
    ------
    EnhanceError
        If speechbrain is missing, the settings name anything else than the parts of a CRDNN
        recogniser at 16 kHz, or a file is missing or does not fit.
    """
    text, parts = read(folder)
    require("speaker", "speechbrain", "hyperpyyaml", "sentencepiece")
    asr = import_speechbrain("speechbrain.inference.ASR")
    fetching = import_speechbrain("speechbrain.utils.fetching")
    from hyperpyyaml import load_hyperpyyaml

    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
            values = load_hyperpyyaml(io.StringIO(text))
            pretrainer = values["pretrainer"]
            pretrainer.paths = {part: str(folder / f"{part}.ckpt") for part in parts}
            pretrainer.set_collect_in(None)
            pretrainer.collect_files(
                local_strategy=fetching.LocalStrategy.NO_LINK,
                fetch_config=fetching.FetchConfig(allow_network=False),
            )
            pretrainer.load_collected()
            model = asr.EncoderDecoderASR(
                modules=values["modules"], hparams=values, run_opts={"device": "cpu"}
            )
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, KeyError, TypeError,
            RuntimeError, ImportError, AttributeError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EnhanceError(
            f"{folder}: cannot be loaded as a recogniser of speechbrain ({reason})"
        ) from error
    return Crdnn(model, name)


def read(folder: Path) -> tuple[str, list[str]]:
    """The settings of a folder, checked, and the names of the parts that have a checkpoint.

    Raises
    ------
    EnhanceError
        If they name other classes than `CLASSES`, call a function, leave the file, tell another
        sample rate than 16 kHz, or a checkpoint is missing.
    """
    path = folder / SETTINGS
    settings = read_settings(path)
    for key, value in settings.items():
        _check(value, f"{path}: {key}")
    pretrainer = settings.get("pretrainer")
    loadables = pretrainer.value.get("loadables") if isinstance(pretrainer, Tagged) else None
    if not isinstance(loadables, dict) or not loadables:
        raise EnhanceError(f"{path}: no pretrainer with loadables; is it a speechbrain recogniser?")
    if settings.get("sample_rate", 16000) != 16000:
        raise EnhanceError(f"{path}: hears {settings['sample_rate']} Hz; 16000 is needed")
    parts = [str(part) for part in loadables]
    absent = [part for part in parts if not (folder / f"{part}.ckpt").is_file()]
    if absent:
        raise EnhanceError(
            f"{folder}: {', '.join(f'{part}.ckpt' for part in absent)} missing beside {SETTINGS}"
        )
    import yaml

    node = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    return yaml.serialize(node), parts


def _check(value: Any, where: str) -> None:
    """Refuse what HyperPyYAML would do beyond making known classes."""
    if isinstance(value, Tagged):
        kind, _, target = value.tag.partition(":")
        made = kind in ("new", "name") and target in CLASSES
        if not made and value.tag not in ("ref", "tuple"):
            raise EnhanceError(
                f"{where}: asks for !{value.tag}, which is no part of a CRDNN recogniser known "
                "here; nothing of the file was run"
            )
        value = value.value
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, where)
            _check(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, where)
    elif isinstance(value, str) and ("!" in value or re.search(r"<[^>]*\.[^>]*>", value)):
        # Text in parentheses becomes YAML once more, tags and all; <a.b> reads an attribute.
        raise EnhanceError(f"{where}: {value!r} is no plain setting; nothing of the file was run")


def download(repo: str) -> Path:
    """Folder of a hub repository, from the hub's cache or fetched, which is said.

    An `EnhanceError` if it is neither in the cache nor to be had.
    """
    require("speaker", "huggingface_hub", "speechbrain")

    def needed(names: Collection[str]) -> list[str]:
        return [name for name in names if name == SETTINGS or Path(name).suffix == ".ckpt"]

    advice = f"fetch {SETTINGS} and its .ckpt files on a machine with network and name their folder"
    return fetch(repo, "recogniser", needed, read, advice)
