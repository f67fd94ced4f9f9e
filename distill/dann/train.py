"""Training with and without the adversary: `enhance dann train`."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.backbones.find import load as find_teacher
from distill.backbones.frozen import fingerprint
from distill.dann.config import DannConfig
from distill.dann.data import Hearing, Labelled, answer, classes_of
from distill.dann.network import Network
from distill.dann.protocols import read
from distill.speaker.data import in_turn
from distill.speaker.eer import Trials, pairs
from distill.teacher.contract import Teacher
from distill.training.loop import Loop, LoopPlan, Place
from enhance.config.settings import parse
from enhance.data.corpus.clips import split
from enhance.data.corpus.manifest import Clip
from enhance.errors import EnhanceError
from enhance.files import cache_folder, expanded, write_json
from enhance.network.tensors import load_exactly, load_tensors, save_tensors
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, Step, adamw

FORMAT, MODEL = "enhance-dann-1", "model.safetensors"
_BATCH = 32  # clips embedded at once

log = logging.getLogger("enhance")


class DannPlan(LoopPlan):
    """Ganin et al.'s optimiser, and a validation after every epoch."""

    closes = True

    def __init__(self, config: DannConfig, minutes: float, epoch_steps: int) -> None:
        super().__init__(config, minutes)
        self.validate_every = epoch_steps

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum or AdamW; the backbone's blocks at their share of the rate."""
        c: Any = self.config
        made: torch.optim.Optimizer = adamw(module, c.learning_rate, c.weight_decay)
        if c.optimizer == "sgd":
            made = torch.optim.SGD(made.param_groups, lr=c.learning_rate, momentum=0.9)
        below = {id(p) for n, p in module.named_parameters() if ".teacher." in n}
        for group in made.param_groups[:]:
            lower = [p for p in group["params"] if id(p) in below]
            if lower:
                group["params"] = [p for p in group["params"] if id(p) not in below]
                made.add_param_group({**group, "params": lower, "scale": c.backbone.rate})
        return made


