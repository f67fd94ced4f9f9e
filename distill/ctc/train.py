"""Fine-tuning of a backbone on transcripts: `enhance teacher finetune-ctc`.

One training by `distill.training.loop`, the error rates of what came out, record and card. The
weights kept are the last ones, whatever the evaluation said in between: its figures choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from distill.ctc import card, score
from distill.ctc.config import CtcConfig
from distill.ctc.data import CtcData, batch_up
from distill.ctc.folder import build, load, open_backbone, save
from distill.ctc.model import SAMPLE_RATE, CtcModel, ctc_loss
from distill.ctc.vocabulary import tokens_of
from distill.ssl.losses.masked_units import span_mask
from distill.training.accuracy import evaluating
from distill.training.card import write
from distill.training.loop import Loop, Place
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Step
from enhance.training.engine.processes import on_cpu

FORMAT = "enhance-ctc-2"


def finetune(
    config: CtcConfig,
    transcripts: Path | str,
    output: Path | str,
    *,
    evaluation: Path | str | None = None,
    **place: Unpack[Place],
) -> dict[str, Any]:
    """Fine-tune a backbone; the record (as in ``record.json``), or ``{"stopped": ...}`` after
    Ctrl-C or SIGTERM.

    Parameters
    ----------
    transcripts
        File of recordings and texts, see `distill.ctc.transcripts.read_transcripts`.
    output
        Folder of a CTC model of transformers (``config.json``, ``model.safetensors``,
        ``preprocessor_config.json``, ``vocab.json``, ``tokenizer_config.json``), with
        ``record.json``, ``history.jsonl`` and ``README.md``; what a stopped run needs to go on is
        in its subfolder ``state``.
    evaluation
        The same of recordings that only measure; None holds back a share of ``transcripts``.

    Raises
    ------
    EnhanceError
        If the backbone, a recording or the folder cannot be used, or the loss is not finite.
    """
    score.edits()  # missing, it would be told only when there is something to measure
    other = None if evaluation is None else Path(evaluation)
    with Interrupt() as interrupt, Loop(config, Path(output), FORMAT, **place) as loop:
        backbone = open_backbone(config.backbone)
        data = CtcData.open(Path(transcripts), other, config, backbone.frames, loop.quiet)
        loop.bind("data", data.digest(), "recordings or texts")
        loop.bind("backbone", backbone.fingerprint, "weights to start from")
        model = build(backbone, data.vocabulary, config)
        learner = CtcLearner(config, data, model)
        steps, minutes = config.steps or None, config.minutes
        if not loop.train(learner, interrupt, steps=steps, minutes=minutes):
            return loop.stopped()
        loop.end_others()
        save(model, data.vocabulary, loop.output)
        record: dict[str, Any] = {
            "config": loop.plain,
            "backbone": {
                "name": config.backbone,
                "fingerprint": backbone.fingerprint,
                "family": model.network.config.model_type,
                "stride_samples": model.stride,
            },
            "data": {"evaluation_file": other is not None, **data.describe()},
            "vocabulary": list(data.vocabulary.tokens),
            "unknown_tokens": dict(data.strange.most_common()),
            "parameters": sum(p.numel() for p in model.parameters()),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            **loop.spent(),
            **measure(load(loop.output)[0], data, config),
            "curve": loop.curve(),
        }
        write(loop.output, card.text, record)
        return record


def measure(model: CtcModel, data: CtcData, config: CtcConfig) -> dict[str, Any]:
    """Error rates of a model as it was written, and of the best constant answer."""
    units = data.vocabulary.units
    said, loss = hear(model, data, config)
    true = [data.texts[i] for i in data.held]
    always = score.best_constant([tokens_of(data.texts[i], units) for i in data.train])
    constant = score.error_rate([tokens_of(text, units) for text in true], [always] * len(true))
    return {
        "loss": loss,
        **errors_of(said, data),
        "constant": {**constant, "answer": always},
        "examples": [
            {"text": text, "recognised": found}
            for text, found in list(zip(true, said, strict=True))[:3]
        ],
    }


class CtcLearner(Learner):
    """The model and its recordings, as the loop sees them."""

    name = "CTC"

    def __init__(self, config: CtcConfig, data: CtcData, model: CtcModel) -> None:
        self.config, self.data, self.model = config, data, model

    def learnt(self) -> Mapping[str, nn.Module]:
        """The whole model, of which the front end may be frozen."""
        return {"model": self.model.network}

    def batches(self, rank: int, world: int, step: int) -> Iterator[tuple[int, list[int]]]:
        """Number of the batch, and its clips."""
        first = step * world + rank
        return islice(enumerate(self.data.batches(self.config, first), first), 0, None, world)

    def forward(self, batch: tuple[int, list[int]], step: int) -> Step:
        """CTC loss of clips whose spans are masked, by a chance that is the batch's own."""
        config, data = self.config, self.data
        number, chosen = batch
        clips = [data.store.whole(i) for i in chosen]
        seeds = np.random.SeedSequence([config.seed, 2, number])
        masks = None
        if config.mask:
            rng = np.random.default_rng(seeds)
            masks = [
                span_mask(self.model.frames(len(clip)), rng, config.mask, config.mask_length)
                for clip in clips
            ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))  # dropout
            logits = self.model(clips, masks, head_only=step < config.freeze_steps)
        loss = ctc_loss(logits, [data.tokens(i) for i in chosen], data.vocabulary.blank)
        return Step(
            loss,
            sum(map(len, clips)) / SAMPLE_RATE,
            {"loss": float(loss.detach())},
            heard=", ".join(data.store.clips[i].path.name for i in chosen[:3]),
        )

    def validate(self) -> dict[str, Any]:
        """Loss and error rates on the clips that only measure."""
        network = self.model.network
        with on_cpu([network]), evaluating(network):
            said, loss = hear(self.model, self.data, self.config)
        return {"loss": loss, **{k: v["mean"] for k, v in errors_of(said, self.data).items()}}


@torch.no_grad()
def hear(model: CtcModel, data: CtcData, config: CtcConfig) -> tuple[list[str], float]:
    """Greedy texts of the clips that only measure, in their order, and their mean loss."""
    lengths = [data.store.length(i) for i in data.held]
    texts, losses = [""] * len(lengths), np.zeros(len(lengths))
    for batch in batch_up(lengths, config.batch_seconds * SAMPLE_RATE):
        logits = model([data.store.whole(data.held[j]) for j in batch])
        for j, x in zip(batch, logits, strict=True):
            texts[j] = data.vocabulary.decode(x.argmax(dim=-1).tolist())
            target = data.tokens(data.held[j])
            losses[j] = float(ctc_loss([x], [target], data.vocabulary.blank))
    return texts, float(losses.mean())


def errors_of(said: Sequence[str], data: CtcData) -> dict[str, dict[str, Any]]:
    """``token_error`` and, of characters, ``word_error`` on the clips that only measure."""
    units = data.vocabulary.units
    true = [data.texts[i] for i in data.held]
    tokens = [[tokens_of(text, units) for text in texts] for texts in (true, said)]
    found = {"token_error": score.error_rate(*tokens)}
    if units == "char":
        words = [[text.split() for text in texts] for texts in (true, said)]
        found["word_error"] = score.error_rate(*words)
    return found
