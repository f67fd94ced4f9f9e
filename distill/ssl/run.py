"""Pre-training of a small self-supervised model on unlabelled speech: `enhance teacher pretrain`.

What the families have in common: files, iterations, one training by `distill.training.loop` in
each, record and card. What is learnt and how it is measured is behind
`distill.ssl.families.family.Family`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from distill.backbones.frozen import fingerprint
from distill.ssl import card as ssl_card
from distill.ssl.data.crops import Crop, SslData, epochs
from distill.ssl.families import family as families
from distill.ssl.families.family import Family, SslConfig, Work
from distill.ssl.families.transformer import KINDS
from distill.training.loop import Loop, Place
from enhance.errors import EnhanceError
from enhance.files import write_json
from enhance.training.engine.interrupt import Interrupt
from enhance.training.engine.learner import Learner, State, Step
from enhance.training.engine.processes import collect, on_cpu, on_first

log = logging.getLogger("enhance")

FORMAT = "enhance-ssl-4"


def pretrain(
    config: SslConfig,
    corpus: Path | str,
    output: Path | str,
    *,
    probe: Callable[[Path], dict[str, Any]] | None = None,
    **place: Unpack[Place],
) -> dict[str, Any]:
    """Pre-train a model; the record (as in ``record.json``), or ``{"stopped": ...}`` after Ctrl-C
    or SIGTERM.

    Parameters
    ----------
    config
        Its class decides the family.
    corpus
        Folder with speech and noise, as `enhance.data.corpus.clips.load_clips` reads it.
    output
        Model folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``,
        ``record.json``, ``history.jsonl``, ``README.md``; what a stopped run needs to go on is
        in its subfolder ``state``.
    probe
        Measures the finished folder, as `benchmarks.analysis.phone_probe.probe` does; what it finds
        goes into record and card. None leaves the probe out, and the card says so.

    Raises
    ------
    EnhanceError
        If the corpus or the folder cannot be used, or the loss is not finite.
    """
    if probe and config.family not in KINDS:
        raise EnhanceError(f"--probe: knows the frames of {', '.join(KINDS)} only; leave it out")
    with Interrupt() as interrupt, Loop(config, Path(output), FORMAT, **place) as loop:
        record = SslRun(config, Path(corpus), loop).run(interrupt)
    if "stopped" not in record:
        ssl_card.write(Path(output), probe(Path(output)) if probe else None)
    return record


class SslRun:
    """One run; see `pretrain`."""

    def __init__(self, config: SslConfig, corpus: Path, loop: Loop) -> None:
        self.config, self.loop = config, loop
        self.data = SslData.open(corpus, config.held_back, config.seed, loop.quiet)
        loop.bind("data", _digest(self.data), f"recordings than those of {corpus}")
        if not loop.begun:
            loop.kept |= {
                "iteration": 0,
                "prepared": False,  # whether units and the like of this iteration are made
                "before": 0,  # steps of the iterations before
                "finished": [],  # record of each finished iteration
            }
        self.kept, self.resumed = loop.kept, loop.begun
        self.family = families.build(config)
        if loop.begun:
            loop.restore({"model": self.family.model})

    def run(self, interrupt: Interrupt) -> dict[str, Any]:
        """Do what is left."""
        config, kept = self.config, self.kept
        self.loop.lock()
        while kept["iteration"] < config.rounds:
            iteration = kept["iteration"]
            learner = FamilyLearner(config, self.family, self.data, iteration)
            unready = self._prepare(learner, interrupt)
            if unready:
                self.loop.end_others()
                how = "--resume makes it again" if self.loop.file.exists() else "nothing to resume"
                log.warning("stopped while making %s; %s", unready, how)
                return {"stopped": unready}
            done = self.loop.train(
                learner,
                interrupt,
                steps=config.steps_of(iteration),
                minutes=config.minutes * config.share(iteration),
                before=kept["before"],
                place={"iteration": iteration + 1},
            )
            if not done:
                return self.loop.stopped(f"iteration {iteration + 1}, ")
            self._finish_iteration(learner)
        self.loop.end_others()
        self.family.save(self.loop.output)
        record = {
            "config": self.loop.plain,
            "data": self.data.describe(),
            "parameters": sum(p.numel() for p in self.family.model.parameters()),
            "iterations": kept["finished"],
            "curve": self.loop.curve(),
        }
        write_json(self.loop.output / "record.json", record)
        return record

    def _prepare(self, learner: FamilyLearner, interrupt: Interrupt) -> str:
        """Let the family make ready; what was being made if interrupted, else ''."""
        work = Work(
            iteration=self.kept["iteration"],
            data=self.data,
            state=self.loop.file.parent,
            reuse=self.resumed,
            begun=self.kept["prepared"],
            batches=lambda: (batch[1:] for batch in learner.batches(0, 1, 0)),
            interrupt=interrupt,
            quiet=self.loop.quiet,
        )
        # A signal may come to one process only.
        unready = max(collect(self.loop.fabric, self.family.prepare(work)))
        self.kept["prepared"] = not unready
        return unready

    def _finish_iteration(self, learner: FamilyLearner) -> None:
        state, kept = self.loop.state, self.kept
        report = on_first(self.loop.fabric, lambda: self.family.report(self.data))
        row = {**(report or {}), "steps": state.step, "seconds": round(state.seconds)}
        log.info("iteration %d: %s", kept["iteration"] + 1, json.dumps(row))
        kept["iteration"] += 1
        kept["prepared"] = False
        kept["before"] += state.step
        kept["finished"].append(row)
        self.resumed = False
        self.loop.state = State()
        self.loop.save(learner.learnt())


class FamilyLearner(Learner):
    """A family in one iteration, as the loop sees it."""

    def __init__(self, config: SslConfig, family: Family, data: SslData, iteration: int) -> None:
        self.config, self.family, self.data, self.iteration = config, family, data, iteration
        self.name = f"iteration {iteration + 1}"

    def learnt(self) -> Mapping[str, nn.Module]:
        """Model and head."""
        return self.family.learnt()

    def batches(self, rank: int, world: int, step: int) -> Iterator[tuple[int, list[Crop], Any]]:
        """Number of the batch, crops, and what the family makes of them."""
        config, number = self.config, step * world + rank
        seed = [config.seed, 1, self.iteration]
        frames = (round(config.batch_seconds * 50), round(config.crop_seconds * 50))
        every = epochs(self.data.speech, self.data.train, *frames, seed, number)
        for _, crops in islice(every, 0, None, world):
            rng = np.random.default_rng([config.seed, 2, self.iteration, number])
            yield number, crops, self.family.batch(crops, self.data, rng)
            number += world

    def forward(self, batch: tuple[int, list[Crop], Any], step: int) -> Step:
        """The family's losses, with torch's own randomness a function of the batch alone."""
        number, crops, made = batch
        key = [self.config.seed, 4, self.iteration, number]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
            found = self.family.losses(made, step)
        names = ", ".join(self.data.speech.clips[c.clip].path.name for c in crops[:3])
        return Step(
            found.loss,
            audio=len(crops) * crops[0].frames / 50,
            means=found.means,
            shares={"accuracy": (found.correct, found.counted)},
            heard=f"files {names}, ...",
        )

    def validate(self) -> dict[str, Any]:
        """The family's figures on held-back files."""
        with on_cpu(self.learnt().values()):
            return self.family.validate(self.data)


def _digest(data: SslData) -> str:
    """What identifies the recordings: names and lengths, in order."""
    stores = [store for store in (data.speech, data.noise) if store is not None]
    rows = [[c.path.name, s.length(i)] for s in stores for i, c in enumerate(s.clips)]
    return fingerprint(rows, {})