class DannLearner(Learner):
    """Network and clips, as the engine sees them."""

    name = "dann"

    def __init__(
        self,
        config: DannConfig,
        network: Network,
        hearing: Hearing,
        train: Labelled,
        validation: Labelled,
        kept: dict[str, Any],
        world: int = 1,
    ) -> None:
        self.config, self.network, self.hearing = config, network, hearing
        self.train, self.validation, self.kept = train, validation, kept
        self.best = copy.deepcopy(network).requires_grad_(False)
        self.epoch_steps = -(-len(train) // (config.batch * world))
        self.total = config.epochs * self.epoch_steps
        self.done = 0
        counts = np.bincount(train.answers, minlength=int(train.answers.max()) + 1)
        # Answers count alike, however often each is the right one.
        self.weights = torch.tensor(len(train) / (np.count_nonzero(counts) * counts.clip(1)))

    def learnt(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def beside(self) -> Mapping[str, nn.Module]:
        """The network as it was after the best epoch."""
        return {"best": self.best}

    def batches(self, rank: int, world: int, step: int) -> Iterator[dict[str, Any]]:
        config = self.config
        for number in count(step * world + rank, world):
            chosen = in_turn(len(self.train), config.batch, number, [config.seed])
            yield self.train.batch(self.hearing, chosen.tolist())

    def forward(self, batch: dict[str, Any], step: int) -> Step:
        """Both cross-entropies: what only the reversal below the discriminator sets apart."""
        strength = self.config.dann.lambda_schedule(step / self.total)
        answers, domains = batch["answers"], batch["domains"]
        said, judged = (x.float() for x in self.network(batch["heard"], strength))
        task = F.cross_entropy(said, answers, self.weights.to(said))
        domain = F.cross_entropy(judged, domains)
        shares = {
            "accuracy": (int((said.argmax(1) == answers).sum()), len(answers)),
            "domain_accuracy": (int((judged.argmax(1) == domains).sum()), len(domains)),
        }
        means: dict[str, Tensor | float] = {"task": task, "domain": domain, "lambda": strength}
        return Step(task + domain, len(answers) * self.config.seconds, means, shares)

    def after_update(self, step: int, total: int | None) -> None:
        self.done = step + 1

    def validate(self) -> dict[str, Any]:
        """EER and the discriminator's accuracy on speakers held back; the best epoch is kept."""
        found = hear(self.network, self.hearing, self.validation)
        domains = self.validation.domains
        right = (found.judged == domains)[domains >= 0]
        row = {
            "epoch": self.done // self.epoch_steps,
            "eer": found.trials(self.config.task, self.validation)[0].eer(),
            "domain_accuracy": float(right.mean()) if len(right) else None,
        }
        self.kept.setdefault("epochs", []).append(row)
        best = self.kept.get("best")
        if best is None or row["eer"] < best["eer"]:
            self.kept["best"] = row
            self.best.load_state_dict(self.network.state_dict())
        return row


@dataclass(frozen=True)
class Heard:
    """What a network says of clips."""

    embeddings: np.ndarray
    """(n, E)."""
    scores: np.ndarray
    """(n,): of the task `spoof`, log odds of bona fide."""
    judged: np.ndarray
    """Number of the domain that the discriminator says, (n,)."""

    def trials(self, task: str, data: Labelled) -> tuple[Trials, np.ndarray]:
        """Trials of the task, and the clips of each (n, 1) or (n, 2).

        Speakers are verified on `pairs` of clips, which are the same for all networks.
        """
        owners = np.unique(data.speakers, return_inverse=True)[1]
        if task == "spoof":
            clips = np.arange(len(owners))[:, None]
            return Trials(self.scores, data.answers == 1, owners[:, None]), clips
        return pairs(self.embeddings, owners)


@torch.no_grad()
def hear(network: Network, hearing: Hearing, data: Labelled) -> Heard:
    """Let a network hear every clip."""
    device = next(network.parameters()).device
    parts: list[list[Tensor]] = []
    everyone = list(range(len(data)))
    for begin in range(0, len(data), _BATCH):
        heard = data.batch(hearing, everyone[begin : begin + _BATCH])["heard"]
        embedded = network.embed(heard.to(device))
        said = network.task(embedded).float()
        odds = said[:, 1] - said[:, 0]
        parts.append([embedded.float(), odds, network.domain(embedded).argmax(1)])
    return Heard(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


def train(
    config: DannConfig, output: Path, *, cache: Path | None = None, **place: Unpack[Place]
) -> dict[str, Any]:
    """Train a network; the record, or ``{"stopped": ...}`` after Ctrl-C or SIGTERM.

    The folder ``output`` gets ``model.safetensors`` (the best epoch), ``record.json``,
    ``history.jsonl``; what a stopped run needs to go on is in ``state``. ``cache`` is the folder of
    the feature cache, None for the user's. An `EnhanceError` if clips or the backbone cannot be
    used, or the loss is not finite.
    """
    with Interrupt() as interrupt, Loop(config, output, FORMAT, **place) as loop:
        clips, held = _clips(config)
        classes, domains = classes_of(clips, config)
        teacher = find_teacher(config.backbone.name)
        loop.bind("backbone", teacher.fingerprint, "weights of the backbone")
        network = Network(config, teacher, len(classes), len(domains))
        learner = DannLearner(
            config,
            network,
            Hearing(config, teacher, cache or cache_folder("features")),
            Labelled(clips, config, classes, domains, loop.quiet),
            Labelled(held, config, classes, domains, loop.quiet),
            loop.kept,
            loop.fabric.world_size,
        )
        heard = [learner.train.identity(), learner.validation.identity()]
        loop.bind("data", fingerprint(heard, {}), "clips, answers or domains")
        plan = partial(DannPlan, epoch_steps=learner.epoch_steps)
        if not loop.train(learner, interrupt, steps=learner.total, minutes=0, plan=plan):
            return loop.stopped()
        loop.end_others()
        best = learner.best.to("cpu")
        record: dict[str, Any] = {
            "config": loop.plain,
            "backbone": teacher.fingerprint,
            "classes": classes,
            "domains": domains,
            "clips": {"train": len(clips), "validation": len(held)},
            "speakers": sorted(set(learner.train.speakers) | set(learner.validation.speakers)),
            "steps": loop.state.step,
            "seconds": round(loop.state.seconds),
            "best": loop.kept["best"],
            "epochs": loop.kept["epochs"],
            "layer_weights": dict(
                zip(map(str, best.layers.indices), best.sum.weights.tolist(), strict=True)
            ),
        }
        save_tensors(loop.output / MODEL, best.state_dict(), record, FORMAT)
        write_json(loop.output / "record.json", record)
        return record


def _clips(config: DannConfig) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and to choose the best epoch by."""
    if not config.train:
        raise EnhanceError("train: name a manifest or an ASVspoof protocol")

    def opened(place: str) -> list[Clip]:
        return read(expanded(place), config.audio, config.task, config.domain)

    clips = opened(config.train)
    if config.validation:
        held = opened(config.validation)
        both = sorted({c.speaker for c in clips} & {c.speaker for c in held} - {""})
        if both:
            log.warning(
                "validation: %d of its speakers are in train too (%s): the epoch that is kept is "
                "not the best of speakers never heard",
                len(both),
                ", ".join(both[:3]) + ", ..." * (len(both) > 3),
            )
    else:
        clips, held = split(clips, config.held_back, "speaker", config.seed)
    found = Counter(answer(clip, config.task) for clip in held)
    if len(found) < 2 or (config.task == "speaker" and max(found.values()) < 2):
        needed = "both kinds" if config.task == "spoof" else "two speakers, two of one of them"
        raise EnhanceError(
            f"validation: no error rate of these {len(held)} clips; name clips of {needed}, or set "
            "held_back higher"
        )
    return clips, held


@dataclass(frozen=True)
class Trained:
    """A run that came to its end."""

    record: dict[str, Any]
    """As `train` wrote it."""
    config: DannConfig
    """Of the run."""
    teacher: Teacher
    """The backbone; trained, where the run trained it."""
    network: Network
    """Of the best epoch."""


def load(folder: Path) -> Trained:
    """Open what `train` wrote; an `EnhanceError` if there is no finished run, or its frozen
    backbone is another one now."""
    file = folder / MODEL if folder.is_dir() else folder
    if not file.is_file():
        raise EnhanceError(f"{file}: not there; name a finished run of enhance dann train")
    tensors, record = load_tensors(file, FORMAT)
    config = parse(DannConfig, record["config"], str(file))
    teacher = find_teacher(config.backbone.name)
    # Older runs do not tell; one that learned is in the file.
    if config.backbone.freeze and record.get("backbone", "") not in ("", teacher.fingerprint):
        raise EnhanceError(
            f"{file}: was trained on another {config.backbone.name} than is there now; bring that "
            "back, or train anew"
        )
    network = Network(config, teacher, len(record["classes"]), len(record["domains"]))
    load_exactly(network, tensors, str(file))
    network.requires_grad_(False)
    if network.teacher is not None:  # not what its name stands for any more
        teacher.fingerprint = fingerprint(teacher.fingerprint, network.teacher.state_dict())
    return Trained(record, config, teacher, network)
