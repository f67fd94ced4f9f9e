"""From a backbone to a CTC model, and to the folder of one and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from distill.backbones import find as teacher
from distill.backbones import import_transformers, read_json
from distill.backbones.folder import prepared, write_transformer
from distill.backbones.hf import CLASSES, HfTeacher, from_pretrained
from distill.ctc.config import CtcConfig
from distill.ctc.model import SAMPLE_RATE, CtcModel
from distill.ctc.vocabulary import Vocabulary
from distill.teacher.contract import check_rate
from enhance.errors import EnhanceError


def ctc_class(kind: str) -> Any:
    """Class of `transformers` with a CTC head for a ``model_type`` of `CLASSES`."""
    return getattr(import_transformers(), CLASSES[kind].replace("Model", "ForCTC"))


def open_backbone(name: str) -> HfTeacher:
    """Find a backbone that can be fine-tuned.

    An `EnhanceError` if it is not found, is no transformer, or hears another sample rate.
    """
    found = teacher.load(name, left_pad=0)
    if not isinstance(found, HfTeacher):
        raise EnhanceError(
            f"{name}: is no transformer; CTC heads are put on {', '.join(CLASSES)}, whose "
            "classes in transformers have one (wav2vec and vq-wav2vec have no attention over the "
            "clip, ECAPA-TDNN is for voices)"
        )
    check_rate(found, SAMPLE_RATE)
    return found


def build(backbone: HfTeacher, vocabulary: Vocabulary, config: CtcConfig) -> CtcModel:
    """Put a head of random weights (from the seed) on a backbone.

    An `EnhanceError` if this transformers names its weights in another way.
    """
    base: Any = backbone.model
    settings = base.config.to_dict() | {
        "vocab_size": len(vocabulary),
        "pad_token_id": vocabulary.blank,  # where ForCTC looks for the blank
        "bos_token_id": None,
        "eos_token_id": None,
        "ctc_loss_reduction": "mean",
        "ctc_zero_infinity": False,
        "hidden_dropout": config.dropout,
        "activation_dropout": config.dropout,
        "final_dropout": config.dropout,
        "layerdrop": 0.0,
        "apply_spec_augment": True,
        "mask_time_prob": min(config.mask * config.mask_length, 1.0),
        "mask_time_length": config.mask_length,
        "mask_feature_prob": 0.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ctc_class(base.config.model_type)(type(base.config).from_dict(settings))
    if not config.from_scratch:
        _copy(base, network.base_model, backbone.name)
    trained = config.train_front_end or config.from_scratch
    network.base_model.feature_extractor.requires_grad_(trained)
    return CtcModel(network, do_normalize=backbone.do_normalize)


def _copy(source: nn.Module, target: nn.Module, name: str) -> None:
    """Weights of one model into another, which has weight norm where the first has its product."""
    weights = source.state_dict()
    whole = set()
    with torch.no_grad():
        for place, module in target.named_modules():
            if parametrize.is_parametrized(module, "weight"):
                module.weight = weights.pop(f"{place}.weight")  # torch takes it apart
                whole.add(f"{place}.parametrizations.weight.")
    found = target.load_state_dict(weights, strict=False)
    wrong = [key for key in found.missing_keys if not key.startswith(tuple(whole))]
    # Either may do without masking and then has no embedding for it.
    wrong = [k for k in [*wrong, *found.unexpected_keys] if k != "masked_spec_embed"]
    if wrong:
        raise EnhanceError(
            f"{name}: {len(wrong)} weights do not fit the CTC model (first: {wrong[0]}); this "
            "transformers is not supported"
        )


def save(model: CtcModel, vocabulary: Vocabulary, folder: Path) -> None:
    """Write a folder that `AutoModelForCTC`, `AutoProcessor` and `distill.backbones.find.load`
    read."""
    network = model.network
    write_transformer(
        folder,
        network,
        network.state_dict(),
        do_normalize=model.do_normalize,
        attention_mask=not model.equal_lengths_only,
        processor_class="Wav2Vec2Processor",
    )
    vocabulary.write(folder)


def load(folder: Path) -> tuple[CtcModel, Vocabulary]:
    """Read what `save` wrote, or any such folder of transformers, in eval mode.

    An `EnhanceError` if it holds no model with a CTC head that its vocabulary fits.
    """
    kind = read_json(folder / "config.json", "it names the kind of model").get("model_type")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise EnhanceError(f"{folder}: model_type {kind!r} is none of {', '.join(CLASSES)}")
    vocabulary = Vocabulary.read(folder)
    heard = prepared(folder)
    if heard["sample_rate"] != SAMPLE_RATE:
        raise EnhanceError(f"{folder}: hears {heard['sample_rate']} Hz, not {SAMPLE_RATE}")
    hint = "was it fine-tuned by CTC? `enhance teacher finetune-ctc` does that"
    network, _ = from_pretrained(ctc_class(kind), folder, hint)
    if network.config.vocab_size != len(vocabulary):  # type: ignore[union-attr]
        raise EnhanceError(f"{folder}: vocab.json does not fit the head of the model")
    return CtcModel(network.eval(), do_normalize=heard["do_normalize"]), vocabulary
